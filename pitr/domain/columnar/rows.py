"""Changes one by one: between Arrow tables of ``CHANGE_SCHEMA`` and ``Change``, byte for byte."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from pitr.domain.change import Change, Op
from pitr.domain.columnar.schema import CHANGE_SCHEMA

DOCUMENT_COLUMNS = ("after", "before", "unchanged", "meta")
"""Columns that ``Change`` holds as bytes."""


def changes_of(table: pa.Table | pa.RecordBatch) -> list[Change]:
    """Read the rows as changes, in the order of the table."""
    return [_change(row) for row in table.to_pylist()]


def tail_table(changes: Iterable[Change]) -> pa.Table:
    """Build a ``CHANGE_SCHEMA`` table from changes, in the order given."""
    rows = list(changes)
    return pa.table(
        [pa.array([_cell(row, field) for row in rows], field.type) for field in CHANGE_SCHEMA],
        schema=CHANGE_SCHEMA,
    )


def empty_table() -> pa.Table:
    """Return a table of no changes."""
    return CHANGE_SCHEMA.empty_table()


def _change(row: dict[str, Any]) -> Change:
    for name in DOCUMENT_COLUMNS:
        if row[name] is not None:
            row[name] = row[name].encode()
    row["op"] = Op(row["op"])
    return Change(**row)


def _cell(change: Change, field: pa.Field) -> Any:
    value = getattr(change, field.name)
    return value.decode() if isinstance(value, bytes) else value
