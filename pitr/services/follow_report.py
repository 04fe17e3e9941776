"""Reports how far a followed database is, and watches its slot."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque

import structlog

from pitr.domain.catalog import Catalog
from pitr.domain.errors import PitrError
from pitr.domain.limits import Limits
from pitr.domain.log import LaneReport
from pitr.domain.pgoutput.ports import Database
from pitr.domain.pgoutput.standing import slot_warning
from pitr.domain.ports import Clock
from pitr.services.follow_state import Following

REPORT_EVERY_S = 1.0
LOOK_EVERY_S = 10.0
COPY_RATE_REPORTS = 15
"""Over how many reports it is counted how fast tables are read: chunks come at any pace."""

MEASURE_MAX_S = 10.0
"""How long to wait for the log to come as far as the WAL was, before it is measured again."""


class FollowReports:
    """Tells the catalog what its owner sees of a lane's source."""

    def __init__(
        self,
        following: Following,
        catalog: Catalog,
        database: Database,
        clock: Clock,
        *,
        log: str,
        owner: str,
        limits: Limits,
    ) -> None:
        self._following = following
        self._catalog = catalog
        self._database = database
        self._clock = clock
        self._log = log
        self._owner = owner
        self._limits = limits
        self._copied: deque[tuple[float, int]] = deque(maxlen=COPY_RATE_REPORTS)
        self._copy_rate()
        self._logger = structlog.get_logger("pitr.follow").bind(log=log, lane=following.lane)

    async def run(self) -> None:
        """Report and watch until cancelled; a source that is away holds no report up."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report_on())
            group.create_task(self._measure_on())
            group.create_task(self._look_on())

    def _copy_rate(self) -> float | None:
        """Rows a second that were copied lately; None while nothing is to be copied."""
        if not (self._following.claimed and self._following.notes.copy.to_do):
            self._copied.clear()
        self._copied.append((time.monotonic(), self._following.copied))
        if len(self._copied) == 1:
            return None
        (began_s, before), (now_s, copied) = self._copied[0], self._copied[-1]
        return (copied - before) / (now_s - began_s)

    async def _report_on(self) -> None:
        reported = time.monotonic()
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            now = time.monotonic()
            if not self._following.claimed:
                self._copy_rate()
                continue
            report, reported = self._report(now - reported), now
            try:
                await self._catalog.report(self._log, self._owner, [report])
            except PitrError as error:
                self._logger.warning("report_failed", error=str(error))

    def _report(self, seconds: float) -> LaneReport:
        following = self._following
        rate = (following.stored - following.stored_before) / seconds
        following.stored_before = following.stored
        complete_us = following.complete_us
        return LaneReport(
            lane=following.lane,
            position=following.position,
            seen_us=self._clock.now_us(),
            rate=rate,
            problem=following.problem or following.warning,
            complete_us=None if complete_us is None else complete_us - self._limits.lateness_us,
            lag_bytes=following.lag_bytes,
            copy_rate=self._copy_rate(),
        )

    async def _measure_on(self) -> None:
        """Ask how far the source's WAL goes, again once the log has come as far."""
        following, asked_s = self._following, 0.0
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            waits = following.lag_bytes and time.monotonic() < asked_s + MEASURE_MAX_S
            if not following.claimed or waits:
                continue
            asked_s = time.monotonic()
            with contextlib.suppress(PitrError):  # the stream says why
                following.measured(*await self._database.wal_end())

    async def _look_on(self) -> None:
        while True:
            try:
                await self._look()
            except PitrError as error:
                self._logger.warning("look_failed", error=str(error))
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        slot, following = await self._database.slot(), self._following
        if slot is None or following.notes.lsn is None:
            return
        before, following.warning = following.warning, slot_warning(slot)
        if following.warning is not None and before is None:
            self._logger.error("slot_in_danger", reason=following.warning)
