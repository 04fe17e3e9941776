"""References that a rewind would break: looked for before it is done, beside its temporary tables.

The rows to be of a table are those that it has, without those that the rewind is about, and what
these were. Nothing is written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import asyncpg

from pitr.adapters.sinks.postgres.foreign_keys import ForeignKey
from pitr.adapters.sinks.postgres.rewind.stage import LIVE, WANTED
from pitr.adapters.sinks.postgres.rewind.tables import RewindTable
from pitr.adapters.sinks.postgres.rewind.unusual import kind_of
from pitr.adapters.sinks.postgres.rewind.writing import references
from pitr.adapters.sinks.postgres.tables import TableName, own_rows, quoted, table_name
from pitr.domain.errors import InvalidRequest
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.rewind.sight import MissingParent, Sight, StayingRow

_NAMED: Final = """
SELECT coalesce(
    (SELECT array_agg(a.attname::text ORDER BY k.place)
     FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
     JOIN pg_attribute a ON a.attrelid = $1::bigint::oid AND a.attnum = k.number
     WHERE i.indrelid = $1::bigint::oid AND i.indisprimary), $2::text[])
"""


class Broken:
    """Looks for references that would be broken; ``limit`` of each foreign key are named."""

    def __init__(
        self,
        connection: asyncpg.Connection,
        tables: Sequence[RewindTable],
        keys: Sequence[ForeignKey],
        limit: int,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._limit = limit
        self._by_oid = {oid: table for table in tables for oid in table.oids}

    async def added_to(self, sight: Sight, known: Mapping[str, TableSchema | None]) -> Sight:
        """Add what would be broken; ``known`` are the collections of the log."""
        names = _collections(known)
        missing: list[MissingParent] = []
        staying: list[StayingRow] = []
        missing_count = staying_count = 0
        for key in self._keys:
            if not key.checkable and await kind_of(self._connection, key) != "usual":
                continue  # it names no row, or nobody enforces it
            found, count = await self._missing(key, names.get(key.parent))
            missing += found
            missing_count += count
            stays, count = await self._staying(key)
            staying += stays
            staying_count += count
        return replace(
            sight,
            missing=tuple(missing),
            missing_count=missing_count,
            staying=tuple(staying),
            staying_count=staying_count,
        )

    async def _missing(
        self, key: ForeignKey, parent: str | None
    ) -> tuple[list[MissingParent], int]:
        child = self._by_oid.get(key.child_oid)
        if child is None or not {*key.child_columns} <= {*child.columns.written}:
            return [], 0
        columns = [f"w.{quoted(name)}" for name in key.child_columns]
        values = ", ".join(f"{column}::text" for column in columns)
        filled = " AND ".join(f"{column} IS NOT NULL" for column in columns)
        rows = await self._connection.fetch(
            f'SELECT min(w.{child.key_column} COLLATE "C") AS key, count(*) AS rows,'
            f" ARRAY[{values}] AS found, count(*) OVER () AS total"
            f" FROM {_name(child, WANTED)} AS w WHERE {filled} AND NOT {self._will_be(key, 'w')}"
            f" GROUP BY {values} ORDER BY 1 LIMIT {self._limit}"
        )
        return [
            MissingParent(
                collection=child.collection,
                key=row["key"],
                constraint=key.name,
                columns=tuple(key.child_columns),
                values=tuple(row["found"]),
                parent_table=str(key.parent),
                parent_columns=tuple(key.parent_columns),
                parent=parent,
                rows=row["rows"],
            )
            for row in rows
        ], rows[0]["total"] if rows else 0

    async def _staying(self, key: ForeignKey) -> tuple[list[StayingRow], int]:
        parent, child = self._by_oid.get(key.parent_oid), self._by_oid.get(key.child_oid)
        if parent is None:
            return [], 0
        leaving = self._leaving(key, parent)
        if not await self._connection.fetchval(f"SELECT EXISTS ({leaving})"):
            return [], 0
        named: Sequence[str] = await self._connection.fetchval(
            _NAMED, key.child_oid, list(key.child_columns)
        )
        children = own_rows(key.child, partitioned=key.child_partitioned)
        shown = ", ".join(f"c.{quoted(name)}" for name in named)
        stays = "true"
        if child is not None:
            stays = (
                f"NOT EXISTS (SELECT FROM {_name(child, LIVE)} AS d"
                f" WHERE {child.same_key('d', 'c')})"
            )
        rows = await self._connection.fetch(
            f"SELECT l.{parent.key_column} AS key, count(*) AS rows,"
            f" min((SELECT row_to_json(r)::text FROM (SELECT {shown}) AS r)) AS row,"
            f" count(*) OVER () AS total"
            f" FROM ({leaving}) AS l"
            f" JOIN {children} AS c ON {references(key, 'l', 'c')}"
            f" WHERE {stays} AND NOT {self._will_be(key, 'c')}"
            f" GROUP BY l.{parent.key_column} ORDER BY 1 LIMIT {self._limit}"
        )
        return [
            StayingRow(
                collection=parent.collection,
                key=row["key"],
                constraint=key.name,
                table=str(key.child),
                row=row["row"],
                rows=row["rows"],
            )
            for row in rows
        ], rows[0]["total"] if rows else 0

    def _leaving(self, key: ForeignKey, parent: RewindTable) -> str:
        """The rows that go, or will be referred to by something else."""
        pk = parent.key_column
        columns = [name for name in key.parent_columns if name in parent.columns.written]
        return (
            f"SELECT * FROM {_name(parent, LIVE)} AS pl WHERE NOT EXISTS"
            f" (SELECT FROM {_name(parent, WANTED)} AS pw WHERE pw.{pk} = pl.{pk}"
            f" AND {parent.same('pl', 'pw', columns)})"
        )

    def _will_be(self, key: ForeignKey, child: str) -> str:
        """The condition that the row will be there which one of alias ``child`` refers to."""
        parent = self._by_oid.get(key.parent_oid)
        parents = own_rows(key.parent, partitioned=key.parent_partitioned)
        there = f"SELECT FROM {parents} AS p WHERE {references(key, 'p', child)}"
        if parent is None:
            return f"EXISTS ({there})"
        touched = f"SELECT FROM {_name(parent, LIVE)} AS pl WHERE {parent.same_key('pl', 'p')}"
        if not {*key.parent_columns} <= {*parent.columns.written}:
            # What it is referred to by stays as it is, unless it goes.
            pk = parent.key_column
            touched += (
                f" AND NOT EXISTS (SELECT FROM {_name(parent, WANTED)} AS pw"
                f" WHERE pw.{pk} = pl.{pk})"
            )
            return f"EXISTS ({there} AND NOT EXISTS ({touched}))"
        return (
            f"(EXISTS ({there} AND NOT EXISTS ({touched})) OR EXISTS"
            f" (SELECT FROM {_name(parent, WANTED)} AS pw WHERE {references(key, 'pw', child)}))"
        )


def _collections(known: Mapping[str, TableSchema | None]) -> dict[TableName, str]:
    found = {}
    for collection, schema in known.items():
        with contextlib.suppress(InvalidRequest):  # it has no table anywhere
            found[table_name(collection, {}, schema)] = collection
    return found


def _name(table: RewindTable, suffix: str) -> str:
    return table.temporary(suffix).quoted
