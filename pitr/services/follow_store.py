"""Stores what comes out of the stream of a followed database, in its order."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import structlog

from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.pgoutput.copytext import entered
from pitr.domain.pgoutput.holes import HOLE, holes_of
from pitr.domain.pgoutput.ports import Stream
from pitr.domain.pgoutput.schema_log import UNDESCRIBED, changes_of_steps, emptying
from pitr.domain.pgoutput.sequence_log import change_of_sample
from pitr.services.follow_copy import TableCopier
from pitr.services.follow_log import LaneLog
from pitr.services.follow_read import (
    ChunkEnd,
    DecodedPart,
    Idle,
    Item,
    Looked,
    Steps,
    Undescribed,
)
from pitr.services.follow_state import Following

HEARTBEAT_S = 2.0
"""How often a stream without changes is noted, so that the source may forget its WAL, and need not
wait for us when it is shut down."""


class StreamStore:
    """The last stage: it alone moves the lane, and releases the slot behind it (invariant 3)."""

    def __init__(
        self,
        following: Following,
        lane: LaneLog,
        stream: Stream,
        copier: TableCopier,
        items: asyncio.Queue[Item],
    ) -> None:
        self._following = following
        self._lane = lane
        self._stream = stream
        self._copier = copier
        self._items = items
        self._noted_s = time.monotonic()
        self._logger = structlog.get_logger("pitr.follow").bind(lane=following.lane)

    async def run(self) -> None:
        """Store until cancelled.

        Raises:
            LaneTaken, PositionConflict: The lane is not ours any more.
            Unavailable: Catalog or store is away.
        """
        while True:
            match await self._items.get():
                case DecodedPart() as part:
                    await self._store_part(part)
                case Steps() as steps:
                    await self._store_steps(steps)
                case Looked() as looked:
                    await self._store_look(looked)
                case Undescribed() as undescribed:
                    await self._store_undescribed(undescribed)
                case ChunkEnd() as end:
                    await self._store_chunk(end)
                case Idle() as idle:
                    if idle.is_awaited:
                        self._noted_s = float("-inf")
                    await self._note_idle(idle)

    async def _store_part(self, item: DecodedPart) -> None:
        part, decoded = item.part, item.decoded
        if not part.rows:
            await self._move_on(part.lsn)
            return
        self._copier.window.add(decoded.changes)
        notes = replace(self._following.notes, lsn=part.lsn, open=part.open_after)
        for collection, at_us in holes_of(decoded.changes):
            await self._lane.open_gap(HOLE, collection=collection, at_us=at_us)
            if collection not in notes.copy.undescribed:
                notes = replace(notes, copy=notes.copy.begun(collection))
        await self._lane.append(
            decoded.changes,
            notes=notes,
            quarantined=decoded.quarantined,
            size_bytes=part.size_bytes,
        )
        self._copier.wake()
        self._release()

    async def _store_steps(self, item: Steps) -> None:
        """Store what became of tables; those whose rows are not known now are to be copied."""
        copy, following = self._following.notes.copy, self._following
        # What is gone comes first: a name that one table had may be another's now.
        for step in item.steps:
            if step.before is not None and step.is_another:
                copy = copy.without(step.before.collection)
                self._copier.schemas.pop(step.before.collection, None)
        for step in item.steps:
            if step.after is not None and step.reasons:
                copy = copy.begun(step.after.collection)
                await self._lane.open_gap(
                    "; ".join(step.reasons),
                    collection=step.after.collection,
                    at_us=item.commit_us if step.before is not None else None,
                )
        changes = changes_of_steps(item.steps, commit_us=item.commit_us)
        await self._lane.append(changes, notes=replace(following.notes, copy=copy))
        for step in item.steps:
            if step.after is not None:
                self._copier.schemas[step.after.collection] = step.after
            self._logger.info(
                "schema_changed",
                before=step.before.collection if step.before is not None else None,
                after=step.after.collection if step.after is not None else None,
                read_again=list(step.reasons),
            )
        self._copier.wake()

    async def _store_undescribed(self, item: Undescribed) -> None:
        """Note that a table's rows are of no known shape from here on, until it is looked at."""
        collection, notes = item.collection, self._following.notes
        await self._lane.open_gap(UNDESCRIBED, collection=collection, at_us=item.commit_us)
        notes = replace(notes, copy=notes.copy.put_off(collection))
        await self._lane.append(DRAFT_SCHEMA.empty_table(), notes=notes)

    async def _store_look(self, item: Looked) -> None:
        """Store what sequences stood at where that is new, and that all tables are known.

        Gaps end here, too, of which nothing is to be read any more: whoever read the last of it
        may have been killed before it said so.
        """
        await self._empty_gone(item.commit_us)
        notes = self._following.notes
        copy = replace(notes.copy.estimated(self._following.estimates), looked=True)
        changes = DRAFT_SCHEMA.empty_table()
        if item.sample is not None:
            changes = change_of_sample(self._following.lane, item.sample, commit_us=item.commit_us)
        if item.sample is not None or not notes.copy.looked:
            await self._lane.append(changes, notes=replace(notes, copy=copy))
        await self._lane.heal_gaps(at_us=item.commit_us)

    async def _empty_gone(self, commit_us: int) -> None:
        """Empty what no document ever described, and what was not seen by a look just now."""
        notes = self._following.notes
        if gone := notes.copy.undescribed:
            copy = notes.copy
            for collection in gone:
                copy = copy.without(collection)
            changes = emptying(gone, commit_us=commit_us)
            await self._lane.append(changes, notes=replace(notes, copy=copy))

    async def _store_chunk(self, end: ChunkEnd) -> None:
        in_hand = self._copier.at_place(end.content)
        if in_hand is None:
            return
        chunk, transaction = in_hand.chunk, end.transaction
        if not self._copier.is_next(in_hand):
            self._copier.window.give_up()
            self._copier.decide(accepted=False)
            return
        decoded = in_hand.decoded
        verdict = self._copier.window.decide(chunk.collection, decoded.changes, chunk.snapshot)
        if verdict.rows is None:
            self._copier.decide(accepted=False)
            return
        rows = await asyncio.to_thread(entered, verdict.rows, transaction, position=0)
        notes = self._following.notes
        copy = notes.copy.estimated(self._following.estimates)
        notes = replace(notes, copy=copy.advanced(chunk))
        unreadable = [
            replace(each, position=place)
            for place, each in enumerate(decoded.quarantined, rows.num_rows)
        ]
        await self._lane.append(
            rows, notes=notes, quarantined=unreadable, size_bytes=len(chunk.data)
        )
        self._following.copied += chunk.rows
        if chunk.done:
            self._logger.info("table_was_read", collection=chunk.collection)
            await self._lane.heal_gaps(at_us=transaction.commit_us)
        self._copier.decide(accepted=True)

    async def _note_idle(self, idle: Idle) -> None:
        self._following.problem, self._following.failures = None, 0
        await self._move_on(idle.lsn)

    async def _move_on(self, lsn: int) -> None:
        """Note now and then how far the stream is, where it has nothing to store."""
        notes = self._following.notes
        self._following.reached = max(self._following.reached, lsn)
        if notes.lsn is not None and lsn <= notes.lsn:
            return
        # The source says how far it is while it reads a transaction again whose rest is to come.
        still_open = notes.open if notes.open is not None and lsn <= notes.open.lsn else None
        if time.monotonic() - self._noted_s < HEARTBEAT_S and still_open == notes.open:
            return
        notes = replace(notes, lsn=lsn, open=still_open)
        await self._lane.append(DRAFT_SCHEMA.empty_table(), notes=notes)
        self._release()

    def _release(self) -> None:
        """Let the source forget what is durable here."""
        self._noted_s = time.monotonic()
        notes = self._following.notes
        if notes.lsn is not None:
            self._following.reached = max(self._following.reached, notes.lsn)
            self._stream.confirm(notes.lsn)
