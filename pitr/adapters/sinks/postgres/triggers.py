"""The app's triggers rest while a state is loaded, and what rested with them is checked after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from pitr.adapters.sinks.postgres.tables import TableName, own_rows, quoted
from pitr.domain.errors import Conflict

_TRIGGERS = """
WITH RECURSIVE below (oid) AS (
    SELECT oid FROM unnest($1::bigint[]::oid[]) AS given (oid)
    UNION
    SELECT i.inhrelid
    FROM below
    JOIN pg_class p ON p.oid = below.oid AND p.relkind = 'p'
    JOIN pg_inherits i ON i.inhparent = below.oid
)
SELECT n.nspname AS schema, c.relname AS name, t.tgname AS trigger, t.tgenabled::text AS enabled
FROM below
JOIN pg_trigger t ON t.tgrelid = below.oid
JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal AND t.tgenabled::text = ANY ($2)
ORDER BY schema, name, trigger
"""
"""Those of partitions, too: each has a mode of its own, also where it came from the table above."""

_ENABLE: Final = {"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}


class Triggers:
    """The app's triggers, silenced for one transaction only.

    With ``session_replication_role = replica`` ordinary triggers and the foreign keys' own rest,
    for this session only. A role that may not set it switches the triggers off by name, which
    nobody else sees before the commit, as it is undone before that too.
    """

    def __init__(self) -> None:
        self.replica = False
        self._off: list[tuple[str, str, str]] = []

    async def silence(self, connection: asyncpg.Connection, oids: Sequence[int]) -> None:
        """Make sure that none fires, also not on the partitions of these tables.

        Raises:
            asyncpg.InsufficientPrivilegeError: The role may do neither.
        """
        try:
            async with connection.transaction():
                await connection.execute("SET LOCAL session_replication_role = replica")
            self.replica = True
        except asyncpg.InsufficientPrivilegeError:
            self.replica = False
        modes = ["A", "R"] if self.replica else ["O", "A"]
        for row in await connection.fetch(_TRIGGERS, oids, modes):
            table = TableName(row["schema"], row["name"]).quoted
            trigger = quoted(row["trigger"])
            await connection.execute(f"ALTER TABLE ONLY {table} DISABLE TRIGGER {trigger}")
            self._off.append((table, _ENABLE[row["enabled"]], trigger))

    async def restore(self, connection: asyncpg.Connection) -> None:
        """Switch on again, each in its mode, what was switched off."""
        if self._off:
            await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table, enable, trigger in self._off:
            await connection.execute(f"ALTER TABLE ONLY {table} {enable} TRIGGER {trigger}")


_DEFERRED = """
SELECT c.conname AS name, n.nspname AS schema, t.relname AS table, c.contype::text AS kind,
    t.relkind = 'p' AS partitioned,
    (SELECT array_agg(a.attname::text ORDER BY k.place)
     FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
     JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number) AS columns
FROM pg_constraint c
JOIN pg_class t ON t.oid = c.conrelid
JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE c.condeferrable AND c.contype IN ('u', 'p', 'x') AND c.conrelid = ANY ($1::bigint[]::oid[])
"""


async def check_deferred(connection: asyncpg.Connection, oids: Sequence[int]) -> list[str]:
    """Check deferrable unique constraints, which rest with the triggers; return what was not.

    Raises:
        Conflict: Two rows have the same values.
    """
    notes = []
    for row in await connection.fetch(_DEFERRED, oids):
        table = TableName(row["schema"], row["table"])
        if row["kind"] == "x":
            notes.append(f"{table}: the deferrable exclusion constraint {row['name']} is unchecked")
            continue
        columns = [quoted(name) for name in row["columns"]]
        filled = " AND ".join(f"{column} IS NOT NULL" for column in columns)
        shown = ", ".join(f"{column}::text" for column in columns)
        twice = await connection.fetchrow(
            f"SELECT {shown} FROM {own_rows(table, partitioned=row['partitioned'])} WHERE {filled}"
            f" GROUP BY {', '.join(columns)} HAVING count(*) > 1 LIMIT 1"
        )
        if twice is not None:
            example = dict(zip(row["columns"], twice, strict=True))
            raise Conflict(
                "two restored rows have the same values in a unique constraint",
                constraint=row["name"],
                table=table,
                example=example,
            )
    return notes
