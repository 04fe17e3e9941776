"""What a person decides about lanes: one that gets nothing more, one whose source is new."""

from __future__ import annotations

from pitr.domain.catalog import Catalog
from pitr.domain.errors import NotFound
from pitr.domain.log import Gap
from pitr.domain.ports import Clock
from pitr.domain.pulled import replacement


class LaneKeeper:
    """Releases and restarts lanes."""

    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    async def release(self, log: str, lane: str) -> None:
        """Let a lane hold the watermark back no longer, until capture takes it up again.

        Raises:
            NotFound: There is no such lane.
        """
        if not await self._catalog.release(log, lane):
            raise _unknown(lane)

    async def restart(self, log: str, lane: str, *, reason: str | None = None) -> str:
        """End a lane whose source was made again; return the name of the one that takes over.

        What the old source held after the lane's position is a gap: nobody can know.

        Raises:
            NotFound: There is no such lane, or it was restarted before.
        """
        following = replacement(lane)
        gap = Gap(
            lane=lane,
            position_first=None,
            position_end=None,
            at_min_us=None,
            at_max_us=None,
            seq_end=1,
            reason=reason or "the source was made again; what it held from here on is not known",
            recorded_us=self._clock.now_us(),
        )
        if not await self._catalog.replace_lane(log, lane, following, gap):
            raise _unknown(lane)
        return following


def _unknown(lane: str) -> NotFound:
    return NotFound(
        "there is no such lane, or it was restarted before", hint="pitr lanes shows them", lane=lane
    )
