"""The tables of a restore as the database describes them, and where a collection goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

import asyncpg

from pitr.domain.errors import InvalidRequest
from pitr.domain.pgoutput.schema import TableSchema

IDENTIFIER_BYTES_MAX: Final = 63
"""Longest name that PostgreSQL keeps whole; it cuts longer ones without an error."""

NO_TABLE: Final = "that is not a table"

JsonStrings = Literal["auto", "text", "value"]
"""What a JSON string in a ``json`` or ``jsonb`` column is: see ``docs/restore-postgres.md``."""


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A table's schema and name, unquoted."""

    schema: str
    table: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"

    @property
    def quoted(self) -> str:
        """As it stands in SQL."""
        return f"{quoted(self.schema)}.{quoted(self.table)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column. ``base`` is the built-in type below any domain, ``""`` for types of others.

    ``element`` is that of an array, which has base ``array``; ``typmod`` is PostgreSQL's number
    for what stands in the type's parentheses, -1 for nothing.
    """

    name: str
    type: str
    base: str
    element: str | None = None
    typmod: int = -1
    fills_itself: bool = False
    generated: bool = False
    not_null: bool = False
    json_strings: JsonStrings = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table that exists.

    ``schema`` is what the rows' own table was at their moment, None where that is not known.
    """

    name: TableName
    oid: int
    columns: tuple[Column, ...] = ()
    has_rows: bool = False
    schema: TableSchema | None = None
    partitioned: bool = False

    @property
    def own_rows(self) -> str:
        """The table in SQL, without the rows of tables that inherit from it."""
        return own_rows(self.name, partitioned=self.partitioned)


def table_name(
    collection: str, names: Mapping[str, str], schema: TableSchema | None = None
) -> TableName:
    """Say where a collection goes: to the table that it came from, if that is known.

    Otherwise its name says it: ``schema.table``, or ``table`` in ``public``.

    Raises:
        InvalidRequest: The name has more than two parts, an empty or a too long one.
    """
    if schema is not None and collection not in names:
        return TableName(schema.schema, schema.name)
    parts = names.get(collection, collection).split(".")
    parts = parts if len(parts) > 1 else ["public", *parts]
    if len(parts) != 2 or not all(0 < len(part.encode()) <= IDENTIFIER_BYTES_MAX for part in parts):
        raise InvalidRequest(
            "the collection's name does not name a table",
            hint="name a schema and a table of at most 63 bytes each for it",
            collection=collection,
        )
    return TableName(*parts)


def table_names(
    collections: Iterable[str],
    names: Mapping[str, str],
    schemas: Mapping[str, TableSchema] | None = None,
) -> dict[str, TableName]:
    """Say where each collection goes.

    Raises:
        InvalidRequest: Two go to the same table, or one has no possible table.
    """
    known = schemas or {}
    found = {each: table_name(each, names, known.get(each)) for each in collections}
    taken: dict[TableName, str] = {}
    for collection, name in found.items():
        other = taken.setdefault(name, collection)
        if other != collection:
            raise InvalidRequest(
                "two collections go to the same table", collections=[other, collection], table=name
            )
    return found


def own_rows(name: TableName, *, partitioned: bool) -> str:
    """A table in SQL, without the rows of tables that inherit from it: those are others'."""
    return name.quoted if partitioned else f"ONLY {name.quoted}"


def quoted(name: str) -> str:
    """An identifier as it stands in SQL."""
    return '"' + name.replace('"', '""') + '"'


_TABLES = """
SELECT n.nspname AS schema, c.relname AS name, c.oid::bigint AS oid, c.relkind::text AS kind
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN unnest($1::text[], $2::text[]) AS asked (schema, name)
  ON asked.schema = n.nspname AND asked.name = c.relname
"""


async def relations(
    connection: asyncpg.Connection, names: Iterable[TableName]
) -> tuple[dict[TableName, Table], list[TableName]]:
    """Find those of ``names`` that exist: tables, without their columns, and what is no table."""
    asked = list(names)
    rows = await connection.fetch(
        _TABLES, [name.schema for name in asked], [name.table for name in asked]
    )
    found, others = {}, []
    for row in rows:
        name = TableName(row["schema"], row["name"])
        if row["kind"] in ("r", "p"):
            found[name] = Table(name=name, oid=row["oid"], partitioned=row["kind"] == "p")
        else:
            others.append(name)
    return found, others


async def existing(
    connection: asyncpg.Connection, names: Iterable[TableName]
) -> dict[TableName, Table]:
    """Find those of ``names`` that exist, without their columns.

    Raises:
        InvalidRequest: One is a view or something else that cannot be filled.
    """
    found, others = await relations(connection, names)
    if others:
        raise InvalidRequest(NO_TABLE, table=others[0])
    return found


_COLUMNS = """
SELECT
    a.attname AS name,
    format_type(a.atttypid, a.atttypmod) AS type,
    CASE WHEN element.oid IS NOT NULL THEN 'array'
         WHEN base.typnamespace = 'pg_catalog'::regnamespace THEN base.typname
         ELSE '' END AS base,
    CASE WHEN element.typnamespace = 'pg_catalog'::regnamespace THEN element.typname
         WHEN element.oid IS NOT NULL THEN '' END AS element,
    base.typmod,
    a.attnotnull AND (a.atthasdef OR a.attidentity <> '') AS fills_itself,
    a.attgenerated <> '' AS generated,
    a.attnotnull AS not_null
FROM pg_attribute a
CROSS JOIN LATERAL (
    WITH RECURSIVE below AS (
        SELECT t.*, a.atttypmod AS typmod FROM pg_type t WHERE t.oid = a.atttypid
        UNION ALL
        SELECT t.*, below.typtypmod FROM below
        JOIN pg_type t ON t.oid = below.typbasetype WHERE below.typtype = 'd'
    )
    SELECT typname, typnamespace, typelem, typcategory, typmod FROM below WHERE typtype <> 'd'
) AS base
LEFT JOIN pg_type element ON base.typcategory = 'A' AND element.oid = base.typelem
WHERE a.attrelid = $1::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""


async def described(
    connection: asyncpg.Connection,
    table: Table,
    *,
    json_strings: JsonStrings,
    schema: TableSchema | None = None,
    may_read: bool = True,
) -> Table:
    """Add the columns, and whether there are rows; lock the table first.

    Args:
        may_read: Whether to look for rows; who may not read them is refused.
    """
    rows = await connection.fetch(_COLUMNS, table.oid)
    if schema is not None and json_strings == "auto":
        json_strings = "text"  # its JSON is captured as text
    columns = tuple(Column(**dict(row), json_strings=json_strings) for row in rows)
    if schema is not None:
        nullable = {column.name for column in schema.columns if not column.not_null}
        columns = tuple(
            replace(column, fills_itself=column.fills_itself and column.name not in nullable)
            for column in columns
        )
    query = f"SELECT EXISTS (SELECT FROM {table.own_rows})"
    has_rows = may_read and await connection.fetchval(query)
    return replace(table, columns=columns, has_rows=has_rows, schema=schema)
