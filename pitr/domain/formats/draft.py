"""One decoded change before it has a seq, and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from pitr.domain.columnar.schema import DRAFT_SCHEMA


class Hints(NamedTuple):
    """What the caller knows and the input does not say.

    ``key_columns`` are the members of a row that are its key, for Debezium records without one;
    ``collection`` is of changes that name none.
    """

    key_columns: tuple[str, ...] | None = None
    collection: str | None = None


class Draft(NamedTuple):
    """A row of ``DRAFT_SCHEMA``, its fields in the order of the columns."""

    collection: str
    key: str
    op: str
    after: bytes | None
    before: bytes | None
    unchanged: bytes | None
    commit_us: int | None
    position: int
    tx: str | None
    actor: str | None
    reason: str | None
    meta: bytes | None


def table_of(drafts: Sequence[Draft]) -> pa.Table:
    """Make a table of drafts, in their order."""
    if not drafts:
        return DRAFT_SCHEMA.empty_table()
    columns = zip(*drafts, strict=True)
    return table_of_columns(
        [pa.array(column, field.type) for column, field in zip(columns, DRAFT_SCHEMA, strict=True)]
    )


def table_of_columns(columns: Sequence[pa.Array | pa.ChunkedArray]) -> pa.Table:
    """Make a table of finished columns, in the order of ``DRAFT_SCHEMA``."""
    return pa.Table.from_arrays(list(columns), schema=DRAFT_SCHEMA)
