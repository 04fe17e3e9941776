"""Seals the tail: its oldest changes become a segment, then leave the tail."""

from __future__ import annotations

import asyncio

from pitr.domain.catalog import Catalog
from pitr.domain.columnar.segment import encode_segment
from pitr.domain.compaction import seal_due
from pitr.domain.errors import Conflict
from pitr.domain.limits import Limits
from pitr.domain.manifest import ObjectRef
from pitr.domain.ports import Clock, ObjectStore


class Sealer:
    """Turns the tail into segments; any number of processes may try at the same time."""

    def __init__(
        self, catalog: Catalog, store: ObjectStore, clock: Clock, *, limits: Limits
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._clock = clock
        self._limits = limits

    async def seal(self, log: str, *, force: bool = False) -> list[ObjectRef]:
        """Seal what is due, with ``force`` everything; return the new segments.

        Raises:
            Unavailable: Catalog or store did not answer; nothing is lost, call again.
        """
        stats = await self._catalog.tail_stats(log)
        if not force and not seal_due(stats, now_us=self._clock.now_us(), limits=self._limits):
            return []
        sealed: list[ObjectRef] = []
        seq_end = (await self._catalog.log(log)).seq_next
        while (segment := await self._seal_run(log, seq_end)) is not None:
            sealed.append(segment)
        return sealed

    async def _seal_run(self, log: str, seq_end: int) -> ObjectRef | None:
        """Seal the oldest run that begins below ``seq_end``; None if there is none."""
        run = await self._catalog.oldest_run(
            log, rows_max=self._limits.segment_rows_max, bytes_max=self._limits.segment_bytes_max
        )
        if not run.num_rows or run.column("seq")[0].as_py() >= seq_end:
            return None
        encoded = await asyncio.to_thread(encode_segment, run)
        segment = encoded.ref(log)
        # Durable, then listed in place of the tail. A crash in between leaves an object that no
        # one lists, and the tail whole.
        await self._store.put_new(segment.name, encoded.body, sha256=segment.sha256)
        try:
            await self._catalog.seal(log, segment, recorded_us=self._clock.now_us())
        except Conflict:
            return None
        return segment
