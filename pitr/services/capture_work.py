"""Works on one lane: claims it, begins where the catalog says it stands, drains it, and again.

Whatever goes wrong, what the lane holds is dropped and it begins again: the catalog's position is
the only truth.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Literal

import structlog

from pitr.domain.catalog import Catalog
from pitr.domain.errors import LaneTaken, PitrError, PositionConflict
from pitr.domain.log import Gap, LaneState
from pitr.domain.ports import Clock, Feed
from pitr.domain.pulled import Source, gap_of, next_lane, position_to_peek, source_problem
from pitr.services.capture_drain import LaneDrain
from pitr.services.capture_lane import Lane
from pitr.services.tasks import backoff_s

TAKEN_CHECK_S = 3.0
TAKEN_SILENT_US = 10_000_000
"""A lane is free again when its owner has said nothing for so long."""

From = Literal["beginning", "end"]


class _Halted(Exception):
    """The lane cannot go on until a person has decided."""


class LaneWork:
    """One lane's worker; ``run`` goes on until it is cancelled."""

    def __init__(
        self,
        lane: Lane,
        catalog: Catalog,
        feed: Feed,
        drain: LaneDrain,
        clock: Clock,
        *,
        log: str,
        owner: str,
        start: From,
        halted_retry_s: float,
    ) -> None:
        self._lane = lane
        self._catalog = catalog
        self._feed = feed
        self._drain = drain
        self._clock = clock
        self._log = log
        self._owner = owner
        self._start = start
        self._halted_retry_s = halted_retry_s
        self._logger = structlog.get_logger("pitr.capture")

    async def run(self) -> None:
        """Work on the lane until it is taken away; begin again after every failure."""
        lane = self._lane
        while True:
            begun = False
            try:
                await self._begin()
                begun = True
                await self._drain.run()
            except LaneTaken as error:
                lane.drop()
                await self._taken(error)
            except _Halted as halted:
                lane.drop()
                self._say_halted(str(halted))
                await asyncio.sleep(self._halted_retry_s)
            except (PitrError, OSError) as error:
                lane.drop()
                self._say_failed(error, begun=begun)
                await asyncio.sleep(backoff_s(lane.failures))
                lane.failures += 1

    # To begin

    async def _begin(self) -> None:
        """Claim the lane, see that the source still is the one that was captured, and seek."""
        lane = self._lane
        first, end = (await self._feed.bounds([lane.name]))[lane.name]
        state = await self._claimed(first, end)
        if state.position > end:
            end = await self._feed.end(lane.name, state.position) or end
        lane.position = state.position
        position = await self._checked(state, Source(first=first, end=end))
        lane.position = lane.polled = position
        lane.source_first, lane.source_end = first, end
        if not lane.fails_to_store or position >= end:
            lane.clear_failures()
        self._feed.seek(lane.name, position)
        lane.begun = True

    async def _claimed(self, first: int, end: int) -> LaneState:
        """Claim the lane, or the one that took over from it."""
        stored_as, start = self._lane.name, first if self._start == "beginning" else end
        while True:
            now_us = self._clock.now_us()
            states = await self._catalog.claim(
                self._log, self._owner, {stored_as: start}, recorded_us=now_us
            )
            following = next_lane(states[stored_as])
            if following is None:
                self._lane.stored_as = stored_as
                return states[stored_as]
            stored_as, start = following, first  # nothing of a source made again may be missed

    async def _checked(self, state: LaneState, source: Source) -> int:
        """Return where the lane goes on: where it stands, or after a gap."""
        wanted = position_to_peek(state, source)
        peeked = None if wanted is None else await self._feed.peek(self._lane.name, wanted)
        problem = source_problem(state, source, peeked)
        if problem is not None:
            raise _Halted(problem)
        if state.position >= source.first:
            return state.position
        await self._record(gap_of(state, source, peeked, recorded_us=self._clock.now_us()))
        return source.first

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

    # When it fails

    async def _taken(self, error: LaneTaken) -> None:
        if error.facts.get("owner") is None:  # released or restarted: take it up again
            await asyncio.sleep(backoff_s(0))
            return
        self._lane.problem = "another worker captures it"
        self._logger.warning("lane_taken", log=self._log, lane=self._lane.name, error=str(error))
        await self._abandoned()

    async def _abandoned(self) -> None:
        """Wait until whoever took the lane from us reports nothing any more.

        The source gave the lane to us: the other one may be a worker that was given up for dead,
        woke up for a moment, and is gone again.
        """
        stored_as = self._lane.stored_as
        while True:
            await asyncio.sleep(TAKEN_CHECK_S)
            with contextlib.suppress(PitrError):
                found = await self._catalog.lanes(self._log, prefix=stored_as)
                state = next((each for each in found if each.lane == stored_as), None)
                if state is None or state.owner in (None, self._owner):
                    return
                if self._clock.now_us() - (state.seen_us or 0) > TAKEN_SILENT_US:
                    return

    def _say_halted(self, reason: str) -> None:
        lane = self._lane
        if lane.problem != reason:
            lane.problem = reason
            self._logger.error("lane_halted", log=self._log, lane=lane.stored_as, reason=reason)

    def _say_failed(self, error: PitrError | OSError, *, begun: bool) -> None:
        lane = self._lane
        if not isinstance(error, PositionConflict):
            lane.problem, lane.fails_to_store = str(error), begun
        self._logger.warning(
            "lane_begins_again", log=self._log, lane=lane.stored_as, error=str(error)
        )
