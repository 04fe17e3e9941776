"""The questions to PostgreSQL's catalogs behind ``picture``; ``$1`` are the oids of tables."""

from __future__ import annotations

from typing import Final

MEMBERS: Final = """
WITH RECURSIVE below AS (
    SELECT c.oid FROM pg_class c WHERE c.oid = ANY ($1::bigint[]::oid[])
    UNION
    SELECT i.inhrelid FROM below
    JOIN pg_class p ON p.oid = below.oid AND p.relkind = 'p'
    JOIN pg_inherits i ON i.inhparent = below.oid
)
SELECT oid::bigint FROM below ORDER BY oid
"""
"""The tables with all their partitions."""

TABLES: Final = """
SELECT
    c.oid::bigint AS oid, n.nspname::text AS schema, c.relname::text AS name,
    c.relkind::text AS kind, c.relpersistence::text AS persistence,
    pg_get_userbyid(c.relowner)::text AS owner,
    am.amname::text AS access, space.spcname::text AS tablespace,
    c.reloptions AS options, toast.reloptions AS toast_options,
    c.relreplident::text AS identity, c.relrowsecurity AS secured, c.relforcerowsecurity AS forced,
    (SELECT ARRAY[pn.nspname::text, p.relname::text]
     FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
     JOIN pg_namespace pn ON pn.oid = p.relnamespace
     WHERE i.inhrelid = c.oid AND c.relispartition) AS parent,
    CASE WHEN c.relispartition THEN pg_get_expr(c.relpartbound, c.oid) END AS bound,
    CASE c.relkind WHEN 'p' THEN pg_get_partkeydef(c.oid) END AS partition_key,
    obj_description(c.oid, 'pg_class') AS comment
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_am am ON am.oid = c.relam
LEFT JOIN pg_tablespace space ON space.oid = c.reltablespace
LEFT JOIN pg_class toast ON toast.oid = c.reltoastrelid
WHERE c.oid = ANY ($1::bigint[]::oid[])
ORDER BY n.nspname, c.relname
"""

COLUMNS: Final = """
SELECT
    a.attrelid::bigint AS oid, a.attname::text AS name,
    format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS not_null,
    pg_get_expr(d.adbin, d.adrelid) AS default, a.attidentity::text AS identity,
    a.attgenerated::text AS generated,
    a.attcollation::bigint AS collation, a.attstorage::text AS storage,
    to_jsonb(a) ->> 'attcompression' AS compression,
    coalesce(nullif(a.attstattarget, -1), -1)::int AS target, a.attoptions AS options,
    col_description(a.attrelid, a.attnum) AS comment
FROM pg_attribute a
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = ANY ($1::bigint[]::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

CONSTRAINTS: Final = """
SELECT
    c.conrelid::bigint AS oid, c.conname::text AS name, c.contype::text AS kind,
    pg_get_constraintdef(c.oid) AS definition, c.convalidated AS validated,
    CASE WHEN c.contype IN ('p', 'u', 'x') THEN i.relname::text END AS index,
    CASE WHEN c.contype = 'f' THEN c.confrelid::bigint END AS parent_oid,
    obj_description(c.oid, 'pg_constraint') AS comment
FROM pg_constraint c
LEFT JOIN pg_class i ON i.oid = c.conindid
WHERE c.conrelid = ANY ($1::bigint[]::oid[]) AND c.contype IN ('p', 'u', 'x', 'c', 'f', 'n')
  AND NOT (c.contype = 'f' AND c.conparentid <> 0)
ORDER BY c.conrelid, c.conname
"""

INDEXES: Final = """
SELECT
    x.indrelid::bigint AS oid, i.relname::text AS name, pg_get_indexdef(i.oid) AS definition,
    x.indisclustered AS clustered, x.indisreplident AS identifies, i.reloptions AS options,
    space.spcname::text AS tablespace,
    (SELECT ARRAY[pn.nspname::text, p.relname::text]
     FROM pg_inherits h JOIN pg_class p ON p.oid = h.inhparent
     JOIN pg_namespace pn ON pn.oid = p.relnamespace
     WHERE h.inhrelid = i.oid) AS parent,
    ARRAY(SELECT format('%s=%s', a.attnum, a.attstattarget) FROM pg_attribute a
          WHERE a.attrelid = i.oid AND a.attstattarget >= 0 ORDER BY a.attnum) AS targets,
    obj_description(i.oid, 'pg_class') AS comment
FROM pg_index x
JOIN pg_class i ON i.oid = x.indexrelid
LEFT JOIN pg_tablespace space ON space.oid = i.reltablespace
WHERE x.indrelid = ANY ($1::bigint[]::oid[]) AND (x.indisvalid OR i.relkind = 'I')
ORDER BY x.indrelid, i.relname
"""
"""Those that CREATE INDEX CONCURRENTLY left behind unfinished are left out."""

STATISTICS: Final = """
SELECT
    s.stxrelid::bigint AS oid, n.nspname::text AS schema, s.stxname::text AS name,
    pg_get_statisticsobjdef(s.oid) AS definition, pg_get_userbyid(s.stxowner)::text AS owner,
    coalesce(nullif((to_jsonb(s) ->> 'stxstattarget')::int, -1), -1) AS target,
    obj_description(s.oid, 'pg_statistic_ext') AS comment
FROM pg_statistic_ext s
JOIN pg_namespace n ON n.oid = s.stxnamespace
WHERE s.stxrelid = ANY ($1::bigint[]::oid[])
ORDER BY s.stxrelid, n.nspname, s.stxname
"""

TRIGGERS: Final = """
SELECT
    t.tgrelid::bigint AS oid, t.tgname::text AS name, pg_get_triggerdef(t.oid) AS definition,
    t.tgenabled::text AS enabled, t.tgparentid <> 0 AS cloned,
    obj_description(t.oid, 'pg_trigger') AS comment
FROM pg_trigger t
WHERE t.tgrelid = ANY ($1::bigint[]::oid[]) AND NOT t.tgisinternal
ORDER BY t.tgrelid, t.tgname
"""

POLICIES: Final = """
SELECT
    p.polrelid::bigint AS oid, p.polname::text AS name, p.polcmd::text AS command,
    p.polpermissive AS permissive,
    ARRAY(SELECT CASE WHEN role = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(role)) END
          FROM unnest(p.polroles) AS role ORDER BY 1) AS roles,
    pg_get_expr(p.polqual, p.polrelid) AS visible,
    pg_get_expr(p.polwithcheck, p.polrelid) AS writable,
    obj_description(p.oid, 'pg_policy') AS comment
FROM pg_policy p
WHERE p.polrelid = ANY ($1::bigint[]::oid[])
ORDER BY p.polrelid, p.polname
"""

RULES: Final = """
SELECT
    r.ev_class::bigint AS oid, r.rulename::text AS name, pg_get_ruledef(r.oid) AS definition,
    r.ev_enabled::text AS enabled, obj_description(r.oid, 'pg_rewrite') AS comment
FROM pg_rewrite r
WHERE r.ev_class = ANY ($1::bigint[]::oid[])
ORDER BY r.ev_class, r.rulename
"""

PUBLICATIONS: Final = """
SELECT
    r.prrelid::bigint AS oid, p.pubname::text AS name,
    (SELECT array_agg(a.attname::text ORDER BY a.attnum)
     FROM jsonb_array_elements_text(CASE jsonb_typeof(to_jsonb(r) -> 'prattrs')
                                    WHEN 'array' THEN to_jsonb(r) -> 'prattrs' END) AS number
     JOIN pg_attribute a ON a.attrelid = r.prrelid AND a.attnum = number::int) AS columns,
    {filter} AS filter
FROM pg_publication_rel r
JOIN pg_publication p ON p.oid = r.prpubid
WHERE r.prrelid = ANY ($1::bigint[]::oid[])
ORDER BY r.prrelid, p.pubname
"""
"""Servers before 15 know no columns and no filter: they write ``null`` for ``{filter}``."""

GRANTS: Final = """
WITH listed AS (
    SELECT c.oid, 0::int2 AS number, coalesce(
        c.relacl,
        acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, c.relowner)) AS acl
    FROM pg_class c
    WHERE c.oid = ANY ($1::bigint[]::oid[])
    UNION ALL
    SELECT a.attrelid, a.attnum, a.attacl FROM pg_attribute a
    WHERE a.attrelid = ANY ($1::bigint[]::oid[]) AND a.attacl IS NOT NULL AND NOT a.attisdropped
)
SELECT
    listed.oid::bigint AS oid, a.attname::text AS column,
    pg_get_userbyid(item.grantor)::text AS grantor,
    CASE WHEN item.grantee = 0 THEN 'PUBLIC'
         ELSE quote_ident(pg_get_userbyid(item.grantee)) END AS grantee,
    item.privilege_type AS privilege, item.is_grantable AS grantable
FROM listed
CROSS JOIN LATERAL unnest(listed.acl) WITH ORDINALITY AS each (entry, place)
CROSS JOIN LATERAL aclexplode(ARRAY[each.entry]) AS item
LEFT JOIN pg_attribute a ON a.attrelid = listed.oid AND a.attnum = listed.number
  AND listed.number > 0
ORDER BY listed.oid, listed.number, each.place, item.privilege_type
"""
"""In the order in which they were granted, so that nobody grants before he may."""

SEQUENCES: Final = """
SELECT
    d.refobjid::bigint AS oid, c.oid::bigint AS sequence, n.nspname::text AS schema,
    c.relname::text AS name, a.attname::text AS column, d.deptype = 'i' AS is_identity,
    s.seqtypid::regtype::text AS type,
    format('%s %s %s %s %s %s', s.seqstart, s.seqincrement, s.seqmin, s.seqmax,
           s.seqcache, s.seqcycle) AS definition,
    ARRAY(SELECT format('%s %s %s %s', pg_get_userbyid(item.grantor),
                        CASE WHEN item.grantee = 0 THEN 'PUBLIC'
                             ELSE quote_ident(pg_get_userbyid(item.grantee)) END,
                        item.privilege_type, item.is_grantable)
          FROM aclexplode(coalesce(c.relacl, acldefault('s', c.relowner))) AS item
          ORDER BY 1) AS grants,
    obj_description(c.oid, 'pg_class') AS comment
FROM pg_depend d
JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_sequence s ON s.seqrelid = c.oid
JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
  AND d.refobjid = ANY ($1::bigint[]::oid[]) AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
ORDER BY d.refobjid, n.nspname, c.relname
"""
"""Owned sequences, and those behind identity columns, which belong to the table alone."""
