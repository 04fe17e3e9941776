"""What stands beside a table that is made anew: its sequences and partitions, under free names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import asyncpg

from pitr.adapters.sinks.postgres.tables import IDENTIFIER_BYTES_MAX, TableName
from pitr.domain.pgoutput.schema import Partition, SequenceSchema, TableSchema


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeSequence:
    """A sequence that a default names: ``make`` unless it is there, ``owned`` by the column."""

    name: TableName
    column: str
    owned: bool
    make: bool
    options: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MadePartition:
    """A partition as it will be, after its parent."""

    name: TableName
    parent: TableName
    bound: str
    key: str | None
    logged: bool

    @property
    def sql(self) -> str:
        """The statement that makes it."""
        unlogged = "" if self.logged or self.key else "UNLOGGED "
        by = f" PARTITION BY {self.key}" if self.key else ""
        return (
            f"CREATE {unlogged}TABLE {self.name.quoted} PARTITION OF {self.parent.quoted}"
            f" {self.bound}{by}"
        )


_TAKEN = """
SELECT c.relname AS name, c.relkind::text AS kind,
    EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
            AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0) AS owned
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = ANY ($2)
"""

_PRINTED = "SELECT format('%I.%I', $1::text, $2::text)"


async def sequences_of(
    connection: asyncpg.Connection, schema: TableSchema, name: TableName
) -> tuple[list[MadeSequence], dict[str, str], dict[str, str], list[str]]:
    """The sequences of defaults, new by old names as printed, identity clauses, and notes.

    A sequence that a column owns stands where its table does; where its name is taken, it gets
    another one. Others keep their names, and are used where they are there.
    """
    how = {column.name: column.identity for column in schema.columns if column.identity}
    made, renamed, identities, notes = [], dict[str, str](), dict[str, str](), list[str]()
    for each in schema.sequences:
        wanted = TableName(name.schema if each.owned else each.schema, each.name)
        rows = await connection.fetch(_TAKEN, wanted.schema, [wanted.table])
        is_identity = each.owned and each.column in how
        is_there = bool(rows) and not is_identity
        is_there &= all(row["kind"] == "S" and not (each.owned and row["owned"]) for row in rows)
        if rows and not is_there:
            free = TableName(wanted.schema, await free_name(connection, wanted.schema, each.name))
            notes.append(f"{each.column}: its sequence is {free}, as {wanted} is taken")
            wanted = free
        before = await connection.fetchval(_PRINTED, each.schema, each.name)
        now = await connection.fetchval(_PRINTED, wanted.schema, wanted.table)
        if before != now:
            renamed[before] = now
        if is_identity:
            always = "ALWAYS" if how[each.column] == "a" else "BY DEFAULT"
            identities[each.column] = (
                f"GENERATED {always} AS IDENTITY (SEQUENCE NAME {now} {_options(each)})"
            )
            continue
        made.append(
            MadeSequence(
                name=wanted,
                column=each.column,
                owned=each.owned,
                make=not is_there,
                options=f"AS {each.type} {_options(each)}",
            )
        )
    for column, kind in how.items():
        always = "ALWAYS" if kind == "a" else "BY DEFAULT"
        identities.setdefault(column, f"GENERATED {always} AS IDENTITY")
    return made, renamed, identities, notes


def _options(each: SequenceSchema) -> str:
    return (
        f"INCREMENT BY {each.increment} MINVALUE {each.minimum} MAXVALUE {each.maximum}"
        f" START WITH {each.start} CACHE {each.cache}{' CYCLE' if each.cycle else ''}"
    )


async def free_name(
    connection: asyncpg.Connection, place: str, name: str, *, besides: Iterable[str] = ()
) -> str:
    """A name for a relation in a schema: the wanted one, or one with a number behind it."""
    taken = set(besides)
    wanted, number = name, 0
    while wanted in taken or await connection.fetch(_TAKEN, place, [wanted]):
        number += 1
        end = f"_{number}"
        room = IDENTIFIER_BYTES_MAX - len(end)
        wanted = name.encode()[:room].decode(errors="ignore") + end
    return wanted


async def partitions_of(
    connection: asyncpg.Connection, schema: TableSchema, name: TableName
) -> tuple[list[MadePartition], list[str], list[str]]:
    """The partitions, parents first, with notes and problems.

    Those of a table that gets another name are put beside it, under names that are free.
    """
    moved = name != TableName(schema.schema, schema.name)
    names = {schema.relid: name}
    made: list[MadePartition] = []
    notes, problems = [], []
    for each in _from_above(schema.relid, schema.partitions):
        wanted = TableName(name.schema if moved else each.schema, each.name)
        if moved:
            others = [other.name.table for other in made]
            free = await free_name(connection, wanted.schema, wanted.table, besides=others)
            wanted = TableName(wanted.schema, free)
        elif await connection.fetch(_TAKEN, wanted.schema, [wanted.table]):
            problems.append(f"{wanted} is there already, and is to be a partition of {name}")
        if each.kind == "foreign":
            notes.append(f"partition {wanted}: a plain table, as it was on a foreign server")
        names[each.relid] = wanted
        made.append(
            MadePartition(
                name=wanted,
                parent=names[each.parent],
                bound=each.bound,
                key=each.partition_key,
                logged=each.logged,
            )
        )
    return made, notes, problems


def _from_above(root: int, partitions: Sequence[Partition]) -> list[Partition]:
    """Order partitions so that each comes after its parent."""
    children: dict[int, list[Partition]] = {}
    for each in partitions:
        children.setdefault(each.parent, []).append(each)
    ordered: list[Partition] = []
    level = [root]
    while level:
        found = [child for relid in level for child in children.get(relid, ())]
        ordered += found
        level = [child.relid for child in found]
    return ordered
