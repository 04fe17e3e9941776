"""Reads what pitr, or somebody else, has put into a source already."""

from __future__ import annotations

from typing import Any, Final

from pitr.adapters.postgres.facts import read_slot
from pitr.domain.pgoutput.attach import AttachNames
from pitr.domain.pgoutput.installed import (
    EVERY_ACTION,
    MARK,
    Actions,
    EventTrigger,
    Function,
    Installed,
    Publication,
    PublishedTable,
)
from pitr.domain.pgoutput.source import OWN_SCHEMA
from pitr.domain.pgoutput.steps import SIGNATURES, TRIGGER_STEPS

# What older servers lack is null this way, and no list or filter.
_PUBLICATIONS: Final = """
SELECT
    p.pubname AS name, p.puballtables AS all_tables, p.pubviaroot AS via_root,
    p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate,
    coalesce(to_jsonb(p) ->> 'pubgencols', 'n') = 's' AS generated,
    obj_description(p.oid, 'pg_publication') AS comment,
    p.oid::bigint AS oid
FROM pg_publication p
WHERE p.pubname = ANY ($1::text[])
"""

_TABLES: Final = """
SELECT
    r.prpubid::bigint AS publication, n.nspname AS schema, c.relname AS name,
    CASE WHEN to_jsonb(r) ->> 'prattrs' IS NOT NULL THEN
        (SELECT array_agg(a.attname::text) FROM pg_attribute a
         WHERE a.attrelid = c.oid AND to_jsonb(r) -> 'prattrs' @> to_jsonb(a.attnum))
    END AS columns,
    to_jsonb(r) ->> 'prqual' AS where
FROM pg_publication_rel r
JOIN pg_class c ON c.oid = r.prrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE r.prpubid = ANY ($1::bigint[]::oid[])
"""

_SCHEMAS: Final = """
SELECT s.pnpubid::bigint AS publication, n.nspname AS schema
FROM pg_publication_namespace s JOIN pg_namespace n ON n.oid = s.pnnspid
WHERE s.pnpubid = ANY ($1::bigint[]::oid[])
"""

_FUNCTIONS: Final = """
SELECT p.proname AS name, p.prosrc AS body, obj_description(p.oid, 'pg_proc') AS comment
FROM pg_proc p
WHERE p.oid = ANY (SELECT to_regprocedure(s)::oid FROM unnest($1::text[]) AS s)
"""

_TRIGGERS: Final = """
SELECT t.evtname AS name, t.evtevent AS event, format('%s.%s', n.nspname, p.proname) AS function,
    t.evtenabled = 'A' AS always, obj_description(t.oid, 'pg_event_trigger') AS comment
FROM pg_event_trigger t
JOIN pg_proc p ON p.oid = t.evtfoid
JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE t.evtname = ANY ($1::text[])
"""

_SCHEMA: Final = """
SELECT coalesce(obj_description(n.oid, 'pg_namespace'), '') AS comment,
    has_schema_privilege(n.oid, 'CREATE') AS writable
FROM pg_namespace n WHERE n.nspname = $1
"""

_MARKED: Final = """
SELECT p.pubname FROM pg_publication p
WHERE starts_with(coalesce(obj_description(p.oid, 'pg_publication'), ''), $1)
ORDER BY p.pubname
"""


async def read_installed(connection: Any, names: AttachNames) -> Installed:
    """Read what there is of the things that attaching makes."""
    schema = await connection.fetchrow(_SCHEMA, OWN_SCHEMA)
    functions = await connection.fetch(_FUNCTIONS, list(SIGNATURES.values()))
    triggers = await connection.fetch(_TRIGGERS, [step.name for step in TRIGGER_STEPS])
    return Installed(
        publications=await _publications(connection, [names.publication, names.inserts]),
        functions={
            row["name"]: Function(body=row["body"], comment=row["comment"]) for row in functions
        },
        triggers={row["name"]: EventTrigger(**_without_name(row)) for row in triggers},
        slot=await read_slot(connection, names.slot),
        schema=schema and schema["comment"],
        schema_writable=bool(schema and schema["writable"]),
    )


def _without_name(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "name"}


async def _publications(connection: Any, names: list[str]) -> dict[str, Publication]:
    rows = await connection.fetch(_PUBLICATIONS, names)
    oids = [row["oid"] for row in rows]
    tables = await connection.fetch(_TABLES, oids) if oids else ()
    has_schemas = await connection.fetchval("SELECT to_regclass('pg_publication_namespace')::text")
    schemas = await connection.fetch(_SCHEMAS, oids) if oids and has_schemas else ()
    return {
        row["name"]: Publication(
            all_tables=row["all_tables"],
            schemas=frozenset(s["schema"] for s in schemas if s["publication"] == row["oid"]),
            tables=frozenset(_table(t) for t in tables if t["publication"] == row["oid"]),
            actions=_actions(row),
            via_root=row["via_root"],
            generated=row["generated"],
            comment=row["comment"],
        )
        for row in rows
    }


def _table(row: Any) -> PublishedTable:
    columns = row["columns"]
    return PublishedTable(
        schema=row["schema"],
        name=row["name"],
        columns=None if columns is None else frozenset(columns),
        where=row["where"],
    )


def _actions(row: Any) -> Actions:
    return frozenset(action for action in EVERY_ACTION if row[f"pub{action}"])


async def marked_publications(connection: Any) -> list[str]:
    """Return the names of all publications in the database that pitr made."""
    return [row[0] for row in await connection.fetch(_MARKED, MARK)]
