"""Searches a log: when was it done, by whom, and which moment lies just before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from pitr.domain.catalog import Catalog
from pitr.domain.change import Change
from pitr.domain.errors import Busy, InvalidRequest
from pitr.domain.log import Gap, LogView
from pitr.domain.plan import check_coverage
from pitr.domain.ports import Clock
from pitr.domain.search import (
    MATCHES_MAX,
    Found,
    Match,
    Query,
    collections_sought,
    gaps_sought,
    segments_sought,
)
from pitr.domain.target import TRANSACTION_WINDOW, Resolution, may_straddle
from pitr.domain.times import rfc3339
from pitr.services.archive import Archive
from pitr.services.resolve import Resolver, segments_over
from pitr.services.restore import known_collections

WAITING_MAX: Final = 16
"""Searches that run or wait for their turn: each may take the memory of the whole process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindReport:
    """What was found. Nothing is missing up to ``watermark_us``, but for ``gaps``.

    ``without_tx`` are transactions of which the source has not sent everything: they are left out.
    """

    log: str
    query: Query
    found: Found
    watermark_us: int
    without_tx: frozenset[str]
    gaps: tuple[Gap, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """A target, with the transactions of the changes on both sides; None where they are in none."""

    resolution: Resolution
    previous: Match | None
    next: Match | None


class Finder:
    """Finds changes and their transactions; one for the life of a process."""

    def __init__(
        self, catalog: Catalog, archive: Archive, resolver: Resolver, clock: Clock
    ) -> None:
        self._catalog = catalog
        self._archive = archive
        self._resolver = resolver
        self._clock = clock
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    async def find(self, log: str, query: Query) -> FindReport:
        """Search all changes that are in the newest state of the log, tail included.

        Raises:
            NotFound: There is no such log, or it has no such collection.
            InvalidRequest: The query makes no sense.
            DataLoss: A segment that can hold a match is missing or damaged.
            Busy: Too many searches wait already.
        """
        _check(query)
        async with self._one_at_a_time():
            view = await self._archive.view(log)
            check_coverage(view)
            collections = collections_sought(known_collections(view), query.collections)
            torn = await self._catalog.torn(view.state, seq_end=view.state.seq_next, at_us=None)
            found = await self._archive.search(
                view,
                segments_sought(view, query, collections),
                query,
                collections=collections,
                without_tx=frozenset(torn),
            )
        return FindReport(
            log=log,
            query=query,
            found=found,
            watermark_us=view.watermark_us(self._clock.now_us()),
            without_tx=frozenset(torn),
            gaps=gaps_sought(view.gaps, query, collections),
        )

    async def describe(self, log: str, target: str) -> Description:
        """Resolve a target, also one ahead of the log, and look at what is on both sides of it.

        Raises:
            InvalidRequest: It cannot be read.
            NotFound: There is no such log, mark or transaction.
            DataLoss: A segment that is needed is missing or damaged.
            Busy: Too many searches wait already.
        """
        view = await self._archive.view(log)
        resolution = await self._resolver.resolve(view, target, ahead=True)
        sides = [c for c in (resolution.previous, resolution.next) if c is not None and c.tx]
        transactions = await self._transactions(view, sides) if sides else {}

        def match(change: Change | None) -> Match | None:
            return None if change is None else transactions.get(change.tx)

        return Description(
            resolution=resolution, previous=match(resolution.previous), next=match(resolution.next)
        )

    async def _transactions(
        self, view: LogView, changes: Sequence[Change]
    ) -> dict[str | None, Match]:
        """Look at the whole transactions of changes, the log's own collections included.

        As everywhere, parts of one lane's transaction are at most ``TRANSACTION_WINDOW`` changes
        apart; what comes by several lanes may be anywhere.
        """
        txs = frozenset(change.tx for change in changes if change.tx is not None)
        query = Query(txs=txs, limit=len(txs))
        collections = frozenset(known_collections(view))
        first = min(change.seq for change in changes) - TRANSACTION_WINDOW
        end = max(change.seq for change in changes) + TRANSACTION_WINDOW
        if may_straddle(view):
            first, end = 1, view.state.seq_next
        async with self._one_at_a_time():
            while True:
                refs = segments_over(view, first, end)
                found = await self._archive.search(view, refs, query, collections=collections)
                if _is_all(found.matches, view, first, end):
                    return {match.tx: match for match in found.matches}
                # Three times as much each time: a long one is not read again and again.
                first, end = first - (end - first), end + (end - first)

    @asynccontextmanager
    async def _one_at_a_time(self) -> AsyncIterator[None]:
        if self._waiting >= WAITING_MAX:
            raise Busy("too many searches wait", retry_after_s=1)
        self._waiting += 1
        try:
            async with self._turn:
                yield
        finally:
            self._waiting -= 1


def _is_all(matches: Sequence[Match], view: LogView, first: int, end: int) -> bool:
    """Tell whether no more of transactions can lie outside of ``[first, end)``."""
    wanted_first = min(match.seq_first for match in matches) - TRANSACTION_WINDOW
    wanted_end = max(match.seq_end for match in matches) + TRANSACTION_WINDOW
    return first <= max(wanted_first, 1) and min(wanted_end, view.state.seq_next) <= end


def _check(query: Query) -> None:
    if query.count_min < 1:
        raise InvalidRequest("the least number of changes is 1", min=query.count_min)
    if not 1 <= query.limit <= MATCHES_MAX:
        raise InvalidRequest("the limit is out of range", limit=query.limit, limit_max=MATCHES_MAX)
    since_us, until_us = query.since_us, query.until_us
    if since_us is not None and until_us is not None and since_us > until_us:
        raise InvalidRequest(
            "since is after until",
            hint="swap them",
            since=rfc3339(since_us),
            until=rfc3339(until_us),
        )
