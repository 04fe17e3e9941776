"""A rewind in a PostgreSQL database: lock, compare, write, check, move sequences, commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import asyncpg
import orjson

from pitr.adapters.broken import broken_connections
from pitr.adapters.sinks.postgres.connection import connect, pin_settings, shown, translated
from pitr.adapters.sinks.postgres.exclusive import exclude_others
from pitr.adapters.sinks.postgres.foreign_keys import ForeignKey, foreign_keys
from pitr.adapters.sinks.postgres.lasting import lasting_xid
from pitr.adapters.sinks.postgres.rewind.checks import check_deferrable, check_foreign_keys
from pitr.adapters.sinks.postgres.rewind.references import Broken
from pitr.adapters.sinks.postgres.rewind.scan import ScanStage
from pitr.adapters.sinks.postgres.rewind.stage import WANTED, Stage
from pitr.adapters.sinks.postgres.rewind.tables import RewindTable, check_rules, rewind_tables
from pitr.adapters.sinks.postgres.rewind.writing import Writing, in_order, written
from pitr.adapters.sinks.postgres.sequences import move_sequences
from pitr.adapters.sinks.postgres.sink import LOCK_TIMEOUT_S
from pitr.adapters.sinks.postgres.tables import existing, quoted, table_names
from pitr.adapters.sinks.postgres.triggers import Triggers
from pitr.domain.errors import Conflict, PitrError, Unavailable
from pitr.domain.pgoutput.model import lsn_of
from pitr.domain.pgoutput.reasons import REASON_PREFIX
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.rewind.columns import ColumnRules, Work
from pitr.domain.rewind.ports import Committing, Rewound, Says, nobody
from pitr.domain.rewind.sight import (
    CONFLICTS_MAX,
    CONFLICTS_SHOWN,
    REFERENCES_SHOWN,
    OnConflict,
    Place,
    RowConflict,
    SequenceSight,
    Sight,
    TableSight,
    Written,
)

OUTCOME_ATTEMPTS: Final = 20
OUTCOME_PAUSE_S: Final = 0.5
"""How often, and how long after each other, a database is asked whether it has committed."""

ROLLBACK_S: Final = 5
"""How long to wait for a transaction that failed to end; after that the connection is cut."""

_PLACE = """
SELECT datname::text, oid::bigint FROM pg_database WHERE datname = current_database()
"""
_SYSTEM = "SELECT system_identifier::text FROM pg_control_system()"
_LSN = "SELECT pg_current_wal_insert_lsn()::text"
_AWAITED = "SELECT pg_logical_emit_message(true, 'pitr.awaited', '')"
_OUTCOME = "SELECT pg_xact_status($1::text::xid8)"
_SAYS = "SELECT pg_logical_emit_message(true, $1, $2::text)"

_SEQUENCES = """
SELECT DISTINCT n.nspname AS schema, c.relname AS name, a.attname::text AS column,
    s.seqincrement > 0 AS ascends
FROM pg_depend d
JOIN pg_class c ON c.relkind = 'S'
 AND c.oid = CASE WHEN d.classid = 'pg_class'::regclass THEN d.objid ELSE d.refobjid END
JOIN pg_sequence s ON s.seqrelid = c.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
JOIN pg_attribute a
  ON a.attrelid = coalesce(f.adrelid, d.refobjid) AND a.attnum = coalesce(f.adnum, d.refobjsubid)
WHERE a.attrelid = $1::bigint::oid AND a.attgenerated = ''
  AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype)
  AND (d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
       OR d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
       AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0)
ORDER BY schema, name
"""


class PostgresRewind:
    """A database whose rows are taken back; only rows that differ are touched.

    Made for tables with a unique index on the key of their rows. See ``domain.rewind`` for the
    rules and ``rewind_writing`` for the order.
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
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                kept.terminate()
                return None
        return kept

    async def position(self) -> tuple[Place, int | None]:
        """Tell which database it is, and how far it is. See ``RewindSink.position``."""
        async with self._connected() as connection:
            with translated():
                place = await _place(connection, self._url)
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
                    rewind = await _Rewind.begun(connection, self._url, works, rules)
                    await rewind.stage()
                    return await rewind.seen(known or {}, references_max)

    @asynccontextmanager
    async def holding(
        self,
        works: Sequence[Work],
        rules: ColumnRules,
        *,
        known: Mapping[str, TableSchema | None] | None = None,
        references_max: int = REFERENCES_SHOWN,
    ) -> AsyncIterator[_Held]:
        """Look under the locks that it writes under. See ``RewindSink.holding``."""
        async with self._connected() as connection:
            with translated():
                transaction, rewind = await self._locked(connection, works, rules)
                await rewind.stage()
                sight = await rewind.seen(known or {}, references_max)
            yield _Held(self, transaction, rewind, sight)
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
                transaction, rewind = await self._locked(connection, works, rules)
                if not rewind.scans:
                    check(rewind.sight())
                await rewind.quieten()
                await rewind.stage()
                if rewind.scans:
                    check(await rewind.scanned())
                xid, done = await rewind.done(on_conflict, says, committing, folder)
            await self.commit(transaction, xid)
        return done

    async def _locked(
        self, connection: asyncpg.Connection, works: Sequence[Work], rules: ColumnRules
    ) -> tuple[asyncpg.transaction.Transaction, _Rewind]:
        """Begin a transaction that nobody writes beside."""
        transaction = connection.transaction()
        await transaction.start()
        await pin_settings(connection, lock_timeout_s=self._lock_timeout_s)
        await exclude_others(connection)
        await _lock(connection, works)
        return transaction, await _Rewind.begun(connection, self._url, works, rules)

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
class _Held:
    """A rewind that was looked at, in the transaction that is to do it."""

    sink: PostgresRewind
    transaction: asyncpg.transaction.Transaction
    work: _Rewind
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
                await self.work.quieten()
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


async def _lock(connection: asyncpg.Connection, works: Sequence[Work]) -> None:
    """Keep other writers out of every table that matters; readers go on."""
    known = {}
    for work in works:
        schema = work.schema_now or work.schema_then
        if schema is not None:
            known[work.collection] = schema
    names = table_names([work.collection for work in works], {}, known)
    found = await existing(connection, names.values())
    oids = [table.oid for table in found.values()]
    keys = await foreign_keys(connection, oids)
    for name in sorted({*found, *(key.child for key in keys), *(key.parent for key in keys)}):
        await connection.execute(f"LOCK TABLE {name.quoted} IN SHARE ROW EXCLUSIVE MODE")


@dataclass(kw_only=True)
class _Rewind:
    """One rewind under way, inside its transaction."""

    connection: asyncpg.Connection
    url: str
    place: Place
    rules: ColumnRules
    tables: list[RewindTable]
    keys: tuple[ForeignKey, ...]
    triggers: Triggers = field(default_factory=Triggers)

    @classmethod
    async def begun(
        cls,
        connection: asyncpg.Connection,
        url: str,
        works: Sequence[Work],
        rules: ColumnRules,
    ) -> _Rewind:
        """Describe what it is about."""
        tables = await rewind_tables(connection, works, rules)
        oids = [oid for table in tables for oid in table.oids]
        keys = await foreign_keys(connection, oids)
        return cls(
            connection=connection,
            url=url,
            place=await _place(connection, url),
            rules=rules,
            tables=in_order(tables, keys),
            keys=keys,
        )

    @property
    def oids(self) -> list[int]:
        """The tables, and their partitions."""
        return [oid for table in self.tables for oid in table.oids]

    @property
    def stages(self) -> list[Stage]:
        """The temporary tables of each table."""
        return [
            (Stage if table.work.scanned is None else ScanStage)(self.connection, table)
            for table in self.tables
        ]

    @property
    def scans(self) -> list[ScanStage]:
        """Those of tables that are compared as a whole."""
        return [stage for stage in self.stages if isinstance(stage, ScanStage)]

    def sight(self) -> Sight:
        """What is seen before any row is looked at."""
        return Sight(
            place=self.place,
            tables=tuple(
                TableSight(
                    collection=table.collection, table=str(table.name), columns=table.columns
                )
                for table in self.tables
            ),
        )

    async def scanned(self) -> Sight:
        """What is seen once tables were compared as a whole."""
        found = {stage.table.collection: await stage.sight() for stage in self.scans}
        sight = self.sight()
        tables = [replace(each, scan=found.get(each.collection)) for each in sight.tables]
        return replace(sight, tables=tuple(tables))

    async def keep_found(self, folder: Path) -> dict[str, Path]:
        """Write down what was there before, of tables that were compared as a whole."""
        return {stage.table.collection: await stage.keep_found(folder) for stage in self.scans}

    async def stage(self) -> None:
        """Load the rows, and compare them with those there are."""
        for stage in self.stages:
            await stage.load(drop_gone=self.rules.gone == "drop")
            await stage.compare()

    async def quieten(self) -> None:
        """Keep triggers from firing; refuse rules, which cannot be kept from it."""
        await self.triggers.silence(self.connection, self.oids)
        await check_rules(self.connection, self.oids, replica=self.triggers.replica)

    async def done(
        self, on_conflict: OnConflict, says: Says, committing: Committing, folder: Path | None
    ) -> tuple[str, Rewound]:
        """Write what was staged; return the transaction's id, and what it is about to commit."""
        conflicts = await self.settle(on_conflict)
        await self.say(says)
        done = replace(await self.run(), conflicts=tuple(conflicts))
        if folder is not None:
            done = replace(done, found=await self.keep_found(folder))
        xid = await lasting_xid(self.connection, self.url)
        await committing(xid, done)
        return xid, done

    async def seen(self, known: Mapping[str, TableSchema | None], references_max: int) -> Sight:
        """What a plan shows; ``known`` are the collections of the log."""
        conflicts: list[RowConflict] = []
        counts, settled = {}, {}
        sequences: list[SequenceSight] = []
        for stage in self.stages:
            conflicts += await stage.conflicts(CONFLICTS_SHOWN)
            counts[stage.table.collection] = await stage.conflict_count()
            settled[stage.table.collection] = await stage.settled_count()
            sequences += await _sequences(self.connection, stage.table)
        sight = replace(
            await self.scanned(),
            conflicts=tuple(conflicts),
            conflict_counts={name: count for name, count in counts.items() if count},
            settled={name: count for name, count in settled.items() if count},
            sequences=tuple(sequences),
        )
        broken = Broken(self.connection, self.tables, self.keys, references_max)
        return await broken.added_to(sight, known)

    async def settle(self, on_conflict: OnConflict) -> list[RowConflict]:
        """Deal with rows that are not what the log says; return them.

        Raises:
            Conflict: There are some, and they are to be refused; or too many.
        """
        counts = {stage.table.collection: await stage.conflict_count() for stage in self.stages}
        total = sum(counts.values())
        if not total:
            return []
        limit = CONFLICTS_SHOWN if on_conflict == "refuse" else CONFLICTS_MAX
        found: list[RowConflict] = []
        for stage in self.stages:
            found += await stage.conflicts(limit, with_live=on_conflict == "overwrite")
        if on_conflict == "refuse" or total > CONFLICTS_MAX:
            message = (
                "rows are not what the log says they are"
                if on_conflict == "refuse"
                else "too many rows are not what the log says they are"
            )
            raise Conflict(
                message,
                hint="wait until the log has caught up, or say --on-conflict overwrite or skip",
                conflicts=total,
                examples=[_named(each) for each in found[:CONFLICTS_SHOWN]],
            )
        if on_conflict == "skip":
            for stage in self.stages:
                await stage.skip_conflicts()
        return found

    async def say(self, says: Says) -> None:
        """Tell whoever captures the database whose changes these are."""
        content = {"reason": says.reason, "actor": says.actor}
        body = orjson.dumps({name: text for name, text in content.items() if text is not None})
        await self.connection.execute(_SAYS, REASON_PREFIX, body.decode())

    async def run(self) -> Rewound:
        """Write, and check what was written; sequences go last, as they do not move back."""
        counts = {stage.table.number: await stage.decide() for stage in self.stages}
        settled, settled_rows = {}, list[tuple[str, str]]()
        for stage in self.stages:
            settled[stage.table.collection] = await stage.settled_count()
            settled_rows += await stage.settled_rows(CONFLICTS_MAX)
        writing = Writing(
            connection=self.connection, tables=self.tables, keys=self.keys, counts=counts
        )
        await writing.run(replica=self.triggers.replica)
        notes = await self._check()
        done: dict[str, Written] = {
            table.collection: await written(self.connection, table, counts[table.number])
            for table in self.tables
        }
        await self.triggers.restore(self.connection)
        await move_sequences(
            self.connection,
            [replace(each.now, name=each.temporary(WANTED)) for each in self.tables],
        )
        return Rewound(
            written=done,
            settled={name: count for name, count in settled.items() if count},
            settled_rows=tuple(settled_rows),
            notes=tuple(notes),
        )

    async def _check(self) -> list[str]:
        """Check what rested together with the triggers."""
        if not self.triggers.replica:
            await self.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            return []
        notes = await check_foreign_keys(self.connection, self.tables, self.keys)
        return notes + await check_deferrable(self.connection, self.tables)


async def _place(connection: asyncpg.Connection, url: str) -> Place:
    database, oid = await connection.fetchrow(_PLACE)
    try:
        async with connection.transaction():
            system = await connection.fetchval(_SYSTEM)
    except asyncpg.InsufficientPrivilegeError:
        system = None
    return Place(url=shown(url), system=system, database=database, database_oid=oid)


async def _sequences(connection: asyncpg.Connection, table: RewindTable) -> list[SequenceSight]:
    """The sequences that a rewind would move, and to what."""
    found = []
    for row in await connection.fetch(_SEQUENCES, table.oids[0]):
        furthest, past = ("max", ">") if row["ascends"] else ("min", "<")
        sequence = f"{quoted(row['schema'])}.{quoted(row['name'])}"
        column = quoted(row["column"])
        to = await connection.fetchval(
            f"SELECT reached.value FROM (SELECT {furthest}({column})::bigint AS value"
            f" FROM {table.temporary(WANTED).quoted}) AS reached, {sequence} AS now"
            f" WHERE reached.value {past} now.last_value"
            f" OR reached.value = now.last_value AND NOT now.is_called"
        )
        if to is not None:
            found.append(
                SequenceSight(
                    sequence=f"{row['schema']}.{row['name']}",
                    table=str(table.name),
                    column=row["column"],
                    to=to,
                )
            )
    return found


def _named(conflict: RowConflict) -> str:
    columns = f" ({', '.join(conflict.columns)})" if conflict.columns else ""
    return f"{conflict.collection} {conflict.key} {conflict.kind}{columns}"
