"""The new tables beside the live ones: which there are, and where; long work without hard locks."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import asyncpg

from pitr.adapters.sinks.postgres.connection import pin_settings
from pitr.adapters.sinks.postgres.rebound import rebound_foreign_key, rebound_index
from pitr.adapters.sinks.postgres.swap.dependents import options_clause
from pitr.adapters.sinks.postgres.swap.picture import Facts, Picture
from pitr.adapters.sinks.postgres.tables import TableName, quoted
from pitr.adapters.transactions import transaction
from pitr.domain.errors import InvalidRequest

_LIKE: Final = (
    "INCLUDING ALL EXCLUDING INDEXES EXCLUDING CONSTRAINTS EXCLUDING STATISTICS EXCLUDING COMMENTS"
)
_QUALIFIED: Final = r'(?:[a-z_][a-z0-9_$]*|"(?:[^"]|"")+")\.(?:[a-z_][a-z0-9_$]*|"(?:[^"]|"")+")'
_STATISTICS: Final = re.compile(rf"CREATE STATISTICS {_QUALIFIED}(.*) FROM {_QUALIFIED}", re.S)

_EVERYTHING_IS_PUBLISHED: Final = "SELECT EXISTS (SELECT FROM pg_publication WHERE puballtables)"
_SEQUENCE: Final = "SELECT pg_get_serial_sequence($1, $2)"
_SPACE: Final = "SELECT set_config('default_tablespace', $1, true)"


@asynccontextmanager
async def step(connection: asyncpg.Connection, *, lock_timeout_s: int) -> AsyncIterator[None]:
    """One short transaction of the long part, with the settings of a restore."""
    async with transaction(connection):
        await pin_settings(connection, lock_timeout_s=lock_timeout_s)
        yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Makes new tables from the pictures of live ones, each under the live one's own name.

    ``schemas`` says which schema stands for each live one, so nothing has another name while it
    is made than in the end. ``live`` are in the order in which they are made.
    """

    connection: asyncpg.Connection
    live: tuple[Picture, ...]
    schemas: dict[str, str]
    lock_timeout_s: int

    def new(self, name: TableName) -> TableName:
        """Where the new table of a live one is."""
        return TableName(self.schemas[name.schema], name.table)

    async def make(self) -> None:
        """Make the new tables, empty, in one transaction."""
        async with step(self.connection, lock_timeout_s=self.lock_timeout_s):
            unlogged = await self.connection.fetchval(_EVERYTHING_IS_PUBLISHED)
            for picture in self.live:
                await self._in_space(picture.facts["tablespace"])
                await self._run([create_statement(picture, self.new(picture.name), unlogged)])
            await self._rename_sequences()
            for picture in self.live:
                await self._run(self._shaped(picture))
            for picture in self.live:
                await self._run(self._attached(picture))

    async def _rename_sequences(self) -> None:
        """Give identity sequences the names and types that the live ones have.

        ``LIKE`` invents the names, so two may come to have each other's, and makes all of them
        ``bigint``.
        """
        found = [
            (self.new(picture.name), each)
            for picture in self.live
            if picture.parent is None
            for each in picture.parts["sequences"]
            if each["is_identity"]
        ]
        renamed = []
        for number, (table, each) in enumerate(found):
            name = await self.connection.fetchval(_SEQUENCE, table.quoted, each["column"])
            between = TableName(table.schema, f"pitr_sequence_{number}").quoted
            await self._run([f"ALTER SEQUENCE {name} RENAME TO pitr_sequence_{number}"])
            await self._run([f"ALTER SEQUENCE {between} AS {each['type']}"])
            renamed.append(f"ALTER SEQUENCE {between} RENAME TO {quoted(each['name'])}")
        await self._run(renamed)

    def _shaped(self, picture: Picture) -> Iterator[str]:
        """What ``LIKE`` does not copy, and every row has to keep."""
        table = self.new(picture.name).quoted
        yield f"ALTER TABLE {table} OWNER TO {quoted(picture.facts['owner'])}"
        for column in picture.parts["columns"]:
            altering = f"ALTER TABLE ONLY {table} ALTER COLUMN {quoted(column['name'])}"
            if column["target"] >= 0:
                yield f"{altering} SET STATISTICS {column['target']}"
            if column["options"]:
                yield f"{altering} SET ({options_clause(column['options'])})"
        in_tree = picture.partitioned or picture.parent is not None
        for each in picture.parts["constraints"]:
            # Rows may break one that is not validated, but in a tree the partitions must have it.
            if each["kind"] == "c" and (each["validated"] or in_tree):
                yield _added(table, each)

    def _attached(self, picture: Picture) -> Iterator[str]:
        if picture.parent is not None:
            parent, table = self.new(picture.parent).quoted, self.new(picture.name).quoted
            yield f"ALTER TABLE {parent} ATTACH PARTITION {table} {picture.facts['bound']}"

    async def finish(self) -> None:
        """Build what is better built when the rows are there, each in a transaction of its own."""
        for picture in self.live:
            table = self.new(picture.name)
            if picture.facts["persistence"] == "p" and await self._is_unlogged(table):
                await self._step([f"ALTER TABLE {table.quoted} SET LOGGED"])
            for each in picture.parts["constraints"]:
                loose = not (picture.partitioned or picture.parent is not None)
                if each["kind"] == "c" and not each["validated"] and loose:
                    await self._step([_added(table.quoted, each)])
            for index in picture.parts["indexes"]:
                await self._step(list(self._index(picture, index)), space=index["tablespace"])
            await self._step([*self._statistics(picture)])
        for picture in self.live:
            await self._step([*self._inner_keys(picture)])
        for picture in self.live:
            await self._step([f"ANALYZE {self.new(picture.name).quoted}"])

    def _index(self, picture: Picture, index: Facts) -> Iterator[str]:
        table, name = self.new(picture.name), TableName(self._schema(picture), index["name"])
        behind = [each for each in picture.parts["constraints"] if each["index"] == index["name"]]
        only = "ONLY " if picture.partitioned else ""
        if behind:
            yield _added(f"{only}{table.quoted}", behind[0])
            if index["options"]:
                yield f"ALTER INDEX {name.quoted} SET ({options_clause(index['options'])})"
        else:
            yield index_statement(index, table, only=only)
        for number, _, target in (each.partition("=") for each in index["targets"]):
            yield f"ALTER INDEX {name.quoted} ALTER COLUMN {number} SET STATISTICS {target}"
        if index["parent"]:
            parent = self.new(TableName(*index["parent"]))
            yield f"ALTER INDEX {parent.quoted} ATTACH PARTITION {name.quoted}"

    def _statistics(self, picture: Picture) -> Iterator[str]:
        for each in picture.parts["statistics"]:
            name = TableName(self._schema(picture), each["name"]).quoted
            found = _STATISTICS.fullmatch(each["definition"])
            if found is None:
                raise _unreadable(picture, "statistics", each)
            yield f"CREATE STATISTICS {name}{found[1]} FROM {self.new(picture.name).quoted}"
            if each["target"] >= 0:
                yield f"ALTER STATISTICS {name} SET STATISTICS {each['target']}"
            yield f"ALTER STATISTICS {name} OWNER TO {quoted(each['owner'])}"

    def _inner_keys(self, picture: Picture) -> Iterator[str]:
        """Foreign keys among the new tables: checked here, while nobody waits."""
        names = {each.oid: each.name for each in self.live}
        for each in picture.parts["constraints"]:
            if each["kind"] != "f" or each["parent_oid"] not in names:
                continue
            parent = self.new(names[each["parent_oid"]])
            definition = rebound_foreign_key(each["definition"], parent)
            if definition is None:
                raise _unreadable(picture, "foreign key", each)
            yield _added(self.new(picture.name).quoted, {**each, "definition": definition})

    def _schema(self, picture: Picture) -> str:
        return self.schemas[picture.name.schema]

    async def _is_unlogged(self, table: TableName) -> bool:
        query = "SELECT relpersistence = 'u' FROM pg_class WHERE oid = $1::text::regclass"
        return bool(await self.connection.fetchval(query, table.quoted))

    async def _step(self, statements: list[str], *, space: str | None = None) -> None:
        if statements:
            async with step(self.connection, lock_timeout_s=self.lock_timeout_s):
                await self._in_space(space)
                await self._run(statements)

    async def _in_space(self, space: str | None) -> None:
        await self.connection.fetchval(_SPACE, space or "")

    async def _run(self, statements: Iterable[str]) -> None:
        for statement in statements:
            await self.connection.execute(statement)


def create_statement(picture: Picture, name: TableName, unlogged: bool) -> str:
    """The statement that makes a table like a live one, without what comes later.

    Where everything is published, rows are loaded unlogged, so that no subscriber sees them under
    a name that is not theirs.
    """
    facts = picture.facts
    plain = facts["kind"] == "r"
    word = "UNLOGGED " if facts["persistence"] == "u" or (unlogged and plain) else ""
    like = _LIKE + (" EXCLUDING IDENTITY" if picture.parent is not None else "")
    options = [
        options_clause(facts["options"]),
        options_clause(facts["toast_options"], prefix="toast."),
    ]
    given = ", ".join(filter(None, options))
    return " ".join(
        part
        for part in (
            f"CREATE {word}TABLE {name.quoted} (LIKE {picture.name.quoted} {like})",
            f"PARTITION BY {facts['partition_key']}" if picture.partitioned else "",
            f"USING {quoted(facts['access'])}" if facts["access"] else "",
            f"WITH ({given})" if given else "",
        )
        if part
    )


def index_statement(index: Facts, table: TableName, *, only: str) -> str:
    """The statement that makes an index on another table.

    Raises:
        InvalidRequest: PostgreSQL prints it in a form that is not known.
    """
    found = rebound_index(index["definition"], name=index["name"], table=table)
    if found is None:
        raise InvalidRequest("an index cannot be made again", index=index["name"], table=table)
    head, on, rest = found.partition(f"INDEX {quoted(index['name'])} ON ")
    return f"{head}{on}{only}{rest}"


def _added(table: str, constraint: Facts) -> str:
    return (
        f"ALTER TABLE {table} ADD CONSTRAINT {quoted(constraint['name'])}"
        f" {constraint['definition']}"
    )


def _unreadable(picture: Picture, what: str, each: Facts) -> InvalidRequest:
    return InvalidRequest(
        f"the table's {what} cannot be made again",
        table=picture.name,
        name=each["name"],
        definition=each["definition"],
    )
