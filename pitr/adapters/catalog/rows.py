"""Rows of the catalog as dataclasses, and Arrow tables as rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.log import Gap, LaneState, LogState, Mark, QuarantineItem
from pitr.domain.manifest import ObjectRef

LOG_NAMES = LogState.__slots__
LOG_COLUMNS = ", ".join(LOG_NAMES)
LANE_NAMES = LaneState.__slots__
LANE_COLUMNS = ", ".join(LANE_NAMES)
CHANGE_COLUMNS = tuple(CHANGE_SCHEMA.names)


def log_state(row: Any) -> LogState:
    """A row with ``LOG_COLUMNS``."""
    return LogState(**dict(row))


def lane_state(row: Any) -> LaneState:
    """A row with ``LANE_COLUMNS``."""
    return LaneState(**dict(row))


def gap(row: Any) -> Gap:
    """A row of pitr.gaps."""
    return Gap(**{name: row[name] for name in Gap.__slots__})


def mark(row: Any) -> Mark:
    """A row of pitr.marks."""
    return Mark(**{name: row[name] for name in Mark.__slots__})


def quarantine_item(row: Any) -> QuarantineItem:
    """A row of pitr.quarantine."""
    return QuarantineItem(**{name: row[name] for name in QuarantineItem.__slots__})


def object_ref(fields: Mapping[str, Any]) -> ObjectRef:
    """The ``ref`` of a row of pitr.objects."""
    return ObjectRef(**fields)


def change_records(table: pa.Table, log_id: int) -> Iterable[tuple[Any, ...]]:
    """Rows for COPY into the tail, ``log_id`` first, then ``CHANGE_SCHEMA``'s columns."""
    columns = [table.column(name).to_pylist() for name in CHANGE_COLUMNS]
    return zip([log_id] * table.num_rows, *columns, strict=True)


def change_table(rows: list[Any]) -> pa.Table:
    """Rows of the tail as a table with ``CHANGE_SCHEMA``."""
    if not rows:
        return CHANGE_SCHEMA.empty_table()
    columns = zip(*rows, strict=True)
    arrays = [
        pa.array(values, field.type) for values, field in zip(columns, CHANGE_SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=CHANGE_SCHEMA)


def parted(table: pa.Table, transactions: frozenset[str] | None) -> pa.Table:
    """The changes of those transactions that may have parts in other appends, None means all."""
    if transactions is None:
        return table
    if not transactions:
        return table.slice(0, 0)
    wanted = pa.array(sorted(transactions), table.schema.field("tx").type)
    return table.filter(pc.is_in(table.column("tx"), value_set=wanted))


def transaction_spans(table: pa.Table, *, count_max: int) -> list[tuple[str, int, int, int, int]]:
    """(tx, seq first, seq last, at min, at max) of the newest ``count_max`` transactions."""
    named = table.filter(pc.is_valid(table.column("tx")))
    if not named.num_rows:
        return []
    spans = named.group_by("tx").aggregate(
        [("seq", "min"), ("seq", "max"), ("at_us", "min"), ("at_us", "max")]
    )
    spans = spans.sort_by([("seq_max", "descending")]).slice(0, count_max)
    names = ("tx", "seq_min", "seq_max", "at_us_min", "at_us_max")
    return list(zip(*(spans.column(name).to_pylist() for name in names), strict=True))
