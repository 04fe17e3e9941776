"""The history of one row, newest first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from pitr.domain.change import Change
from pitr.domain.columnar.lookup import row_history
from pitr.domain.history import RowChange, row_changes
from pitr.services.archive import Archive


class HistoryReader:
    """Answers who changed a row, when, from what to what; one for the life of a process."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._footers = archive.footers

    async def changes(self, log: str, collection: str, key: str) -> list[Change]:
        """Return every change of the row, and truncates of its collection, newest first.

        Raises:
            DataLoss: A segment that may hold one is damaged.
        """
        return await asyncio.to_thread(await self._reading(log, collection, key))

    async def history(
        self, log: str, collection: str, key: str, *, limit: int | None = None
    ) -> list[RowChange]:
        """Return the row's changes with the fields that changed, newest first."""
        read = await self._reading(log, collection, key)
        found = await asyncio.to_thread(lambda: row_changes(read()))
        return found[:limit]

    async def _reading(self, log: str, collection: str, key: str) -> Callable[[], list[Change]]:
        """Return what reads the changes, for a thread."""
        view = await self._archive.row_view(log, collection, key)
        refs = [ref for ref in view.segments if collection in ref.ops]
        paths = await self._archive.verified(refs)
        return partial(row_history, paths, view.tail, collection, key, footers=self._footers)

    async def prepare(self) -> None:
        """Read the rest of the page indexes of segments that were asked before: work for upkeep.

        Raises:
            DataLoss: A segment's page index is damaged.
        """
        await asyncio.to_thread(self._footers.read_indexes)
