"""What is there to be swapped, and what is in the way of it; reads only."""

from __future__ import annotations

from collections.abc import Iterable

import asyncpg

from pitr.adapters.sinks.postgres.swap.dependents import Dependents, dependents_of
from pitr.adapters.sinks.postgres.swap.picture import (
    Picture,
    pictures,
    printed_in_full,
    with_partitions,
)
from pitr.adapters.sinks.postgres.tables import Table

_RIGHTS = """
SELECT format('the role does not own %s', c.oid::regclass)
FROM pg_class c
WHERE c.oid = ANY ($1::bigint[]::oid[]) AND NOT pg_has_role(c.relowner, 'USAGE')
UNION ALL
SELECT 'the role may not make schemas in this database'
WHERE NOT has_database_privilege(current_database(), 'CREATE')
ORDER BY 1
"""


async def survey(
    connection: asyncpg.Connection, tables: Iterable[Table]
) -> tuple[tuple[Picture, ...], Dependents, tuple[str, ...]]:
    """Return pictures of tables and their partitions, what depends on them, and all problems."""
    asked = [table.oid for table in tables]
    oids = await with_partitions(connection, asked)
    async with printed_in_full(connection):
        found = await pictures(connection, oids)
        depending = await dependents_of(connection, oids)
        rights = [row[0] for row in await connection.fetch(_RIGHTS, oids)] if oids else []
    parts = [
        f"{found[oid].name} is a partition; swap the whole table"
        for oid in asked
        if found[oid].parent is not None
    ]
    return tuple(found.values()), depending, (*depending.problems, *parts, *rights)
