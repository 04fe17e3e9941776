"""Sequences behind the columns of loaded tables; moved on, never back."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from pitr.adapters.sinks.postgres.tables import TableName, quoted

_SEQUENCES = """
SELECT DISTINCT n.nspname AS schema, c.relname AS name, tn.nspname AS table_schema,
    t.relname AS table_name, a.attname AS column, s.seqincrement > 0 AS ascends
FROM pg_depend d
JOIN pg_class c ON c.relkind = 'S'
JOIN pg_sequence s ON s.seqrelid = c.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
JOIN pg_attribute a
  ON a.attrelid = coalesce(f.adrelid, d.refobjid) AND a.attnum = coalesce(f.adnum, d.refobjsubid)
JOIN pg_class t ON t.oid = a.attrelid
JOIN pg_namespace tn ON tn.oid = t.relnamespace
WHERE t.oid = ANY ($1::bigint[]::oid[])
  AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype)
  AND (
    (d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
     AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0)
    OR
    (d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
     AND d.refobjid = c.oid)
  )
ORDER BY schema, name
"""


async def move_sequences(connection: asyncpg.Connection, oids: Sequence[int]) -> None:
    """Move the sequences behind columns past the largest value there; never back.

    Owned and identity sequences, and any that a column's default names. PostgreSQL does not undo
    this with the transaction, so it comes last: a failure after it leaves a hole in the numbers.
    """
    for row in await connection.fetch(_SEQUENCES, oids):
        sequence = TableName(row["schema"], row["name"]).quoted
        literal = "'" + sequence.replace("'", "''") + "'::regclass"
        table = TableName(row["table_schema"], row["table_name"]).quoted
        furthest, past = ("max", ">=") if row["ascends"] else ("min", "<=")
        await connection.execute(
            f"SELECT setval({literal}, reached.value)"
            f" FROM (SELECT {furthest}({quoted(row['column'])})::bigint AS value FROM {table})"
            f" AS reached, {sequence} AS now, pg_sequence AS s"
            f" WHERE s.seqrelid = {literal}"
            f" AND reached.value BETWEEN s.seqmin AND s.seqmax"
            f" AND reached.value {past} now.last_value"
        )
