"""Checks of constraints that are rare: foreign keys with a period, exclusions that are deferrable.

A foreign key that is ``NOT VALID`` is enforced for what is written, so it is checked as any other.
One with a period (PostgreSQL 18) holds where the periods of the rows that are referred to cover
that of the row that refers, as in ``ri_triggers.c``: the last column is the period.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import asyncpg

from pitr.adapters.sinks.postgres.foreign_keys import ForeignKey
from pitr.adapters.sinks.postgres.rewind.stage import ACTIONS, LIVE, WANTED
from pitr.adapters.sinks.postgres.rewind.tables import RewindTable, UniqueIndex
from pitr.adapters.sinks.postgres.tables import own_rows, quoted
from pitr.domain.errors import Conflict

Kind = Literal["usual", "not enforced", "period"]

_KIND: Final = """
SELECT CASE WHEN NOT coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true) THEN 'not enforced'
    WHEN coalesce((to_jsonb(c) ->> 'conperiod')::boolean, false) THEN 'period' ELSE 'usual' END
FROM pg_constraint c
WHERE c.contype = 'f' AND c.conrelid = $1::bigint::oid AND c.conname = $2
"""

_EXCLUSION: Final = """
SELECT pg_get_expr(i.indpred, i.indrelid) AS predicate,
    ARRAY(SELECT pg_get_indexdef(c.conindid, k.place::int, true)
          FROM generate_subscripts(c.conexclop, 1) AS k (place) ORDER BY k.place) AS expressions,
    (SELECT array_agg(format('OPERATOR(%I.%s)', n.nspname, o.oprname) ORDER BY k.place)
     FROM unnest(c.conexclop) WITH ORDINALITY AS k (operator, place)
     JOIN pg_operator o ON o.oid = k.operator
     JOIN pg_namespace n ON n.oid = o.oprnamespace) AS operators
FROM pg_constraint c JOIN pg_index i ON i.indexrelid = c.conindid
WHERE c.contype = 'x' AND c.conindid = $1::text::regclass
"""


async def kind_of(connection: asyncpg.Connection, key: ForeignKey) -> Kind:
    """Tell what kind of foreign key it is."""
    kind: Kind = await connection.fetchval(_KIND, key.child_oid, key.name)
    return kind


async def check_period(
    connection: asyncpg.Connection,
    key: ForeignKey,
    child: RewindTable | None,
    parent: RewindTable | None,
) -> None:
    """Check the rows that were written, and those whose period was covered by rows that were there.

    Raises:
        Conflict: A period is not covered.
    """
    if child is not None:
        await _check_covered(
            connection,
            key,
            f"SELECT w.{child.key_column} AS key, c.* FROM {child.temporary(WANTED).quoted} AS w"
            f" JOIN {child.target} AS c ON {child.same_key('c', 'w')}",
        )
    if parent is not None:
        children = own_rows(key.child, partitioned=key.child_partitioned)
        pk = parent.key_column
        await _check_covered(
            connection,
            key,
            f"SELECT l.{pk} AS key, c.* FROM {parent.temporary(LIVE).quoted} AS l"
            f" JOIN {parent.temporary(ACTIONS).quoted} AS a"
            f" ON a.{pk} = l.{pk} AND a.action IS NOT NULL"
            f" JOIN {children} AS c ON {_matches(key, 'l', 'c')}",
        )


async def _check_covered(connection: asyncpg.Connection, key: ForeignKey, rows: str) -> None:
    parents = own_rows(key.parent, partitioned=key.parent_partitioned)
    columns = [f"c.{quoted(name)}" for name in key.child_columns]
    filled = " AND ".join(f"{column} IS NOT NULL" for column in columns)
    shown = ", ".join(f"{column}::text" for column in columns)
    period = f"p.{quoted(key.parent_columns[-1])}"
    row = await connection.fetchrow(
        f"SELECT c.key, {shown} FROM ({rows}) AS c WHERE {filled} AND NOT EXISTS"
        f" (SELECT FROM {parents} AS p WHERE {_matches(key, 'p', 'c')}"
        f" HAVING {columns[-1]} <@ range_agg({period})) LIMIT 1"
    )
    if row is not None:
        raise Conflict(
            "the period of a row is not covered by those that it refers to",
            hint="take back the other table too, or go to a moment when both were whole",
            key=row["key"],
            constraint=key.name,
            table=key.child,
            parent=key.parent,
            example=dict(zip(key.child_columns, list(row)[1:], strict=True)),
        )


def _matches(key: ForeignKey, parent: str, child: str) -> str:
    """The condition that two rows have the same values, and periods that overlap."""
    theirs, ours = [[quoted(name) for name in each] for each in _sides(key)]
    same = [
        f"{parent}.{a} {operator} {child}.{b}"
        for a, operator, b in zip(theirs[:-1], key.operators[:-1], ours[:-1], strict=True)
    ]
    return " AND ".join([*same, f"{parent}.{theirs[-1]} && {child}.{ours[-1]}"])


def _sides(key: ForeignKey) -> tuple[Sequence[str], Sequence[str]]:
    return key.parent_columns, key.child_columns


async def check_exclusion(
    connection: asyncpg.Connection, table: RewindTable, index: UniqueIndex
) -> None:
    """Check a deferrable exclusion constraint, by its own operators, for what was written.

    Raises:
        Conflict: Two rows exclude each other.
    """
    facts = await connection.fetchrow(_EXCLUSION, index.name)
    places = range(len(facts["operators"]))
    parts = [f"tableoid AS pitr_table, ctid AS pitr_place, {_columns(table)}"]
    parts += [f"({facts['expressions'][place]}) AS pitr_e{place}" for place in places]
    side = f"(SELECT {', '.join(parts)} FROM {table.target} WHERE {facts['predicate'] or 'true'})"
    excludes = " AND ".join(
        f"a.pitr_e{place} {facts['operators'][place]} b.pitr_e{place}" for place in places
    )
    row = await connection.fetchrow(
        f"SELECT w.{table.key_column} AS key FROM {table.temporary(WANTED).quoted} AS w"
        f" JOIN {side} AS a ON {table.same_key('a', 'w')} JOIN {side} AS b ON {excludes}"
        f" AND (a.pitr_table, a.pitr_place) IS DISTINCT FROM (b.pitr_table, b.pitr_place) LIMIT 1"
    )
    if row is not None:
        raise Conflict(
            "two rows exclude each other",
            hint="take back the other row too, or go to a moment when both could be",
            collection=table.collection,
            key=row["key"],
            constraint=index.name,
        )


def _columns(table: RewindTable) -> str:
    return ", ".join(quoted(name) for name, _ in table.key)
