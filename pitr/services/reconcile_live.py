"""The live side of a comparison: tables read at one position, while the log comes as far."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from pitr.domain.catalog import Catalog
from pitr.domain.columnar.rowfile import RowFile
from pitr.domain.errors import Conflict, NotFound, Unavailable
from pitr.domain.log import LaneState
from pitr.domain.pgoutput.copytext import decode_rows
from pitr.domain.pgoutput.frozen_ports import Frozen, LiveDatabase
from pitr.domain.pgoutput.model import Relation, lsn_text
from pitr.domain.pgoutput.notes import Notes
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.ports import Progress
from pitr.domain.reconcile import CapturedTable, not_captured, not_read
from pitr.services.tasks import in_thread, single

LOOK_S: Final = 0.1
NUDGE_S: Final = 2.0
"""How often a message is written into the source's WAL, so that an idle lane moves on."""

OF_LOCKS: Final = ("55P03", "40P01")
"""SQLSTATEs of a lock that is not free, and of a deadlock."""

NOBODY: Final = "start pitr capture or pitr serve; pitr sources shows what is the matter"


@dataclass(slots=True)
class LiveTable:
    """A live table, and what is known of it so far.

    ``inconclusive`` is why it cannot be compared. ``unreadable`` rows cannot be stored in a log.
    """

    captured: CapturedTable
    inconclusive: str | None = None
    schema: TableSchema | None = None
    relation: Relation | None = None
    rows: RowFile | None = None
    unreadable: int = 0

    @property
    def collection(self) -> str:
        """The collection of its rows."""
        return self.captured.collection


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveTables:
    """Tables as they were at a position, at ``at_us`` on the source's clock."""

    lsn: int
    at_us: int
    tables: list[LiveTable]


Choose = Callable[[Sequence[CapturedTable]], Sequence[CapturedTable]]


class LiveSide:
    """Reads tables of one database.

    Args:
        slot: A name for a temporary slot.
        wait_s: How long the lane may stand still.
        folder: Where rows are written.
    """

    def __init__(
        self,
        catalog: Catalog,
        database: LiveDatabase,
        *,
        log: str,
        lane: str,
        slot: str,
        wait_s: float,
        folder: Path,
    ) -> None:
        self._catalog = catalog
        self._database = database
        self._log = log
        self._lane = lane
        self._slot = slot
        self._wait_s = wait_s
        self._folder = folder

    async def read(self, choose: Choose, notes: Notes, progress: Progress) -> LiveTables:
        """Read tables at a position, and wait until the log has all that is before it.

        The source is let go of as soon as the tables are read.

        Args:
            choose: Which of those that are captured.
            notes: What the lane remembers.

        Raises:
            Unavailable: The source is away, or the lane does not move.
            Conflict: The source is another one than was captured.
        """
        tables: list[LiveTable] = []
        try:
            async with (
                asyncio.TaskGroup() as group,
                self._database.frozen(self._slot, wait_s=self._wait_s) as frozen,
            ):
                _check_cluster(notes, frozen)
                group.create_task(self._reached(frozen.lsn))
                for number, captured in enumerate(choose(await self._database.captured())):
                    table = LiveTable(captured=captured)
                    table.inconclusive = not_captured(captured) or not_read(notes, table.collection)
                    with contextlib.suppress(NotFound):  # it is younger than the position
                        if table.inconclusive is None:
                            await self._read(frozen, table, number, progress)
                        tables.append(table)
        except BaseExceptionGroup as failures:
            raise single(failures) from failures
        return LiveTables(lsn=frozen.lsn, at_us=frozen.at_us, tables=tables)

    async def _read(
        self, frozen: Frozen, table: LiveTable, number: int, progress: Progress
    ) -> None:
        """Read a table, or say why it cannot be."""
        table.rows = rows = RowFile(self._folder, f"live-{number}")
        try:
            schemas = await self._database.schemas([table.captured.relid])
            if not schemas:
                raise Conflict("the table is captured no longer", table=table.collection)
            table.schema = schemas[table.captured.relid]
            relation = table.relation = await self._database.relation_of(table.schema)

            async def take(data: bytes) -> None:
                before = rows.count
                work = partial(_add, table, rows, data, relation)
                await in_thread(work, interrupt=lambda: None)  # nobody closes it under its hands
                progress(rows.count - before)

            async with frozen.locked(table.schema):
                await frozen.read(relation, take)
        except Conflict as error:
            table.inconclusive = error.message
        except Unavailable as error:
            if not _is_of_table(error):
                raise
            table.inconclusive = error.message
        finally:
            rows.close()

    async def _reached(self, lsn: int) -> None:
        """Wait until the lane has every transaction before a position, as long as it moves."""
        stood: object = None
        moved_s = nudged_s = float("-inf")
        while True:
            _, lane = await self._catalog.head(self._log, self._lane)
            stands = _stands(lane)
            if stands[0] is not None and stands[0] >= lsn:
                return
            now_s = time.monotonic()
            if stands != stood:
                stood, moved_s = stands, now_s
            if now_s - moved_s > self._wait_s:
                raise Unavailable(
                    "the log does not come as far as the database is",
                    hint=NOBODY,
                    lane=self._lane,
                    lsn=lsn_text(lsn),
                    reached=None if stands[0] is None else lsn_text(stands[0]),
                )
            if now_s - nudged_s > NUDGE_S:
                nudged_s = now_s
                await self._database.emit("awaited", b"")
            await asyncio.sleep(LOOK_S)


def _add(table: LiveTable, rows: RowFile, data: bytes, relation: Relation) -> None:
    """Add rows in COPY's text; count those that cannot be stored."""
    decoded = decode_rows(data, relation)
    rows.add(decoded.changes)
    table.unreadable += len(decoded.quarantined)


def _is_of_table(error: Unavailable) -> bool:
    """Tell whether only one table cannot be had: it is locked, or altered all the time."""
    return error.facts.get("sqlstate") in OF_LOCKS or "tables" in error.facts


def _stands(lane: LaneState | None) -> tuple[int | None, int | None]:
    if lane is None:
        return None, None
    return Notes.of_json(lane.state).lsn, lane.position


def _check_cluster(notes: Notes, frozen: Frozen) -> None:
    if notes.system not in (None, frozen.system):
        raise Conflict(
            "this is another database cluster than the one that was captured",
            hint="detach, and attach it under another name",
            system=frozen.system,
            captured=notes.system,
        )
    if notes.lsn is not None and notes.lsn > frozen.lsn:
        raise Conflict(
            "the source's WAL ends before what the log has of it",
            hint="it was restored from a backup, or a standby took over: let pitr capture see that",
            lsn=lsn_text(frozen.lsn),
            captured=lsn_text(notes.lsn),
        )
