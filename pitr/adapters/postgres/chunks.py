"""Reads a table chunk by chunk, each with a snapshot of its own that is told with the rows.

A chunk is some rows in the order of the table's key; without a key, all rows in some blocks, by
their ``ctid``: a TID range scan since PostgreSQL 14 (its documentation, "System Columns").
"""

from __future__ import annotations

import contextlib
from typing import Final

import asyncpg

from pitr.adapters.postgres.chunk_table import OpenTable, Order, open_table, storage_of
from pitr.adapters.transactions import transaction
from pitr.domain.errors import InvalidRequest, NotFound
from pitr.domain.pgoutput.copying import (
    CHUNK_BYTES,
    CHUNK_ROWS_MAX,
    CHUNK_ROWS_MIN,
    Chunk,
    Resume,
    Snapshot,
)
from pitr.domain.pgoutput.copytext import last_values
from pitr.domain.pgoutput.model import Relation
from pitr.domain.pgoutput.sql import identifier, literal

BLOCKS_GROWTH: Final = 8
"""How many times more blocks may be read at once than so far: their rows may be of any size."""

BLOCKS_AT_ONCE: Final = 1024
BLOCKS_MAX: Final = 65_536
"""Most blocks of a chunk: a transaction does not last, however few rows are found."""

_LOCALLY: Final = "SET LOCAL synchronous_commit = local"
"""Wait for no synchronous standby: nor does the stream."""


class _Enough(Exception):
    """The chunk is large enough: stop the COPY."""


class _Rows:
    """What a COPY gives; an output for ``copy_from_query``."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size_bytes = 0
        self.count = 0

    async def take(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.size_bytes += len(piece)
        self.count += piece.count(b"\n")

    def data(self) -> bytes:
        """Return the whole rows."""
        data = b"".join(self._pieces)
        return data[: data.rfind(b"\n") + 1]


async def current_snapshot(connection: asyncpg.Connection) -> Snapshot:
    """Return what a chunk would see that was read now."""
    return Snapshot.of_text(await connection.fetchval("SELECT pg_current_snapshot()::text"))


async def new_xid(connection: asyncpg.Connection) -> int:
    """Give out a transaction number, its lower 32 bits; it is over when this returns."""
    async with connection.transaction():
        await connection.execute(_LOCALLY)
        xid: str = await connection.fetchval("SELECT pg_current_xact_id()::text")
    return int(xid) & 0xFFFFFFFF


async def emit(connection: asyncpg.Connection, kind: str, content: bytes) -> None:
    """Write a message of pitr's own into the stream, in a transaction of its own."""
    async with connection.transaction():
        await connection.execute(_LOCALLY)
        await connection.execute(
            "SELECT pg_logical_emit_message(true, $1, $2::bytea)", f"pitr.{kind}", content
        )


async def read_chunk(
    connection: asyncpg.Connection,
    relation: Relation,
    *,
    after: Resume | None,
    rows_max: int,
    bytes_max: int = 2 * CHUNK_BYTES,
) -> Chunk:
    """Read the next rows of a table; the transaction has ended when this returns.

    The connection may have ended, too, if the last of all rows made the chunk large enough.

    A table that was written anew, or whose key has another order now, is read from its beginning.
    A chunk in the order of the key ends with the first row past ``bytes_max``. Blocks are read
    whole: a chunk of them ends when it has about ``CHUNK_BYTES``.

    Args:
        connection: Outside of a transaction.
        relation: As the table is now.
        after: Where the last chunk ended; None to begin.

    Raises:
        NotFound: There is no such table.
        Conflict: The table is another one by now, or has other columns.
        InvalidRequest: The role may not read all of it.
    """
    try:
        return await _read(connection, relation, after, rows_max=rows_max, bytes_max=bytes_max)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
        raise NotFound("there is no such table", table=relation.collection) from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise InvalidRequest(
            "the table may not be read",
            hint="GRANT SELECT on it; with row security, the role needs BYPASSRLS too",
            table=relation.collection,
            reason=str(error),
        ) from error


async def _read(
    connection: asyncpg.Connection,
    relation: Relation,
    after: Resume | None,
    *,
    rows_max: int,
    bytes_max: int,
) -> Chunk:
    rows = _Rows()

    async def take(piece: bytes) -> None:
        await rows.take(piece)
        if rows.size_bytes > bytes_max and 0 < rows.count < rows_max:  # or it ends by itself
            raise _Enough

    cut = True
    with contextlib.suppress(_Enough):
        async with transaction(connection, isolation="repeatable_read", readonly=True):
            table = await open_table(connection, relation)
            order = table.order
            if order is None:
                return await _read_blocks(connection, table, after, rows, rows_max)
            query = _next_rows(table, order, after, rows_max)
            await connection.copy_from_query(query, output=take)
        cut = False
    assert order is not None, "only rows in the order of a key are cut off"
    data = rows.data()
    return Chunk(
        collection=relation.collection,
        snapshot=table.snapshot,
        data=data,
        rows=rows.count,
        last=_last_key(data, relation, order) if rows.count else after,
        done=rows.count < rows_max and not cut,
        rows_max=_next_rows_max(rows, rows_max),
    )


def _next_rows(table: OpenTable, order: Order, after: Resume | None, rows_max: int) -> str:
    """Write the query of a chunk. The texts of key values give the same values again."""
    keys = ", ".join(map(identifier, order.columns))
    where = ""
    if after is not None and after.get("order") == order.meaning:
        values = ", ".join(
            f"{literal(text)}::{type_name}"
            for text, type_name in zip(after["key"], order.types, strict=True)
        )
        where = f" WHERE ({keys}) > ({values})"
    return f"{table.select}{where} ORDER BY {keys} LIMIT {rows_max}"


def _last_key(data: bytes, relation: Relation, order: Order) -> Resume:
    names = [column.name for column in relation.columns]
    places = [names.index(name) for name in order.columns]
    return {"order": order.meaning, "key": last_values(data, places)}


async def _read_blocks(
    connection: asyncpg.Connection,
    table: OpenTable,
    after: Resume | None,
    rows: _Rows,
    rows_max: int,
) -> Chunk:
    storage, blocks = await storage_of(connection, table)
    first = int(after["block"]) if after is not None and after.get("storage") == storage else 0
    last, end, step = min(blocks, first + BLOCKS_MAX), first, 1
    while end < last and rows.size_bytes < CHUNK_BYTES and rows.count < rows_max:
        begin, end = end, min(end + step, last)
        place = f"ctid >= '({begin},0)' AND ctid < '({end},0)'"
        await connection.copy_from_query(f"{table.select} WHERE {place}", output=rows.take)
        fitting = _fitting(end - first, rows, rows_max)
        step = max(1, min(fitting, BLOCKS_GROWTH * (end - first), BLOCKS_AT_ONCE))
    return Chunk(
        collection=table.collection,
        snapshot=table.snapshot,
        data=rows.data(),
        rows=rows.count,
        last={"storage": storage, "block": end},
        done=end >= blocks,
        rows_max=_next_rows_max(rows, rows_max),
    )


def _fitting(blocks: int, rows: _Rows, rows_max: int) -> int:
    """Return how many more blocks fit if they are like those that were read."""
    by_size = (CHUNK_BYTES - rows.size_bytes) * blocks // max(rows.size_bytes, 1)
    return min(by_size, (rows_max - rows.count) * blocks // max(rows.count, 1))


def _next_rows_max(rows: _Rows, rows_max: int) -> int:
    if not rows.count:
        return rows_max
    fitting = CHUNK_BYTES * rows.count // rows.size_bytes
    return min(max(fitting, CHUNK_ROWS_MIN), CHUNK_ROWS_MAX)
