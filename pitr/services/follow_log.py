"""The one way of a followed database into the log: changes and notes in one step."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import structlog

from pitr.domain.batch import Batch
from pitr.domain.catalog import Catalog
from pitr.domain.change import Quarantined
from pitr.domain.errors import Busy
from pitr.domain.log import Gap
from pitr.domain.pgoutput.notes import Notes
from pitr.domain.ports import Clock
from pitr.services.append import Appender
from pitr.services.follow_state import Following

BUSY_PAUSE_S = 0.05


class LaneLog:
    """Appends to the lane of one database, and records its gaps."""

    def __init__(
        self,
        following: Following,
        catalog: Catalog,
        appender: Appender,
        clock: Clock,
        *,
        log: str,
        owner: str,
    ) -> None:
        self._following = following
        self._catalog = catalog
        self._appender = appender
        self._clock = clock
        self._log = log
        self._owner = owner
        self._logger = structlog.get_logger("pitr.follow").bind(log=log, lane=following.lane)

    async def append(
        self,
        changes: pa.Table,
        *,
        notes: Notes,
        quarantined: Sequence[Quarantined] = (),
        size_bytes: int = 0,
    ) -> None:
        """Store changes, with positions counted from 0, and with them where the lane stands.

        Raises:
            PositionConflict, LaneTaken: The lane is not ours any more, or stands elsewhere.
        """
        following = self._following
        first = following.position
        place = changes.schema.get_field_index("position")
        positions = pc.add(changes.column(place), first)
        under_way = (following.notes.open, notes.open)
        batch = Batch(
            lane=following.lane,
            position_first=first,
            position_end=first + changes.num_rows + len(quarantined),
            changes=changes.set_column(place, changes.schema.field(place), positions),
            quarantined=tuple(replace(one, position=one.position + first) for one in quarantined),
            lane_state=notes.as_json(),
            owner=self._owner,
            parted=frozenset(each.tx for each in under_way if each is not None),
            size_bytes=size_bytes,
        )
        while True:
            try:
                await self._appender.append(batch)
            except Busy:
                await asyncio.sleep(BUSY_PAUSE_S)
            else:
                break
        following.moved(batch.position_end, notes)

    async def open_gap(self, reason: str, *, collection: str | None, at_us: int | None) -> None:
        """Record what the log does not tell until it is read again (invariant 7).

        Args:
            at_us: Since when, None where that is not known.

        Raises:
            LaneTaken: The lane is not ours any more.
        """
        following = self._following
        gap = Gap(
            lane=following.lane,
            position_first=following.position,
            position_end=None,
            at_min_us=at_us,
            at_max_us=None,
            seq_end=0,
            reason=reason,
            recorded_us=self._clock.now_us(),
            collection=collection,
        )
        await self._catalog.open_gap(self._log, self._owner, gap)
        self._logger.error("gap", collection=collection, reason=reason)

    async def heal_gaps(self, *, at_us: int) -> None:
        """End the gaps of all that is not being read any more.

        Raises:
            LaneTaken: The lane is not ours any more.
        """
        copy, lane = self._following.notes.copy, self._following.lane
        healed = await self._catalog.heal_gaps(
            self._log, self._owner, lane, at_us=at_us, but=copy.to_do, all_known=copy.looked
        )
        if healed:
            self._logger.info("gaps_healed", count=healed)
