"""Detaches a database: takes away every trace that attaching left there, whole or in part.

The slot comes first, as it holds WAL back. What pitr did not make stays, and is named.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import asyncpg

from pitr.adapters.postgres.connection import APPLICATION
from pitr.adapters.postgres.facts import read_slot
from pitr.adapters.postgres.inventory import marked_publications, read_installed
from pitr.adapters.postgres.source import SourceDatabase
from pitr.domain.errors import Conflict
from pitr.domain.pgoutput.attach import AttachNames
from pitr.domain.pgoutput.attach_results import Detached, Left
from pitr.domain.pgoutput.installed import Installed, is_marked, repaired
from pitr.domain.pgoutput.source import OWN_SCHEMA, SlotState
from pitr.domain.pgoutput.sql import identifier, literal, qualified
from pitr.domain.pgoutput.steps import SIGNATURES

WAIT_S: Final = 10.0
"""Longest wait for whoever streams from the slot."""

LOOK_S: Final = 0.1


async def detach(
    source: SourceDatabase,
    names: AttachNames,
    *,
    terminate: bool = False,
    wait_s: float = WAIT_S,
) -> Detached:
    """Take away slot, publications, event triggers, functions and the schema pitr.

    Functions and triggers stay while another attachment of this database needs them.

    Args:
        terminate: End the walsender that uses the slot, if it is pitr's.
        wait_s: How long to wait until nobody uses the slot.

    Raises:
        Conflict: Somebody uses the slot; nothing else was taken away.
        Unavailable: Somebody holds a lock on a table or the like; detach again.
    """
    report = Detached()
    async with source.pool.connection() as connection:
        await _drop_slot(connection, names.slot, report, terminate=terminate, wait_s=wait_s)
        installed = await read_installed(connection, names)
        ours = {names.publication, names.inserts}
        others = [name for name in await marked_publications(connection) if name not in ours]
        if not others:
            await _drop_offered(connection, installed, report)
        elif installed.schema is not None:
            why = f"publication {', '.join(others)} is captured with it"
            report.left.append(Left(what=f"schema {OWN_SCHEMA}", why=why))
        for name, publication in installed.publications.items():
            await _drop_publication(connection, name, publication.comment, report)
    return report


async def _drop_slot(
    connection: Any, name: str, report: Detached, *, terminate: bool, wait_s: float
) -> None:
    clock = asyncio.get_running_loop()
    end_s = clock.time() + wait_s
    while (slot := await read_slot(connection, name)) is not None:
        if not await _is_ours(connection, slot, report):
            return
        if slot.active_pid is None and await _dropped(connection, name, report):
            return
        if terminate and (slot.active_application or "").startswith(APPLICATION):
            await connection.execute("SELECT pg_terminate_backend($1)", slot.active_pid)
        if clock.time() >= end_s:
            raise Conflict(
                "somebody uses the replication slot",
                hint="stop what captures from it, or let detach end its connection",
                slot=name,
                pid=slot.active_pid,
                application=slot.active_application,
            )
        await asyncio.sleep(LOOK_S)


async def _is_ours(connection: Any, slot: SlotState, report: Detached) -> bool:
    database = await connection.fetchval("SELECT current_database()")
    if slot.plugin == "pgoutput" and slot.database == database:
        return True
    why = f"it is of database {slot.database} and plugin {slot.plugin}"
    report.left.append(Left(what=f"replication slot {slot.name}", why=why))
    return False


async def _dropped(connection: Any, name: str, report: Detached) -> bool:
    """Drop the slot; False if somebody took it since we looked."""
    statement = f"SELECT pg_drop_replication_slot({literal(name)})"
    try:
        return await _run(connection, report, f"replication slot {name}", statement)
    except asyncpg.ObjectInUseError:
        return False


async def _run(connection: Any, report: Detached, what: str, *statements: str) -> bool:
    """Run statements in one transaction, and take down what came of it."""
    try:
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement)
    except asyncpg.InsufficientPrivilegeError as error:
        report.left.append(Left(what=what, why=str(error), statements=statements))
    except asyncpg.DependentObjectsStillExistError as error:
        why = error.detail or str(error)
        report.left.append(Left(what=what, why=why, statements=statements))
    except (asyncpg.UndefinedObjectError, asyncpg.UndefinedFunctionError):
        pass  # somebody else was faster
    else:
        report.removed.append(what)
    return True


async def _drop_offered(connection: Any, installed: Installed, report: Detached) -> None:
    """Drop triggers, then the functions that they call, then the schema that these are in."""
    for name, trigger in installed.triggers.items():
        what, statement = f"event trigger {name}", f"DROP EVENT TRIGGER {identifier(name)}"
        await _drop_marked(connection, report, what, trigger.comment, statement)
    for name, function in installed.functions.items():
        what, statement = f"function {SIGNATURES[name]}", f"DROP FUNCTION {SIGNATURES[name]}"
        await _drop_marked(connection, report, what, function.comment, statement)
    if is_marked(installed.schema):
        what = f"schema {OWN_SCHEMA}"
        await _run(connection, report, what, f"DROP SCHEMA {identifier(OWN_SCHEMA)}")


async def _drop_marked(
    connection: Any, report: Detached, what: str, comment: str | None, *statements: str
) -> None:
    if is_marked(comment):
        await _run(connection, report, what, *statements)
    else:
        why = "pitr did not make it"
        report.left.append(Left(what=what, why=why, statements=statements))


_CHANGED: Final = """
SELECT
    n.nspname AS schema, c.relname AS name, c.oid::bigint AS relid,
    c.relreplident::text AS identity,
    EXISTS (
        SELECT FROM pg_publication_tables t
        JOIN pg_class r ON r.relname = t.tablename
        JOIN pg_namespace rn ON rn.oid = r.relnamespace AND rn.nspname = t.schemaname
        WHERE t.pubname <> $2
          AND (r.oid = c.oid OR r.oid IN (SELECT relid FROM pg_partition_ancestors(c.oid)))
    ) AS published
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY ($1::bigint[]::oid[])
ORDER BY schema, name
"""

_UNDO: Final = {"d": "DEFAULT", "n": "NOTHING", "f": "FULL"}


async def _drop_publication(
    connection: Any, name: str, comment: str | None, report: Detached
) -> None:
    """Drop a publication, and give tables back the replica identity that they had before it."""
    changed = repaired(comment)
    statements = [f"DROP PUBLICATION {identifier(name)}"]
    what = [f"publication {name}"]
    for row in await connection.fetch(_CHANGED, list(changed), name):
        before, after = changed[row["relid"]]
        table = f"{row['schema']}.{row['name']}"
        if row["identity"] != after:
            continue
        if row["published"] or before not in _UNDO:
            other = "another publication needs it" if row["published"] else "it had an index's"
            report.left.append(Left(what=f"replica identity of {table}", why=other))
            continue
        place = qualified(row["schema"], row["name"])
        statements.append(f"ALTER TABLE {place} REPLICA IDENTITY {_UNDO[before]}")
        what.append(f"replica identity of {table}")
    await _drop_marked(connection, report, ", ".join(what), comment, *statements)
