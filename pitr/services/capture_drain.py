"""Drains the queue of one lane into the log: batches by size and by age, decoded and appended."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from pitr.domain.batch import Batch, Decoded
from pitr.domain.errors import Busy, PositionConflict
from pitr.domain.limits import Limits
from pitr.domain.log import Appended
from pitr.domain.ports import Decoder
from pitr.domain.pulled import last_of
from pitr.domain.records import Reading, Records
from pitr.services.append import Appender
from pitr.services.capture_lane import Lane
from pitr.services.tasks import ended

BUSY_RETRY_S = 0.05


class LaneDrain:
    """The way from a lane's queue into the log."""

    def __init__(
        self,
        lane: Lane,
        appender: Appender,
        decoder: Decoder,
        *,
        owner: str,
        reading: Callable[[str], Reading],
        limits: Limits,
    ) -> None:
        self._lane = lane
        self._appender = appender
        self._decoder = decoder
        self._owner = owner
        self._reading = reading
        self._limits = limits

    async def run(self) -> None:
        """Decode and append until something fails; while one batch is appended the next is decoded.

        Raises:
            PositionConflict: The lane must begin again.
            LaneTaken: Another worker has claimed it.
            Unavailable: It is unknown whether the last batch was stored.
        """
        decoding = asyncio.ensure_future(self._next())  # noqa: TID251 - ended below
        try:
            while True:
                records, decoded = await decoding
                decoding = asyncio.ensure_future(self._next())  # noqa: TID251 - ended below
                await self._store(records, decoded)
        finally:
            await ended(decoding)

    async def _next(self) -> tuple[Records, Decoded]:
        await self._wait_for_batch()
        lane, limits = self._lane, self._limits
        records = lane.take(limits.capture_rows_max, limits.capture_bytes_max)
        return records, await self._decoder.decode_records(records, self._reading(lane.name))

    async def _wait_for_batch(self) -> None:
        """Wait until what is queued is large or old enough."""
        lane = self._lane
        while True:
            if lane.moved is not None:
                raise PositionConflict(lane.moved, lane=lane.name)
            if not lane.queue:
                lane.arrived.clear()
                await lane.arrived.wait()
                continue
            left_s = lane.queued_since + self._linger_us() / 1e6 - time.monotonic()
            if lane.has_batch(self._limits) or left_s <= 0:
                return
            lane.arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await lane.arrived.wait()

    def _linger_us(self) -> int:
        """How long records may wait for more: longer while the source has more at hand."""
        lane, limits = self._lane, self._limits
        behind = lane.source_end is not None and (lane.polled or 0) < lane.source_end
        return limits.capture_behind_linger_us if behind else limits.capture_linger_us

    async def _store(self, records: Records, decoded: Decoded) -> None:
        lane = self._lane
        if not lane.begun:  # revoked while this was decoded
            raise PositionConflict("the lane was taken away", lane=lane.name)
        batch = Batch(
            lane=lane.stored_as,
            position_first=records.position_first,
            position_end=records.position_end,
            changes=decoded.changes,
            quarantined=decoded.quarantined,
            lane_state=last_of(records),
            owner=self._owner,
            size_bytes=records.size_bytes,
        )
        lane.settled.clear()
        try:
            appended = await self._append(batch)
        finally:
            lane.settled.set()
        lane.clear_failures()
        lane.position = records.position_end
        lane.stored += appended.count

    async def _append(self, batch: Batch) -> Appended:
        while True:
            try:
                return await self._appender.append(batch)
            except Busy:
                await asyncio.sleep(BUSY_RETRY_S)
