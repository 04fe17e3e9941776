"""Opens a table to be read: locked, unchanged, with a snapshot, and with an order.

Source: PostgreSQL documentation. "LOCK": in REPEATABLE READ the snapshot is taken by the first
query, so a table that was locked before cannot be written anew behind it, which is not safe under
MVCC: it would be empty. "Replica identity" and "pg_index" for what a key is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from pitr.domain.errors import Conflict
from pitr.domain.pgoutput.copying import Snapshot
from pitr.domain.pgoutput.model import SESSION, Relation
from pitr.domain.pgoutput.sql import identifier, literal, qualified

_SETTINGS: Final = {
    **SESSION,
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
   AND array_agg(a.attname::text) @> $2::text[] AND array_agg(a.attname::text) <@ $2::text[]
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


_KINDS: Final = {"r": "ONLY ", "p": ""}
"""What may be read, and how: rows of partitions are its own, those of tables that inherit not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The key in the order of its index; ``meaning`` tells whether that is still the same order."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTable:
    """A table that can be read in the transaction that locked it, as ``snapshot`` sees it.

    ``select`` is the beginning of a query for its columns; ``order`` is None without a key.
    """

    relid: int
    collection: str
    snapshot: Snapshot
    select: str
    order: Order | None


async def open_table(connection: asyncpg.Connection, relation: Relation) -> OpenTable:
    """Lock a table as every query does, then take the snapshot of the transaction.

    Args:
        connection: At the begin of a transaction in REPEATABLE READ.

    Raises:
        Conflict: It is another table by now, or has other columns.
    """
    name = qualified(relation.schema, relation.name)
    pins = [f"SET LOCAL {setting} = {literal(value)}" for setting, value in _SETTINGS.items()]
    # At once, to save round trips. None of these takes a snapshot.
    await connection.execute("; ".join([*pins, f"LOCK TABLE {name} IN ACCESS SHARE MODE"]))
    found = await connection.fetchrow(_TABLE, relation.relid)
    if (
        found is None
        or (found["schema"], found["name"]) != (relation.schema, relation.name)
        or found["kind"] not in _KINDS
    ):
        raise Conflict("the table is another one by now", table=relation.collection)
    types = dict(zip(found["columns"], found["types"], strict=True))
    changed = [each.name for each in relation.columns if types.get(each.name) != each.type_oid]
    if changed:
        raise Conflict(
            "columns of the table were changed", table=relation.collection, columns=changed
        )
    columns = ", ".join(identifier(column.name) for column in relation.columns)
    return OpenTable(
        relid=relation.relid,
        collection=relation.collection,
        snapshot=Snapshot.of_text(found["snapshot"]),
        select=f"SELECT {columns} FROM {_KINDS[found['kind']]}{name}",
        order=await _order_of(connection, relation),
    )


async def storage_of(connection: asyncpg.Connection, table: OpenTable) -> tuple[str, int]:
    """Return a name for where the rows are stored, and how many blocks there are.

    Of partitions, it is the blocks of the largest: a range of blocks is read of all of them.
    """
    found = await connection.fetchrow(_BLOCKS, table.relid)
    return found["storage"], found["blocks"]


async def _order_of(connection: asyncpg.Connection, relation: Relation) -> Order | None:
    found = await connection.fetchrow(_ORDER, relation.relid, list(relation.key))
    if found is None:
        return None
    if {*found["schemas"]} != {"pg_catalog"}:
        # The operators of an extension's type are where the type is.
        path = ", ".join(map(identifier, ["pg_catalog", *found["schemas"]]))
        await connection.execute(f"SET LOCAL search_path = {path}")
    return Order(
        columns=tuple(found["columns"]),
        types=tuple(found["types"]),
        meaning=" ".join(found["meanings"]),
    )
