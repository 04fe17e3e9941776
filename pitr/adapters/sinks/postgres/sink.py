"""Restoring into a PostgreSQL database: lock, empty, load, check, move sequences, commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncpg

from pitr.adapters.sinks.postgres.attempts import attempted
from pitr.adapters.sinks.postgres.connection import connected, pin_settings, shown, translated
from pitr.adapters.sinks.postgres.exclusive import exclude_others
from pitr.adapters.sinks.postgres.foreign_keys import (
    ForeignKey,
    check_foreign_key,
    foreign_keys,
    parents_first,
)
from pitr.adapters.sinks.postgres.infer import NOTHING_KNOWN
from pitr.adapters.sinks.postgres.loading import Loader
from pitr.adapters.sinks.postgres.looking import Looking
from pitr.adapters.sinks.postgres.making import Maker, places_of
from pitr.adapters.sinks.postgres.outcome import commit
from pitr.adapters.sinks.postgres.sequences import move_sequences
from pitr.adapters.sinks.postgres.tables import (
    JsonStrings,
    Table,
    TableName,
    described,
    existing,
    own_rows,
    relations,
    table_names,
)
from pitr.adapters.sinks.postgres.triggers import Triggers, check_deferred
from pitr.domain.errors import Conflict, SinkNotEmpty
from pitr.domain.outlook import Outline, Outlook
from pitr.domain.ports import Progress, RestorableState, SinkReport

LOCK_TIMEOUT_S: Final = 10
"""How long to wait for each table that somebody else has locked, unless told otherwise."""

ANALYZE_TIMEOUT_S: Final = 60
"""How long to gather statistics of a table after the commit; it can be done at any time."""


class PostgresSink:
    """A database whose tables are filled, or made, in one transaction.

    ``force`` replaces the rows of tables that have some; other tables are never touched.
    ``drop_unknown`` leaves out members that have no column. ``names`` says which
    ``schema.table`` a collection goes to where its name does not. ``json_strings`` says what a
    string in a JSON column is. Type by type: ``docs/restore-postgres.md``.
    """

    def __init__(
        self,
        url: str,
        *,
        force: bool = False,
        drop_unknown: bool = False,
        names: Mapping[str, str] | None = None,
        json_strings: JsonStrings = "auto",
        lock_timeout_s: int = LOCK_TIMEOUT_S,
        temporary_folder: Path | None = None,
    ) -> None:
        self._url = url
        self._force = force
        self._drop_unknown = drop_unknown
        self._names = names or {}
        self._json_strings = json_strings
        self._lock_timeout_s = lock_timeout_s
        self._temporary_folder = temporary_folder

    async def look(self, outline: Outline) -> Outlook:
        """Say what a restore of such a state would find and do; changes nothing.

        Raises:
            InvalidRequest: The database refuses the user.
            Unavailable: The database did not answer.
        """
        async with connected(self._url) as connection:
            with translated():
                async with connection.transaction(isolation="repeatable_read", readonly=True):
                    await pin_settings(connection, lock_timeout_s=self._lock_timeout_s)
                    looking = Looking(
                        connection=connection,
                        outline=outline,
                        given_names=self._names,
                        force=self._force,
                        drop_unknown=self._drop_unknown,
                    )
                    return await looking.outlook(shown(self._url))

    async def write(self, state: RestorableState, *, progress: Progress) -> SinkReport:
        """Write the state in one transaction.

        Raises:
            SinkNotEmpty: A table has rows and ``force`` was not given.
            InvalidRequest: A document does not fit its table; facts name collection and key, and
                the column where there is one.
            Conflict: Rows refer to rows that are not there, or another restore runs there.
            Unavailable: The database did not answer, or a table is locked by somebody else.
        """
        names = table_names(state.counts, self._names, state.schemas)
        async with connected(self._url) as connection:
            with translated():
                transaction = connection.transaction()
                await transaction.start()
                await pin_settings(connection, lock_timeout_s=self._lock_timeout_s)
                loader = Loader(
                    connection=connection,
                    progress=progress,
                    drop_unknown=self._drop_unknown,
                    temporary_folder=self._temporary_folder,
                )
                restore = _Restore(connection=connection, loader=loader, state=state)
                await exclude_others(connection)
                await restore.lock(names, json_strings=self._json_strings)
                restore.check_empty(force=self._force)
                await restore.run(names)
            await commit(connection, transaction, self._url, what="restore")
            notes = [*restore.notes, *await _analyze(connection, restore.tables.values())]
        return SinkReport(rows=restore.rows, where=shown(self._url), notes=tuple(notes))


@dataclass(kw_only=True)
class _Restore:
    """One restore under way, inside its transaction."""

    connection: asyncpg.Connection
    loader: Loader
    state: RestorableState
    tables: dict[str, Table] = field(default_factory=dict)
    foreign_keys: tuple[ForeignKey, ...] = ()
    triggers: Triggers = field(default_factory=Triggers)
    rows: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    oids: list[int] = field(default_factory=list)
    """The tables that were there."""

    async def lock(self, names: Mapping[str, TableName], *, json_strings: JsonStrings) -> None:
        """Keep other writers out of every table that matters; readers go on."""
        found = await existing(self.connection, names.values())
        self.oids = [table.oid for table in found.values()]
        keys = await foreign_keys(self.connection, self.oids)
        tables = {*found, *(key.child for key in keys), *(key.parent for key in keys)}
        for name in sorted(tables):
            await self.connection.execute(f"LOCK TABLE {name.quoted} IN SHARE ROW EXCLUSIVE MODE")
        missing = {name for name in names if names[name] not in found}
        for name in sorted(await self._parents_outside(missing) - tables):
            # Who may not lock it may not refer to it either, or finds that out at the end.
            lock = f"LOCK TABLE {name.quoted} IN SHARE ROW EXCLUSIVE MODE"
            await attempted(self.connection, lock)
        self.foreign_keys = await foreign_keys(self.connection, self.oids)
        for collection, name in sorted(names.items()):
            if name in found:
                self.tables[collection] = await described(
                    self.connection,
                    found[name],
                    json_strings=json_strings,
                    schema=self.state.schemas.get(collection),
                )

    async def _parents_outside(self, collections: Iterable[str]) -> set[TableName]:
        """The tables there are that foreign keys of tables to be made refer to."""
        schemas = self.state.schemas
        keys = [
            key for each in collections if each in schemas for key in schemas[each].foreign_keys
        ]
        found, _ = await relations(self.connection, {TableName(k.schema, k.table) for k in keys})
        return set(found)

    def check_empty(self, *, force: bool) -> None:
        """Refuse tables that have rows, unless they are to be replaced."""
        filled = [str(table.name) for table in self.tables.values() if table.has_rows]
        if filled and not force:
            raise SinkNotEmpty(
                "tables have rows already",
                hint="restore into an empty database, or replace their rows with --force",
                tables=filled,
            )

    async def run(self, names: Mapping[str, TableName]) -> None:
        """Do all that is between the locks and the commit."""
        await self.triggers.silence(self.connection, self.oids)
        await self._empty()
        by_oid = {table.oid: collection for collection, table in self.tables.items()}
        missing = sorted(names.keys() - self.tables.keys())
        for oid in parents_first(by_oid, self.foreign_keys):
            collection = by_oid[oid]
            rows = self.state.rows(collection, documents_only=True)
            self.rows[collection], notes = await self.loader.fill(
                collection, self.tables[collection], rows
            )
            self.notes += notes
        await self._make_as_they_were(missing, names)
        for collection in missing:
            if collection not in self.state.schemas:
                await self._make(collection, names[collection])
        # Only now is everything there that a row may refer to. Sequences go last: they are not
        # moved back when the transaction fails.
        await self._check()
        await self.triggers.restore(self.connection)
        await move_sequences(
            self.connection,
            self.tables.values(),
            samples=self.state.sequences,
            whole=self.state.whole,
        )

    async def _empty(self) -> None:
        """Delete the rows there are; unlike TRUNCATE it lets others read them until the commit."""
        filled = {table.oid: table for table in self.tables.values() if table.has_rows}
        if not self.triggers.replica:
            await self._check_cascades(filled)
        for oid in reversed(parents_first(filled, self.foreign_keys)):
            await self.connection.execute(f"DELETE FROM {filled[oid].own_rows}")

    async def _check_cascades(self, filled: Mapping[int, Table]) -> None:
        """Refuse a delete that the database would carry on into a table that is not restored."""
        for key in self.foreign_keys:
            outside = key.parent_oid in filled and key.child_oid not in self.oids
            if not (outside and key.on_delete_writes):
                continue
            rows = own_rows(key.child, partitioned=key.child_partitioned)
            query = f"SELECT EXISTS (SELECT FROM {rows})"
            if await self.connection.fetchval(query):
                raise Conflict(
                    "replacing the rows would also change a table that is not restored",
                    hint="restore it too, or as a role that may set session_replication_role",
                    constraint=key.name,
                    table=key.child,
                )

    async def _make_as_they_were(
        self, missing: Iterable[str], names: Mapping[str, TableName]
    ) -> None:
        """Make, fill and finish the tables of attached databases."""
        schemas = self.state.schemas
        maker = Maker(
            connection=self.connection,
            schemas={each: schemas[each] for each in missing if each in schemas},
            names=names,
            restored=places_of(names, schemas),
            whole=self.state.whole,
            notes=self.notes,
        )
        if not maker.schemas:
            return
        await maker.make_types()
        for collection in maker.order:
            self.tables[collection] = table = await maker.make(collection)
            rows = self.state.rows(collection, documents_only=True)
            self.rows[collection], notes = await self.loader.fill(collection, table, rows)
            self.notes += notes
            await maker.finish(collection)
        await maker.relate()

    async def _make(self, collection: str, name: TableName) -> None:
        if not self.state.counts[collection]:
            self.rows[collection] = 0
            self.notes.append(f"{collection}: {NOTHING_KNOWN}")
            return
        rows = self.state.rows(collection, documents_only=True)
        made = await self.loader.make(collection, name, rows)
        self.tables[collection], self.rows[collection], notes = made
        self.notes += notes

    async def _check(self) -> None:
        """Check what rested together with the triggers."""
        if not self.triggers.replica:
            await self.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
            return
        for key in self.foreign_keys:
            if key.checkable:
                await check_foreign_key(self.connection, key)
            else:
                self.notes.append(f"{key.child}: the foreign key {key.name} was not checked")
        self.notes += await check_deferred(self.connection, self.oids)


async def _analyze(connection: asyncpg.Connection, tables: Iterable[Table]) -> list[str]:
    """Gather statistics, as far as that can be had; the restore is done already."""
    notes = []
    for table in tables:
        try:
            await connection.execute(f"ANALYZE {table.name.quoted}", timeout=ANALYZE_TIMEOUT_S)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            notes.append(f"{table.name}: run ANALYZE, it was not possible now ({error})")
    return notes
