"""Reads the log itself: its newest changes, and those after a seq."""

from __future__ import annotations

import asyncio

from pitr.domain.change import Change
from pitr.domain.columnar.scan import changes_between
from pitr.domain.log import LogView
from pitr.services.archive import Archive

WINDOW_ROWS_MIN = 1_000
WINDOW_ROWS_MAX = 32_000
"""Changes read at once while looking back for those of one collection."""


class ChangesReader:
    """Answers with changes in seq order; what it holds at once is bounded."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive

    async def newest(self, log: str, count: int, collection: str | None = None) -> list[Change]:
        """Return the newest ``count`` changes, of one collection if it is named, oldest first.

        Raises:
            NotFound: There is no such log.
            DataLoss: A segment that holds some of them is damaged.
        """
        view = await self._archive.view(log)
        found: list[Change] = []
        seq_end, window = view.state.seq_next, max(count, WINDOW_ROWS_MIN)
        while len(found) < count and (seq_end := _end_with(view, collection, seq_end)) > 1:
            seq_first = max(1, seq_end - min(window, WINDOW_ROWS_MAX))
            some = await self._between(view, seq_first, seq_end)
            found = [each for each in some if collection in (None, each.collection)] + found
            seq_end, window = seq_first, window * 2
        return found[-count:]

    async def after(self, log: str, seq: int, limit: int) -> list[Change]:
        """Return up to ``limit`` changes after ``seq``, oldest first.

        Raises:
            NotFound: There is no such log.
            DataLoss: A segment that holds some of them is damaged.
        """
        view = await self._archive.view(log)
        seq_first = max(seq + 1, 1)
        seq_end = min(view.state.seq_next, seq_first + limit)
        return await self._between(view, seq_first, seq_end) if seq_first < seq_end else []

    async def _between(self, view: LogView, seq_first: int, seq_end: int) -> list[Change]:
        refs = [ref for ref in view.segments if ref.seq_first < seq_end and ref.seq_end > seq_first]
        paths = await self._archive.verified(refs)
        return await asyncio.to_thread(
            changes_between, paths, view.tail, seq_first=seq_first, seq_end=seq_end
        )


def _end_with(view: LogView, collection: str | None, seq_end: int) -> int:
    """Step back over the segments that hold nothing of the collection."""
    if collection is None:
        return seq_end
    for ref in sorted(view.segments, key=lambda ref: ref.seq_first, reverse=True):
        if ref.seq_first < seq_end <= ref.seq_end and collection not in ref.ops:
            seq_end = ref.seq_first
    return seq_end
