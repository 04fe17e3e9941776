"""Reads which tables a source has, and what matters of each for being published."""

from __future__ import annotations

from typing import Any, Final

from pitr.domain.pgoutput.source import SWAP_MARK, Leaf, SourceTable

NOT_OF_SWAPS: Final = f"""
    NOT starts_with(coalesce(obj_description(n.oid, 'pg_namespace'), ''), '{SWAP_MARK}')
"""
"""Leaves out the schemas with tables that a swap made or replaced: their rows are not the app's."""

_IDENTITY_COLUMNS: Final = """
    (SELECT array_agg(a.attname::text ORDER BY k.place)
     FROM pg_index x
     CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY AS k (number, place)
     JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number
     WHERE x.indrelid = c.oid AND x.indimmediate AND k.place <= x.indnkeyatts
       AND (c.relreplident = 'd' AND x.indisprimary OR c.relreplident = 'i' AND x.indisreplident))
"""

_TABLES: Final = f"""
SELECT
    c.oid::bigint AS relid, n.nspname AS schema, c.relname AS name,
    CASE c.relkind WHEN 'p' THEN 'partitioned' ELSE 'table' END AS kind,
    c.relpersistence = 'p' AS logged,
    pg_has_role(c.relowner, 'USAGE') AS owned,
    c.relreplident::text AS identity,
    {_IDENTITY_COLUMNS} AS identity_columns,
    (SELECT array_agg(a.attname::text ORDER BY k.place)
     FROM pg_index x
     CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY AS k (number, place)
     JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number
     WHERE x.indrelid = c.oid AND x.indisprimary AND x.indimmediate
       AND k.place <= x.indnkeyatts) AS key_columns,
    EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.oid AND x.indisprimary
            AND NOT x.indimmediate) AS deferrable_key,
    col.plain AS columns, col.stored, col.virtual, col.unreadable,
    has_schema_privilege(n.oid, 'USAGE') AS schema_usable,
    c.relrowsecurity AS has_policies,
    row_security_active(c.oid) AS row_security
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
    SELECT
        array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attgenerated = '') AS plain,
        array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attgenerated = 's') AS stored,
        array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attgenerated = 'v') AS virtual,
        array_agg(a.attname::text ORDER BY a.attnum)
            FILTER (WHERE NOT has_column_privilege(c.oid, a.attnum, 'SELECT')) AS unreadable
    FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
) AS col
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND {NOT_OF_SWAPS}
ORDER BY n.nspname, c.relname
"""

_LEAVES: Final = f"""
WITH RECURSIVE below (root, relid) AS (
    SELECT i.inhparent, i.inhrelid
    FROM pg_inherits i
    JOIN pg_class p ON p.oid = i.inhparent
    WHERE p.relkind = 'p' AND NOT p.relispartition AND NOT i.inhdetachpending
    UNION ALL
    SELECT below.root, i.inhrelid
    FROM below
    JOIN pg_class p ON p.oid = below.relid AND p.relkind = 'p'
    JOIN pg_inherits i ON i.inhparent = below.relid AND NOT i.inhdetachpending
)
SELECT
    below.root::bigint AS root, c.oid::bigint AS relid, n.nspname AS schema, c.relname AS name,
    c.relkind = 'f' AS is_foreign, c.relpersistence = 'p' AS logged,
    c.relreplident::text AS identity, {_IDENTITY_COLUMNS} AS identity_columns
FROM below
JOIN pg_class c ON c.oid = below.relid AND c.relkind <> 'p'
JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY n.nspname, c.relname
"""

_SIZES: Final = """
SELECT c.oid::bigint AS relid, pg_table_size(c.oid) AS size_bytes,
    CASE WHEN c.reltuples >= 0 THEN c.reltuples::float8::bigint
         ELSE pg_stat_get_live_tuples(c.oid) END AS rows_estimate
FROM pg_class c
WHERE c.oid = ANY ($1::bigint[]::oid[]) AND c.relkind = 'r'
"""


async def every_table(connection: Any) -> tuple[SourceTable, ...]:
    """Read the tables that could be captured, and unlogged ones; sizes are left at zero."""
    leaves: dict[int, list[Leaf]] = {}
    for row in await connection.fetch(_LEAVES):
        fields = _with_tuples(row)
        leaves.setdefault(fields.pop("root"), []).append(Leaf(**fields))
    return tuple(
        SourceTable(**_with_tuples(row), leaves=tuple(leaves.get(row["relid"], ())))
        for row in await connection.fetch(_TABLES)
    )


def _with_tuples(row: Any) -> dict[str, Any]:
    lists = {"identity_columns", "key_columns", "columns", "stored", "virtual", "unreadable"}
    return {name: tuple(value or ()) if name in lists else value for name, value in row.items()}


async def sizes(connection: Any, tables: tuple[SourceTable, ...]) -> dict[int, tuple[int, int]]:
    """Estimate the rows of tables, and measure their bytes on disk with TOAST, by relid."""
    own = {table.relid: [table.relid, *(leaf.relid for leaf in table.leaves)] for table in tables}
    rows = await connection.fetch(_SIZES, [relid for relids in own.values() for relid in relids])
    found = {row["relid"]: (row["rows_estimate"], row["size_bytes"] or 0) for row in rows}
    return {
        root: (
            sum(found[relid][0] for relid in relids if relid in found),
            sum(found[relid][1] for relid in relids if relid in found),
        )
        for root, relids in own.items()
    }
