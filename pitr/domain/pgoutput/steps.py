"""How each thing is made that pitr puts into a source database: the SQL, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pitr.domain.pgoutput.identity import Repair
from pitr.domain.pgoutput.installed import (
    MARK,
    Actions,
    EventTrigger,
    Function,
    Publication,
    SlotWanted,
    Step,
    marked,
)
from pitr.domain.pgoutput.source import OWN_SCHEMA
from pitr.domain.pgoutput.sql import identifier, literal, qualified

BECAUSE: Final = "because"
DDL: Final = "ddl"
SIGNATURES: Final = {
    BECAUSE: f"{OWN_SCHEMA}.{BECAUSE}(text, text, jsonb)",
    DDL: f"{OWN_SCHEMA}.{DDL}()",
}
"""The functions by name, as they stand in SQL."""

EVENTS: Final = ("ddl_command_end", "sql_drop", "table_rewrite")

# Publications ------------------------------------------------------------------------------------


def publication_step(
    name: str,
    publication: Publication,
    *,
    partitioned: Iterable[tuple[str, str]] = (),
    repairs: Sequence[Repair] = (),
) -> Step:
    """Make a publication, after the replica identities that it needs.

    They are one transaction with the comment that names them, so that detach can undo them.
    """
    quoted = identifier(name)
    holds = _published(publication, {*partitioned})
    options = [f"publish = '{', '.join(_in_order(publication.actions))}'"]
    options += ["publish_via_partition_root = true"]
    options += ["publish_generated_columns = stored"] if publication.generated else []
    given = f"({', '.join(options)})"
    alter = f"ALTER PUBLICATION {quoted} SET"
    return Step(
        kind="publication",
        name=name,
        statements=(
            *(repair.statement for repair in repairs),
            f"CREATE PUBLICATION {quoted} FOR {holds} WITH {given}",
            f"COMMENT ON PUBLICATION {quoted} IS {literal(marked(repairs))}",
        ),
        wanted=publication,
        see=f"\\dRp+ {name}",
        instead=(f"{alter} {given}", f"{alter} {holds}") if publication.tables else (),
    )


def _in_order(actions: Actions) -> list[str]:
    return [action for action in ("insert", "update", "delete", "truncate") if action in actions]


def _published(publication: Publication, partitioned: set[tuple[str, str]]) -> str:
    if publication.all_tables:
        return "ALL TABLES"
    if publication.schemas:
        names = ", ".join(map(identifier, sorted(publication.schemas)))
        return f"TABLES IN SCHEMA {names}"
    texts = []
    for table in sorted(publication.tables, key=lambda table: (table.schema, table.name)):
        # Tables that inherit from this one are tables of their own.
        only = "" if (table.schema, table.name) in partitioned else "ONLY "
        columns = ", ".join(map(identifier, sorted(table.columns or ())))
        chosen = f" ({columns})" if table.columns is not None else ""
        texts.append(f"{only}{qualified(table.schema, table.name)}{chosen}")
    return f"TABLE {', '.join(texts)}"


# The schema pitr ---------------------------------------------------------------------------------

SCHEMA_STEP: Final = Step(
    kind="schema",
    name=OWN_SCHEMA,
    statements=(
        f"CREATE SCHEMA {OWN_SCHEMA}",
        f"COMMENT ON SCHEMA {OWN_SCHEMA} IS '{MARK}'",
        f"GRANT USAGE ON SCHEMA {OWN_SCHEMA} TO PUBLIC",
    ),
    wanted=None,
    see=f"\\dn+ {OWN_SCHEMA}",
)

_SETTINGS: Final = "SET search_path = pg_catalog, pg_temp"

_BECAUSE_BODY: Final = """
    SELECT pg_logical_emit_message(true, 'pitr', convert_to(
        json_build_object('actor', actor, 'reason', reason, 'meta', meta)::text, 'UTF8'));
"""

_BECAUSE: Final = (
    f"FUNCTION {OWN_SCHEMA}.{BECAUSE}(actor text, reason text DEFAULT NULL,"
    f" meta jsonb DEFAULT NULL) RETURNS void LANGUAGE sql {_SETTINGS}"
    f" AS $pitr${_BECAUSE_BODY}$pitr$"
)

BECAUSE_STEP: Final = Step(
    kind="function",
    name=BECAUSE,
    statements=(
        f"CREATE {_BECAUSE}",
        f"COMMENT ON FUNCTION {SIGNATURES[BECAUSE]} IS"
        f" '{MARK}: says who changes rows and why, for the rest of the transaction'",
    ),
    wanted=Function(body=_BECAUSE_BODY),
    see=f"\\sf {OWN_SCHEMA}.{BECAUSE}",
    instead=(f"CREATE OR REPLACE {_BECAUSE}",),
)

_DDL_BODY: Final = """
DECLARE
    kinds CONSTANT text[] := ARRAY['table', 'table column', 'table constraint', 'default value',
        'index', 'sequence', 'type', 'domain', 'schema', 'composite type', 'foreign table'];
    objects jsonb;
    rewrite integer;
BEGIN
    IF tg_event = 'ddl_command_end' THEN
        SELECT jsonb_agg(DISTINCT jsonb_build_object(
            'kind', d.object_type, 'schema', coalesce(n.nspname, d.schema_name),
            'name', c.relname, 'relid', c.oid::bigint, 'identity', d.object_identity))
        INTO objects
        FROM pg_event_trigger_ddl_commands() d
        LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
        LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE d.object_type = ANY (kinds) AND d.schema_name IS DISTINCT FROM 'pg_temp';
    ELSIF tg_event = 'sql_drop' THEN
        SELECT jsonb_agg(DISTINCT jsonb_build_object(
            'kind', d.object_type, 'schema', d.schema_name,
            'name', coalesce(d.object_name, d.address_names[2]),
            'relid', CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid::bigint END,
            'identity', d.object_identity))
        INTO objects
        FROM pg_event_trigger_dropped_objects() d
        WHERE d.object_type = ANY (kinds) AND NOT d.is_temporary;
    ELSE
        rewrite := pg_event_trigger_table_rewrite_reason();
        SELECT jsonb_agg(jsonb_build_object(
            'kind', 'table', 'schema', n.nspname, 'name', c.relname, 'relid', c.oid::bigint,
            'identity', format('%I.%I', n.nspname, c.relname)))
        INTO objects
        FROM pg_class c
        JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.oid = pg_event_trigger_table_rewrite_oid() AND c.relpersistence <> 't';
    END IF;
    IF objects IS NOT NULL THEN
        PERFORM pg_logical_emit_message(true, 'pitr.ddl', convert_to(jsonb_build_object(
            'event', tg_event, 'tag', tg_tag, 'rewrite', rewrite, 'objects', objects)::text,
            'UTF8'));
    END IF;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'pitr was not told of this %: %', tg_tag, SQLERRM;
END
"""

_DDL: Final = (
    f"FUNCTION {OWN_SCHEMA}.{DDL}() RETURNS event_trigger LANGUAGE plpgsql {_SETTINGS}"
    f" AS $pitr${_DDL_BODY}$pitr$"
)

DDL_STEP: Final = Step(
    kind="function",
    name=DDL,
    statements=(
        f"CREATE {_DDL}",
        f"COMMENT ON FUNCTION {SIGNATURES[DDL]} IS '{MARK}: tells the log of changed tables'",
    ),
    wanted=Function(body=_DDL_BODY),
    see=f"\\sf {OWN_SCHEMA}.{DDL}",
    instead=(f"CREATE OR REPLACE {_DDL}",),
)


def _trigger_step(event: str) -> Step:
    name = f"{OWN_SCHEMA}_{event}"
    return Step(
        kind="event trigger",
        name=name,
        statements=(
            f"CREATE EVENT TRIGGER {name} ON {event} EXECUTE FUNCTION {OWN_SCHEMA}.{DDL}()",
            f"ALTER EVENT TRIGGER {name} ENABLE ALWAYS",
            f"COMMENT ON EVENT TRIGGER {name} IS '{MARK}'",
        ),
        wanted=EventTrigger(event=event, function=f"{OWN_SCHEMA}.{DDL}"),
        see=f"\\dy {name}",
    )


TRIGGER_STEPS: Final = tuple(map(_trigger_step, EVENTS))


# The slot ----------------------------------------------------------------------------------------


def slot_step(name: str, wanted: SlotWanted) -> Step:
    """Make the slot: after everything else, so that the publication is older than its start."""
    failover = ", true" if wanted.failover else ""
    return Step(
        kind="slot",
        name=name,
        statements=(
            f"SELECT pg_create_logical_replication_slot({literal(name)}, 'pgoutput',"
            f" false, false{failover})",
        ),
        wanted=wanted,
        see=f"SELECT * FROM pg_replication_slots WHERE slot_name = {literal(name)}",
    )
