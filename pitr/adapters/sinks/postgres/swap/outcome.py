"""A commit whose outcome is known, also where the connection breaks at it."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg

from pitr.adapters.sinks.postgres.connection import connected, translated
from pitr.domain.errors import PitrError, Unavailable

ATTEMPTS: Final = 20
PAUSE_S: Final = 0.5
"""How often, and how long after each other, a database is asked whether it has committed."""

_XID: Final = "SELECT pg_current_xact_id()::text"
_OUTCOME: Final = "SELECT pg_xact_status($1::text::xid8)"


async def commit(
    connection: asyncpg.Connection, transaction: asyncpg.transaction.Transaction, url: str
) -> None:
    """Commit; where the connection breaks at that, ask the database what came of it.

    Raises:
        Unavailable: It was not committed, or that cannot be told.
    """
    xid: str = await connection.fetchval(_XID)
    try:
        with translated():
            await transaction.commit()
    except Unavailable as error:
        if await _outcome(url, xid) == "committed":
            return
        raise Unavailable(
            "the connection broke before the swap was committed",
            hint="nothing was changed; try again",
            reason=error.facts.get("reason"),
        ) from error


async def _outcome(url: str, xid: str) -> str:
    for _ in range(ATTEMPTS):
        try:
            async with connected(url) as connection:
                with translated():
                    outcome = await connection.fetchval(_OUTCOME, xid)
        except PitrError:
            outcome = None
        if outcome in ("committed", "aborted"):
            return str(outcome)
        await asyncio.sleep(PAUSE_S)
    raise Unavailable(
        "the connection broke at the commit, so the swap may have succeeded",
        hint=f"ask the database: SELECT pg_xact_status('{xid}')",
    )
