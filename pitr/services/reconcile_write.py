"""How a repair gets into the log: batches of a good size, all of them one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pitr.domain.batch import Batch
from pitr.domain.change import Op
from pitr.domain.columnar.lane_changes import Newer
from pitr.domain.columnar.rowfile import RowFile
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.errors import Busy
from pitr.domain.limits import Limits
from pitr.domain.log import LaneState
from pitr.services.append import Appender

PIECE_ROWS: Final = 256
"""Rows that are put into a batch at a time."""

BUSY_PAUSE_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The drift of a collection: rows that the log should have, and rows that it should not."""

    collection: str
    reads: RowFile
    deletes: RowFile

    @classmethod
    def new(cls, collection: str, folder: Path, number: int) -> Found:
        """Make files for it; ``number`` is in their names."""
        return cls(
            collection=collection,
            reads=RowFile(folder, f"reads-{number}"),
            deletes=RowFile(folder, f"deletes-{number}"),
        )

    def close(self) -> None:
        """End writing."""
        self.reads.close()
        self.deletes.close()


def drafts_of(found: Sequence[Found], newer: Newer, limits: Limits) -> Iterator[pa.Table]:
    """Yield what is to be appended, in tables of ``DRAFT_SCHEMA`` within the limits of capture."""
    held: list[pa.Table] = []
    for piece in (piece for each in found for piece in _changes(each, newer)):
        rows, size_bytes = (sum(map(f, [*held, piece])) for f in (len, _nbytes))
        if held and (rows > limits.capture_rows_max or size_bytes > limits.capture_bytes_max):
            yield pa.concat_tables(held)
            held = []
        held.append(piece)
    if held:
        yield pa.concat_tables(held)


def _nbytes(table: pa.Table) -> int:
    size_bytes: int = table.nbytes
    return size_bytes


def _changes(found: Found, newer: Newer) -> Iterator[pa.Table]:
    for op, rows in ((Op.DELETE, found.deletes), (Op.READ, found.reads)):
        for _, batch in rows.picked(newer.todo(found.collection, rows)):
            for first in range(0, batch.num_rows, PIECE_ROWS):
                yield _draft(found.collection, op, pa.table(batch.slice(first, PIECE_ROWS)))


def _draft(collection: str, op: Op, rows: pa.Table) -> pa.Table:
    count = rows.num_rows
    given = {
        "collection": pa.repeat(collection, count),
        "key": rows["key"],
        "op": pa.repeat(op.value, count),
        "after": rows["after"],
        "position": pa.array(range(count), pa.int64()),
    }
    columns = [given.get(field.name, pa.nulls(count, field.type)) for field in DRAFT_SCHEMA]
    return pa.table(columns, schema=DRAFT_SCHEMA)


class Writer:
    """Appends batches to a lane that is ours, as one transaction.

    Until the last is stored, the lane's state names the transaction as open, so that no state has a
    part of it (invariant 5).
    """

    def __init__(
        self,
        appender: Appender,
        lane: LaneState,
        *,
        owner: str,
        constants: Mapping[str, Any],
    ) -> None:
        self._appender = appender
        self._lane = lane
        self._owner = owner
        self._constants = constants
        self._position = lane.position
        self._held: pa.Table | None = None

    async def write(self, drafts: pa.Table) -> None:
        """Append, but for the last batch."""
        for name, value in self._constants.items():
            place = drafts.schema.get_field_index(name)
            field = drafts.schema.field(place)
            column = pa.repeat(pa.scalar(value, field.type), drafts.num_rows)
            drafts = drafts.set_column(place, field, column)
        held, self._held = self._held, drafts
        if held is not None:
            open_tx = {"open_tx": self._constants["tx"]}
            await self.store(held, {**self._lane.state, **open_tx})

    async def end(self) -> None:
        """Append the last batch."""
        if self._held is not None:
            await self.store(self._held, dict(self._lane.state))

    async def store(self, drafts: pa.Table, state: Mapping[str, Any]) -> None:
        """Append one batch, and with it the lane's state."""
        place = drafts.schema.get_field_index("position")
        first, self._position = self._position, self._position + drafts.num_rows
        positions = pa.array(range(first, self._position), pa.int64())
        batch = Batch(
            lane=self._lane.lane,
            position_first=first,
            position_end=self._position,
            changes=drafts.set_column(place, drafts.schema.field(place), positions),
            lane_state=state,
            owner=self._owner,
        )
        while True:
            try:
                await self._appender.append(batch)
            except Busy:
                await asyncio.sleep(BUSY_PAUSE_S)
            else:
                return
