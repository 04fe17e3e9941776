"""Foreign keys: which there are, the order they ask for, and whether the loaded rows keep them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import asyncpg

from pitr.adapters.sinks.postgres.tables import TableName, own_rows, quoted
from pitr.domain.errors import Conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A foreign key with a restored table at one end or both. ``operators[i]`` compares the
    i-th parent column, on its left, to the child's."""

    name: str
    child: TableName
    parent: TableName
    child_oid: int
    parent_oid: int
    child_columns: Sequence[str]
    parent_columns: Sequence[str]
    operators: Sequence[str]
    match_full: bool
    on_delete_writes: bool
    checkable: bool
    child_partitioned: bool = False
    parent_partitioned: bool = False


_FOREIGN_KEYS = """
SELECT
    c.conname AS name,
    c.conrelid::bigint AS child_oid,
    c.confrelid::bigint AS parent_oid,
    child_n.nspname AS child_schema, child.relname AS child_name,
    parent_n.nspname AS parent_schema, parent.relname AS parent_name,
    (SELECT array_agg(a.attname::text ORDER BY k.place)
     FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
     JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number) AS child_columns,
    (SELECT array_agg(a.attname::text ORDER BY k.place)
     FROM unnest(c.confkey) WITH ORDINALITY AS k (number, place)
     JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.number) AS parent_columns,
    (SELECT array_agg(format('OPERATOR(%I.%s)', n.nspname, o.oprname) ORDER BY k.place)
     FROM unnest(c.conpfeqop) WITH ORDINALITY AS k (operator, place)
     JOIN pg_operator o ON o.oid = k.operator
     JOIN pg_namespace n ON n.oid = o.oprnamespace) AS operators,
    c.confmatchtype = 'f' AS match_full,
    child.relkind = 'p' AS child_partitioned, parent.relkind = 'p' AS parent_partitioned,
    c.confdeltype IN ('c', 'n', 'd') AS on_delete_writes,
    c.convalidated
        AND coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
        AND NOT coalesce((to_jsonb(c) ->> 'conperiod')::boolean, false) AS checkable
FROM pg_constraint c
JOIN pg_class child ON child.oid = c.conrelid
JOIN pg_namespace child_n ON child_n.oid = child.relnamespace
JOIN pg_class parent ON parent.oid = c.confrelid
JOIN pg_namespace parent_n ON parent_n.oid = parent.relnamespace
WHERE c.contype = 'f' AND c.conparentid = 0
  AND (c.conrelid = ANY ($1::bigint[]::oid[]) OR c.confrelid = ANY ($1::bigint[]::oid[]))
ORDER BY child_schema, child_name, name
"""


async def foreign_keys(
    connection: asyncpg.Connection, oids: Sequence[int]
) -> tuple[ForeignKey, ...]:
    """Read the foreign keys that start or end at a table."""
    found = []
    for row in await connection.fetch(_FOREIGN_KEYS, oids):
        fields = dict(row)
        child = TableName(fields.pop("child_schema"), fields.pop("child_name"))
        parent = TableName(fields.pop("parent_schema"), fields.pop("parent_name"))
        found.append(ForeignKey(child=child, parent=parent, **fields))
    return tuple(found)


def parents_first(oids: Iterable[int], keys: Iterable[ForeignKey]) -> list[int]:
    """Order tables so that rows come after those they refer to; a circle is cut somewhere."""
    parents: dict[int, list[int]] = {oid: [] for oid in oids}
    for key in keys:
        if key.child_oid in parents and key.parent_oid in parents:
            parents[key.child_oid].append(key.parent_oid)
    ordered: dict[int, None] = {}
    entered: set[int] = set()

    def visit(oid: int) -> None:
        if oid not in entered:
            entered.add(oid)
            for parent in parents[oid]:
                visit(parent)
            ordered[oid] = None

    for oid in parents:
        visit(oid)
    return list(ordered)


async def check_foreign_key(connection: asyncpg.Connection, key: ForeignKey) -> None:
    """Look for a row that refers to nothing.

    Raises:
        Conflict: There is one; facts name the constraint and the values that have no parent.
    """
    columns = [f"c.{quoted(name)}" for name in key.child_columns]
    pairs = zip(key.parent_columns, key.operators, columns, strict=True)
    equal = " AND ".join(
        f"p.{quoted(parent)} {operator} {child}" for parent, operator, child in pairs
    )
    filled = " AND ".join(f"{column} IS NOT NULL" for column in columns)
    empty = " AND ".join(f"{column} IS NULL" for column in columns)
    parents = own_rows(key.parent, partitioned=key.parent_partitioned)
    children = own_rows(key.child, partitioned=key.child_partitioned)
    broken = f"({filled} AND NOT EXISTS (SELECT FROM {parents} p WHERE {equal}))"
    if key.match_full:
        broken += f" OR (NOT ({filled}) AND NOT ({empty}))"
    shown = ", ".join(f"{column}::text" for column in columns)
    row = await connection.fetchrow(f"SELECT {shown} FROM {children} c WHERE {broken} LIMIT 1")
    if row is not None:
        raise Conflict(
            "a restored row refers to a row that is not there",
            hint="restore the other table too, or to a moment when both were whole",
            constraint=key.name,
            table=key.child,
            parent=key.parent,
            example=dict(zip(key.child_columns, row, strict=True)),
        )
