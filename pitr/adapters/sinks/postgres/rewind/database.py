"""Rewinds in a PostgreSQL database: connections, locks, transactions and their commits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg

from pitr.adapters.broken import broken_connections
from pitr.adapters.sinks.postgres.connection import connect, pin_settings, translated
from pitr.adapters.sinks.postgres.exclusive import exclude_others
from pitr.adapters.sinks.postgres.foreign_keys import foreign_keys
from pitr.adapters.sinks.postgres.lasting import lasting_xid
from pitr.adapters.sinks.postgres.rewind.tables import names_of
from pitr.adapters.sinks.postgres.rewind.work import Ground, RewindWork, place_of
from pitr.adapters.sinks.postgres.sink import LOCK_TIMEOUT_S
from pitr.adapters.sinks.postgres.tables import TableName, existing
from pitr.domain.errors import InvalidRequest, PitrError, Unavailable
from pitr.domain.pgoutput.model import lsn_of
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.rewind.columns import ColumnRules, Schemas, Work
from pitr.domain.rewind.ports import Committing, Rewound, Says, nobody
from pitr.domain.rewind.sight import REFERENCES_SHOWN, OnConflict, Place, Sight

OUTCOME_ATTEMPTS: Final = 20
OUTCOME_PAUSE_S: Final = 0.5
"""How often, and how long after each other, a database is asked whether it has committed."""

GIVE_WAY_S: Final = 0.8
"""Longest wait for a lock before all are let go of, and asked for anew.

Less than PostgreSQL's usual ``deadlock_timeout``: the app may hold one of the tables and wait for
another, and it is not the app's transaction that is to be cancelled for that."""

ROLLBACK_S: Final = 5
"""How long to wait for a transaction that failed to end; after that the connection is cut."""

_LSN = "SELECT pg_current_wal_insert_lsn()::text"
_AWAITED = "SELECT pg_logical_emit_message(true, 'pitr.awaited', '')"
_OUTCOME = "SELECT pg_xact_status($1::text::xid8)"


class PostgresRewind:
    """A database whose rows are taken back; only rows that differ are touched.

    Made for tables with a unique index on the key of their rows. See ``domain.rewind`` for the
    rules, ``work`` for what is done, and ``writing`` for its order.
    """

    def __init__(self, url: str, *, lock_timeout_s: int = LOCK_TIMEOUT_S) -> None:
        self._url = url
        self._lock_timeout_s = lock_timeout_s
        self._keeps = False
        self._kept: asyncpg.Connection | None = None

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keep the connection between calls meanwhile. See ``RewindSink.kept``."""
        self._keeps = True
        try:
            yield
        finally:
            self._keeps = False
            if self._kept is not None:
                self._kept.terminate()
                self._kept = None

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection without a transaction; one that was kept, if it is still good."""
        connection = await self._still_good() or await connect(self._url)
        keeps = False
        try:
            yield connection
            keeps = self._keeps and self._kept is None and not connection.is_closed()
        except Exception:
            await _let_go(connection)
            raise
        finally:
            if keeps:
                assert not connection.is_in_transaction(), "whoever begins one ends it"
                self._kept = connection
            else:
                connection.terminate()

    async def _still_good(self) -> asyncpg.Connection | None:
        """The connection that was kept, if the database still answers on it."""
        kept, self._kept = self._kept, None
        if kept is not None:
            try:
                await kept.execute("SELECT")
            except (
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,  # the server said why it ended it
                OSError,
            ):
                kept.terminate()
                return None
        return kept

    async def warm(self) -> None:
        """Let the database read its catalogs; a new connection is slow at it."""
        async with self._connected() as connection:
            with translated():
                await foreign_keys(connection, [])

    async def position(self) -> tuple[Place, int | None]:
        """Tell which database it is, and how far it is. See ``RewindSink.position``."""
        async with self._connected() as connection:
            with translated():
                place = await place_of(connection, self._url)
                try:
                    lsn = lsn_of(await connection.fetchval(_LSN))
                    await connection.execute(_AWAITED)
                except (
                    asyncpg.ObjectNotInPrerequisiteStateError,
                    asyncpg.ReadOnlySQLTransactionError,
                ):
                    return place, None  # a standby
                return place, lsn

    async def look(
        self,
        works: Sequence[Work],
        rules: ColumnRules,
        *,
        known: Mapping[str, TableSchema | None] | None = None,
        references_max: int = REFERENCES_SHOWN,
    ) -> Sight:
        """See what a rewind would find; changes nothing. See ``RewindSink.look``."""
        async with self._connected() as connection:
            with translated():
                async with _rolled_back(connection):
                    await pin_settings(connection, lock_timeout_s=self._lock_timeout_s)
                    ground = await Ground.described(connection, self._url, _schemas(works))
                    work = RewindWork.on(ground, connection, self._url, works, rules)
                    await work.stage()
                    return await work.seen(known or {}, references_max)

    @asynccontextmanager
    async def locking(self, tables: Mapping[str, Schemas]) -> AsyncIterator[_Locked]:
        """Lock tables, and describe them. See ``RewindSink.locking``."""
        async with self._connected() as connection:
            with translated():
                transaction = await self._begun(connection)
                try:
                    ground = await self.locked(connection, tables)
                except InvalidRequest:  # that may be one of which no row differs
                    ground = None
                if ground is not None:
                    await ground.quieten(connection)
                    ground.xid = await lasting_xid(connection, self._url)
            yield _Locked(self, self._url, connection, transaction, ground)
            await _given_up(connection, transaction)

    async def rewind(
        self,
        works: Sequence[Work],
        rules: ColumnRules,
        *,
        on_conflict: OnConflict,
        says: Says,
        check: Callable[[Sight], None],
        committing: Committing = nobody,
        folder: Path | None = None,
    ) -> Rewound:
        """Take the rows back, all of them or none. See ``RewindSink.rewind``."""
        async with self._connected() as connection:
            with translated():
                transaction = await self._begun(connection)
                ground = await self.locked(connection, _schemas(works))
                work = RewindWork.on(ground, connection, self._url, works, rules)
                if not work.scans:
                    check(work.sight())
                await ground.quieten(connection)
                await work.stage()
                if work.scans:
                    check(await work.scanned())
                xid, done = await work.done(on_conflict, says, committing, folder)
            await self.commit(transaction, xid)
        return done

    async def _begun(self, connection: asyncpg.Connection) -> asyncpg.transaction.Transaction:
        """Begin a transaction that no other restore runs beside."""
        transaction = connection.transaction()
        await transaction.start()
        await pin_settings(connection, lock_timeout_s=self._lock_timeout_s)
        await exclude_others(connection)
        return transaction

    async def locked(self, connection: asyncpg.Connection, tables: Mapping[str, Schemas]) -> Ground:
        """Keep other writers out of every table that matters, and describe it; readers go on.

        Raises:
            InvalidRequest: A collection cannot be a table; or one is a view, or the like.
        """
        found = await existing(connection, names_of(tables).values())
        keys = await foreign_keys(connection, [table.oid for table in found.values()])
        names = {*found, *(key.child for key in keys), *(key.parent for key in keys)}
        if names:
            await _lock(connection, sorted(names), self._lock_timeout_s)
        return await Ground.described(connection, self._url, tables)

    async def outcome(self, xid: str) -> str | None:
        """Tell what became of a transaction. See ``RewindSink.outcome``."""
        async with self._connected() as connection:
            with translated():
                try:
                    found: str | None = await connection.fetchval(_OUTCOME, xid)
                except asyncpg.InvalidParameterValueError:  # it is in the future of this database
                    return None
        return found

    async def commit(self, transaction: asyncpg.transaction.Transaction, xid: str) -> None:
        """Commit; where the connection breaks at that, ask the database what came of it."""
        try:
            with translated():
                await transaction.commit()
        except Unavailable as error:
            if await self._outcome(xid) == "committed":
                return
            raise Unavailable(
                "the connection broke before the rewind was committed",
                hint="nothing was changed; try again",
                reason=error.facts.get("reason"),
            ) from error

    async def _outcome(self, xid: str) -> str:
        for _ in range(OUTCOME_ATTEMPTS):
            try:
                async with self._connected() as connection:
                    with translated():
                        outcome = await connection.fetchval(_OUTCOME, xid)
            except PitrError:
                outcome = None
            if outcome in ("committed", "aborted"):
                return str(outcome)
            await asyncio.sleep(OUTCOME_PAUSE_S)
        raise Unavailable(
            "the connection broke at the commit, so the rewind may have succeeded",
            hint=f"ask the database: SELECT pg_xact_status('{xid}')",
        )


@dataclass(frozen=True, slots=True)
class _Locked:
    """Tables that nobody else writes to; ``ground`` is None if they could not all be described."""

    sink: PostgresRewind
    url: str
    connection: asyncpg.Connection
    transaction: asyncpg.transaction.Transaction
    ground: Ground | None

    async def look(
        self,
        works: Sequence[Work],
        rules: ColumnRules,
        *,
        known: Mapping[str, TableSchema | None] | None = None,
        references_max: int = REFERENCES_SHOWN,
    ) -> _Held:
        """See what a rewind finds. See ``LockedTables.look``."""
        with translated():
            ground = self.ground
            if ground is None:
                ground = await self.sink.locked(self.connection, _schemas(works))
                await ground.quieten(self.connection)
            work = RewindWork.on(ground, self.connection, self.url, works, rules)
            await work.stage()
            sight = await work.seen(known or {}, references_max)
        return _Held(self.sink, self.transaction, work, sight)


@dataclass(frozen=True, slots=True)
class _Held:
    """A rewind that was looked at, in the transaction that is to do it."""

    sink: PostgresRewind
    transaction: asyncpg.transaction.Transaction
    work: RewindWork
    sight: Sight

    async def rewind(
        self,
        *,
        on_conflict: OnConflict,
        says: Says,
        committing: Committing = nobody,
        folder: Path | None = None,
    ) -> Rewound:
        """Take the rows back. See ``HeldRewind.rewind``."""
        try:
            with translated():
                xid, done = await self.work.done(on_conflict, says, committing, folder)
            await self.sink.commit(self.transaction, xid)
        except Exception:
            await _let_go(self.work.connection)
            self.work.connection.terminate()  # whoever keeps it would go on in that transaction
            raise
        return done


async def _given_up(
    connection: asyncpg.Connection, transaction: asyncpg.transaction.Transaction
) -> None:
    """End the transaction, if it was not done, so that the connection can have another."""
    try:
        with translated():
            if not connection.is_closed() and connection.is_in_transaction():
                async with asyncio.timeout(ROLLBACK_S):
                    await transaction.rollback()
    except PitrError:
        connection.terminate()


async def _let_go(connection: asyncpg.Connection) -> None:
    """End the transaction, so that its locks are gone when the caller hears of what went wrong."""
    answered = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
    with suppress(*answered), broken_connections():
        if not connection.is_closed() and connection.is_in_transaction():
            async with asyncio.timeout(ROLLBACK_S):
                await connection.execute("ROLLBACK")


@asynccontextmanager
async def _rolled_back(connection: asyncpg.Connection) -> AsyncIterator[None]:
    transaction = connection.transaction(isolation="repeatable_read")
    await transaction.start()
    try:
        yield
    finally:
        if not connection.is_closed():
            await transaction.rollback()


def _schemas(works: Sequence[Work]) -> dict[str, Schemas]:
    return {work.collection: work.schemas for work in works}


async def _lock(
    connection: asyncpg.Connection, names: Sequence[TableName], timeout_s: float
) -> None:
    """Lock all of the tables, or none: one that is not free lets others have the rest meanwhile."""
    listed = ", ".join(name.quoted for name in names)
    clock = asyncio.get_running_loop()
    end = clock.time() + timeout_s
    while True:
        try:
            async with connection.transaction():
                await _wait_for_locks(connection, min(GIVE_WAY_S, timeout_s))
                await connection.execute(f"LOCK TABLE {listed} IN SHARE ROW EXCLUSIVE MODE")
                await _wait_for_locks(connection, timeout_s)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
            if clock.time() >= end:
                raise
        else:
            return


async def _wait_for_locks(connection: asyncpg.Connection, seconds: float) -> None:
    await connection.execute(f"SET LOCAL lock_timeout = {round(1_000 * seconds)}")
