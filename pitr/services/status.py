"""How a log stands: lanes, tail, objects, gaps, quarantine."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.domain.catalog import Catalog
from pitr.domain.compaction import latest_snapshot
from pitr.domain.log import Gap, LaneState, LogState, TailStats
from pitr.domain.manifest import ObjectRef
from pitr.domain.ports import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStatus:
    """One log at one moment."""

    state: LogState
    now_us: int
    watermark_us: int
    at_max_us: int | None
    tail: TailStats
    segments: tuple[ObjectRef, ...]
    snapshot: tuple[ObjectRef, ...]
    lanes: tuple[LaneState, ...]
    gaps: tuple[Gap, ...]
    quarantine: dict[str, int]

    @property
    def size_bytes(self) -> int:
        """Bytes of the live segments and the newest snapshot."""
        return sum(ref.size_bytes for ref in self.segments + self.snapshot)


class StatusReader:
    """Tells how logs stand."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    async def status(self, log: str) -> LogStatus:
        """Return the status of a log.

        Raises:
            NotFound: There is no such log.
        """
        view = await self._catalog.view(log, tail=False)
        now_us = self._clock.now_us()
        return LogStatus(
            state=view.state,
            now_us=now_us,
            watermark_us=view.watermark_us(now_us),
            at_max_us=max((lane.at_us for lane in view.lanes), default=None),
            tail=await self._catalog.tail_stats(log),
            segments=view.segments,
            snapshot=latest_snapshot(view.snapshots),
            lanes=view.lanes,
            gaps=view.gaps,
            quarantine=await self._catalog.quarantine_counts(log),
        )

    async def logs(self) -> list[LogStatus]:
        """Return the status of every log, by name."""
        return [await self.status(state.name) for state in await self._catalog.logs()]
