"""Reports how far lanes are, tells the source what is durable, and watches its retention."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import structlog

from pitr.domain.catalog import Catalog
from pitr.domain.errors import PitrError
from pitr.domain.limits import Limits
from pitr.domain.log import LaneReport
from pitr.domain.ports import Clock, Feed
from pitr.domain.pulled import Source, retention_problem
from pitr.services.capture_lane import Lane


class LaneReports:
    """What is said about the lanes of one worker while others work on them.

    ``problem`` returns what is wrong with all of them.
    """

    def __init__(
        self,
        lanes: Mapping[str, Lane],
        catalog: Catalog,
        feed: Feed,
        clock: Clock,
        *,
        log: str,
        owner: str,
        limits: Limits,
        problem: Callable[[], str | None],
    ) -> None:
        self._lanes = lanes
        self._catalog = catalog
        self._feed = feed
        self._clock = clock
        self._log = log
        self._owner = owner
        self._limits = limits
        self._problem = problem
        self._logger = structlog.get_logger("pitr.capture")

    async def report_on(self, *, every_s: float) -> None:
        """Report to the catalog and to the source, until cancelled."""
        reported = time.monotonic()
        while True:
            await asyncio.sleep(every_s)
            now = time.monotonic()
            try:
                lanes = [lane for lane in self._lanes.values() if lane.position is not None]
                reports = [self._report(lane, now - reported) for lane in lanes]
                reported = now
                if reports:
                    await self._catalog.report(self._log, self._owner, reports)
                await self.release(lanes)
            except PitrError as error:
                self._logger.warning("report_failed", log=self._log, error=str(error))

    async def look_on(self, *, every_s: float) -> None:
        """Watch retention, until cancelled.

        Beside the reports: a source that is away must not hold those up.
        """
        while True:
            try:
                await self._look_at_retention(list(self._lanes.values()))
            except PitrError as error:
                self._logger.warning("look_failed", log=self._log, error=str(error))
            await asyncio.sleep(every_s)

    async def release(self, lanes: Sequence[Lane]) -> None:
        """Tell the source what is durable, for its own tools; the catalog decides anyway."""
        moved = {
            lane.name: lane.position
            for lane in lanes
            if lane.position is not None and lane.position != lane.released
        }
        if not moved:
            return
        try:
            await self._feed.released(moved)
        except PitrError as error:
            self._logger.warning("release_failed", log=self._log, error=str(error))
            return
        for lane in lanes:
            lane.released = moved.get(lane.name, lane.released)

    def _report(self, lane: Lane, seconds: float) -> LaneReport:
        assert lane.position is not None
        rate = (lane.stored - lane.stored_before) / seconds
        lane.stored_before = lane.stored
        idle_us = lane.idle_us if lane.polled == lane.position else None
        return LaneReport(
            lane=lane.stored_as,
            position=lane.position,
            source_first=lane.source_first,
            source_end=lane.source_end,
            seen_us=lane.seen_us,
            rate=rate,
            problem=lane.problem or self._problem() or lane.warning,
            complete_us=None if idle_us is None else idle_us - self._limits.lateness_us,
        )

    async def _look_at_retention(self, lanes: Sequence[Lane]) -> None:
        """Warn while what is not captured yet can still be read (field note 19)."""
        names = [lane.name for lane in lanes if lane.begun]
        if not names:
            return
        bounds, kept_us = await self._feed.bounds(names), await self._feed.kept_us(names)
        for lane in lanes:
            if lane.name not in bounds or lane.position is None or not lane.begun:
                continue
            lane.source_first, lane.source_end = bounds[lane.name]
            source = Source(first=lane.source_first, end=lane.source_end)
            kept, oldest_us = kept_us.get(lane.name), None
            if kept is not None and lane.position < source.end:
                peeked = await self._feed.peek(lane.name, lane.position)
                oldest_us = peeked.time_us if peeked is not None else None
            before = lane.warning
            lane.warning = retention_problem(
                lane.position,
                source,
                oldest_us=oldest_us,
                kept_us=kept,
                now_us=self._clock.now_us(),
            )
            if lane.warning is not None and before is None:
                self._logger.error(
                    "retention_nears", log=self._log, lane=lane.name, reason=lane.warning
                )
