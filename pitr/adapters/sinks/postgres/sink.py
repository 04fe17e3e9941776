"""Restoring into a PostgreSQL database: lock, empty, load, check, move sequences, commit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncpg

from pitr.adapters.sinks.batches import Spill, ahead, slices
from pitr.adapters.sinks.postgres import integrity
from pitr.adapters.sinks.postgres.connection import connected, pin_settings, shown, translated
from pitr.adapters.sinks.postgres.infer import Inference
from pitr.adapters.sinks.postgres.rows import Lines, RowEncoder
from pitr.adapters.sinks.postgres.tables import (
    JsonStrings,
    Table,
    TableName,
    described,
    existing,
    quoted,
    table_names,
)
from pitr.domain.errors import Conflict, SinkNotEmpty
from pitr.domain.ports import Progress, RestorableState, SinkReport

LOCK_TIMEOUT_S: Final = 10
"""How long to wait for each table that somebody else has locked, unless told otherwise."""

RUN_ROWS_MAX: Final = 262_144
"""Rows of one COPY. Their keys are kept until it ends, to say which row was refused."""

RUN_BYTES_MAX: Final = 128 * 1024 * 1024
"""Bytes of one COPY, for the same reason."""


@dataclass(kw_only=True)
class _Restore:
    """One restore under way, inside its transaction."""

    connection: asyncpg.Connection
    state: RestorableState
    progress: Progress
    tables: dict[str, Table] = field(default_factory=dict)
    foreign_keys: tuple[integrity.ForeignKey, ...] = ()
    triggers: integrity.Triggers = field(default_factory=integrity.Triggers)
    rows: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    created: list[TableName] = field(default_factory=list)

    @property
    def oids(self) -> list[int]:
        return [table.oid for table in self.tables.values()]


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

    async def write(self, state: RestorableState, *, progress: Progress) -> SinkReport:
        """Write the state in one transaction.

        Raises:
            SinkNotEmpty: A table has rows and ``force`` was not given.
            InvalidRequest: A document does not fit its table; facts name collection and key, and
                the column where there is one.
            Conflict: Rows refer to rows that are not there.
            Unavailable: The database did not answer, or a table is locked by somebody else.
        """
        async with connected(self._url) as connection:
            restore = _Restore(connection=connection, state=state, progress=progress)
            with translated():
                transaction = connection.transaction()
                await transaction.start()
                await self._run(restore)
            await self._commit(transaction)
            await _analyze(restore)
        return SinkReport(rows=restore.rows, where=shown(self._url), notes=tuple(restore.notes))

    async def _commit(self, transaction: asyncpg.transaction.Transaction) -> None:
        try:
            with translated():
                await transaction.commit()
        except BaseException as error:
            error.add_note("the connection broke at the commit: the restore may have succeeded")
            raise

    async def _run(self, restore: _Restore) -> None:
        connection = restore.connection
        await pin_settings(connection, lock_timeout_s=self._lock_timeout_s)
        names = table_names(restore.state.counts, self._names)
        await self._lock(restore, names)
        self._check_empty(restore)
        await restore.triggers.silence(connection, restore.oids)
        await self._empty(restore)
        for collection in self._load_order(restore):
            await self._load(restore, collection, restore.tables[collection])
        for collection in sorted(names.keys() - restore.tables.keys()):
            await self._make_and_load(restore, collection, names[collection])
        # Only now is everything there that a row may refer to. Sequences go last: they are not
        # moved back when the transaction fails.
        await self._check(restore)
        await restore.triggers.restore(connection)
        await integrity.move_sequences(connection, restore.oids)

    async def _lock(self, restore: _Restore, names: Mapping[str, TableName]) -> None:
        """Keep other writers out of every table that matters; readers go on."""
        connection = restore.connection
        found = await existing(connection, names.values())
        oids = [table.oid for table in found.values()]
        keys = await integrity.foreign_keys(connection, oids)
        tables = {*found, *(key.child for key in keys), *(key.parent for key in keys)}
        for name in sorted(tables):
            await connection.execute(f"LOCK TABLE {name.quoted} IN SHARE ROW EXCLUSIVE MODE")
        restore.foreign_keys = await integrity.foreign_keys(connection, oids)
        for collection, name in sorted(names.items()):
            if name in found:
                restore.tables[collection] = await described(
                    connection, found[name], json_strings=self._json_strings
                )

    def _check_empty(self, restore: _Restore) -> None:
        filled = [str(table.name) for table in restore.tables.values() if table.has_rows]
        if filled and not self._force:
            raise SinkNotEmpty(
                "tables have rows already",
                hint="restore into an empty database, or replace their rows with --force",
                tables=filled,
            )

    async def _empty(self, restore: _Restore) -> None:
        """Delete the rows there are. Unlike TRUNCATE this lets others read them until the commit."""
        filled = {table.oid: table for table in restore.tables.values() if table.has_rows}
        if not restore.triggers.replica:
            await self._check_cascades(restore, filled)
        for oid in reversed(integrity.parents_first(filled, restore.foreign_keys)):
            await restore.connection.execute(f"DELETE FROM {filled[oid].name.quoted}")

    async def _check_cascades(self, restore: _Restore, filled: Mapping[int, Table]) -> None:
        """Refuse a delete that the database would carry on into a table that is not restored."""
        for key in restore.foreign_keys:
            outside = key.parent_oid in filled and key.child_oid not in restore.oids
            if outside and key.on_delete_writes:
                query = f"SELECT EXISTS (SELECT FROM {key.child.quoted})"
                if await restore.connection.fetchval(query):
                    raise Conflict(
                        "replacing the rows would also change a table that is not restored",
                        hint="restore that table too, or as a role that may set"
                        " session_replication_role",
                        constraint=key.name,
                        table=key.child,
                    )

    def _load_order(self, restore: _Restore) -> list[str]:
        by_oid = {table.oid: collection for collection, table in restore.tables.items()}
        ordered = integrity.parents_first(by_oid, restore.foreign_keys)
        return [by_oid[oid] for oid in ordered]

    async def _load(self, restore: _Restore, collection: str, table: Table) -> None:
        await self._copy(restore, collection, table, restore.state.rows(collection))

    async def _make_and_load(self, restore: _Restore, collection: str, name: TableName) -> None:
        if restore.state.counts[collection] == 0:
            restore.rows[collection] = 0
            restore.notes.append(f"{collection}: no rows, and no table to say its columns")
            return
        inference, spill = Inference(collection), Spill(self._temporary_folder)
        try:
            async with aclosing(ahead(_inferred(restore, collection, inference, spill))) as seen:
                async for _ in seen:
                    pass
            table = await self._make(restore, name, inference)
            restore.tables[collection] = table
            await self._copy(restore, collection, table, spill.batches())
        finally:
            spill.close()
        await _add_primary_key(restore, collection, name, inference)

    async def _make(self, restore: _Restore, name: TableName, inference: Inference) -> Table:
        connection = restore.connection
        await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(name.schema)}")
        await connection.execute(inference.create_statement(name))
        restore.created.append(name)
        [table] = (await existing(connection, [name])).values()
        return await described(connection, table, json_strings="value")

    async def _copy(
        self, restore: _Restore, collection: str, table: Table, batches: Iterator[object]
    ) -> None:
        encoder = RowEncoder(collection, table, drop_unknown=self._drop_unknown)
        restore.rows[collection] = 0
        lines = (found for part in slices(batches) for found in encoder.encoded(part))
        async with aclosing(ahead(lines)) as coming:
            following = await anext(coming, None)
            while following is not None:
                run = _Run(restore, collection, table, coming, following)
                following = await run.copy()

    async def _check(self, restore: _Restore) -> None:
        if not restore.triggers.replica:
            return
        for key in restore.foreign_keys:
            if key.checkable:
                await integrity.check_foreign_key(restore.connection, key)
            else:
                restore.notes.append(f"{key.child}: the foreign key {key.name} is unchecked")
        restore.notes += await integrity.check_deferred(restore.connection, restore.oids)
