"""Ids of transactions that stay theirs, so that a database can be asked what became of one."""

from __future__ import annotations

from typing import Final

import asyncpg

from pitr.adapters.sinks.postgres.connection import connected

FLUSHES_FROM: Final = 17
"""The first version of PostgreSQL in which a message can be told to flush the WAL."""

_XID: Final = "SELECT pg_current_xact_id()::text"
_FLUSH: Final = "SELECT pg_logical_emit_message(false, 'pitr.lasts', '', true)"
_COMMIT: Final = """
SET synchronous_commit TO local; SELECT pg_logical_emit_message(true, 'pitr.lasts', '')
"""


async def lasting_xid(connection: asyncpg.Connection, url: str) -> str:
    """Return the id of the transaction that is open and has written, and see that it lasts.

    PostgreSQL gives an id a second time if it crashes before any of the first one's WAL was
    written out. ``pg_xact_status`` would answer for another's transaction then. So the WAL is
    flushed; before PostgreSQL 17 only a commit does that, of a transaction of its own.
    """
    xid: str = await connection.fetchval(_XID)
    if connection.get_server_version().major >= FLUSHES_FROM:
        await connection.execute(_FLUSH)
    else:
        async with connected(url) as other:
            await other.execute(_COMMIT)
    return xid
