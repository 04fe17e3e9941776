"""Merges small segments into larger ones, and expires what was replaced long enough ago."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pitr.domain.catalog import Catalog
from pitr.domain.columnar.merge import merge_segments
from pitr.domain.columnar.segment import SegmentWriter, WrittenFile
from pitr.domain.compaction import segments_to_merge
from pitr.domain.errors import Conflict
from pitr.domain.limits import Limits
from pitr.domain.manifest import ObjectRef
from pitr.domain.ports import Clock, ObjectStore
from pitr.services.archive import Archive


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """Neighbours that became one segment; every time and seq is kept."""

    sources: tuple[ObjectRef, ...]
    merged: ObjectRef


class Compactor:
    """Keeps the number of segments small; any number of processes may try at the same time."""

    def __init__(
        self,
        catalog: Catalog,
        store: ObjectStore,
        archive: Archive,
        clock: Clock,
        *,
        limits: Limits,
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._archive = archive
        self._clock = clock
        self._limits = limits

    async def compact(self, log: str, *, everything: bool = False) -> list[Merge]:
        """Merge until nothing is worth merging; ``everything`` merges any neighbours that fit.

        Raises:
            DataLoss: A segment is missing or damaged; the log is as it was.
            Unavailable: Catalog or store did not answer; nothing is half done.
        """
        merges: list[Merge] = []
        while sources := await self._chosen(log, everything=everything):
            merge = await self._merge(log, sources)
            if merge is None:
                break
            merges.append(merge)
        return merges

    async def _chosen(self, log: str, *, everything: bool) -> tuple[ObjectRef, ...]:
        view = await self._archive.view(log, tail=False)
        return segments_to_merge(view.segments, self._limits, everything=everything)

    async def _merge(self, log: str, sources: tuple[ObjectRef, ...]) -> Merge | None:
        """Merge ``sources`` into one segment; None if another process was faster."""
        paths = await self._archive.verified(sources)
        async with self._archive.scratch_folder() as folder:
            file = await asyncio.to_thread(self._write, paths, folder)
            merged = file.segment_ref(log)
            await self._store.put_new(merged.name, file.path, sha256=merged.sha256)
        # Durable, then listed in place of its sources, in one step.
        try:
            await self._catalog.replace_objects(
                log,
                kind="compact",
                add=(merged,),
                retire=tuple(ref.name for ref in sources),
                recorded_us=self._clock.now_us(),
            )
        except Conflict:
            return None
        return Merge(sources=sources, merged=merged)

    def _write(self, paths: Sequence[Path], folder: Path) -> WrittenFile:
        return merge_segments(
            paths,
            SegmentWriter(folder, kind="segment"),
            memory_bytes=self._limits.memory_bytes,
            spill_folder=folder,
        )

    async def expire(self, log: str) -> list[ObjectRef]:
        """Delete the objects that were retired longer ago than they are kept.

        Their bytes go first, then the record that they were there: a crash in between is repaired
        by the next call. What is live is never touched, nor what a restore under way may read:
        ``Catalog.expirable_objects`` has the argument.
        """
        before_us = self._clock.now_us() - self._limits.retired_kept_us
        old = await self._catalog.expirable_objects(log, before_us=before_us)
        if not old:
            return []
        for ref in old:
            await self._store.delete(ref.name)
        await self._catalog.replace_objects(
            log,
            kind="expire",
            expire=tuple(ref.name for ref in old),
            recorded_us=self._clock.now_us(),
        )
        return old
