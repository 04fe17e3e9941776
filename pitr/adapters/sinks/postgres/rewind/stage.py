"""Rows of a rewind in temporary tables of the table's own types, beside the rows there are.

For each table: ``expected`` is what the log says of the rows now, ``wanted`` what they were,
``live`` what they are, and ``actions`` what is to be done with each, and in what way it is not as
expected. All are found by the row's key in the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

import asyncpg
import pyarrow as pa

from pitr.adapters.sinks.batches import ahead, slices
from pitr.adapters.sinks.postgres.connection import translated
from pitr.adapters.sinks.postgres.fast import escaped
from pitr.adapters.sinks.postgres.rewind.tables import RewindTable
from pitr.adapters.sinks.postgres.rows import Lines, RowEncoder
from pitr.adapters.sinks.postgres.tables import Table, TableName, quoted
from pitr.domain.errors import Conflict, PitrError
from pitr.domain.pgoutput.sql import literal
from pitr.domain.rewind.sight import RowConflict, Written

EXPECTED: Final = "expected"
WANTED: Final = "wanted"
LIVE: Final = "live"
ACTIONS: Final = "actions"

SLICE_ROWS: Final = 256
"""Rows that are encoded at once: the database takes the first while the others are made."""

COPY_ROWS: Final = 16_384
"""Rows of one COPY, about; their keys are kept meanwhile, to name the one that does not fit."""

_ONE_TEXT: Final = frozenset(("int2", "int4", "int8", "bool", "uuid", "date", "text", "varchar"))
"""Types of which every value is written in one way only."""

_BY_VALUE: Final = frozenset(("numeric", "jsonb"))
"""Types of which another source than the table itself may write equal values in other ways."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What is to be done with the rows of a table: how many of each action.

    ``settled`` are as they were, already; ``conflicts`` are not as the log says.
    """

    actions: Mapping[str, int] = field(default_factory=dict)
    settled: int = 0
    conflicts: int = 0

    @property
    def written(self) -> Written:
        """What these come to."""
        counts = self.actions
        return Written(
            inserted=counts.get("insert", 0),
            updated=counts.get("update", 0) + counts.get("replace", 0),
            deleted=counts.get("delete", 0),
        )


@dataclass(frozen=True, slots=True)
class Side:
    """Rows for one of the temporary tables, and the columns that they fill."""

    suffix: str
    table: Table
    batches: Iterable[pa.RecordBatch]
    drop_unknown: bool

    def encoder(self, collection: str) -> RowEncoder:
        """What encodes them."""
        return RowEncoder(collection, self.table, drop_unknown=self.drop_unknown)


@dataclass(frozen=True, slots=True)
class Stage:
    """The temporary tables of one table."""

    connection: asyncpg.Connection
    table: RewindTable

    async def load(self, *, drop_gone: bool) -> None:
        """Fill ``expected`` and ``wanted``.

        Raises:
            InvalidRequest: A document does not fit the table.
        """
        table = self.table
        expected = side_of(table.now, table.columns.expected, fill=False)
        wanted = side_of(table.then, table.columns.written, fill=True)
        await self._make(EXPECTED)
        await self._make(WANTED)
        for column in wanted.columns:
            default = table.facts[column.name].default
            if column.fills_itself and default is not None:
                await self._run(
                    f"ALTER TABLE {self._name(WANTED)} ALTER COLUMN {quoted(column.name)}"
                    f" SET DEFAULT {default}"
                )
        rows = table.work.difference.rows
        await self._copy(
            Side(EXPECTED, expected, rows("now"), drop_unknown=True),
            Side(WANTED, wanted, rows("then"), drop_unknown=drop_gone),
        )
        await self._analyze(EXPECTED, WANTED)

    async def _make(self, suffix: str) -> None:
        table = self.table
        columns = ", ".join([f"NULL::text AS {table.key_column}", *map(quoted, table.plain)])
        await self._run(
            f"CREATE TEMP TABLE {quoted(table.temporary(suffix).table)} ON COMMIT DROP AS"
            f" SELECT {columns} FROM {table.target} WITH NO DATA"
        )

    async def _copy(self, *sides: Side) -> None:
        """Fill tables one after the other; what comes next is encoded meanwhile."""
        lines = (
            (side.suffix, found)
            for side in sides
            for encoder in [side.encoder(self.table.collection)]
            for part in slices(side.batches, rows_max=SLICE_ROWS)
            for found in encoder.encoded(part)
        )
        async with aclosing(ahead(lines)) as coming:
            following = await anext(coming, None)
            while following is not None:
                copied = _Copied(coming, *following)
                await self._copy_lines(copied)
                following = copied.following

    async def _copy_lines(self, copied: _Copied) -> None:
        def place(line: int) -> Mapping[str, object]:
            return {"collection": self.table.collection, "key": copied.keys[line - 1]}

        name = self.table.temporary(copied.suffix)
        with translated(place):
            await self.connection.copy_to_table(
                name.table,
                schema_name=name.schema,
                columns=(_unquoted(self.table.key_column), *copied.columns),
                source=copied.pieces(),
                format="text",
            )
        if copied.failed is not None:
            raise copied.failed

    async def compare(self) -> Compared:
        """Fill ``live`` and ``actions``; count what was found.

        Raises:
            Conflict: Two keys of the log are one row of the table.
        """
        if not self._is_single():
            await self._check_single()
        await self._make_live()
        return await self._decide()

    def _is_single(self) -> bool:
        """Whether two keys of the log cannot be one row: each value has one text, the column's."""
        table = self.table
        names = {name for name, _ in table.key}
        bases = {column.base for column in table.now.columns if column.name in names}
        return table.captured and bases <= _ONE_TEXT

    async def _check_single(self) -> None:
        table = self.table
        key = ", ".join(f"{quoted(name)}::text" for name, _ in table.key)
        row = await self.connection.fetchrow(
            f"SELECT min({table.key_column}) AS one, max({table.key_column}) AS other FROM ("
            f" SELECT {table.key_column}, {key} FROM {self._name(EXPECTED)}"
            f" UNION SELECT {table.key_column}, {key} FROM {self._name(WANTED)}"
            f") AS r ({table.key_column}, {_aliases(table)})"
            f" GROUP BY {_aliases(table)} HAVING count(*) > 1 LIMIT 1"
        )
        if row is not None:
            raise Conflict(
                "two keys of the log are one row of the table",
                collection=table.collection,
                keys=[row["one"], row["other"]],
            )

    async def _make_live(self) -> None:
        table, key = self.table, self.table.key_column
        columns = ", ".join([key, *(quoted(name) for name, _ in table.key)])
        live = ", ".join(f"t.{quoted(name)}" for name in table.facts)
        await self._run(
            f"CREATE TEMP TABLE {quoted(table.temporary(LIVE).table)} ON COMMIT DROP AS"
            f" SELECT k.{key}, {live} FROM ("
            f"SELECT {columns} FROM {self._name(EXPECTED)} UNION ALL"
            f" SELECT {columns} FROM {self._name(WANTED)} w WHERE NOT EXISTS"
            f" (SELECT FROM {self._name(EXPECTED)} e WHERE e.{key} = w.{key})"
            f") AS k JOIN {table.target} AS t ON {table.same_key('t', 'k')}"
        )
        await self._analyze(LIVE)

    async def _decide(self) -> Compared:
        """Fill ``actions``: rows that are as they were, already, have none.

        They are no conflicts either, whatever the log says that they are now.
        """
        table, key = self.table, self.table.key_column
        fixed = table.same("l", "w", table.fixed)
        await self._run(
            f"CREATE TEMP TABLE {quoted(table.temporary(ACTIONS).table)} ON COMMIT DROP AS"
            f" SELECT {key}, CASE WHEN settled THEN NULL ELSE action END AS action,"
            f" CASE WHEN NOT settled AND NOT expected THEN kind END AS conflict FROM ("
            f"SELECT coalesce(e.{key}, w.{key}) AS {key}, ({self._settled()}) AS settled,"
            f" ({self._as_expected()}) AS expected, CASE WHEN w.{key} IS NULL THEN 'delete'"
            f" WHEN l.{key} IS NULL THEN 'insert' WHEN {fixed} THEN 'update'"
            f" ELSE 'replace' END AS action,"
            f" CASE WHEN l.{key} IS NULL THEN 'gone' WHEN e.{key} IS NULL THEN 'appeared'"
            f" ELSE 'changed' END AS kind"
            f" FROM {self._joined()} OFFSET 0) AS compared"
        )
        await self._run(f"ANALYZE {self._name(ACTIONS)} ({key})")
        return await self._compared()

    async def _compared(self) -> Compared:
        """Count what is to be done with the rows."""
        rows = await self.connection.fetch(
            f"SELECT action, conflict IS NOT NULL AS conflict, count(*) AS count"
            f" FROM {self._name(ACTIONS)} GROUP BY 1, 2"
        )
        actions = Counter[str]()
        for row in rows:
            if row["action"] is not None:
                actions[row["action"]] += row["count"]
        return Compared(
            actions=actions,
            settled=sum(row["count"] for row in rows if row["action"] is None),
            conflicts=sum(row["count"] for row in rows if row["conflict"]),
        )

    def _joined(self) -> str:
        """Expected, wanted and live rows side by side: ``e``, ``w`` and ``l``."""
        key = self.table.key_column
        return (
            f"{self._name(EXPECTED)} AS e FULL JOIN {self._name(WANTED)} AS w"
            f" ON e.{key} = w.{key} LEFT JOIN {self._name(LIVE)} AS l"
            f" ON l.{key} = coalesce(e.{key}, w.{key})"
        )

    def _as_expected(self) -> str:
        key = self.table.key_column
        same = " AND ".join(map(self._equals_expected, self.table.columns.expected)) or "true"
        return (
            f"CASE WHEN e.{key} IS NULL OR l.{key} IS NULL"
            f" THEN e.{key} IS NULL AND l.{key} IS NULL ELSE {same} END"
        )

    def _equals_expected(self, name: str) -> str:
        """What another source says of a column is compared as a value, where it may be written
        otherwise, and not at all where a column that has a default was left to it."""
        column, table = quoted(name), self.table
        exact = f"l.{column}::text IS NOT DISTINCT FROM e.{column}::text"
        if table.captured:
            return exact
        [described] = [each for each in table.now.columns if each.name == name]
        if described.base in _BY_VALUE:
            exact = f"l.{column} IS NOT DISTINCT FROM e.{column}"
        return f"({exact} OR e.{column} IS NULL)" if described.fills_itself else exact

    def _settled(self) -> str:
        """The condition that the row is as it was, already."""
        key, table = self.table.key_column, self.table
        same = "false" if table.columns.defaulted else table.same("l", "w", table.columns.written)
        return (
            f"CASE WHEN w.{key} IS NULL OR l.{key} IS NULL"
            f" THEN w.{key} IS NULL AND l.{key} IS NULL ELSE {same} END"
        )

    async def settled_rows(self, limit: int) -> list[tuple[str, str]]:
        """The first rows that are as they were, already, by collection and key."""
        rows = await self.connection.fetch(
            f"SELECT {self.table.key_column} AS key FROM {self._name(ACTIONS)}"
            f" WHERE action IS NULL LIMIT {limit}"
        )
        return [(self.table.collection, row["key"]) for row in rows]

    async def conflicts(self, limit: int, *, with_live: bool = False) -> list[RowConflict]:
        """Return the first conflicts by key; with the rows as they are, if that is asked for."""
        table, key = self.table, self.table.key_column
        differing = ", ".join(
            f"CASE WHEN NOT ({self._equals_expected(name)}) THEN {literal(name)} END"
            for name in table.columns.expected
        )
        columns = ", ".join(f"l.{quoted(name)}" for name in table.plain)
        live = f"row_to_json((SELECT r FROM (SELECT {columns}) AS r))::text"
        rows = await self.connection.fetch(
            f"SELECT c.{key} AS key, c.conflict AS kind,"
            f" array_remove(ARRAY[{differing}]::text[], NULL) AS columns,"
            f" CASE WHEN l.{key} IS NOT NULL THEN {live if with_live else 'NULL'} END"
            f" AS live FROM {self._name(ACTIONS)} AS c"
            f" LEFT JOIN {self._name(EXPECTED)} AS e ON e.{key} = c.{key}"
            f" LEFT JOIN {self._name(LIVE)} AS l ON l.{key} = c.{key}"
            f' WHERE c.conflict IS NOT NULL ORDER BY c.{key} COLLATE "C" LIMIT {limit}'
        )
        return [
            RowConflict(
                collection=table.collection,
                key=row["key"],
                kind=row["kind"],
                columns=tuple(row["columns"]) if row["kind"] == "changed" else (),
                live=row["live"],
            )
            for row in rows
        ]

    async def skip_conflicts(self) -> Compared:
        """Forget the rows that are not as expected; count the others."""
        key = self.table.key_column
        for suffix in (EXPECTED, WANTED, LIVE):
            await self._run(
                f"DELETE FROM {self._name(suffix)} WHERE {key} IN"
                f" (SELECT {key} FROM {self._name(ACTIONS)} WHERE conflict IS NOT NULL)"
            )
        await self._run(f"DELETE FROM {self._name(ACTIONS)} WHERE conflict IS NOT NULL")
        return await self._compared()

    async def _analyze(self, *suffixes: str) -> None:
        """Let the database know how many rows there are, and what their keys are like."""
        key = ", ".join([self.table.key_column, *(quoted(name) for name, _ in self.table.key)])
        await self._run(f"ANALYZE {', '.join(f'{self._name(each)} ({key})' for each in suffixes)}")

    def _name(self, suffix: str) -> str:
        return self.table.temporary(suffix).quoted

    async def _run(self, statement: str) -> None:
        await self.connection.execute(statement)


def side_of(table: Table, names: Iterable[str], *, fill: bool) -> Table:
    """The table as rows of one side fill it: the columns that these have, and generated ones."""
    wanted = set(names)
    columns = tuple(
        replace(column, fills_itself=column.fills_itself and fill)
        for column in table.columns
        if column.name in wanted or column.generated
    )
    return replace(table, name=TableName("pg_temp", table.name.table), columns=columns)


class _Copied:
    """Lines that one COPY takes: of one table, as long as they have the same columns.

    ``keys`` are those of its lines; ``following`` is what came after them. ``failed`` is why there
    are no more: the COPY is ended first, as one that is broken off has to be cancelled.
    """

    def __init__(
        self, coming: AsyncGenerator[tuple[str, Lines], None], suffix: str, first: Lines
    ) -> None:
        self.suffix = suffix
        self.columns = first.columns
        self.keys: list[str] = []
        self.following: tuple[str, Lines] | None = (suffix, first)
        self.failed: PitrError | None = None
        self._coming = coming

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the lines, each with the row's key in the log in front."""
        while self.following is not None and len(self.keys) < COPY_ROWS:
            suffix, lines = self.following
            if (suffix, lines.columns) != (self.suffix, self.columns):
                return
            self.keys += lines.keys
            yield b"".join(_prefixed(lines))
            try:
                self.following = await anext(self._coming, None)
            except PitrError as error:
                self.failed = error
                return


def _prefixed(lines: Lines) -> Iterator[bytes]:
    bodies = lines.body.split(b"\n")[:-1]
    for key, body in zip(lines.keys, bodies, strict=True):
        yield escaped(key).encode() + b"\t" + body + b"\n"


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"')


def _aliases(table: RewindTable) -> str:
    return ", ".join(f"pitr_k{place}" for place in range(len(table.key)))
