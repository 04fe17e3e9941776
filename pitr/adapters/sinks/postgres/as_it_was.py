"""Columns and key of a table that is made anew, from what the rows' own table was."""

from __future__ import annotations

from dataclasses import dataclass

import asyncpg

from pitr.adapters.sinks.postgres.tables import TableName, quoted
from pitr.domain.pgoutput.schema import TableSchema

_TYPES = """
SELECT name, to_regtype(name) IS NOT NULL AS is_known FROM unnest($1::text[]) AS name
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """Columns with their types as they stand in SQL, the primary key, and what is otherwise."""

    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    notes: tuple[str, ...]

    def create_statement(self, name: TableName) -> str:
        """The statement that makes the table, without its primary key."""
        columns = ", ".join(f"{quoted(column)} {type_}" for column, type_ in self.columns)
        return f"CREATE TABLE {name.quoted} ({columns})"


async def definition_of(connection: asyncpg.Connection, schema: TableSchema) -> Definition:
    """Say how the table is made: where the database lacks a type, the column is ``text``."""
    types = sorted({column.type for column in schema.columns})
    known = {row["name"] for row in await connection.fetch(_TYPES, types) if row["is_known"]}
    notes = [
        f"{column.name} is text, as there is no type {column.type} here"
        for column in schema.columns
        if column.type not in known
    ]
    notes += [
        f"{column.name} was generated, and is a plain column now"
        for column in schema.columns
        if column.generated is not None
    ]
    return Definition(
        columns=tuple(
            (column.name, column.type if column.type in known else "text")
            for column in schema.columns
        ),
        key=schema.primary_key.columns if schema.primary_key is not None else (),
        notes=tuple(notes),
    )
