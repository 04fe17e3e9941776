"""What swaps leave behind: old tables until somebody drops them, new ones where a swap died."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import orjson

from pitr.adapters.sinks.postgres.connection import connected, pin_settings, translated
from pitr.adapters.sinks.postgres.exclusive import exclude_others
from pitr.adapters.sinks.postgres.swap.names import MARK, NEW_PREFIX, OLD_PREFIX, checked_id
from pitr.adapters.sinks.postgres.tables import TableName, quoted
from pitr.domain.errors import Conflict, NotFound

LOCK_TIMEOUT_S: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class OldTables:
    """The tables that one swap replaced.

    ``at`` is when, RFC 3339; ``tables`` the live name of each and where the old one is;
    ``size_bytes`` what dropping them frees.
    """

    swap_id: str
    at: str
    tables: Mapping[str, str]
    size_bytes: int


_MARKED: Final = """
SELECT n.nspname::text AS name, obj_description(n.oid, 'pg_namespace') AS comment,
    coalesce((SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c
              WHERE c.relnamespace = n.oid AND c.relkind = 'r'), 0)::bigint AS size_bytes,
    ARRAY(SELECT c.relname::text FROM pg_class c
          WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'p') ORDER BY 1) AS tables
FROM pg_namespace n
WHERE starts_with(n.nspname, $1)
  AND starts_with(coalesce(obj_description(n.oid, 'pg_namespace'), ''), $2)
ORDER BY n.nspname
"""


async def list_old(url: str) -> tuple[OldTables, ...]:
    """List the tables that swaps replaced and nobody dropped yet, oldest first.

    Raises:
        Unavailable: The database did not answer.
    """
    async with connected(url) as connection:
        with translated():
            rows = await connection.fetch(_MARKED, OLD_PREFIX, MARK)
    found: dict[str, OldTables] = {}
    for row in rows:
        said = _said(row)
        tables = {
            str(TableName(said["schema"], table)): str(TableName(row["name"], table))
            for table in row["tables"]
        }
        known = found.get(said["id"])
        found[said["id"]] = OldTables(
            swap_id=said["id"],
            at=said["at"],
            tables={**(known.tables if known else {}), **tables},
            size_bytes=row["size_bytes"] + (known.size_bytes if known else 0),
        )
    return tuple(sorted(found.values(), key=lambda each: (each.at, each.swap_id)))


async def drop_old(url: str, swap_id: str) -> tuple[str, ...]:
    """Drop the tables that a swap replaced; return where they were.

    Raises:
        NotFound: There are none of that swap.
        Conflict: Something else was made that depends on them, or a restore runs.
        Unavailable: The database did not answer, or somebody reads them.
    """
    checked_id(swap_id)
    async with connected(url) as connection:
        with translated():
            async with connection.transaction():
                await pin_settings(connection, lock_timeout_s=LOCK_TIMEOUT_S)
                await exclude_others(connection)
                rows = await connection.fetch(_MARKED, OLD_PREFIX, MARK)
                wanted = [row for row in rows if _said(row)["id"] == swap_id]
                if not wanted:
                    ids = sorted({_said(row)["id"] for row in rows})
                    hint = f"there are those of {', '.join(ids)}" if ids else "there are none"
                    raise NotFound("that swap left no old tables", hint=hint, id=swap_id)
                return await _dropped(connection, wanted)


async def _dropped(connection: asyncpg.Connection, rows: list[asyncpg.Record]) -> tuple[str, ...]:
    tables = [TableName(row["name"], table) for row in rows for table in row["tables"]]
    listed = ", ".join(table.quoted for table in tables)
    schemas = ", ".join(quoted(row["name"]) for row in rows)
    try:
        # RESTRICT: what somebody hung on to them is not ours to drop.
        if tables:
            await connection.execute(f"DROP TABLE {listed}")
        await connection.execute(f"DROP SCHEMA {schemas}")
    except asyncpg.DependentObjectsStillExistError as error:
        raise Conflict(
            "something else depends on the old tables",
            hint="drop that first",
            detail=error.detail or str(error),
        ) from error
    return tuple(map(str, tables))


async def drop_unfinished(connection: asyncpg.Connection) -> None:
    """Drop what a swap that died has left; no other may run meanwhile."""
    for row in await connection.fetch(_MARKED, NEW_PREFIX, MARK):
        await connection.execute(f"DROP SCHEMA {quoted(row['name'])} CASCADE")


def _said(row: asyncpg.Record) -> dict[str, Any]:
    said: dict[str, Any] = orjson.loads(row["comment"].removeprefix(f"{MARK}: "))
    return said
