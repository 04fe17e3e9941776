"""An attached database as following needs it: its slot, its stream, its tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import orjson

from pitr.adapters.postgres.chunks import current_snapshot, emit, new_xid, read_chunk
from pitr.adapters.postgres.estimates import estimated_rows
from pitr.adapters.postgres.frozen import FrozenDatabase, frozen
from pitr.adapters.postgres.replication import ReplicationStream
from pitr.adapters.postgres.schemas import read_locked
from pitr.adapters.postgres.source import SourceDatabase
from pitr.adapters.postgres.tables import NOT_OF_SWAPS
from pitr.domain.errors import InvalidRequest, Unavailable
from pitr.domain.log import Source
from pitr.domain.pgoutput.copying import Chunk, Resume, Snapshot
from pitr.domain.pgoutput.messages import RawRelation
from pitr.domain.pgoutput.model import Relation, lsn_of
from pitr.domain.pgoutput.ports import Cluster, Stream
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.pgoutput.source import SequenceValue, SlotState
from pitr.domain.pgoutput.sql import qualified
from pitr.domain.reconcile import CapturedTable

_PUBLISHED: Final = f"""
SELECT c.oid::bigint AS relid, n.nspname::text AS schema, c.relname::text AS name,
       to_jsonb(p)->'attnames' AS columns
FROM pg_publication_tables p
JOIN pg_namespace n ON n.nspname = p.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
WHERE p.pubname = ANY ($1::text[]) AND {NOT_OF_SWAPS}
"""
"""Servers before 15 publish all columns, and have no ``attnames``."""

# A filter counts only where every publication of the table has one. Servers before 15 have none.
_CAPTURED: Final = f"""
SELECT c.oid::bigint AS relid, n.nspname::text AS schema, c.relname::text AS name,
       bool_or(p.pubupdate) AND bool_or(p.pubdelete) AS whole,
       bool_and(to_jsonb(t)->>'rowfilter' IS NOT NULL) AS filtered
FROM pg_publication_tables t
JOIN pg_publication p ON p.pubname = t.pubname
JOIN pg_namespace n ON n.nspname = t.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
WHERE t.pubname = ANY ($1::text[]) AND {NOT_OF_SWAPS}
GROUP BY c.oid, n.nspname, c.relname
ORDER BY n.nspname, c.relname
"""

_GONE: Final = """
SELECT wanted.name FROM unnest($1::text[]) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM pg_publication p WHERE p.pubname = wanted.name)
ORDER BY wanted.name
"""

_EMIT: Final = "SELECT pg_logical_emit_message(true, $1, $2::bytea)"

_WAL_END: Final = """
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us,
       (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
             ELSE pg_current_wal_flush_lsn() END)::text AS lsn
"""
"""The time first: what is committed after it may be in the WAL or not."""

_DROP_SLOT: Final = """
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
WHERE slot_name = $1 AND active_pid IS NULL
"""


class AttachedDatabase:
    """The database behind a source of a log. Connections are made when they are needed."""

    def __init__(self, source: Source, *, url: str) -> None:
        self._source = source
        self._url = url
        # Tables of which only inserts are captured are in a publication of their own.
        given = source.options.get("publications") or (source.publication,)
        self._publications: tuple[str, ...] = tuple(given)
        self._generated = bool(source.options.get("generated"))
        self._database: SourceDatabase | None = None

    async def _asked(self) -> SourceDatabase:
        if self._database is None:
            self._database = await SourceDatabase.open(self._url)
        return self._database

    async def cluster(self) -> Cluster:
        """Return which cluster it is."""
        async with await self._opened(0) as stream:
            system = await stream.identify()
            ancestors = await stream.timeline_history(system.timeline)
        return Cluster(
            system=system.identifier,
            timeline=system.timeline,
            lsn=system.lsn,
            ancestors=tuple(ancestors),
        )

    async def slot(self) -> SlotState | None:
        """Return how its slot stands; None if there is none."""
        return await (await self._asked()).slot(self._source.slot)

    async def wal_end(self) -> tuple[int, int]:
        """Return how far the durable WAL goes, and the time on the source's clock, µs."""
        async with (await self._asked()).pool.connection() as connection:
            row = await connection.fetchrow(_WAL_END)
        return lsn_of(row["lsn"]), row["now_us"]

    async def make_slot(self) -> int:
        """Make the slot anew; return the position from which it has every change.

        Raises:
            Unavailable: Another consumer has the old one.
            InvalidRequest: A publication is gone: it has to be older than the slot.
        """
        name = self._source.slot
        async with (await self._asked()).pool.connection() as connection:
            await self._check_publications(connection)
            await connection.execute(_DROP_SLOT, name)
        if (await self.slot()) is not None:
            raise Unavailable("the replication slot is in use", slot=name)
        async with await self._opened(0) as stream:
            failover = bool(self._source.options.get("failover"))
            lsn, _ = await stream.create_slot(name, failover=failover)
        return lsn

    @asynccontextmanager
    async def stream(self, lsn: int) -> AsyncIterator[Stream]:
        """Stream what was committed from ``lsn`` on.

        Raises:
            SlotLost: The slot cannot go on from there.
            InvalidRequest: A publication is gone.
        """
        async with (await self._asked()).pool.connection() as connection:
            await self._check_publications(connection)
        async with await self._opened(lsn) as stream:
            await stream.start()
            yield stream

    async def _opened(self, lsn: int) -> ReplicationStream:
        return await ReplicationStream.open(
            self._url, slot=self._source.slot, publication=self._publications, lsn=lsn
        )

    async def _check_publications(self, connection: Any) -> None:
        if gone := [row[0] for row in await connection.fetch(_GONE, self._publications)]:
            name, url = self._source.name, self._source.url
            raise InvalidRequest(
                "a publication that attaching made is gone",
                hint=f"make it again: pitr attach {url} --name {name}",
                publication=", ".join(gone),
            )

    async def schemas(self, relids: Sequence[int] | None = None) -> Mapping[int, TableSchema]:
        """Return tables that are captured, all or some, by relid, as they are now."""
        published = await self._published()
        wanted = [relid for relid in published if relids is None or relid in relids]
        return (await (await self._asked()).schemas(wanted)).tables

    async def look(self, name: str) -> Mapping[int, TableSchema]:
        """Return the tables that are captured, as they are where a message comes in the stream.

        Raises:
            InvalidRequest: A publication is gone. It does not mean that its tables are.
        """
        async with (await self._asked()).pool.transaction() as connection:
            await self._check_publications(connection)
            published = await connection.fetch(_PUBLISHED, self._publications)
            tables = [(row["relid"], qualified(row["schema"], row["name"])) for row in published]
            found = await read_locked(connection, tables)
            await connection.execute("SET LOCAL synchronous_commit = local")
            await connection.execute(_EMIT, "pitr.schema", name.encode())
        return found.tables

    async def sequences(self) -> Sequence[SequenceValue]:
        """Return what the app's sequences stand at."""
        return await (await self._asked()).sequences()

    async def estimated_rows(self, relids: Sequence[int]) -> Mapping[int, int]:
        """Return about how many rows tables have, by relid; those not known are left out."""
        async with (await self._asked()).pool.connection() as connection:
            return await estimated_rows(connection, relids)

    async def _published(self) -> dict[int, list[str] | None]:
        async with (await self._asked()).pool.connection() as connection:
            found = await connection.fetch(_PUBLISHED, self._publications)
        return {row["relid"]: row["columns"] and orjson.loads(row["columns"]) for row in found}

    async def relation(self, raw: RawRelation) -> Relation:
        """Return what a relation message describes, with the form of each column."""
        return await (await self._asked()).relation(raw)

    async def relation_of(self, schema: TableSchema) -> Relation:
        """Return a table as the stream would describe it."""
        columns = (await self._published()).get(schema.relid)
        relation = await (await self._asked()).relation_of(
            schema, chosen=columns, generated=self._generated
        )
        if self._generated and _is_keyed_by_row(schema):
            return replace(relation, key=tuple(column.name for column in relation.columns))
        return relation

    async def chunk(self, relation: Relation, *, after: Resume | None, rows_max: int) -> Chunk:
        """Read the next rows of a table with a snapshot of their own."""
        async with (await self._asked()).pool.connection() as connection:
            return await read_chunk(connection, relation, after=after, rows_max=rows_max)

    async def snapshot(self) -> Snapshot:
        """Return what a chunk would see that was read now."""
        async with (await self._asked()).pool.connection() as connection:
            return await current_snapshot(connection)

    async def new_xid(self) -> int:
        """Give out a transaction number, lower 32 bits."""
        async with (await self._asked()).pool.connection() as connection:
            return await new_xid(connection)

    async def emit(self, kind: str, content: bytes) -> None:
        """Write a message of pitr's own into the stream."""
        async with (await self._asked()).pool.connection() as connection:
            await emit(connection, kind, content)

    async def captured(self) -> tuple[CapturedTable, ...]:
        """Return the tables that are captured now, by name.

        Raises:
            InvalidRequest: A publication is gone.
        """
        async with (await self._asked()).pool.connection() as connection:
            await self._check_publications(connection)
            found = await connection.fetch(_CAPTURED, self._publications)
        return tuple(CapturedTable(**row) for row in found)

    @asynccontextmanager
    async def frozen(self, slot: str, *, wait_s: float) -> AsyncIterator[FrozenDatabase]:
        """Hold the database as it is at one position; see ``adapters.postgres.frozen``."""
        pool = (await self._asked()).pool
        async with frozen(self._url, slot=slot, pool=pool, wait_s=wait_s) as found:
            yield found

    async def close(self) -> None:
        """Let go of all connections."""
        if self._database is not None:
            await self._database.close()
            self._database = None


def _is_keyed_by_row(schema: TableSchema) -> bool:
    """Whether a row's key is all that is published of it."""
    if schema.identity in ("d", "i") and schema.identity_columns:
        return False
    return schema.primary_key is None or schema.primary_key.deferrable
