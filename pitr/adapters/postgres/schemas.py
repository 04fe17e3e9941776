"""Reads schema documents of tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from pitr.adapters.postgres import schema_queries as queries
from pitr.adapters.postgres.connection import Pool
from pitr.adapters.postgres.sequences import sequence_values
from pitr.domain.errors import Conflict, Unavailable
from pitr.domain.pgoutput.model import lsn_of
from pitr.domain.pgoutput.schema import (
    Constraint,
    ForeignKey,
    Index,
    Partition,
    SequenceSchema,
    TableColumn,
    TableSchema,
    UsedType,
)
from pitr.domain.pgoutput.source import Schemas

Parts = dict[str, list[Any]]
"""What belongs to one table, by the field of its document."""

LOCK_WAIT_MS: Final = 800

READS_MAX: Final = 6
"""How often documents are read until two readings agree."""

_ACTIONS: Final = {
    "a": "NO ACTION",
    "r": "RESTRICT",
    "c": "CASCADE",
    "n": "SET NULL",
    "d": "SET DEFAULT",
}


async def read_schemas(pool: Pool, relids: Sequence[int]) -> Schemas:
    """Read the documents of those tables that exist, until two readings agree.

    What PostgreSQL prints of an expression is as of now, not as of the snapshot, so an ALTER TABLE
    beside us could give one document of two moments.

    Raises:
        Unavailable: They change all the time, or somebody holds a lock on one.
    """
    before: Schemas | None = None
    for _ in range(READS_MAX):
        try:
            async with pool.transaction(one_view=True) as connection:
                found = await _read(connection, relids)
        except Conflict:  # something was dropped under our hands
            before = None
            continue
        if before is not None and _is_same(before, found):
            return found
        before = found
    raise Unavailable("tables change all the time", hint="try again", tables=len(relids))


async def read_locked(connection: Any, tables: Sequence[tuple[int, str]]) -> Schemas:
    """Read documents in a transaction that keeps ALTER TABLE out until it ends.

    Args:
        connection: In a transaction that reads what is committed.
        tables: The relid of each, and its name as it stands in SQL.

    Raises:
        Unavailable: Somebody holds a lock on one, or dropped it.
    """
    if tables:
        names = ", ".join(name for _, name in tables)
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT_MS}ms'")
        await connection.execute(f"LOCK TABLE ONLY {names} IN ACCESS SHARE MODE")
    return await _read(connection, [relid for relid, _ in tables])


def _is_same(before: Schemas, after: Schemas) -> bool:
    first, second = (
        [schema.without_values() for schema in schemas.tables.values()]
        for schemas in (before, after)
    )
    return first == second


async def _read(connection: Any, relids: Sequence[int]) -> Schemas:
    when = await connection.fetchrow(queries.WHEN)
    asked = list(relids)
    rows = await connection.fetch(queries.TABLES, asked)
    parts: dict[int, Parts] = {row["relid"]: {part[0]: [] for part in _PARTS} for row in rows}
    for name, query, make in _PARTS:
        for row in await connection.fetch(query, asked):
            fields = dict(row)
            of = parts.get(fields.pop(_OWNERS.get(name, "relid")))
            if of is not None:
                of[name].append(make(fields))
    await _add_values(connection, parts)
    tables = {row["relid"]: _document(dict(row), parts[row["relid"]]) for row in rows}
    return Schemas(lsn=lsn_of(when["lsn"]), snapshot=when["snapshot"], tables=tables)


async def _add_values(connection: Any, parts: dict[int, Parts]) -> None:
    relids = {each.relid for of in parts.values() for each in of["sequences"]}
    if not relids:
        return
    values = {each.relid: each for each in await sequence_values(connection, sorted(relids))}
    for of in parts.values():
        of["sequences"] = [
            replace(each, last_value=found.last_value, is_called=found.is_called)
            if (found := values.get(each.relid)) is not None
            else each
            for each in of["sequences"]
        ]


def _document(fields: dict[str, Any], parts: Parts) -> TableSchema:
    constraints = parts.pop("constraints")
    keys = [each for each in constraints if each.kind == "primary"]
    lists: dict[str, Any] = {name: tuple(found) for name, found in parts.items()}
    lists["identity_columns"] = tuple(fields.pop("identity_columns") or ())
    return TableSchema(
        **fields,
        **lists,
        constraints=tuple(each for each in constraints if each.kind != "primary"),
        primary_key=keys[0] if keys else None,
    )


def _constraint(fields: dict[str, Any]) -> Constraint:
    return Constraint(**fields | {"columns": tuple(fields["columns"] or ())})


def _foreign_key(fields: dict[str, Any]) -> ForeignKey:
    tuples = {name: tuple(fields[name] or ()) for name in ("columns", "referenced")}
    actions = {name: _ACTIONS[fields[name]] for name in ("on_update", "on_delete")}
    return ForeignKey(**fields | tuples | actions)


def _index(fields: dict[str, Any]) -> Index:
    return Index(**fields | {"columns": tuple(fields["columns"])})


def _type(fields: dict[str, Any]) -> UsedType:
    tuples = {name: tuple(fields[name] or ()) for name in ("labels", "checks")}
    attributes = tuple(tuple(pair) for pair in orjson.loads(fields["attributes"] or "[]"))
    return UsedType(**fields | tuples | {"attributes": attributes})


_OWNERS: Final = {"sequences": "table_relid", "types": "table_relid", "partitions": "root"}
"""The column that says which table a row belongs to, where it is not ``relid``."""

_PARTS: Final[tuple[tuple[str, str, Callable[[dict[str, Any]], Any]], ...]] = (
    ("columns", queries.COLUMNS, lambda fields: TableColumn(**fields)),
    ("constraints", queries.CONSTRAINTS, _constraint),
    ("foreign_keys", queries.FOREIGN_KEYS, _foreign_key),
    ("indexes", queries.INDEXES, _index),
    ("sequences", queries.SEQUENCES, lambda fields: SequenceSchema(**fields)),
    ("types", queries.TYPES, _type),
    ("partitions", queries.PARTITIONS, lambda fields: Partition(**fields)),
)
