"""Statements that may be refused without ending the restore: each in a savepoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import asyncpg

_FATAL: Final = ("08", "40", "53", "55P03", "57", "58", "XX")
"""SQLSTATEs that say nothing of the statement: the database or its connection is in trouble."""


async def attempted(connection: asyncpg.Connection, statement: str) -> asyncpg.PostgresError | None:
    """Run a statement; return what the database refused it with, None if it did not."""
    try:
        async with connection.transaction():
            await connection.execute(statement)
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "").startswith(_FATAL):
            raise
        return error
    return None


async def attempted_each(
    connection: asyncpg.Connection, altering: str, clauses: Mapping[str, str]
) -> dict[str, asyncpg.PostgresError]:
    """Run one ``ALTER`` with all clauses, or each alone if that is refused.

    Those that are refused come back by their names.
    """
    if not clauses:
        return {}
    every = f"{altering} {', '.join(clauses.values())}"
    error = await attempted(connection, every)
    if error is None:
        return {}
    if len(clauses) == 1:
        return dict.fromkeys(clauses, error)
    refused = {}
    for name, clause in clauses.items():
        error = await attempted(connection, f"{altering} {clause}")
        if error is not None:
            refused[name] = error
    return refused


def reason_of(error: asyncpg.PostgresError) -> str:
    """What the database said, as it stands in a note."""
    return str(error.args[0]) if error.args else type(error).__name__
