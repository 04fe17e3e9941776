"""Captures a pulled source: every record of every lane into the log, once and in order.

A lane is worked in three stages: records are polled for all lanes at once, decoded in another
process, appended. Whatever goes wrong with a lane, it drops what it holds and begins again from
where the catalog says it stands: that position is the only truth (invariants 1, 2 and 3).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog

from pitr.domain.batch import Batch, Decoded
from pitr.domain.catalog import Catalog
from pitr.domain.errors import Busy, LaneTaken, PitrError, PositionConflict, Unavailable
from pitr.domain.limits import Limits
from pitr.domain.log import Gap, LaneReport, LaneState
from pitr.domain.ports import Clock, Decoder, Feed, FeedPoll
from pitr.domain.pulled import Source, gap_of, next_lane, retention_problem, source_problem
from pitr.domain.records import Reading, Records, digest_of, joined
from pitr.services.append import Appender

POLL_S = 0.1
REPORT_EVERY_S = 1.0
BOUNDS_EVERY_S = 10.0
BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
HALTED_RETRY_S = 10.0
TAKEN_CHECK_S = 3.0
TAKEN_SILENT_US = 10_000_000
"""A lane is free again when its owner has said nothing for so long."""
RECORD_BYTES = 300
"""What a record takes in memory besides its key and value."""
FINISH_S = 5.0
"""How long a lane that is taken away may take to finish the append that runs."""

From = Literal["beginning", "end"]


class _Halted(Exception):
    """The lane cannot go on until a person has decided."""


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(slots=True)
class _Lane:
    """One lane of ours. ``name`` is the feed's; ``stored_as`` is the log's."""

    name: str
    stored_as: str
    queue: deque[Records] = field(default_factory=deque)
    queued_rows: int = 0
    queued_bytes: int = 0
    queued_since: float = 0.0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    settled: asyncio.Event = field(default_factory=_set_event)
    begun: bool = False
    moved: str | None = None
    position: int | None = None
    polled: int | None = None
    source_first: int | None = None
    source_end: int | None = None
    seen_us: int | None = None
    idle_us: int | None = None
    problem: str | None = None
    warning: str | None = None
    failures: int = 0
    fails_to_store: bool = False
    stored: int = 0
    stored_before: int = 0
    released: int | None = None

    def add(self, records: Records) -> None:
        if not self.queue:
            self.queued_since = time.monotonic()
        self.queue.append(records)
        self.queued_rows += len(records.values)
        self.queued_bytes += records.size_bytes
        self.polled = records.position_end
        self.arrived.set()

    def take(self, rows_max: int, bytes_max: int) -> Records:
        """Take what is queued, up to about these limits."""
        parts: list[Records] = []
        rows = size_bytes = 0
        while self.queue and (not parts or (rows < rows_max and size_bytes < bytes_max)):
            part = self.queue.popleft()
            parts.append(part)
            rows += len(part.values)
            size_bytes += part.size_bytes
        self.queued_rows -= rows
        self.queued_bytes -= size_bytes
        self.queued_since = time.monotonic()
        return joined(parts)

    def drop(self) -> None:
        self.queue.clear()
        self.queued_rows = self.queued_bytes = 0
        self.begun = False
        self.moved = self.polled = self.idle_us = None


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
        self._lanes: dict[str, _Lane] = {}
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
                beside = [self._report_on(), self._look_on()]
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
            raise _single(refused) from failures

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
            lane = self._lanes[name] = _Lane(name, name)
            lane.task = self._tasks.create_task(self._work(lane))
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
        await self._release(mine)
        for lane in mine:
            self._lanes.pop(lane.name, None)
            if lane.task is not None:
                await _ended(lane.task)
        if mine:
            self._logger.info("lanes_revoked", log=self._log, lanes=sorted(lanes))

    # Polling

    async def _started(self, stop: asyncio.Event) -> bool:
        attempt = 0
        while not stop.is_set():
            try:
                await self._feed.start(self)
            except Unavailable as error:
                self._say("source_away", error)
                await _sleep(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)], stop)
                attempt += 1
            else:
                self.problem = None
                return True
        return False

    async def _poll(self, stop: asyncio.Event) -> None:
        wanted = self._hungry()
        if not wanted:
            await _sleep(POLL_S / 5, stop)
            return
        try:
            found = await self._feed.poll(wanted, timeout_s=POLL_S)
        except Unavailable as error:
            self._say("source_away", error)
            await _sleep(1.0, stop)
            return
        self.problem = None
        for records in found.records:
            if (lane := self._lanes.get(records.lane)) is not None and lane.begun:
                self._add(lane, records)
        self._note(found)

    def _add(self, lane: _Lane, records: Records) -> None:
        if lane.polled == records.position_first:
            lane.idle_us = None
            lane.add(records)
        else:
            self._move(lane, "the source does not go on where it ended")

    def _note(self, found: FeedPoll) -> None:
        for name, end in found.ends.items():
            if (lane := self._lanes.get(name)) is not None:
                lane.source_end, lane.seen_us = end, self._clock.now_us()
        for name, idle_us in found.idle_us.items():
            if (lane := self._lanes.get(name)) is not None and lane.begun:
                lane.idle_us = idle_us
        for name, problem in found.problems.items():
            if (lane := self._lanes.get(name)) is not None and lane.begun:
                self._move(lane, problem)

    def _move(self, lane: _Lane, reason: str) -> None:
        """Let a lane begin again."""
        lane.begun, lane.moved = False, reason
        lane.arrived.set()

    def _hungry(self) -> list[str]:
        """The lanes with room for more (back-pressure: the others are not polled)."""
        limits = self._limits
        lanes = [lane for lane in self._lanes.values() if lane.begun]
        queued = sum(lane.queued_bytes + RECORD_BYTES * lane.queued_rows for lane in lanes)
        full = queued >= limits.capture_queue_bytes_max
        return [
            lane.name
            for lane in lanes
            if not lane.queue
            or (
                not full
                and lane.queued_bytes < 2 * limits.capture_bytes_max
                and lane.queued_rows < 2 * limits.capture_rows_max
            )
        ]

    # One lane

    async def _work(self, lane: _Lane) -> None:
        """Work on a lane until it is taken away; begin again after every failure."""
        while True:
            begun = False
            try:
                await self._begin(lane)
                begun = True
                await self._drain(lane)
            except LaneTaken as error:
                if error.facts.get("owner") is None:  # released or restarted: take it up again
                    lane.drop()
                    await asyncio.sleep(BACKOFF_S[0])
                    continue
                lane.problem = "another worker captures it"
                self._logger.warning("lane_taken", log=self._log, lane=lane.name, error=str(error))
                lane.drop()
                await self._abandoned(lane)
            except _Halted as halted:
                if lane.problem != str(halted):
                    lane.problem = str(halted)
                    self._logger.error(
                        "lane_halted", log=self._log, lane=lane.stored_as, reason=lane.problem
                    )
                lane.drop()
                await asyncio.sleep(HALTED_RETRY_S)
            except (PitrError, OSError) as error:
                if not isinstance(error, PositionConflict):
                    lane.problem, lane.fails_to_store = str(error), begun
                self._logger.warning(
                    "lane_begins_again", log=self._log, lane=lane.stored_as, error=str(error)
                )
                lane.drop()
                await asyncio.sleep(BACKOFF_S[min(lane.failures, len(BACKOFF_S) - 1)])
                lane.failures += 1

    async def _begin(self, lane: _Lane) -> None:
        """Claim the lane, see that the source still is the one that was captured, and seek."""
        first, end = (await self._feed.bounds([lane.name]))[lane.name]
        state = await self._claimed(lane, first, end)
        if state.position > end:
            end = await self._feed.end(lane.name, state.position) or end
        lane.position = state.position
        source = Source(first=first, end=end)
        known = state.state.get("last")
        peeked = None
        if state.position < first:
            peeked = await self._feed.peek(lane.name, first)
        elif known and first <= known["position"] and state.position <= end:
            peeked = await self._feed.peek(lane.name, known["position"])
        problem = source_problem(state, source, peeked)
        if problem is not None:
            raise _Halted(problem)
        position = state.position
        if position < first:
            gap = gap_of(state, source, peeked, recorded_us=self._clock.now_us())
            await self._record(gap)
            position = first
        lane.position = lane.polled = position
        lane.source_first, lane.source_end = first, end
        if not lane.fails_to_store or position >= end:
            self._is_well(lane)
        self._feed.seek(lane.name, position)
        lane.begun = True

    async def _abandoned(self, lane: _Lane) -> None:
        """Wait until whoever took a lane from us reports nothing any more.

        The source gave the lane to us: the other one may be a worker that was given up for dead,
        woke up for a moment, and is gone again.
        """
        while True:
            await asyncio.sleep(TAKEN_CHECK_S)
            with contextlib.suppress(PitrError):
                found = await self._catalog.lanes(self._log, prefix=lane.stored_as)
                state = next((each for each in found if each.lane == lane.stored_as), None)
                if state is None or state.owner in (None, self._owner):
                    return
                if self._clock.now_us() - (state.seen_us or 0) > TAKEN_SILENT_US:
                    return

    @staticmethod
    def _is_well(lane: _Lane) -> None:
        lane.problem, lane.fails_to_store, lane.failures = None, False, 0

    async def _claimed(self, lane: _Lane, first: int, end: int) -> LaneState:
        stored_as, start = lane.name, first if self._start == "beginning" else end
        while True:
            now_us = self._clock.now_us()
            states = await self._catalog.claim(
                self._log, self._owner, {stored_as: start}, recorded_us=now_us
            )
            following = next_lane(states[stored_as])
            if following is None:
                lane.stored_as = stored_as
                return states[stored_as]
            stored_as, start = following, first  # nothing of a topic made again may be missed

    async def _record(self, gap: Gap) -> None:
        gap = await self._catalog.skip(self._log, self._owner, gap)
        self._logger.error(
            "gap",
            log=self._log,
            lane=gap.lane,
            position_first=gap.position_first,
            position_end=gap.position_end,
            reason=gap.reason,
        )

    async def _drain(self, lane: _Lane) -> None:
        """Decode and append; while one batch is appended the next is decoded."""
        decoding = asyncio.ensure_future(self._next(lane))  # noqa: TID251 - ended below
        try:
            while True:
                records, decoded = await decoding
                decoding = asyncio.ensure_future(self._next(lane))  # noqa: TID251 - ended below
                await self._store(lane, records, decoded)
        finally:
            await _ended(decoding)

    async def _next(self, lane: _Lane) -> tuple[Records, Decoded]:
        limits = self._limits
        while True:
            if lane.moved is not None:
                raise PositionConflict(lane.moved, lane=lane.name)
            if not lane.queue:
                lane.arrived.clear()
                await lane.arrived.wait()
                continue
            behind = lane.source_end is not None and (lane.polled or 0) < lane.source_end
            linger_us = limits.capture_behind_linger_us if behind else limits.capture_linger_us
            left_s = lane.queued_since + linger_us / 1e6 - time.monotonic()
            full = (
                lane.queued_rows >= limits.capture_rows_max
                or lane.queued_bytes >= limits.capture_bytes_max
            )
            if full or left_s <= 0:
                break
            lane.arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await lane.arrived.wait()
        records = lane.take(limits.capture_rows_max, limits.capture_bytes_max)
        return records, await self._decoder.decode_records(records, self._reading(lane.name))

    async def _store(self, lane: _Lane, records: Records, decoded: Decoded) -> None:
        last = None
        if records.values:
            digest = digest_of(records.keys[-1], records.values[-1])
            last = {"last": {"position": records.positions[-1], "digest": digest}}
        batch = Batch(
            lane=lane.stored_as,
            position_first=records.position_first,
            position_end=records.position_end,
            changes=decoded.changes,
            quarantined=decoded.quarantined,
            lane_state=last,
            owner=self._owner,
            size_bytes=records.size_bytes,
        )
        if not lane.begun:  # revoked while this was decoded
            raise PositionConflict("the lane was taken away", lane=lane.name)
        lane.settled.clear()
        try:
            while True:
                try:
                    appended = await self._appender.append(batch)
                except Busy:
                    await asyncio.sleep(0.05)
                else:
                    break
        finally:
            lane.settled.set()
        self._is_well(lane)
        lane.position = records.position_end
        lane.stored += appended.count

    # Reports

    async def _report_on(self) -> None:
        reported = time.monotonic()
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            now = time.monotonic()
            try:
                lanes = [lane for lane in self._lanes.values() if lane.position is not None]
                reports = [self._report(lane, now - reported) for lane in lanes]
                reported = now
                if reports:
                    await self._catalog.report(self._log, self._owner, reports)
                await self._release(lanes)
            except PitrError as error:
                self._logger.warning("report_failed", log=self._log, error=str(error))

    async def _look_on(self) -> None:
        """Beside the reports: a source that is away must not hold those up."""
        while True:
            try:
                await self._look_at_retention(list(self._lanes.values()))
            except PitrError as error:
                self._logger.warning("look_failed", log=self._log, error=str(error))
            await asyncio.sleep(BOUNDS_EVERY_S)

    def _report(self, lane: _Lane, seconds: float) -> LaneReport:
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
            problem=lane.problem or self.problem or lane.warning,
            complete_us=None if idle_us is None else idle_us - self._limits.lateness_us,
        )

    async def _release(self, lanes: Sequence[_Lane]) -> None:
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

    async def _look_at_retention(self, lanes: Sequence[_Lane]) -> None:
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

    def _say(self, event: str, error: PitrError) -> None:
        if self.problem != str(error):
            self._logger.warning(event, log=self._log, error=str(error), hint=error.hint)
        self.problem = str(error)


async def _sleep(seconds: float, stop: asyncio.Event) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


def _single(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _ended(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it is over, whatever it ends with."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()
