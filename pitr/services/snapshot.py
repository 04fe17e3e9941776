"""Makes snapshots: the newest state of every row, from the snapshot before and what came after."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow.compute as pc

from pitr.domain.catalog import Catalog
from pitr.domain.columnar.replay import Replay
from pitr.domain.columnar.segment import SegmentWriter, WrittenFile, write_files
from pitr.domain.compaction import latest_snapshot, snapshot_due, snapshots_to_retire
from pitr.domain.limits import Limits
from pitr.domain.log import LogView
from pitr.domain.manifest import ObjectRef
from pitr.domain.ports import Clock, ObjectStore
from pitr.domain.target import Cut
from pitr.services.archive import Archive


class Snapshotter:
    """Writes snapshots beside the log; they are only a short cut (invariant 11)."""

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
        self._since_us: dict[str, int] = {}

    async def snapshot_if_due(self, log: str) -> tuple[ObjectRef, ...]:
        """Make a snapshot if enough changed since the newest one."""
        now_us = self._clock.now_us()
        waited_us = now_us - self._since_us.setdefault(log, now_us)
        view = await self._archive.view(log)
        if not snapshot_due(view, waited_us=waited_us, limits=self._limits):
            return ()
        return await self._snapshot(view)

    async def snapshot(self, log: str) -> tuple[ObjectRef, ...]:
        """Make a snapshot of all there is; empty when there is one already, or no row lives.

        Raises:
            DataLoss: A needed object is missing or damaged.
            Unavailable: Catalog or store did not answer; nothing is half done.
        """
        return await self._snapshot(await self._archive.view(log))

    async def _snapshot(self, view: LogView) -> tuple[ObjectRef, ...]:
        log, seq_end = view.state.name, view.state.seq_next
        newest = latest_snapshot(view.snapshots)
        if seq_end == 1 or (newest and newest[0].seq_end == seq_end):
            return ()
        reads = self._archive.reads(view, Cut(seq_end=seq_end))
        async with self._archive.scratch_folder() as folder:
            async with self._archive.state(view, reads) as state:
                files = await asyncio.to_thread(self._write, state, folder)
            parts = await self._put(view, files)
        self._since_us[log] = self._clock.now_us()
        if not parts:
            return ()
        old = snapshots_to_retire([*view.snapshots, *parts], kept=self._limits.snapshots_kept)
        # The parts are durable: list them. A crash before leaves objects that no one lists.
        await self._catalog.replace_objects(
            log,
            kind="snapshot",
            add=parts,
            retire=tuple(ref.name for ref in old),
            recorded_us=self._clock.now_us(),
        )
        return parts

    def _write(self, state: Replay, folder: Path) -> list[WrittenFile]:
        writer = SegmentWriter(
            folder, kind="snapshot", part_bytes_max=self._limits.snapshot_part_bytes_max
        )
        return list(write_files(writer, state.all_rows()))

    async def _put(self, view: LogView, files: list[WrittenFile]) -> tuple[ObjectRef, ...]:
        at_min_us, at_max_us = _bounds(view)
        parts = []
        for file in files:
            ref = file.snapshot_ref(
                view.state.name,
                seq_end=view.state.seq_next,
                at_min_us=at_min_us,
                at_max_us=at_max_us,
            )
            await self._store.put_new(ref.name, file.path, sha256=ref.sha256)
            parts.append(ref)
        return tuple(parts)


def _bounds(view: LogView) -> tuple[int, int]:
    """The log times of all changes, also of those that left no row."""
    lows = [ref.at_min_us for ref in view.objects]
    highs = [ref.at_max_us for ref in view.objects]
    if view.tail.num_rows:
        tail = pc.min_max(view.tail.column("at_us")).as_py()
        lows.append(tail["min"])
        highs.append(tail["max"])
    return min(lows), max(highs)
