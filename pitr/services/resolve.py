"""Resolves targets against a log: which changes are in, what lies on both sides."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from pitr.domain.catalog import Catalog
from pitr.domain.change import Change
from pitr.domain.columnar.around import transactions_around
from pitr.domain.columnar.scan import transaction_start
from pitr.domain.columnar.single import changes_beside, neighbours
from pitr.domain.errors import NotFound, TargetBeyondWatermark
from pitr.domain.log import LogView
from pitr.domain.manifest import ObjectRef
from pitr.domain.ports import Clock
from pitr.domain.target import (
    TRANSACTION_WINDOW,
    Cut,
    Position,
    Resolution,
    Target,
    gaps_touched,
    inside_gap,
    neighbour_objects,
    parse_target,
    position_of,
    torn_by_seq,
)
from pitr.domain.times import rfc3339
from pitr.services.archive import Archive


class Resolver:
    """Turns what people ask for into exactly the changes it means."""

    def __init__(self, catalog: Catalog, archive: Archive, clock: Clock) -> None:
        self._catalog = catalog
        self._archive = archive
        self._clock = clock

    async def resolve(self, view: LogView, text: str, *, ahead: bool = False) -> Resolution:
        """Resolve a target.

        Args:
            ahead: Tell also of a target that is ahead of what is captured, instead of refusing it.

        Raises:
            InvalidRequest: It cannot be read.
            NotFound: The mark or transaction does not exist.
            TargetBeyondWatermark: It is ahead of what is captured.
        """
        now_us = self._clock.now_us()
        target = await self._unmarked(view, parse_target(text, now_us=now_us))
        watermark_us = view.watermark_us(now_us)
        try:
            _check_captured(view, target, watermark_us)
        except TargetBeyondWatermark:
            if not ahead:
                raise
            return replace(await self._resolved(view, target, watermark_us), position="future")
        return await self._resolved(view, target, watermark_us)

    async def newest(self, view: LogView) -> Resolution:
        """Resolve ``latest``, without the changes beside it, which takes the most time of it."""
        now_us = self._clock.now_us()
        target = parse_target("latest", now_us=now_us)
        cut, torn = await self._cut(view, view.state.seq_next)
        return _resolution(view, target, cut, torn, view.watermark_us(now_us), "past", None, None)

    async def _resolved(self, view: LogView, target: Target, watermark_us: int) -> Resolution:
        if target.at_us is not None:
            return await self._by_time(view, target, watermark_us)
        return await self._by_seq(view, target, watermark_us, await self._seq_end(view, target))

    async def _unmarked(self, view: LogView, target: Target) -> Target:
        """Read a mark: it stands for a time, or for the changes below a seq."""
        if target.kind != "mark":
            return target
        mark = await self._catalog.mark(view.state.name, target.name or "")
        return replace(target, at_us=mark.at_us, seq=mark.seq_end - 1)

    async def _by_time(self, view: LogView, target: Target, watermark_us: int) -> Resolution:
        assert target.at_us is not None, "a time target has a time"
        seq_end = view.state.seq_next
        torn = await self._catalog.torn(view.state, seq_end=seq_end, at_us=target.at_us)
        torn |= await self._archive.torn(view, Cut(seq_end=seq_end, at_us=target.at_us))
        cut = Cut(seq_end=seq_end, at_us=target.at_us, without_tx=frozenset(torn))
        paths = await self._archive.verified(neighbour_objects(view, target.at_us))
        previous, following = await asyncio.to_thread(
            neighbours, paths, view.tail, target.at_us, footers=self._archive.footers
        )
        position = position_of(target, previous)
        if inside_gap(view.gaps, target.at_us):
            position = "gap"
        return _resolution(view, target, cut, torn, watermark_us, position, previous, following)

    async def _seq_end(self, view: LogView, target: Target) -> int:
        match target.kind:
            case "latest":
                return view.state.seq_next
            case "before_tx":
                return await self._transaction_start(view, target.name or "")
        return min((target.seq or 0) + 1, view.state.seq_next)

    async def _transaction_start(self, view: LogView, tx: str) -> int:
        paths = await self._archive.verified(view.segments)
        start = await asyncio.to_thread(transaction_start, paths, view.tail, tx)
        if start is None:
            raise NotFound("there is no such transaction", hint="pitr find lists them", tx=tx)
        return start

    async def _by_seq(
        self, view: LogView, target: Target, watermark_us: int, seq_end: int
    ) -> Resolution:
        cut, torn = await self._cut(view, seq_end)
        paths = await self._archive.verified(segments_over(view, seq_end - 1, seq_end + 1))
        previous, following = await asyncio.to_thread(
            changes_beside, paths, view.tail, seq_end, footers=self._archive.footers
        )
        position = position_of(target, previous)
        return _resolution(view, target, cut, torn, watermark_us, position, previous, following)

    async def _cut(self, view: LogView, seq_end: int) -> tuple[Cut, dict[str, int]]:
        """Return the changes below a seq, without transactions of which they are a part."""
        torn = await self._catalog.torn(view.state, seq_end=seq_end, at_us=None)
        # The catalog knows where a long one began.
        torn = await self._torn_nearby(view, seq_end) | torn
        torn |= await self._archive.torn(view, Cut(seq_end=seq_end))
        return Cut(seq_end=seq_end, without_tx=frozenset(torn)), torn

    async def _torn_nearby(self, view: LogView, seq_end: int) -> dict[str, int]:
        """Return the transactions with changes near ``seq_end``, on both sides of it."""
        if seq_end >= view.state.seq_next:
            return {}
        first = max(seq_end - TRANSACTION_WINDOW, 1)
        last = min(seq_end + TRANSACTION_WINDOW, view.state.seq_next)
        near = await asyncio.to_thread(
            transactions_around,
            await self._archive.verified(segments_over(view, first, seq_end)),
            await self._archive.verified(segments_over(view, seq_end, last)),
            view.tail,
            window=range(first, last),
            seq_end=seq_end,
            footers=self._archive.footers,
        )
        return torn_by_seq(near, seq_end)


def _check_captured(view: LogView, target: Target, watermark_us: int) -> None:
    """Refuse a target whose state could still change."""
    if target.at_us is not None and target.at_us > watermark_us:
        raise TargetBeyondWatermark(
            "the target is ahead of the log",
            hint=f"the log reaches {rfc3339(watermark_us)}; use latest, or --wait",
            target=target.text,
            watermark=rfc3339(watermark_us),
        )
    if target.at_us is None and (target.seq or 0) >= view.state.seq_next:
        raise TargetBeyondWatermark(
            "the target is ahead of the log",
            hint=f"the log ends with seq {view.state.seq_next - 1}",
            target=target.text,
            seq_next=view.state.seq_next,
        )


def segments_over(view: LogView, seq_first: int, seq_end: int) -> list[ObjectRef]:
    """Return the segments with a change of ``[seq_first, seq_end)``."""
    return [ref for ref in view.segments if ref.seq_first < seq_end and ref.seq_end > seq_first]


def _resolution(
    view: LogView,
    target: Target,
    cut: Cut,
    torn: dict[str, int],
    watermark_us: int,
    position: Position,
    previous: Change | None,
    following: Change | None,
) -> Resolution:
    return Resolution(
        target=target,
        position=position,
        cut=cut,
        previous=previous,
        next=following,
        watermark_us=watermark_us,
        gaps=gaps_touched(view.gaps, cut, after_change=target.kind == "seq"),
        torn=torn,
    )
