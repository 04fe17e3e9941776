"""What else in the database holds on to a table, by ``pg_depend``: said anew, moved, or refused.

A view, a function with a body in SQL and a policy of another table hold on to the table itself,
not to its name. Said again by their own text, with ``OR REPLACE`` or ``ALTER POLICY``, they keep
their owner, rights, options, comments and dependants, and mean the table that has the name then.
Whatever cannot be said again is a problem, by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from pitr.adapters.sinks.postgres.rebound import literal
from pitr.adapters.sinks.postgres.tables import TableName, quoted

BODIES_SINCE: Final = 14
"""The first PostgreSQL with functions whose bodies are SQL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideKey:
    """A foreign key of a table that is not swapped, to one that is."""

    child: TableName
    parent: TableName
    name: str
    definition: str
    comment: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """Something that is said again. ``locked`` is the view or table that this locks."""

    what: str
    statement: str
    locked: TableName | None = None
    is_view: bool = False
    owner: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependents:
    """What holds on to the tables. ``problems`` cannot be carried over."""

    keys: tuple[OutsideKey, ...]
    said: tuple[Said, ...]
    problems: tuple[str, ...]


NOTHING: Final = Dependents(keys=(), said=(), problems=())

_DEPENDENTS: Final = """
WITH members AS (SELECT unnest($1::bigint[]::oid[]) AS oid),
types AS (
    SELECT t.oid FROM pg_type t WHERE t.typrelid IN (SELECT oid FROM members)
    UNION ALL
    SELECT a.oid FROM pg_type a JOIN pg_type t ON a.typelem = t.oid AND a.typcategory = 'A'
    WHERE t.typrelid IN (SELECT oid FROM members)
),
identities AS (
    SELECT d.objid AS oid FROM pg_depend d JOIN members ON members.oid = d.refobjid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
      AND d.refobjsubid > 0 AND d.deptype = 'i'
      AND (SELECT relkind FROM pg_class WHERE oid = d.objid) = 'S'
),
watched AS (
    SELECT 'pg_class'::regclass AS class, oid, false AS is_type FROM members
    UNION ALL SELECT 'pg_class'::regclass, oid, false FROM identities
    UNION ALL SELECT 'pg_type'::regclass, oid, true FROM types
    UNION ALL SELECT 'pg_constraint'::regclass, oid, false FROM pg_constraint
    WHERE conrelid IN (SELECT oid FROM members) AND contype IN ('p', 'u')
)
SELECT d.classid::regclass::text AS class, d.objid::bigint AS oid, bool_or(w.is_type) AS by_type,
    pg_describe_object(d.classid, d.objid, 0) AS what
FROM pg_depend d
JOIN watched w ON w.class = d.refclassid AND w.oid = d.refobjid
WHERE NOT CASE d.classid
    WHEN 'pg_class'::regclass THEN d.objid IN (SELECT oid FROM members)
        OR d.deptype = 'i' AND d.objid IN (SELECT oid FROM identities)
        OR EXISTS (SELECT FROM pg_index x WHERE x.indexrelid = d.objid
                   AND x.indrelid IN (SELECT oid FROM members))
        OR EXISTS (SELECT FROM pg_class c WHERE c.oid = d.objid AND c.relkind = 't')
        OR d.deptype = 'a' AND EXISTS (SELECT FROM pg_class c
                                       WHERE c.oid = d.objid AND c.relkind = 'S')
    WHEN 'pg_type'::regclass THEN d.objid IN (SELECT oid FROM types)
    WHEN 'pg_attrdef'::regclass THEN EXISTS (SELECT FROM pg_attrdef f WHERE f.oid = d.objid
        AND f.adrelid IN (SELECT oid FROM members))
    WHEN 'pg_constraint'::regclass THEN EXISTS (SELECT FROM pg_constraint c WHERE c.oid = d.objid
        AND (c.conrelid IN (SELECT oid FROM members)
             OR c.contype = 'f' AND c.confrelid IN (SELECT oid FROM members)))
    WHEN 'pg_trigger'::regclass THEN EXISTS (SELECT FROM pg_trigger t WHERE t.oid = d.objid
        AND (t.tgisinternal OR t.tgrelid IN (SELECT oid FROM members)))
    WHEN 'pg_policy'::regclass THEN EXISTS (SELECT FROM pg_policy p WHERE p.oid = d.objid
        AND p.polrelid IN (SELECT oid FROM members))
    WHEN 'pg_rewrite'::regclass THEN EXISTS (SELECT FROM pg_rewrite r WHERE r.oid = d.objid
        AND r.ev_class IN (SELECT oid FROM members))
    WHEN 'pg_statistic_ext'::regclass THEN true
    WHEN 'pg_publication_rel'::regclass THEN true
    ELSE false END
GROUP BY d.classid, d.objid
ORDER BY what
"""

_STANDING: Final = """
WITH members AS (
    SELECT c.*, format('%I.%I', n.nspname, c.relname) AS shown
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = ANY ($1::bigint[]::oid[])
)
SELECT format('%s inherits from %s', m.shown, i.inhparent::regclass) AS problem
FROM members m JOIN pg_inherits i ON i.inhrelid = m.oid WHERE NOT m.relispartition
UNION ALL
SELECT format('%s is being detached', m.shown)
FROM members m JOIN pg_inherits i ON i.inhrelid = m.oid
WHERE (to_jsonb(i) ->> 'inhdetachpending')::boolean
UNION ALL
SELECT format('%s is a foreign table', m.shown) FROM members m WHERE m.relkind = 'f'
UNION ALL
SELECT format('%s is a temporary table', m.shown) FROM members m WHERE m.relpersistence = 't'
UNION ALL
SELECT format('%s is a table of the type %s', m.shown, m.reloftype::regtype)
FROM members m WHERE m.reloftype <> 0
UNION ALL
SELECT format('%s belongs to the extension %s', m.shown, e.extname)
FROM members m
JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = m.oid AND d.deptype = 'e'
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid
UNION ALL
SELECT DISTINCT format('%s is filled by a subscription', m.shown)
FROM members m JOIN pg_subscription_rel s ON s.srrelid = m.oid
UNION ALL
SELECT DISTINCT format('%s has a security label of %s', m.shown, l.provider)
FROM members m JOIN pg_seclabel l ON l.classoid = 'pg_class'::regclass AND l.objoid = m.oid
UNION ALL
SELECT DISTINCT format('the foreign keys of %s are switched off', m.shown)
FROM members m JOIN pg_trigger t ON t.tgrelid = m.oid
WHERE t.tgisinternal AND t.tgenabled <> 'O' AND t.tgconstraint <> 0
ORDER BY problem
"""
"""What the tables themselves are that a new table could not be, or not in the same way."""

_OUTSIDE_KEYS: Final = """
SELECT n.nspname::text AS schema, c.relname::text AS name, k.conname::text AS key,
    pn.nspname::text AS parent_schema, p.relname::text AS parent_name,
    pg_get_constraintdef(k.oid) AS definition, obj_description(k.oid, 'pg_constraint') AS comment
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class p ON p.oid = k.confrelid
JOIN pg_namespace pn ON pn.oid = p.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0
  AND k.confrelid = ANY ($1::bigint[]::oid[]) AND k.conrelid <> ALL ($1::bigint[]::oid[])
ORDER BY n.nspname, c.relname, k.conname
"""

_VIEW: Final = """
SELECT n.nspname::text AS schema, c.relname::text AS name, c.relkind::text AS kind,
    r.rulename::text AS rule, c.reloptions AS options, pg_get_viewdef(c.oid) AS definition,
    pg_get_userbyid(c.relowner)::text AS owner
FROM pg_rewrite r
JOIN pg_class c ON c.oid = r.ev_class
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.oid = $1::bigint::oid
"""
_FUNCTION: Final = """
SELECT pg_get_functiondef(p.oid) FROM pg_proc p
WHERE p.oid = $1::bigint::oid AND p.prosqlbody IS NOT NULL
"""
_POLICY: Final = """
SELECT n.nspname::text AS schema, c.relname::text AS name, p.polname::text AS policy,
    pg_get_expr(p.polqual, p.polrelid) AS visible,
    pg_get_expr(p.polwithcheck, p.polrelid) AS writable
FROM pg_policy p
JOIN pg_class c ON c.oid = p.polrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.oid = $1::bigint::oid
"""


async def dependents_of(connection: asyncpg.Connection, oids: Sequence[int]) -> Dependents:
    """Find what holds on to tables, partitions among them. Call it under ``printed_in_full``."""
    said, problems = [], [row[0] for row in await connection.fetch(_STANDING, oids)]
    for row in await connection.fetch(_DEPENDENTS, oids):
        again = None
        if not row["by_type"]:
            again = await _said_again(connection, row["class"], row["oid"], row["what"])
        if again is None:
            how = "is made of its rows' type" if row["by_type"] else "cannot be moved to a new one"
            problems.append(f"{row['what']} depends on a table that is swapped, and {how}")
        else:
            said.append(again)
    keys = tuple(
        OutsideKey(
            child=TableName(row["schema"], row["name"]),
            parent=TableName(row["parent_schema"], row["parent_name"]),
            name=row["key"],
            definition=row["definition"],
            comment=row["comment"],
        )
        for row in await connection.fetch(_OUTSIDE_KEYS, oids)
    )
    return Dependents(keys=keys, said=tuple(said), problems=tuple(problems))


async def _said_again(
    connection: asyncpg.Connection, class_: str, oid: int, what: str
) -> Said | None:
    match class_:
        case "pg_rewrite":
            return await _view(connection, oid, what)
        case "pg_policy":
            return await _policy(connection, oid, what)
        case "pg_proc" if connection.get_server_version().major >= BODIES_SINCE:
            statement = await connection.fetchval(_FUNCTION, oid)
            return Said(what=what, statement=statement) if statement else None
    return None


async def _view(connection: asyncpg.Connection, oid: int, what: str) -> Said | None:
    row = await connection.fetchrow(_VIEW, oid)
    if row is None or row["kind"] != "v" or row["rule"] != "_RETURN":
        return None
    name = TableName(row["schema"], row["name"])
    options = options_clause(row["options"])
    head = f"CREATE OR REPLACE VIEW {name.quoted}{options and f' WITH ({options})'} AS"
    return Said(
        what=what,
        statement=f"{head} {row['definition']}",
        locked=name,
        is_view=True,
        owner=row["owner"],
    )


async def _policy(connection: asyncpg.Connection, oid: int, what: str) -> Said | None:
    row = await connection.fetchrow(_POLICY, oid)
    if row is None:
        return None
    name = TableName(row["schema"], row["name"])
    statement = f"ALTER POLICY {quoted(row['policy'])} ON {name.quoted}"
    statement += f" USING ({row['visible']})" if row["visible"] else ""
    statement += f" WITH CHECK ({row['writable']})" if row["writable"] else ""
    return Said(what=what, statement=statement, locked=name)


def options_clause(options: Sequence[str] | None, *, prefix: str = "") -> str:
    """Storage parameters as they stand in SQL; ``""`` for none."""
    pairs = (each.partition("=") for each in options or ())
    return ", ".join(f"{prefix}{quoted(name)} = {literal(value)}" for name, _, value in pairs)
