"""What a table that is made anew is made of, from what the rows' own table was; reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import asyncpg

from pitr.adapters.sinks.postgres.beside import (
    MadePartition,
    MadeSequence,
    partitions_of,
    sequences_of,
)
from pitr.adapters.sinks.postgres.rebound import rebound_sequences
from pitr.adapters.sinks.postgres.tables import TableName, quoted
from pitr.adapters.sinks.postgres.used_types import UsedTypes
from pitr.domain.pgoutput.schema import TableColumn, TableSchema

VIRTUAL_SINCE: Final = 18
"""The first version of PostgreSQL with generated columns that are not stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeColumn:
    """A column as it will be. ``identity`` and ``generated`` are clauses of SQL, or empty."""

    name: str
    type: str
    collation: str | None = None
    not_null: bool = False
    identity: str = ""
    generated: str = ""

    def sql(self, *, plain: bool) -> str:
        """The column in ``CREATE TABLE``; ``plain`` if it is not generated any more."""
        parts = [quoted(self.name), self.type]
        parts += [f"COLLATE {self.collation}"] if self.collation else []
        if self.generated and plain:
            return " ".join(parts)  # what it held may not be in the log, so it can be null
        parts += ["NOT NULL"] if self.not_null else []
        return " ".join([*parts, *filter(None, (self.identity, self.generated))])


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A table as it will be made.

    ``defaults`` are expressions by column; ``unfit`` says what columns become that cannot be what
    they were; ``problems`` why the table cannot be made.
    """

    name: TableName
    schema: TableSchema
    columns: tuple[MadeColumn, ...]
    defaults: Mapping[str, str] = field(default_factory=dict)
    sequences: tuple[MadeSequence, ...] = ()
    partitions: tuple[MadePartition, ...] = ()
    unfit: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def generated(self) -> tuple[str, ...]:
        """The columns that the database computes."""
        return tuple(column.name for column in self.columns if column.generated)

    @property
    def places(self) -> tuple[str, ...]:
        """The schemas that the table, its partitions and its sequences are in."""
        names = [self.name]
        names += [each.name for each in self.partitions]
        names += [each.name for each in self.sequences]
        return tuple(dict.fromkeys(name.schema for name in names))

    def create_statement(self, *, plain: Iterable[str] = (), partitioned: bool = True) -> str:
        """The statement that makes the table without its partitions, keys and defaults.

        Args:
            plain: Columns that are not generated any more.
            partitioned: Whether it can have partitions, if it had.
        """
        plain = frozenset(plain)
        columns = ", ".join(column.sql(plain=column.name in plain) for column in self.columns)
        unlogged = "" if self.schema.logged or self.schema.partition_key else "UNLOGGED "
        key = self.schema.partition_key if partitioned else None
        by = f" PARTITION BY {key}" if key else ""
        return f"CREATE {unlogged}TABLE {self.name.quoted} ({columns}){by}"


_COLLATIONS = """
SELECT name FROM unnest($1::text[]) AS name WHERE to_regcollation(name) IS NOT NULL
"""


async def definition_of(
    connection: asyncpg.Connection, schema: TableSchema, name: TableName, types: UsedTypes
) -> Definition:
    """Say how a table is made.

    Where the database lacks a type that cannot be made, the column is ``text``.
    """
    text = await _types_lacking(connection, schema, types)
    collations = {column.collation for column in schema.columns if column.collation}
    known = {row["name"] for row in await connection.fetch(_COLLATIONS, list(collations))}
    sequences, renamed, identities, notes = await sequences_of(connection, schema, name)
    partitions, partition_notes, problems = await partitions_of(connection, schema, name)
    unfit = [
        f"{column.name}: text, as there is no type {column.type} here"
        for column in schema.columns
        if column.name in text
    ]
    notes += [
        f"{column.name}: without its collation {column.collation}, which is not here"
        for column in schema.columns
        if column.collation and column.collation not in known
    ]
    return Definition(
        name=name,
        schema=schema,
        columns=tuple(
            MadeColumn(
                name=column.name,
                type="text" if column.name in text else column.type,
                collation=column.collation
                if column.collation in known and column.name not in text
                else None,
                not_null=column.not_null,
                identity=identities.get(column.name, ""),
                generated=_generated(connection, column),
            )
            for column in schema.columns
        ),
        defaults={
            column.name: rebound_sequences(column.default, renamed)
            for column in schema.columns
            if column.default is not None
        },
        sequences=tuple(sequences),
        partitions=tuple(partitions),
        unfit=tuple(unfit),
        notes=(*notes, *partition_notes),
        problems=tuple(problems),
    )


def _generated(connection: asyncpg.Connection, column: TableColumn) -> str:
    if column.generated is None:
        return ""
    can = connection.get_server_version().major >= VIRTUAL_SINCE
    how = "VIRTUAL" if column.virtual and can else "STORED"
    return f"GENERATED ALWAYS AS ({column.generated}) {how}"


async def _types_lacking(
    connection: asyncpg.Connection, schema: TableSchema, types: UsedTypes
) -> set[str]:
    """The columns whose type neither is there nor will be."""
    lacking = set()
    for type_ in sorted({column.type for column in schema.columns}):
        if not types.is_coming(type_) and not await _is_known(connection, type_):
            lacking.add(type_)
    return {column.name for column in schema.columns if column.type in lacking}


async def _is_known(connection: asyncpg.Connection, type_: str) -> bool:
    try:
        async with connection.transaction():
            return bool(await connection.fetchval("SELECT to_regtype($1) IS NOT NULL", type_))
    except asyncpg.PostgresError:
        return False  # numeric(5,-2) on PostgreSQL 14
