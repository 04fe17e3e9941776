"""Reads a table chunk by chunk, each with a snapshot of its own that is told with the rows.

Source: PostgreSQL documentation. "Explicit Locking" and "LOCK": in REPEATABLE READ the snapshot is
taken by the first query, so a table that was locked before cannot be rewritten behind it (which
is not safe under MVCC: it would be empty). "System Columns": ``ctid``; rows of tables without a
key are read by ranges of blocks, a TID range scan since version 14.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from pitr.domain.errors import Conflict, InvalidRequest, NotFound
from pitr.domain.pgoutput.copying import (
    CHUNK_BYTES,
    CHUNK_ROWS_MAX,
    CHUNK_ROWS_MIN,
    Chunk,
    Resume,
    Snapshot,
)
from pitr.domain.pgoutput.copytext import last_values
from pitr.domain.pgoutput.model import SESSION, Relation
from pitr.domain.pgoutput.sql import identifier, literal, qualified

BLOCKS_GROWTH: Final = 8
"""How many times more blocks may be read at once than so far."""

_SETTINGS: Final = {
    **SESSION,
    "search_path": "pg_catalog",
    "row_security": "off",  # an error, rather than rows that a policy hides
    "statement_timeout": "0",
    # The key's index, whatever the statistics say: a sort would read the whole table every time.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}

_TABLE: Final = """
SELECT pg_current_snapshot()::text AS snapshot,
       c.relkind::text AS kind,
       n.nspname AS schema,
       c.relname AS name,
       ARRAY(SELECT a.attname::text FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum) AS columns,
       ARRAY(SELECT a.atttypid::bigint FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum) AS types
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = $1
"""

# Types of keys are those that domains are made of, without a modifier: "bpchar" for char(5).
_ORDER: Final = """
WITH RECURSIVE base (oid, type, next) AS (
    SELECT t.oid, t.oid, t.typbasetype
    FROM pg_type t JOIN pg_attribute a ON a.atttypid = t.oid WHERE a.attrelid = $1
    UNION
    SELECT b.oid, t.oid, t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.next
)
SELECT array_agg(a.attname::text ORDER BY k.place) AS columns,
       array_agg(format_type(b.type, -1) ORDER BY k.place) AS types,
       array_agg(format('%s:%s:%s', a.attnum, a.atttypid, a.attcollation) ORDER BY k.place)
           AS meanings,
       array_agg(DISTINCT n.nspname::text) AS schemas
FROM pg_index i
JOIN pg_class x ON x.oid = i.indexrelid
JOIN pg_am m ON m.oid = x.relam AND m.amname = 'btree'
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
LEFT JOIN base b ON b.oid = a.atttypid AND b.next = 0
LEFT JOIN pg_type t ON t.oid = b.type
LEFT JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
  AND k.place <= i.indnkeyatts
  AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conrelid = $1 AND o.contype = 'n'
                  AND NOT o.convalidated)
GROUP BY i.indexrelid, i.indisprimary, i.indisreplident
HAVING coalesce(bool_and(a.attnotnull AND k.number > 0), false)
   AND array_agg(a.attname::text ORDER BY a.attname COLLATE "C") = $2::text[]
ORDER BY i.indisprimary DESC, i.indisreplident DESC, i.indexrelid
LIMIT 1
"""

# A new file is a table written anew: its rows are in other blocks.
_BLOCKS: Final = """
SELECT coalesce(max(pg_relation_size(t.relid) / current_setting('block_size')::int), 0) AS blocks,
       md5(string_agg(format('%s:%s', t.relid::oid, pg_relation_filenode(t.relid)), ','
                      ORDER BY t.relid::oid)) AS storage
FROM (SELECT relid FROM pg_partition_tree($1::oid::regclass) WHERE isleaf
      UNION SELECT $1::oid::regclass) t
"""

_ESTIMATE: Final = """
SELECT sum(greatest(c.reltuples, 0))::bigint
FROM pg_class c
WHERE c.oid = $1 OR c.oid IN (SELECT relid FROM pg_partition_tree($1::oid::regclass) WHERE isleaf)
"""


class _Enough(Exception):
    """The chunk is large enough: stop the COPY."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """The key in the order of its index; ``meaning`` tells whether that is still the same order."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    meaning: str


class _Rows:
    """What a COPY gives; an output for ``copy_from_query``."""

    def __init__(self, bytes_max: int | None) -> None:
        self._bytes_max = bytes_max
        self._pieces: list[bytes] = []
        self.size_bytes = 0
        self.count = 0

    async def __call__(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.size_bytes += len(piece)
        self.count += piece.count(b"\n")
        if self._bytes_max is not None and self.size_bytes > self._bytes_max and self.count:
            raise _Enough

    def data(self) -> bytes:
        """Return the whole rows."""
        data = b"".join(self._pieces)
        return data[: data.rfind(b"\n") + 1]


async def estimated_rows(connection: asyncpg.Connection, relation: Relation) -> int:
    """Return how many rows a table has, as the last ANALYZE or VACUUM saw it; 0 if none did."""
    return await connection.fetchval(_ESTIMATE, relation.relid) or 0


async def new_xid(connection: asyncpg.Connection) -> int:
    """Give out a transaction number; it is over when this returns."""
    return int(await connection.fetchval("SELECT pg_current_xact_id()::text"))


async def emit(connection: asyncpg.Connection, kind: str, content: bytes) -> None:
    """Write a message of pitr's own into the stream, as a transaction of its own.

    It does not wait for synchronous standbys: it comes back through the stream, which does not
    either.
    """
    async with connection.transaction():
        await connection.execute("SET LOCAL synchronous_commit = local")
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
    """Read the next rows of a table in the order of its key; without a key, of its blocks.

    The transaction has ended when this returns. A table that was written anew, or that has another
    key now, is read from its beginning again. A key's chunk ends with the first row past
    ``bytes_max``; blocks are read whole, so that a chunk of them may be somewhat larger.

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
    except asyncpg.UndefinedTableError as error:
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
    rows = _Rows(bytes_max)
    cut = False
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            snapshot, source = await _opened(connection, relation)
            order = await _order_of(connection, relation)
            if order is None:
                rows = _Rows(None)
                last, done = await _copy_blocks(
                    connection,
                    relation,
                    source,
                    after,
                    rows=rows,
                    rows_max=rows_max,
                    bytes_aim=min(bytes_max, CHUNK_BYTES),
                )
            else:
                await _copy_keys(connection, relation, source, order, after, rows, rows_max)
    except _Enough:
        cut = True
    data = rows.data()
    if order is not None:
        last = _last_key(data, relation, order) if rows.count else after
        done = rows.count < rows_max and not cut
    return Chunk(
        collection=relation.collection,
        snapshot=snapshot,
        data=data,
        rows=rows.count,
        last=last,
        done=done,
        rows_max=_next_rows_max(rows, rows_max),
    )


async def _opened(connection: asyncpg.Connection, relation: Relation) -> tuple[Snapshot, str]:
    """Lock the table, then take the snapshot; return it, and what to select from."""
    table = qualified(relation.schema, relation.name)
    settings = [f"SET LOCAL {name} = {literal(value)}" for name, value in _SETTINGS.items()]
    # One by one these would be as many round trips. They are no queries, nor is LOCK.
    await connection.execute(";".join([*settings, f"LOCK TABLE {table} IN ACCESS SHARE MODE"]))
    found = await connection.fetchrow(_TABLE, relation.relid)
    if (
        found is None
        or (found["schema"], found["name"]) != (relation.schema, relation.name)
        or found["kind"] not in ("r", "p")
    ):
        raise Conflict("the table is another one by now", table=relation.collection)
    types = dict(zip(found["columns"], found["types"], strict=True))
    changed = [each.name for each in relation.columns if types.get(each.name) != each.type_oid]
    if changed:
        raise Conflict(
            "columns of the table were changed", table=relation.collection, columns=changed
        )
    return Snapshot.of_text(found["snapshot"]), table if found["kind"] == "p" else f"ONLY {table}"


async def _order_of(connection: asyncpg.Connection, relation: Relation) -> _Order | None:
    """Return the order of the key's index; None if there is none, or the key may be null."""
    found = await connection.fetchrow(_ORDER, relation.relid, sorted(relation.key))
    if found is None:
        return None
    if {*found["schemas"]} != {"pg_catalog"}:
        # The operators of an extension's type are where the type is.
        path = ", ".join(map(identifier, ["pg_catalog", *found["schemas"]]))
        await connection.execute(f"SET LOCAL search_path = {path}")
    return _Order(
        columns=tuple(found["columns"]),
        types=tuple(found["types"]),
        meaning=" ".join(found["meanings"]),
    )


async def _copy_keys(
    connection: asyncpg.Connection,
    relation: Relation,
    source: str,
    order: _Order,
    after: Resume | None,
    rows: _Rows,
    rows_max: int,
) -> None:
    keys = ", ".join(map(identifier, order.columns))
    where = ""
    if after is not None and after.get("order") == order.meaning:
        values = zip(after["key"], order.types, strict=True)
        where = f" WHERE ({keys}) > ({', '.join(f'{literal(v)}::{type}' for v, type in values)})"
    query = f"SELECT {_columns(relation)} FROM {source}{where} ORDER BY {keys} LIMIT {rows_max}"
    await connection.copy_from_query(query, output=rows)


def _last_key(data: bytes, relation: Relation, order: _Order) -> Resume:
    names = [column.name for column in relation.columns]
    places = [names.index(name) for name in order.columns]
    return {"order": order.meaning, "key": last_values(data, places)}


async def _copy_blocks(
    connection: asyncpg.Connection,
    relation: Relation,
    source: str,
    after: Resume | None,
    *,
    rows: _Rows,
    rows_max: int,
    bytes_aim: int,
) -> tuple[Resume, bool]:
    """Read blocks until there are enough rows; return where it ended, and whether at the end."""
    found = await connection.fetchrow(_BLOCKS, relation.relid)
    storage, blocks = found["storage"], found["blocks"]
    same = after is not None and after.get("storage") == storage
    first = block = int(after["block"]) if after is not None and same else 0
    step = 1
    while block < blocks and rows.size_bytes < bytes_aim and rows.count < rows_max:
        end = min(block + step, blocks)
        await connection.copy_from_query(
            f"SELECT {_columns(relation)} FROM {source}"
            f" WHERE ctid >= '({block},0)' AND ctid < '({end},0)'",
            output=rows,
        )
        block = end
        read = block - first
        step = min(
            read * BLOCKS_GROWTH,
            read * (bytes_aim - rows.size_bytes) // max(rows.size_bytes, 1),
            read * (rows_max - rows.count) // max(rows.count, 1),
        )
        step = max(step, 1)
    return {"storage": storage, "block": block}, block >= blocks


def _columns(relation: Relation) -> str:
    return ", ".join(identifier(column.name) for column in relation.columns)


def _next_rows_max(rows: _Rows, rows_max: int) -> int:
    if not rows.count:
        return rows_max
    fitting = CHUNK_BYTES * rows.count // rows.size_bytes
    return min(max(fitting, CHUNK_ROWS_MIN), CHUNK_ROWS_MAX)
