"""One swap under way: what is filled, in which order, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import asyncpg

from pitr.adapters.sinks.postgres.connection import pin_settings
from pitr.adapters.sinks.postgres.foreign_keys import check_foreign_key, foreign_keys
from pitr.adapters.sinks.postgres.infer import NOTHING_KNOWN
from pitr.adapters.sinks.postgres.loading import Loader
from pitr.adapters.sinks.postgres.making import Maker, places_of
from pitr.adapters.sinks.postgres.outcome import commit
from pitr.adapters.sinks.postgres.sequences import move_sequences
from pitr.adapters.sinks.postgres.swap.dependents import NOTHING, Dependents
from pitr.adapters.sinks.postgres.swap.exchange import Exchange
from pitr.adapters.sinks.postgres.swap.names import (
    MARK,
    NEW_PREFIX,
    OLD_PREFIX,
    schema_names,
)
from pitr.adapters.sinks.postgres.swap.picture import Picture
from pitr.adapters.sinks.postgres.swap.stage import Stage, step
from pitr.adapters.sinks.postgres.swap.survey import survey
from pitr.adapters.sinks.postgres.tables import (
    JsonStrings,
    Table,
    TableName,
    described,
    existing,
    quoted,
)
from pitr.adapters.transactions import roll_back
from pitr.domain.errors import Conflict, InvalidRequest, Unavailable
from pitr.domain.ports import RestorableState

_EXISTS: Final = "SELECT to_regnamespace($1) IS NOT NULL"

LOCK_PAUSE_S: Final = 1.0
"""How long it lets the app go on before it tries again."""

STEP_LOCK_TIMEOUT_S: Final = 10
"""How long the long part waits for a lock; nobody waits behind that."""


@dataclass(kw_only=True)
class Swap:
    """One swap under way, on a connection that excludes others."""

    connection: asyncpg.Connection
    url: str
    loader: Loader
    state: RestorableState
    names: Mapping[str, TableName]
    swap_id: str
    lock_timeout_s: float
    live: tuple[Picture, ...] = ()
    depending: Dependents = NOTHING
    tables: dict[str, Table] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        """The collections that have no table yet."""
        return sorted(self.names.keys() - self.tables.keys())

    @property
    def stage(self) -> Stage:
        """Where the new tables are made."""
        return Stage(
            connection=self.connection,
            live=self.live,
            schemas=schema_names(NEW_PREFIX, self.swap_id, places(self.live)),
            lock_timeout_s=STEP_LOCK_TIMEOUT_S,
        )

    async def begin(self, *, json_strings: JsonStrings) -> None:
        """See what is there, and make the schemas for what will be.

        Raises:
            InvalidRequest: A table cannot be swapped.
            Conflict: The id is taken.
        """
        found = await existing(self.connection, self.names.values())
        for collection, name in sorted(self.names.items()):
            if name in found:
                self.tables[collection] = await described(
                    self.connection,
                    found[name],
                    json_strings=json_strings,
                    schema=self.state.schemas.get(collection),
                )
        self.live, self.depending, problems = await survey(self.connection, self.tables.values())
        if problems:
            raise InvalidRequest(
                "tables cannot be swapped as they are",
                hint="restore with --mode rewind, or drop what is named and make it again after",
                problems=problems,
            )
        for old in schema_names(OLD_PREFIX, self.swap_id, places(self.live)).values():
            if await self.connection.fetchval(_EXISTS, quoted(old)):
                raise Conflict("a swap has that id already", hint="give another", schema=old)
        for schema in self.stage.schemas.values():
            await self.connection.execute(f"CREATE SCHEMA {quoted(schema)}")
            await self.connection.execute(f"COMMENT ON SCHEMA {quoted(schema)} IS '{MARK}'")
            for owner in sorted({picture.facts["owner"] for picture in self.live}):
                grant = f"GRANT CREATE, USAGE ON SCHEMA {quoted(schema)} TO {quoted(owner)}"
                await self.connection.execute(grant)

    async def fill(self) -> None:
        """Make the new tables and fill them; the app works on with the live ones.

        Raises:
            InvalidRequest: A document does not fit its table.
            Conflict: Rows refer to rows that are not there.
        """
        stage = self.stage
        await stage.make()
        for collection, live in self.tables.items():
            table = replace(live, name=stage.new(live.name))
            rows = self.state.rows(collection, documents_only=True)
            async with step(self.connection, lock_timeout_s=STEP_LOCK_TIMEOUT_S):
                count, notes = await self.loader.fill(collection, table, rows)
            self.rows[collection] = count
            self.notes += notes
        await stage.finish()
        await self._check_keys(stage)

    async def _check_keys(self, stage: Stage) -> None:
        """Look early whether rows inside and outside the swap would fit; it is checked again."""
        live = {picture.name for picture in self.live}
        async with step(self.connection, lock_timeout_s=STEP_LOCK_TIMEOUT_S):
            keys = await foreign_keys(self.connection, [picture.oid for picture in self.live])
            for key in keys:
                if key.checkable and (key.child in live) != (key.parent in live):
                    child = stage.new(key.child) if key.child in live else key.child
                    parent = stage.new(key.parent) if key.parent in live else key.parent
                    await check_foreign_key(
                        self.connection, replace(key, child=child, parent=parent)
                    )

    async def exchange(self, *, attempts: int) -> None:
        """Put the new tables in the place of the live ones, and make what is missing.

        Raises:
            Conflict: A table was altered meanwhile, or rows refer to rows that are not there.
            Unavailable: The tables could not be locked.
        """
        transaction = self.connection.transaction()
        await transaction.start()
        await pin_settings(self.connection, lock_timeout_s=self.lock_timeout_s)
        try:
            maker = await self._make_missing()
            exchange = Exchange(
                connection=self.connection,
                swap_id=self.swap_id,
                live=self.live,
                new=self.stage.schemas,
                old=schema_names(OLD_PREFIX, self.swap_id, places(self.live)),
                lock_timeout_s=self.lock_timeout_s,
            )
            await self._locked(exchange, attempts)
            await exchange.check()
            await exchange.run()
            if maker is not None:
                await maker.relate()
            await self._move_sequences()
        except BaseException:
            if not self.connection.is_closed():
                await roll_back(self.connection, transaction)
            raise
        await commit(self.connection, transaction, self.url, what="swap")
        self._note(exchange)

    async def _locked(self, exchange: Exchange, attempts: int) -> None:
        """Take the locks, or let go of all and try again: the app must not stand still."""
        for attempt in range(1, attempts + 1):
            try:
                async with self.connection.transaction():
                    await exchange.lock()
                    return
            except asyncpg.UndefinedTableError as error:
                raise Conflict(
                    "a table was dropped or renamed meanwhile",
                    hint="nothing was changed; swap again",
                    reason=str(error),
                ) from error
            except (
                asyncpg.LockNotAvailableError,
                asyncpg.QueryCanceledError,
                asyncpg.DeadlockDetectedError,
            ) as error:
                if attempt == attempts:
                    raise Unavailable(
                        "the live tables are in use all the time, so nothing was changed",
                        hint="end long transactions (pg_stat_activity shows them), then try again",
                        attempts=attempts,
                        lock_timeout_s=self.lock_timeout_s,
                    ) from error
            await asyncio.sleep(LOCK_PAUSE_S)

    async def _make_missing(self) -> Maker | None:
        """Make and fill, as a fresh restore does, tables that are not there any more.

        It is seen by nobody before the exchange, and needs no lock on a live table.
        """
        schemas = self.state.schemas
        missing = self.missing
        maker = Maker(
            connection=self.connection,
            schemas={each: schemas[each] for each in missing if each in schemas},
            names=self.names,
            restored=places_of(self.names, schemas),
            whole=self.state.whole,
            notes=self.notes,
        )
        if maker.schemas:
            await maker.make_types()
        for collection in maker.order:
            self.tables[collection] = table = await maker.make(collection)
            rows = self.state.rows(collection, documents_only=True)
            self.rows[collection], notes = await self.loader.fill(collection, table, rows)
            self.notes += notes
            await maker.finish(collection)
        for collection in missing:
            if collection not in schemas:
                await self._invent(collection)
        return maker if maker.schemas else None

    async def _invent(self, collection: str) -> None:
        if not self.state.counts[collection]:
            self.rows[collection] = 0
            self.notes.append(f"{collection}: {NOTHING_KNOWN}")
            return
        rows = self.state.rows(collection, documents_only=True)
        made = await self.loader.make(collection, self.names[collection], rows)
        self.tables[collection], self.rows[collection], notes = made
        self.notes += notes

    async def _move_sequences(self) -> None:
        """Past the rows and to where they stood; last, as nothing undoes it."""
        found = await existing(self.connection, [table.name for table in self.tables.values()])
        now = [replace(each, oid=found[each.name].oid) for each in self.tables.values()]
        samples, whole = self.state.sequences, self.state.whole
        await move_sequences(self.connection, now, samples=samples, whole=whole)

    def _note(self, exchange: Exchange) -> None:
        if not self.live:
            return
        schemas = ", ".join(exchange.old.values())
        self.notes.append(
            f"the tables that were there are in {schemas}, with all that was written until the"
            f" exchange; pitr swapped --drop {self.swap_id} drops them"
        )
        self.notes += [f"{each.what} was said anew" for each in exchange.depending.said]


def places(live: Iterable[Picture]) -> set[str]:
    """The schemas that the live tables are in."""
    return {picture.name.schema for picture in live}
