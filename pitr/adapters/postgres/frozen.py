"""An attached database as it is at one exact position of its WAL.

Source: PostgreSQL documentation, "Streaming Replication Protocol" (CREATE_REPLICATION_SLOT with an
exported snapshot), "SET TRANSACTION", "Snapshot Synchronization Functions", "LOCK". A snapshot
exported at a slot's consistent point shows exactly the transactions whose commit record begins
before that point, whatever the order in which others see them (``snapbuild.c``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from pitr.adapters.postgres.connection import CONNECT_TIMEOUT_S, PINNED, translated
from pitr.adapters.postgres.replication import ReplicationStream
from pitr.adapters.transactions import roll_back
from pitr.domain.errors import Conflict, NotFound, Unavailable
from pitr.domain.pgoutput.copying import CHUNK_BYTES
from pitr.domain.pgoutput.model import Relation
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.pgoutput.sql import identifier, literal, qualified

SETTINGS: Final = {**PINNED, "idle_in_transaction_session_timeout": "10min"}

CLOSE_TIMEOUT_S: Final = 5.0

_NO_TIME_OUT: Final = """
SELECT set_config(name, '0', false) FROM pg_settings
WHERE name IN ('statement_timeout', 'transaction_timeout')
"""

_NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

# Ordinary queries of catalogs see them as their snapshot does, unlike functions such as
# pg_relation_filenode: what differs between two snapshots was altered, or written anew, in between.
_SHAPE: Final = """
WITH RECURSIVE tree (relid) AS (
    SELECT $1::bigint::oid
    UNION
    SELECT i.inhrelid FROM pg_inherits i
    JOIN tree t ON t.relid = i.inhparent
    JOIN pg_class parent ON parent.oid = i.inhparent AND parent.relkind = 'p'
)
SELECT c.oid::bigint AS relid, n.nspname::text AS schema, c.relname::text AS name,
       c.relkind::text AS kind, c.relfilenode::bigint AS file,
       ARRAY(SELECT format('%s %s %s %s', a.attnum, a.atttypid, a.atttypmod, a.attname)
             FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum) AS columns
FROM tree t JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY c.oid
"""

_KINDS: Final = {"r": "ONLY ", "p": ""}
"""What may be read, and how: rows of partitions are its own, those of tables that inherit not."""

Take = Callable[[bytes], Awaitable[None]]


class FrozenDatabase:
    """A database as the snapshot of a transaction shows it: what was committed before ``lsn``.

    ``at_us`` is the time on the source's clock then; ``system`` names the cluster.
    """

    def __init__(
        self, connection: asyncpg.Connection[Any], *, lsn: int, at_us: int, system: str, pool: Any
    ) -> None:
        self._connection = connection
        self._pool = pool
        self.lsn = lsn
        self.at_us = at_us
        self.system = system

    @asynccontextmanager
    async def locked(self, schema: TableSchema) -> AsyncIterator[None]:
        """Keep a table as it is at the position meanwhile: nobody alters it or writes it anew.

        The lock is that of any query, and is let go of at the end. Nothing that locks tables may
        be asked of other connections meanwhile: it would wait for whoever waits for us.

        Args:
            schema: The table as it was just now.

        Raises:
            NotFound: It was not there.
            Conflict: It is another table by now than it was at the position, or may not be read.
        """
        with translated():
            savepoint = self._connection.transaction()
            await savepoint.start()
            try:
                await self._lock(schema)
                await self._check_same(schema)
                yield
                await self._check_same(schema)
            except (Conflict, NotFound):
                await roll_back(self._connection, savepoint)
                raise
            await savepoint.rollback()  # lets go of the lock; other errors end the connection

    async def _lock(self, schema: TableSchema) -> None:
        table, quoted = schema.collection, qualified(schema.schema, schema.name)
        try:
            await self._connection.execute(f"LOCK TABLE {quoted} IN ACCESS SHARE MODE")
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            raise Conflict("somebody holds a lock on the table", table=table) from error
        except asyncpg.InsufficientPrivilegeError as error:
            raise Conflict("the table may not be read", table=table, reason=error) from error
        except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError) as error:
            raise Conflict("the table is gone", table=table) from error

    async def _check_same(self, schema: TableSchema) -> None:
        relid, table = schema.relid, schema.collection
        then = await self._connection.fetch(_SHAPE, relid)
        async with self._pool.connection() as connection:
            now = await connection.fetch(_SHAPE, relid)
        if not then:
            raise NotFound("the table was not there yet", table=table)
        root = next(row for row in then if row["relid"] == relid)
        columns = [
            f"{column.number} {column.type_oid} {column.typmod} {column.name}"
            for column in schema.columns
        ]
        if then != now or root["columns"] != columns:
            raise Conflict("the table was altered or written anew just now", table=table)

    async def read(self, relation: Relation, take: Take) -> None:
        """Read all rows of a table that is ``locked``: whole rows in COPY's text format.

        ``take`` gets some ``CHUNK_BYTES`` at a time; the server waits for it.

        Raises:
            Conflict: It may not be read, or is none that is captured.
        """
        pieces: list[bytes] = []
        size_bytes = 0

        async def output(piece: bytes) -> None:
            nonlocal size_bytes
            pieces.append(piece)
            size_bytes += len(piece)
            if size_bytes >= CHUNK_BYTES and b"\n" in piece:
                data = b"".join(pieces)
                end = data.rfind(b"\n") + 1
                pieces[:] = [data[end:]]
                size_bytes = len(data) - end
                await take(data[:end])

        with translated():
            query = await self._query(relation)
            try:
                await self._connection.copy_from_query(query, output=output)
            except asyncpg.InsufficientPrivilegeError as error:
                table = relation.collection
                raise Conflict("the table may not be read", table=table, reason=error) from error
        if size_bytes:
            await take(b"".join(pieces))

    async def _query(self, relation: Relation) -> str:
        found = await self._connection.fetch(_SHAPE, relation.relid)
        kind = next((row["kind"] for row in found if row["relid"] == relation.relid), None)
        if kind not in _KINDS:
            raise Conflict("this is no table that is captured", table=relation.collection)
        columns = ", ".join(identifier(column.name) for column in relation.columns)
        return f"SELECT {columns} FROM {_KINDS[kind]}{qualified(relation.schema, relation.name)}"


@asynccontextmanager
async def frozen(url: str, *, slot: str, pool: Any, wait_s: float) -> AsyncIterator[FrozenDatabase]:
    """Take a snapshot at an exact position, and hold it meanwhile.

    A temporary slot is made for that, which takes one of ``max_replication_slots`` for a moment.

    Args:
        slot: A name for it that nobody has.
        pool: For questions about the database as it is now.
        wait_s: Longest wait for transactions that are under way: the slot waits for those.

    Raises:
        InvalidRequest: There is no free slot, or the role may not replicate.
        Unavailable: The source does not answer, or its transactions last too long.
    """
    with translated():
        connection = await asyncpg.connect(
            url, timeout=CONNECT_TIMEOUT_S, command_timeout=None, server_settings=SETTINGS
        )
    try:
        # The snapshot is there until the next command, or the end, of the connection it came by.
        async with await ReplicationStream.open(url, slot=slot, publication=()) as stream:
            system = await stream.identify()
            lsn, snapshot = await _position(stream, slot, wait_s)
            with translated():
                await connection.fetch(_NO_TIME_OUT)
                await connection.transaction(isolation="repeatable_read", readonly=True).start()
                await connection.execute(f"SET TRANSACTION SNAPSHOT {literal(snapshot)}")
                at_us = await connection.fetchval(_NOW)
        yield FrozenDatabase(connection, lsn=lsn, at_us=at_us, system=system.identifier, pool=pool)
    except BaseException:
        connection.terminate()
        raise
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        await connection.close(timeout=CLOSE_TIMEOUT_S)


async def _position(stream: ReplicationStream, slot: str, wait_s: float) -> tuple[int, str]:
    try:
        async with asyncio.timeout(wait_s):
            lsn, snapshot = await stream.create_slot(slot, temporary=True, snapshot="export")
    except TimeoutError as error:
        raise Unavailable(
            "the source has transactions that do not end, and a snapshot waits for them",
            hint="end them (pg_stat_activity names them), or wait longer: --wait-timeout",
            waited_s=wait_s,
        ) from error
    assert snapshot is not None, "it was asked for"
    return lsn, snapshot
