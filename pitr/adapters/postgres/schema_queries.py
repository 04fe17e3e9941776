"""The questions to PostgreSQL's catalogs behind ``schemas``; ``$1`` are the relids of tables."""

from __future__ import annotations

from typing import Final

WHEN: Final = "SELECT pg_current_snapshot()::text AS snapshot, pg_current_wal_lsn()::text AS lsn"

TABLES: Final = """
SELECT
    c.oid::bigint AS relid, n.nspname AS schema, c.relname AS name,
    CASE c.relkind WHEN 'p' THEN 'partitioned' WHEN 'f' THEN 'foreign' ELSE 'table' END AS kind,
    c.relpersistence = 'p' AS logged,
    c.relreplident::text AS identity,
    (SELECT array_agg(a.attname::text ORDER BY k.place)
     FROM pg_index x
     CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY AS k (number, place)
     JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number
     WHERE x.indrelid = c.oid AND x.indimmediate AND k.place <= x.indnkeyatts
       AND (c.relreplident = 'd' AND x.indisprimary OR c.relreplident = 'i' AND x.indisreplident)
    ) AS identity_columns,
    CASE c.relkind WHEN 'p' THEN pg_get_partkeydef(c.oid) END AS partition_key,
    c.relfilenode::bigint AS storage
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY ($1::bigint[]::oid[]) AND c.relkind IN ('r', 'p', 'f')
"""

COLUMNS: Final = """
SELECT
    a.attrelid::bigint AS relid, a.attnum::int AS number, a.attname AS name,
    format_type(a.atttypid, a.atttypmod) AS type, a.atttypid::bigint AS type_oid,
    a.atttypmod AS typmod, a.attnotnull AS not_null,
    CASE a.attgenerated WHEN '' THEN pg_get_expr(d.adbin, d.adrelid) END AS default,
    a.attidentity::text AS identity,
    CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END AS generated,
    a.attgenerated = 'v' AS virtual,
    CASE WHEN a.attcollation NOT IN (0, t.typcollation)
         THEN format('%I.%I', collation_schema.nspname, o.collname) END AS collation,
    CASE WHEN a.atthasmissing THEN a.attmissingval::text END AS missing,
    a.xmin::text::bigint AS written
FROM pg_attribute a
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_collation o ON o.oid = a.attcollation
LEFT JOIN pg_namespace collation_schema ON collation_schema.oid = o.collnamespace
WHERE a.attrelid = ANY ($1::bigint[]::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

CONSTRAINTS: Final = """
SELECT
    c.conrelid::bigint AS relid,
    CASE c.contype WHEN 'p' THEN 'primary' WHEN 'u' THEN 'unique' WHEN 'c' THEN 'check'
                   WHEN 'x' THEN 'exclude' END AS kind,
    c.conname AS name,
    (SELECT array_agg(a.attname::text ORDER BY k.place)
     FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
     JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number) AS columns,
    pg_get_constraintdef(c.oid) AS definition,
    c.condeferrable AS deferrable
FROM pg_constraint c
WHERE c.conrelid = ANY ($1::bigint[]::oid[]) AND c.contype IN ('p', 'u', 'c', 'x')
ORDER BY c.conrelid, c.conname
"""

FOREIGN_KEYS: Final = """
SELECT
    c.conrelid::bigint AS relid, c.conname AS name,
    (SELECT array_agg(a.attname::text ORDER BY k.place)
     FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
     JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number) AS columns,
    n.nspname AS schema, r.relname AS table,
    (SELECT array_agg(a.attname::text ORDER BY k.place)
     FROM unnest(c.confkey) WITH ORDINALITY AS k (number, place)
     JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number) AS referenced,
    c.confupdtype::text AS on_update, c.confdeltype::text AS on_delete,
    pg_get_constraintdef(c.oid) AS definition,
    c.condeferrable AS deferrable, c.condeferred AS initially_deferred
FROM pg_constraint c
JOIN pg_class r ON r.oid = c.confrelid
JOIN pg_namespace n ON n.oid = r.relnamespace
WHERE c.conrelid = ANY ($1::bigint[]::oid[]) AND c.contype = 'f' AND c.conparentid = 0
ORDER BY c.conrelid, c.conname
"""

INDEXES: Final = """
SELECT
    x.indrelid::bigint AS relid, c.relname AS name, x.indisunique AS unique,
    (SELECT array_agg(a.attname::text ORDER BY k.place)
     FROM unnest(x.indkey::int2[]) WITH ORDINALITY AS k (number, place)
     LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number
     WHERE k.place <= x.indnkeyatts) AS columns,
    pg_get_expr(x.indpred, x.indrelid) AS where,
    pg_get_indexdef(x.indexrelid) AS definition
FROM pg_index x
JOIN pg_class c ON c.oid = x.indexrelid
WHERE x.indrelid = ANY ($1::bigint[]::oid[]) AND x.indislive
  AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = x.indexrelid
                  AND o.conrelid = x.indrelid AND o.contype IN ('p', 'u', 'x'))
ORDER BY x.indrelid, c.relname
"""

SEQUENCES: Final = """
SELECT DISTINCT ON (table_relid, schema, name)
    a.attrelid::bigint AS table_relid, n.nspname AS schema, c.relname AS name,
    c.oid::bigint AS relid, a.attname AS column, d.classid = 'pg_class'::regclass AS owned,
    s.seqtypid::regtype::text AS type, s.seqstart AS start, s.seqincrement AS increment,
    s.seqmin AS minimum, s.seqmax AS maximum, s.seqcache AS cache, s.seqcycle AS cycle
FROM pg_depend d
JOIN pg_class c ON c.relkind = 'S'
JOIN pg_sequence s ON s.seqrelid = c.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
JOIN pg_attribute a
  ON a.attrelid = coalesce(f.adrelid, d.refobjid) AND a.attnum = coalesce(f.adnum, d.refobjsubid)
WHERE a.attrelid = ANY ($1::bigint[]::oid[])
  AND (
    (d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
     AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0)
    OR
    (d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
     AND d.refobjid = c.oid)
  )
ORDER BY table_relid, schema, name, owned DESC
"""

TYPES: Final = """
WITH RECURSIVE used (relid, oid) AS (
    SELECT a.attrelid, a.atttypid FROM pg_attribute a
    WHERE a.attrelid = ANY ($1::bigint[]::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT used.relid, below.oid
    FROM used
    JOIN pg_type t ON t.oid = used.oid
    CROSS JOIN LATERAL (
        SELECT t.typbasetype AS oid WHERE t.typtype = 'd'
        UNION ALL
        SELECT t.typelem WHERE t.typelem <> 0
        UNION ALL
        SELECT a.atttypid FROM pg_attribute a
        WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT r.rngsubtype FROM pg_range r WHERE r.rngtypid = t.oid
        UNION ALL
        SELECT r.rngtypid FROM pg_range r WHERE r.rngmultitypid = t.oid
    ) AS below
)
SELECT
    used.relid::bigint AS table_relid,
    CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'c' THEN 'composite'
                   WHEN 'r' THEN 'range' ELSE 'base' END AS kind,
    n.nspname AS schema, t.typname AS name, t.oid::bigint AS oid,
    (SELECT e.extname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
     WHERE d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
       AND d.refclassid = 'pg_extension'::regclass) AS extension,
    (SELECT array_agg(l.enumlabel::text ORDER BY l.enumsortorder)
     FROM pg_enum l WHERE l.enumtypid = t.oid) AS labels,
    CASE t.typtype
        WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod)
        WHEN 'r' THEN (SELECT format_type(r.rngsubtype, -1) FROM pg_range r
                       WHERE r.rngtypid = t.oid) END AS base,
    t.typnotnull AS not_null, t.typdefault AS default,
    (SELECT array_agg(pg_get_constraintdef(k.oid) ORDER BY k.conname)
     FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c') AS checks,
    (SELECT jsonb_agg(jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod))
                      ORDER BY a.attnum)::text
     FROM pg_attribute a
     WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS attributes
FROM used
JOIN pg_type t ON t.oid = used.oid
JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname <> 'pg_catalog' AND t.typtype <> 'm'
  AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
ORDER BY used.relid, n.nspname, t.typname
"""

# A partition that was made as one has a column that was not altered since: ATTACH PARTITION
# alters each, to count its parents. The row of a system column says when the table was made.
PARTITIONS: Final = """
WITH RECURSIVE below (root, relid, parent) AS (
    SELECT i.inhparent, i.inhrelid, i.inhparent
    FROM pg_inherits i
    JOIN pg_class p ON p.oid = i.inhparent AND p.relkind = 'p'
    WHERE i.inhparent = ANY ($1::bigint[]::oid[]) AND NOT i.inhdetachpending
    UNION ALL
    SELECT below.root, i.inhrelid, i.inhparent
    FROM below
    JOIN pg_class p ON p.oid = below.relid AND p.relkind = 'p'
    JOIN pg_inherits i ON i.inhparent = below.relid AND NOT i.inhdetachpending
)
SELECT
    below.root::bigint AS root, c.oid::bigint AS relid, below.parent::bigint AS parent,
    n.nspname AS schema, c.relname AS name,
    CASE c.relkind WHEN 'p' THEN 'partitioned' WHEN 'f' THEN 'foreign' ELSE 'table' END AS kind,
    coalesce(pg_get_expr(c.relpartbound, c.oid), '') AS bound,
    CASE c.relkind WHEN 'p' THEN pg_get_partkeydef(c.oid) END AS partition_key,
    c.relpersistence = 'p' AS logged,
    c.relkind <> 'f' AND EXISTS (
        SELECT FROM pg_attribute made
        JOIN pg_attribute a ON a.attrelid = made.attrelid AND a.attnum > 0
         AND a.xmin = made.xmin AND a.cmin = made.cmin
        WHERE made.attrelid = c.oid AND made.attnum = -1) AS born,
    c.relfilenode::bigint AS storage
FROM below
JOIN pg_class c ON c.oid = below.relid
JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY below.root, n.nspname, c.relname
"""
