"""Manifest entries: written in the transaction of what they tell, chained by hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import asyncpg

from pitr.adapters.catalog import rows
from pitr.domain.errors import Conflict, NotFound
from pitr.domain.log import LogState
from pitr.domain.manifest import Entry, EntryKind, ObjectRef

_LOCKED_LOG = f"SELECT {rows.LOG_COLUMNS} FROM pitr.logs WHERE name = $1 FOR NO KEY UPDATE"


async def locked_log(connection: Any, log: str) -> LogState:
    """Take the log's row lock until the transaction ends: one writer at a time (invariant 1).

    Raises:
        NotFound: There is no such log.
    """
    row = await connection.fetchrow(_LOCKED_LOG, log)
    if row is None:
        raise unknown_log(log)
    return rows.log_state(row)


def unknown_log(log: str) -> NotFound:
    """The error for a log that does not exist."""
    return NotFound("there is no such log", hint="pitr status lists the logs", log=log)


_ADD_ENTRY = """
INSERT INTO pitr.manifest (log_id, version, body, hash, recorded_us) VALUES ($1, $2, $3, $4, $5)
"""
_MOVE_HEAD = "UPDATE pitr.logs SET manifest_version = $2, manifest_hash = $3 WHERE log_id = $1"


async def add_entry(
    connection: Any,
    state: LogState,
    *,
    kind: EntryKind,
    recorded_us: int,
    add: tuple[ObjectRef, ...] = (),
    retire: tuple[str, ...] = (),
    expire: tuple[str, ...] = (),
    note: Mapping[str, Any] | None = None,
) -> Entry:
    """Append one entry and let the objects it names live, retire or go; the log must be locked.

    Raises:
        Conflict: An object to retire is not live, or a name to add is taken: the manifest moved.
    """
    entry = Entry(
        log=state.name,
        log_id=state.uid,
        version=state.manifest_version + 1,
        previous=state.manifest_hash,
        kind=kind,
        recorded_us=recorded_us,
        seq_end=state.seq_next,
        add=add,
        retire=retire,
        expire=expire,
        note=note or {},
    )
    await _store_entry(connection, state.log_id, entry)
    await _add_objects(connection, state.log_id, add)
    await _retire_objects(connection, state.log_id, retire, entry)
    await _expire_objects(connection, state.log_id, expire)
    return entry


async def _store_entry(connection: Any, log_id: int, entry: Entry) -> None:
    digest = entry.hash()
    await connection.execute(
        _ADD_ENTRY, log_id, entry.version, entry.body(), digest, entry.recorded_us
    )
    await connection.execute(_MOVE_HEAD, log_id, entry.version, digest)


_ADD_OBJECT = """
INSERT INTO pitr.objects (log_id, name, kind, seq_first, seq_end, ref)
VALUES ($1, $2, $3, $4, $5, $6)
"""


async def _add_objects(connection: Any, log_id: int, add: tuple[ObjectRef, ...]) -> None:
    try:
        await connection.executemany(
            _ADD_OBJECT,
            [(log_id, r.name, r.kind, r.seq_first, r.seq_end, asdict(r)) for r in add],
        )
    except asyncpg.UniqueViolationError as error:
        raise Conflict("an object is listed already") from error


_RETIRE = """
UPDATE pitr.objects SET retired_us = $3, retired_version = $4
WHERE log_id = $1 AND name = ANY($2) AND retired_us IS NULL
"""


async def _retire_objects(
    connection: Any, log_id: int, names: tuple[str, ...], entry: Entry
) -> None:
    if names:
        done = await connection.execute(
            _RETIRE, log_id, list(names), entry.recorded_us, entry.version
        )
        if done != f"UPDATE {len(names)}":
            raise Conflict("an object to retire is not live any more", expected=len(names))


_EXPIRE = """
DELETE FROM pitr.objects WHERE log_id = $1 AND name = ANY($2) AND retired_us IS NOT NULL
"""


async def _expire_objects(connection: Any, log_id: int, names: tuple[str, ...]) -> None:
    if names:
        done = await connection.execute(_EXPIRE, log_id, list(names))
        if done != f"DELETE {len(names)}":
            raise Conflict("an object to expire is not retired", expected=len(names))
