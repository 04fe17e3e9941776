"""Two restores into one database exclude each other, from whichever pitr they come."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import asyncpg

from pitr.domain.errors import Conflict

RESTORES_KEY: Final = 0x70697472_72737472
"""The advisory lock of whoever restores into, swaps in, or rewinds a database: ``pitrrstr``.

PostgreSQL keeps these locks by database. It ends with the transaction or the connection, also by
a crash.
"""

_TAKE = "SELECT pg_try_advisory_xact_lock($1)"
_TAKE_FOR_LONG = "SELECT pg_try_advisory_lock($1)"
_LET_GO = "SELECT pg_advisory_unlock($1)"

_HELD = """
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND classid::bigint = $1::bigint >> 32 AND objid::bigint = $1::bigint & 4294967295)
"""

BUSY: Final = "another restore runs in this database"


async def exclude_others(connection: asyncpg.Connection) -> None:
    """Keep other restores out until the transaction that is open ends.

    Raises:
        Conflict: Another one runs.
    """
    await _take(connection, _TAKE)


@asynccontextmanager
async def others_excluded(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Keep other restores out meanwhile, over several transactions.

    Raises:
        Conflict: Another one runs.
    """
    await _take(connection, _TAKE_FOR_LONG)
    try:
        yield
    finally:
        # If the database does not answer any more, the lock goes with the connection.
        with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
            await connection.fetchval(_LET_GO, RESTORES_KEY)


async def _take(connection: asyncpg.Connection, query: str) -> None:
    if not await connection.fetchval(query, RESTORES_KEY):
        raise Conflict(BUSY, hint="wait until it is done; pitr operations shows those of this log")


async def is_taken(connection: asyncpg.Connection) -> bool:
    """Tell whether a restore runs in the database."""
    return bool(await connection.fetchval(_HELD, RESTORES_KEY))
