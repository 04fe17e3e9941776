"""What is searched for in a log, where it can be, and what is found: decisions only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pitr.domain.change import Op
from pitr.domain.errors import NotFound
from pitr.domain.log import Gap, LogView
from pitr.domain.manifest import ObjectRef
from pitr.domain.plan import OWN_PREFIX, is_own
from pitr.domain.where import Condition

EXAMPLES_MAX: Final = 3
"""Rows that are shown of a match."""

MATCHES_MAX: Final = 1_000
"""Matches that one answer holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which changes, and which of the transactions they are in. None and empty ask for nothing.

    ``collections``, ``actor`` and ``lane`` are patterns: ``*`` stands for any text. The log's own
    collections are found only by patterns that begin as they do. ``reason`` is part of the reason.
    Times are inclusive. ``count_min`` is how many matching changes a transaction must have;
    ``limit`` how many transactions are returned, from the newest on or from the oldest.
    """

    collections: tuple[str, ...] = ()
    key: str | None = None
    actor: str | None = None
    reason: str | None = None
    ops: frozenset[Op] = frozenset()
    txs: frozenset[str] = frozenset()
    lane: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    where: tuple[Condition, ...] = ()
    count_min: int = 1
    limit: int = 20
    oldest_first: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many changes of one kind."""

    collection: str
    op: Op
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRow:
    """One of the changes that match."""

    seq: int
    collection: str
    op: Op
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The matching changes of one transaction, or one change that is in none.

    They lie in ``[seq_first, seq_end)``. ``actor`` and ``reason`` are the first that are said;
    the counts are of different ones. ``tallies`` are the largest first.
    """

    tx: str | None
    seq_first: int
    seq_end: int
    at_min_us: int
    at_max_us: int
    actor: str | None
    actor_count: int
    reason: str | None
    reason_count: int
    tallies: tuple[Tally, ...]
    examples: tuple[FoundRow, ...]

    @property
    def change_count(self) -> int:
        """Changes that match."""
        return sum(tally.count for tally in self.tallies)

    @property
    def target(self) -> str:
        """The moment just before."""
        return f"before-seq:{self.seq_first}" if self.tx is None else f"before-tx:{self.tx}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The first ``limit`` matches in the order asked for, and how many there are of all."""

    matches: tuple[Match, ...]
    match_count: int
    change_count: int


def like(pattern: str) -> Callable[[str], object]:
    """Return what tells whether a text fits a pattern."""
    parts = (re.escape(part) for part in pattern.split("*"))
    return re.compile(".*".join(parts), re.DOTALL).fullmatch


def collections_sought(known: Iterable[str], patterns: tuple[str, ...]) -> frozenset[str]:
    """Return the collections that are searched.

    Raises:
        NotFound: A pattern fits none.
    """
    names = frozenset(known)
    if not patterns:
        return frozenset(name for name in names if not is_own(name))
    found: set[str] = set()
    for pattern in patterns:
        fits = like(pattern)
        some = {n for n in names if fits(n) and (not is_own(n) or pattern.startswith(OWN_PREFIX))}
        if not some:
            apps = ", ".join(sorted(name for name in names if not is_own(name))) or "none"
            raise NotFound(
                "the log has no such collection", hint=f"it has: {apps}", collection=pattern
            )
        found |= some
    return frozenset(found)


def segments_sought(
    view: LogView, query: Query, collections: frozenset[str]
) -> tuple[ObjectRef, ...]:
    """Return the segments that can hold a matching change, by what the manifest says of them."""
    return tuple(
        ref
        for ref in view.segments
        if (query.since_us is None or ref.at_max_us >= query.since_us)
        and (query.until_us is None or ref.at_min_us <= query.until_us)
        and any(
            name in collections and (not query.ops or not query.ops.isdisjoint(counts))
            for name, counts in ref.ops.items()
        )
    )


def gaps_sought(gaps: Iterable[Gap], query: Query, collections: frozenset[str]) -> tuple[Gap, ...]:
    """Return the known holes that may have held a matching change; also those that healed."""
    return tuple(
        gap
        for gap in gaps
        if (gap.collection is None or gap.collection in collections)
        and (query.since_us is None or gap.at_max_us is None or gap.at_max_us >= query.since_us)
        and (query.until_us is None or gap.at_min_us is None or gap.at_min_us <= query.until_us)
    )
