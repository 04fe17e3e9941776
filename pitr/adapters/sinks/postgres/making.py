"""Tables made anew as they were: types, columns, defaults; after the rows keys and indexes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg

from pitr.adapters.sinks.postgres.as_it_was import Definition, definition_of
from pitr.adapters.sinks.postgres.attempts import attempted, attempted_each, reason_of
from pitr.adapters.sinks.postgres.keeping import Keeping
from pitr.adapters.sinks.postgres.rebound import rebound_foreign_key
from pitr.adapters.sinks.postgres.tables import Table, TableName, described, existing, quoted
from pitr.adapters.sinks.postgres.used_types import (
    UsedTypes,
    make_types,
    used_types,
)
from pitr.domain.errors import Conflict
from pitr.domain.pgoutput.schema import ForeignKey, TableSchema


@asynccontextmanager
async def printing_whole_names(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Let PostgreSQL print names with their schemas, as in the documents of tables."""
    setting = "SELECT set_config('search_path', $1, true)"
    before = await connection.fetchval("SHOW search_path")
    await connection.execute(setting, "pg_catalog")
    yield
    await connection.execute(setting, before)


@dataclass(kw_only=True)
class Maker:
    """Makes tables in the transaction that is open on ``connection``.

    ``make_types`` comes first; then each collection of ``order`` is made, filled by somebody else,
    and finished; ``relate`` comes last. ``schemas`` and ``names`` are by collection, of those that
    are made; ``restored`` are all tables of the restore, made or not, by the name they had.
    ``notes`` say what could not be as it was.
    """

    connection: asyncpg.Connection
    schemas: Mapping[str, TableSchema]
    names: Mapping[str, TableName]
    restored: Mapping[TableName, TableName]
    whole: bool
    notes: list[str] = field(default_factory=list)
    definitions: dict[str, Definition] = field(default_factory=dict)
    _types: UsedTypes | None = None

    async def make_types(self) -> None:
        """Make the types, and the schemas that are missing for them."""
        async with printing_whole_names(self.connection):
            self._types = await used_types(self.connection, self.schemas.values())
        await make_schemas(self.connection, (each.schema for each in self._types.to_make.values()))
        notes = await make_types(self.connection, self._types)
        self.notes += [*self._types.notes, *notes]

    @property
    def types(self) -> UsedTypes:
        """What is known of the types once they are made; they need not be."""
        made = self._types
        assert made is not None, "make_types comes first"
        return UsedTypes(to_make={}, row_types=frozenset(), notes=made.notes)

    @property
    def order(self) -> list[str]:
        """The collections in the order in which they are made."""
        return making_order(self.schemas)

    async def make(self, collection: str) -> Table:
        """Make a table with its columns, partitions and defaults, without keys.

        Raises:
            Conflict: The name of a partition is taken.
        """
        name, schema = self.names[collection], self.schemas[collection]
        definition = await definition_of(self.connection, schema, name, self.types)
        if definition.problems:
            raise Conflict(
                "a partition's name is taken",
                hint="rename what is there, or drop it",
                collection=collection,
                reason=definition.problems[0],
            )
        self.definitions[collection] = definition
        self._note(collection, *definition.unfit, *definition.notes)
        await make_schemas(self.connection, definition.places)
        await self._make_sequences(collection, definition)
        await self._make_table(collection, definition)
        await self._set_defaults(collection, definition)
        [table] = (await existing(self.connection, [name])).values()
        return await described(self.connection, table, json_strings="auto", schema=schema)

    async def _make_sequences(self, collection: str, definition: Definition) -> None:
        for each in definition.sequences:
            if each.make:
                statement = f"CREATE SEQUENCE {each.name.quoted} {each.options}"
                error = await attempted(self.connection, statement)
                if error is not None:
                    self._note(collection, f"sequence {each.name}: {reason_of(error)}")

    async def _make_table(self, collection: str, definition: Definition) -> None:
        """Make it as it was, or without what the database refuses."""
        if await self._created(definition) is None:
            return
        plain = set()
        for column in definition.generated:
            others = set(definition.generated) - {column}
            statement = definition.create_statement(plain=others, partitioned=False)
            error = await self._tried(statement)
            if error is not None:
                plain.add(column)
                self._note(collection, f"{column}: a plain column now: {reason_of(error)}")
        error = await self._created(definition, plain=plain) if plain else None
        if plain and error is None:
            return
        if definition.schema.partition_key:
            error = await self._created(definition, plain=plain)
            if error is not None:
                statement = definition.create_statement(plain=plain, partitioned=False)
                await self.connection.execute(statement)
                self._note(collection, f"a table without partitions now: {reason_of(error)}")
            return
        await self.connection.execute(definition.create_statement(plain=plain))

    async def _created(
        self, definition: Definition, *, plain: Collection[str] = ()
    ) -> asyncpg.PostgresError | None:
        statements = [definition.create_statement(plain=plain)]
        statements += [partition.sql for partition in definition.partitions]
        return await attempted(self.connection, ";\n".join(statements))

    async def _tried(self, statement: str) -> asyncpg.PostgresError | None:
        """Run a statement and undo it."""
        transaction = self.connection.transaction()
        await transaction.start()
        try:
            return await attempted(self.connection, statement)
        finally:
            await transaction.rollback()

    async def _set_defaults(self, collection: str, definition: Definition) -> None:
        clauses = {
            column: f"ALTER COLUMN {quoted(column)} SET DEFAULT {expression}"
            for column, expression in definition.defaults.items()
        }
        altering = f"ALTER TABLE {definition.name.quoted}"
        for column, error in (await attempted_each(self.connection, altering, clauses)).items():
            self._note(collection, f"{column}: without its default: {reason_of(error)}")
        for each in definition.sequences:
            if each.owned:
                owner = f"{definition.name.quoted}.{quoted(each.column)}"
                statement = f"ALTER SEQUENCE {each.name.quoted} OWNED BY {owner}"
                error = await attempted(self.connection, statement)
                if error is not None:
                    self._note(collection, f"{each.name}: no column's own: {reason_of(error)}")

    async def finish(self, collection: str) -> None:
        """Add keys, constraints and indexes to a table that has its rows.

        Raises:
            InvalidRequest: The rows break one.
        """
        keeping = Keeping(
            connection=self.connection,
            collection=collection,
            definition=self.definitions[collection],
            notes=self.notes,
        )
        await keeping.add()

    async def relate(self) -> None:
        """Add the foreign keys of what was made.

        One to a table that is not in the restore is left out where the database refuses it.

        Raises:
            Conflict: Rows refer to rows that are not there, and all was to be restored.
        """
        keys = [
            (self.names[collection], key.name, collection, key)
            for collection, definition in self.definitions.items()
            for key in definition.schema.foreign_keys
        ]
        for name, _, collection, key in sorted(keys, key=lambda each: each[:2]):
            await self._relate(collection, name, key)

    async def _relate(self, collection: str, name: TableName, key: ForeignKey) -> None:
        before = TableName(key.schema, key.table)
        parent = self.restored.get(before, before)
        clause = rebound_foreign_key(key.definition, parent)
        if clause is None:
            self._note(collection, f"without the foreign key {key.name}, which cannot be read")
            return
        statement = f"ALTER TABLE {name.quoted} ADD CONSTRAINT {quoted(key.name)} {clause}"
        error = await attempted(self.connection, statement)
        if error is None:
            return
        if error.sqlstate == "23503" and before in self.restored and self.whole:
            raise Conflict(
                "a restored row refers to a row that is not there",
                hint="restore to a moment when both tables were whole",
                constraint=key.name,
                table=name,
                parent=parent,
                reason=reason_of(error),
                detail=error.detail,
            ) from error
        why = f"{reason_of(error)}{f' ({error.detail})' if error.detail else ''}"
        self._note(collection, f"without the foreign key {key.name} to {parent}: {why}")

    def _note(self, collection: str, *notes: str) -> None:
        self.notes += [f"{collection}: {note}" for note in notes]


_MISSING = "SELECT to_regnamespace($1) IS NULL"


async def make_schemas(connection: asyncpg.Connection, names: Iterable[str]) -> None:
    """Make those schemas that are missing."""
    for name in dict.fromkeys(names):
        if await connection.fetchval(_MISSING, quoted(name)):
            await connection.execute(f"CREATE SCHEMA {quoted(name)}")


def places_of(
    names: Mapping[str, TableName], schemas: Mapping[str, TableSchema]
) -> dict[TableName, TableName]:
    """Where tables are, by where they were when the rows were in them."""
    return {
        TableName(schemas[each].schema, schemas[each].name) if each in schemas else name: name
        for each, name in names.items()
    }


def making_order(schemas: Mapping[str, TableSchema]) -> list[str]:
    """Order tables that are made: those whose rows are a column's type, and parents, first."""
    places = {(each.schema, each.name): name for name, each in schemas.items()}
    ordered: dict[str, None] = {}
    entered: set[str] = set()

    def visit(name: str) -> None:
        if name in entered:
            return
        entered.add(name)
        schema = schemas[name]
        before = [(each.schema, each.name) for each in schema.types]
        before += [(each.schema, each.table) for each in schema.foreign_keys]
        for place in before:
            if place in places:
                visit(places[place])
        ordered[name] = None

    for name in sorted(schemas):
        visit(name)
    return list(ordered)
