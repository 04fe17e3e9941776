"""Looks for what is in the way of attaching a database, and says how to clear it away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pitr.domain.pgoutput.attach import Finding
from pitr.domain.pgoutput.attach_tables import table_findings
from pitr.domain.pgoutput.installed import Step, state_of
from pitr.domain.pgoutput.situation import Situation, ok, refused, some
from pitr.domain.pgoutput.sql import identifier, literal

VERSION_MAX: Final = 18
FAILOVER_SINCE: Final = 17
KEPT_HINT_GB: Final = 64


def findings(situation: Situation) -> tuple[Finding, ...]:
    """Look at everything; the server first, then rights, then tables, then what is there."""
    return (
        *_server(situation),
        *_room(situation),
        *_rights(situation),
        *table_findings(situation),
        *_offers(situation),
        *_standing(situation),
    )


def _set(name: str, value: str) -> str:
    return f"ALTER SYSTEM SET {name} = {literal(value)}"


def _server(situation: Situation) -> Iterator[Finding]:
    facts = situation.facts
    if facts.major > VERSION_MAX:
        text = f"PostgreSQL {facts.version_text} is newer than what pitr was tested with"
        yield Finding(about="version", level="warning", text=text)
    else:
        yield ok("version", f"PostgreSQL {facts.version_text}")
    if facts.in_recovery:
        hint = "attach its primary: a standby takes no publication"
        yield refused("recovery", "the server is a standby", hint)
    if facts.wal_level == "logical":
        yield ok("wal_level", "wal_level is logical")
    else:
        yield refused(
            "wal_level",
            f"wal_level is {facts.wal_level}, so the WAL does not tell rows",
            "set wal_level = logical in postgresql.conf and restart the server"
            " (Amazon RDS: rds.logical_replication = 1; Cloud SQL:"
            " cloudsql.logical_decoding = on), or run this and restart it:",
            _set("wal_level", "logical"),
        )
    if facts.encoding == "SQL_ASCII":
        text = "the database's encoding is SQL_ASCII: text that is not UTF-8 cannot be captured"
        yield Finding(about="encoding", level="warning", text=text)
    if situation.options.failover and facts.major < FAILOVER_SINCE:
        hint = "leave failover out"
        yield refused("failover", "slots follow to a standby from PostgreSQL 17 on", hint)


def _room(situation: Situation) -> Iterator[Finding]:
    facts = situation.facts
    if not situation.has_slot:
        yield _free("max_replication_slots", facts.slots_used, facts.slots_max)
    if not (situation.installed.slot and situation.installed.slot.is_active):
        yield _free("max_wal_senders", facts.senders_used, facts.senders_max)
    if facts.max_slot_wal_keep_bytes is None:
        yield Finding(
            about="max_slot_wal_keep_size",
            level="note",
            text="the server keeps any amount of WAL for a slot: its disk fills up while pitr is"
            " down",
            hint="with a limit the slot is lost instead, which is a gap in the log; to set one:",
            statements=(
                _set("max_slot_wal_keep_size", f"{KEPT_HINT_GB}GB"),
                "SELECT pg_reload_conf()",
            ),
        )
    else:
        kept = facts.max_slot_wal_keep_bytes // (1024 * 1024)
        text = f"a slot that is more than {kept} MB of WAL behind is lost, which is a gap"
        yield Finding(about="max_slot_wal_keep_size", level="note", text=text)
    if facts.idle_slot_timeout_s is not None:
        text = f"a slot that is not used for {facts.idle_slot_timeout_s} s is lost"
        yield Finding(about="idle_replication_slot_timeout", level="warning", text=text)


def _free(setting: str, used: int, most: int) -> Finding:
    if used < most:
        return ok(setting, f"{used} of {most} {setting} are used")
    return refused(
        setting,
        f"all {most} {setting} are used",
        f"set {setting} = {most + 4} in postgresql.conf and restart the server,"
        " or run this and restart it:",
        _set(setting, str(most + 4)),
    )


def _rights(situation: Situation) -> Iterator[Finding]:
    facts = situation.facts
    role = identifier(facts.role)
    if facts.may_replicate:
        yield ok("replication", f"role {facts.role} may replicate")
    else:
        yield refused(
            "replication",
            f"role {facts.role} may not use replication slots",
            "have a superuser run (Amazon RDS: GRANT rds_replication TO …):",
            f"ALTER ROLE {role} REPLICATION",
        )
    missing = [step for step in situation.publications if not situation.is_there(step)]
    if missing and not facts.is_superuser:
        yield from _publishing_rights(situation, missing)
    yield from _reading_rights(situation, role)


def _publishing_rights(situation: Situation, missing: Sequence[Step]) -> Iterator[Finding]:
    facts = situation.facts
    foreign = [table for table in situation.holds.tables if not table.owned]
    if foreign:
        yield refused(
            "owner",
            f"role {facts.role} does not own {some(foreign)}, and only owners publish tables",
            "attach as the owner, or have a superuser run this first:",
            *(statement for step in missing for statement in step.statements),
        )
    elif not facts.may_create:
        yield refused(
            "create",
            f"role {facts.role} may make no publication in database {facts.database}",
            "have its owner run:",
            f"GRANT CREATE ON DATABASE {identifier(facts.database)} TO {identifier(facts.role)}",
        )


def _reading_rights(situation: Situation, role: str) -> Iterator[Finding]:
    columns = situation.holds.columns
    tables = situation.holds.tables
    closed = [
        table
        for table in tables
        if {*table.unreadable} & {*columns.get(table.collection, table.columns)}
    ]
    schemas = sorted({table.schema for table in tables if not table.schema_usable})
    if schemas or closed:
        usage = ", ".join(map(identifier, schemas))
        select = ", ".join(table.quoted for table in closed)
        yield refused(
            "select",
            f"role {situation.facts.role} may not read {some(closed) or ', '.join(schemas)},"
            " which the first copy needs",
            "have the owner run:",
            *([f"GRANT USAGE ON SCHEMA {usage} TO {role}"] if schemas else []),
            *([f"GRANT SELECT ON {select} TO {role}"] if closed else []),
        )
    hidden = [table for table in tables if table.row_security]
    if hidden:
        yield refused(
            "row_security",
            f"row security hides rows of {some(hidden)} from role {situation.facts.role}",
            "the first copy needs all of them; have a superuser run:",
            f"ALTER ROLE {role} BYPASSRLS",
        )


def _offers(situation: Situation) -> Iterator[Finding]:
    kinds = {(step.kind, step.name) for step in situation.steps}
    installed, options, facts = situation.installed, situation.options, situation.facts
    may = situation.may_make_functions
    if options.reasons and not may and "because" not in installed.functions:
        database, role = identifier(facts.database), identifier(facts.role)
        grant = f"GRANT CREATE ON DATABASE {database} TO {role}"
        yield refused("reasons", "the role may not make pitr.because", "leave it out, or:", grant)
    elif ("function", "because") not in kinds and "because" not in installed.functions:
        text = "pitr.because is not there; an app can call pg_logical_emit_message itself"
        yield Finding(about="reasons", level="note", text=text)
    if options.ddl_trigger and not facts.may_trigger and not installed.triggers:
        hint = "leave it out, or attach as a superuser"
        yield refused("ddl_trigger", "only a superuser may make event triggers", hint)
    elif ("function", "ddl") not in kinds and not installed.triggers:
        text = (
            "no event trigger tells of DDL: a changed table is noticed with its next change of a"
            " row, a dropped or rewritten one when tables are looked through"
        )
        yield Finding(about="ddl_trigger", level="note", text=text)


def _standing(situation: Situation) -> Iterator[Finding]:
    slot, drop = situation.installed.slot, _drop(situation.names.slot)
    if slot is not None and slot.is_lost:
        reason = slot.invalidation_reason or slot.wal_status
        hint = "drop it and attach again; what was not captured is a gap:"
        yield refused("slot", f"the replication slot {slot.name} is lost: {reason}", hint, drop)
        return
    for step in situation.steps:
        if state_of(step, situation.installed) == "other":
            yield in_the_way(step)
    published = all(map(situation.is_there, situation.publications))
    if situation.has_slot and not published:
        yield refused(
            "slot",
            "the slot is older than its publication, so what came between is not in it",
            "drop the slot; what was captured by it ends with a gap:",
            drop,
        )
    elif situation.has_slot:
        text = f"the replication slot {situation.names.slot} is there already, and is used as it is"
        yield Finding(about="slot", level="note", text=text)


def _drop(slot: str) -> str:
    return f"SELECT pg_drop_replication_slot({literal(slot)})"


def in_the_way(step: Step) -> Finding:
    """Say that something else has the name."""
    return Finding(
        about=step.kind.replace(" ", "_"),
        level="refused",
        text=f"there is another {step.kind} {step.name} than the one to be made",
        hint=f"look at it with {step.see}; then drop it, choose another name"
        + (", or change it:" if step.instead else ""),
        statements=step.instead,
    )
