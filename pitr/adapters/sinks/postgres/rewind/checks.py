"""What rested with the triggers of a rewind, checked for the rows that it touched."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from pitr.adapters.sinks.postgres.foreign_keys import ForeignKey
from pitr.adapters.sinks.postgres.rewind.stage import ACTIONS, LIVE, WANTED
from pitr.adapters.sinks.postgres.rewind.tables import RewindTable, UniqueIndex
from pitr.adapters.sinks.postgres.rewind.unusual import check_exclusion, check_period, kind_of
from pitr.adapters.sinks.postgres.rewind.writing import references
from pitr.adapters.sinks.postgres.tables import own_rows, quoted
from pitr.domain.errors import Conflict

_HINT = "take back the other table too, or go to a moment when both were whole"


async def check_foreign_keys(
    connection: asyncpg.Connection, tables: Sequence[RewindTable], keys: Sequence[ForeignKey]
) -> list[str]:
    """Look for rows that refer to nothing; return notes on what was not checked.

    Only rows that were written, and those that refer to rows that were there before, can.

    Raises:
        Conflict: There is one.
    """
    by_oid = {oid: table for table in tables for oid in table.oids}
    notes = []
    for key in keys:
        child, parent = by_oid.get(key.child_oid), by_oid.get(key.parent_oid)
        kind = "usual" if key.checkable else await kind_of(connection, key)
        if kind == "not enforced":
            notes.append(f"{key.child}: nobody enforces the foreign key {key.name}")
            continue
        if kind == "period":
            await check_period(connection, key, child, parent)
            continue
        if child is not None:
            await _check_written(connection, key, child)
        if parent is not None:
            await _check_left(connection, key, parent)
    return notes


async def _check_written(
    connection: asyncpg.Connection, key: ForeignKey, child: RewindTable
) -> None:
    """Check the rows that were written to the referring table."""
    columns = [f"c.{quoted(name)}" for name in key.child_columns]
    filled = " AND ".join(f"{column} IS NOT NULL" for column in columns)
    empty = " AND ".join(f"{column} IS NULL" for column in columns)
    parents = own_rows(key.parent, partitioned=key.parent_partitioned)
    exists = f"EXISTS (SELECT FROM {parents} AS p WHERE {references(key, 'p', 'c')})"
    broken = f"({filled} AND NOT {exists})"
    if key.match_full:
        broken += f" OR (NOT ({filled}) AND NOT ({empty}))"
    row = await connection.fetchrow(
        f"SELECT w.{child.key_column} AS key, {_shown(columns)}"
        f" FROM {child.temporary(WANTED).quoted} AS w"
        f" JOIN {child.target} AS c ON {child.same_key('c', 'w')} WHERE {broken} LIMIT 1"
    )
    if row is not None:
        raise Conflict(
            "a row that is taken back refers to a row that is not there",
            hint=_HINT,
            collection=child.collection,
            key=row["key"],
            constraint=key.name,
            parent=key.parent,
            example=dict(zip(key.child_columns, list(row)[1:], strict=True)),
        )


async def _check_left(connection: asyncpg.Connection, key: ForeignKey, parent: RewindTable) -> None:
    """Check the rows that refer to what was there before and is not there now."""
    columns = [f"c.{quoted(name)}" for name in key.child_columns]
    pk = parent.key_column
    children = own_rows(key.child, partitioned=key.child_partitioned)
    parents = own_rows(key.parent, partitioned=key.parent_partitioned)
    same = parent.same("l", "w", key.parent_columns) if _is_plain(key, parent) else "false"
    row = await connection.fetchrow(
        f"SELECT l.{pk} AS key, {_shown(columns)}"
        f" FROM {parent.temporary(LIVE).quoted} AS l"
        f" JOIN {parent.temporary(ACTIONS).quoted} AS a ON a.{pk} = l.{pk} AND a.action IS NOT NULL"
        f" LEFT JOIN {parent.temporary(WANTED).quoted} AS w ON w.{pk} = l.{pk}"
        f" JOIN {children} AS c ON {references(key, 'l', 'c')}"
        f" WHERE NOT (a.action <> 'delete' AND {same}) AND NOT EXISTS"
        f" (SELECT FROM {parents} AS p WHERE {references(key, 'p', 'c')}) LIMIT 1"
    )
    if row is not None:
        raise Conflict(
            "a row that stays refers to a row that was not there then",
            hint=_HINT,
            collection=parent.collection,
            key=row["key"],
            constraint=key.name,
            table=key.child,
            example=dict(zip(key.child_columns, list(row)[1:], strict=True)),
        )


def _is_plain(key: ForeignKey, parent: RewindTable) -> bool:
    """Whether the columns that are referred to are among those that are written."""
    return {*key.parent_columns} <= {*parent.columns.written}


def _shown(columns: Sequence[str]) -> str:
    return ", ".join(f"{column}::text" for column in columns)


async def check_deferrable(
    connection: asyncpg.Connection, tables: Sequence[RewindTable]
) -> list[str]:
    """Check deferrable constraints for what was written; return what was not checked.

    Raises:
        Conflict: Two rows have the same values.
    """
    notes = []
    for table in tables:
        for index in table.unique:
            if index.immediate:
                continue
            if index.exclusion:
                await check_exclusion(connection, table, index)
                continue
            if not {*index.columns} <= {*table.columns.written}:
                notes.append(f"{table.name}: the deferrable constraint {index.name} is unchecked")
                continue
            await _check_unique(connection, table, index)
    return notes


async def _check_unique(
    connection: asyncpg.Connection, table: RewindTable, index: UniqueIndex
) -> None:
    pairs = zip(index.columns, index.operators, strict=True)
    equal = " AND ".join(
        f"t.{quoted(name)} {operator} w.{quoted(name)}" for name, operator in pairs
    )
    key = table.key_column
    row = await connection.fetchrow(
        f"SELECT w.{key} AS key FROM {table.temporary(WANTED).quoted} AS w"
        f" JOIN {table.target} AS t ON {equal} GROUP BY w.{key} HAVING count(*) > 1 LIMIT 1"
    )
    if row is not None:
        raise Conflict(
            "two rows have the same values in a unique constraint",
            collection=table.collection,
            key=row["key"],
            constraint=index.name,
        )
