"""A commit whose outcome is known, also where the connection breaks at it."""

from __future__ import annotations

import asyncio
from typing import Final

import asyncpg

from pitr.adapters.sinks.postgres.connection import connected, translated
from pitr.adapters.sinks.postgres.lasting import lasting_xid
from pitr.domain.errors import PitrError, Unavailable

ATTEMPTS: Final = 20
PAUSE_S: Final = 0.5
"""How often, and how long after each other, a database is asked whether it has committed."""

_OUTCOME: Final = "SELECT pg_xact_status($1::text::xid8)"


async def commit(
    connection: asyncpg.Connection,
    transaction: asyncpg.transaction.Transaction,
    url: str,
    *,
    what: str,
) -> None:
    """Commit; where the connection breaks at that, ask the database what came of it.

    Args:
        what: Is committed, in a word.

    Raises:
        Unavailable: It was not committed, or that cannot be told.
    """
    with translated():
        xid = await lasting_xid(connection, url)
    try:
        with translated():
            await transaction.commit()
    except Unavailable as error:
        if await _outcome(url, xid, what) == "committed":
            return
        raise Unavailable(
            f"the connection broke before the {what} was committed",
            hint="nothing was changed; try again",
            reason=error.facts.get("reason"),
        ) from error


async def _outcome(url: str, xid: str, what: str) -> str:
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
        f"the connection broke at the commit, so the {what} may have succeeded",
        hint=f"ask the database: SELECT pg_xact_status('{xid}')",
    )
