"""Captures a pulled source: every record of every lane into the log, once and in order.

A lane is worked in three stages: records are polled for all lanes at once, decoded in another
process, appended. Whatever goes wrong with a lane, it drops what it holds and begins again from
where the catalog says it stands: that position is the only truth (invariants 1, 2 and 3).

Here lanes come, are polled, and go. ``capture_lane`` is one lane and its queue, ``capture_work``
begins it, ``capture_drain`` brings it into the log, ``capture_reports`` says how far it is.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence

import structlog

from pitr.domain.catalog import Catalog
from pitr.domain.errors import PitrError, Unavailable
from pitr.domain.limits import Limits
from pitr.domain.ports import Clock, Decoder, Feed, FeedPoll
from pitr.domain.records import Reading
from pitr.services.append import Appender
from pitr.services.capture_drain import LaneDrain
from pitr.services.capture_lane import Lane
from pitr.services.capture_reports import LaneReports
from pitr.services.capture_work import From, LaneWork
from pitr.services.tasks import backoff_s, ended, pause, single

POLL_S = 0.1
AWAY_RETRY_S = 1.0
REPORT_EVERY_S = 1.0
BOUNDS_EVERY_S = 10.0
HALTED_RETRY_S = 10.0
FINISH_S = 5.0
"""How long a lane that is taken away may take to finish the append that runs."""


class Capture:
    """One worker. ``run`` it once; the feed shares the lanes out among all workers."""

    def __init__(
        self,
        catalog: Catalog,
        appender: Appender,
        feed: Feed,
        decoder: Decoder,
        clock: Clock,
        *,
        log: str,
        owner: str,
        reading: Callable[[str], Reading],
        limits: Limits,
        start: From = "beginning",
    ) -> None:
        self._catalog = catalog
        self._appender = appender
        self._feed = feed
        self._decoder = decoder
        self._clock = clock
        self._log = log
        self._owner = owner
        self._reading = reading
        self._limits = limits
        self._start = start
        self._lanes: dict[str, Lane] = {}
        self._reports = LaneReports(
            self._lanes,
            catalog,
            feed,
            clock,
            log=log,
            owner=owner,
            limits=limits,
            problem=lambda: self.problem,
        )
        self._leaving = False
        self._logger = structlog.get_logger("pitr.capture")
        self.problem: str | None = "starting"
        """Why nothing is captured just now, None while all is well."""

    @property
    def stored(self) -> int:
        """Changes stored by the lanes that are ours now."""
        return sum(lane.stored for lane in self._lanes.values())

    @property
    def problems(self) -> dict[str, str]:
        """Lanes that do not move, or soon will not, with the reason."""
        return {
            lane.stored_as: problem
            for lane in self._lanes.values()
            if (problem := lane.problem or lane.warning) is not None
        }

    async def run(self, stop: asyncio.Event) -> None:
        """Capture until ``stop``; then finish the appends that run, and leave.

        Raises:
            InvalidRequest: The source refuses us.
        """
        try:
            async with asyncio.TaskGroup() as self._tasks:
                beside = [
                    self._reports.report_on(every_s=REPORT_EVERY_S),
                    self._reports.look_on(every_s=BOUNDS_EVERY_S),
                ]
                running = [self._tasks.create_task(each) for each in beside]
                try:
                    await self._run(stop)
                finally:
                    for task in running:
                        task.cancel()
        except BaseExceptionGroup as failures:  # what a task group makes of one error
            refused, others = failures.split(PitrError)
            if refused is None or others is not None:
                raise
            raise single(refused) from failures

    async def _run(self, stop: asyncio.Event) -> None:
        try:
            if not await self._started(stop):
                return
            while not stop.is_set():
                await self._poll(stop)
        finally:
            self._leaving = True
            await self.revoked(list(self._lanes))
            await self._feed.close()

    # The feed's listener

    async def assigned(self, lanes: Sequence[str]) -> None:
        """Begin to work on lanes."""
        await self.revoked([name for name in lanes if name in self._lanes])
        if self._leaving:
            return
        self.problem = None
        for name in lanes:
            lane = self._lanes[name] = Lane(name, name)
            lane.task = self._tasks.create_task(self._work_on(lane).run())
        self._logger.info("lanes_assigned", log=self._log, lanes=sorted(lanes))

    async def revoked(self, lanes: Sequence[str]) -> None:
        """Let go of lanes: the append that runs is finished, what waits is dropped."""
        mine = [self._lanes[name] for name in lanes if name in self._lanes]
        for lane in mine:
            lane.drop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_S):
                for lane in mine:
                    await lane.settled.wait()
        await self._reports.release(mine)
        for lane in mine:
            self._lanes.pop(lane.name, None)
            if lane.task is not None:
                await ended(lane.task)
        if mine:
            self._logger.info("lanes_revoked", log=self._log, lanes=sorted(lanes))

    def _work_on(self, lane: Lane) -> LaneWork:
        drain = LaneDrain(
            lane,
            self._appender,
            self._decoder,
            owner=self._owner,
            reading=self._reading,
            limits=self._limits,
        )
        return LaneWork(
            lane,
            self._catalog,
            self._feed,
            drain,
            self._clock,
            log=self._log,
            owner=self._owner,
            start=self._start,
            halted_retry_s=HALTED_RETRY_S,
        )

    # Polling

    async def _started(self, stop: asyncio.Event) -> bool:
        attempt = 0
        while not stop.is_set():
            try:
                await self._feed.start(self)
            except Unavailable as error:
                self._say("source_away", error)
                await pause(backoff_s(attempt), stop)
                attempt += 1
            else:
                self.problem = None
                return True
        return False

    async def _poll(self, stop: asyncio.Event) -> None:
        wanted = self._hungry()
        if not wanted:
            await pause(POLL_S / 5, stop)
            return
        try:
            found = await self._feed.poll(wanted, timeout_s=POLL_S)
        except Unavailable as error:
            self._say("source_away", error)
            await pause(AWAY_RETRY_S, stop)
            return
        self.problem = None
        for records in found.records:
            if (lane := self._lanes.get(records.lane)) is not None and lane.begun:
                lane.add(records)
        self._note(found)

    def _note(self, found: FeedPoll) -> None:
        for name, end in found.ends.items():
            if (lane := self._lanes.get(name)) is not None:
                lane.source_end, lane.seen_us = end, self._clock.now_us()
        for name, idle_us in found.idle_us.items():
            if (lane := self._lanes.get(name)) is not None and lane.begun:
                lane.idle_us = idle_us
        for name, problem in found.problems.items():
            if (lane := self._lanes.get(name)) is not None and lane.begun:
                lane.begin_again(problem)

    def _hungry(self) -> list[str]:
        """The lanes with room for more (back-pressure: the others are not polled)."""
        lanes = [lane for lane in self._lanes.values() if lane.begun]
        queued = sum(lane.memory_bytes for lane in lanes)
        full = queued >= self._limits.capture_queue_bytes_max
        return [
            lane.name
            for lane in lanes
            if not lane.queue or (not full and lane.has_room(self._limits))
        ]

    def _say(self, event: str, error: PitrError) -> None:
        if self.problem != str(error):
            self._logger.warning(event, log=self._log, error=str(error), hint=error.hint)
        self.problem = str(error)
