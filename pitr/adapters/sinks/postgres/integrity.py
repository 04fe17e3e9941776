"""What binds tables together: foreign keys, triggers, deferred uniqueness, sequences.

While a state is loaded, nothing of the app's may fire. Afterwards everything that was not checked
on the way is checked by query, and sequences are moved past what was loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from pitr.adapters.sinks.postgres.tables import TableName, quoted
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
    equal = " AND ".join(f"p.{quoted(parent)} {operator} {child}" for parent, operator, child in pairs)
    filled = " AND ".join(f"{column} IS NOT NULL" for column in columns)
    empty = " AND ".join(f"{column} IS NULL" for column in columns)
    broken = f"({filled} AND NOT EXISTS (SELECT FROM {key.parent.quoted} p WHERE {equal}))"
    if key.match_full:
        broken += f" OR (NOT ({filled}) AND NOT ({empty}))"
    shown = ", ".join(f"{column}::text" for column in columns)
    row = await connection.fetchrow(
        f"SELECT {shown} FROM {key.child.quoted} c WHERE {broken} LIMIT 1"
    )
    if row is not None:
        raise Conflict(
            "a restored row refers to a row that is not there",
            hint="restore the other table too, or to a moment when both were whole",
            constraint=key.name,
            table=key.child,
            parent=key.parent,
            example=dict(zip(key.child_columns, row, strict=True)),
        )


_TRIGGERS = """
SELECT n.nspname AS schema, c.relname AS name, t.tgname AS trigger, t.tgenabled::text AS enabled
FROM pg_trigger t
JOIN pg_class c ON c.oid = t.tgrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE t.tgrelid = ANY ($1::bigint[]::oid[]) AND NOT t.tgisinternal
  AND t.tgenabled::text = ANY ($2) AND t.tgparentid = 0
ORDER BY schema, name, trigger
"""
_ENABLE: Final = {"O": "ENABLE", "A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}


class Triggers:
    """The app's triggers, silenced for one transaction only.

    With ``session_replication_role = replica`` ordinary triggers and the foreign keys' own rest,
    for this session only. A role that may not set it switches the triggers off by name, which
    nobody else sees before the commit, as it is undone before that too.
    """

    def __init__(self) -> None:
        self.replica = False
        self._off: list[tuple[str, str, str]] = []

    async def silence(self, connection: asyncpg.Connection, oids: Sequence[int]) -> None:
        """Make sure that none fires.

        Raises:
            asyncpg.InsufficientPrivilegeError: The role may do neither.
        """
        try:
            async with connection.transaction():
                await connection.execute("SET LOCAL session_replication_role = replica")
            self.replica = True
        except asyncpg.InsufficientPrivilegeError:
            self.replica = False
        modes = ["A", "R"] if self.replica else ["O", "A"]
        for row in await connection.fetch(_TRIGGERS, oids, modes):
            table = TableName(row["schema"], row["name"]).quoted
            trigger = quoted(row["trigger"])
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")
            self._off.append((table, _ENABLE[row["enabled"]], trigger))

    async def restore(self, connection: asyncpg.Connection) -> None:
        """Switch on again, each in its mode, what was switched off."""
        if self._off:
            await connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table, enable, trigger in self._off:
            await connection.execute(f"ALTER TABLE {table} {enable} TRIGGER {trigger}")


_DEFERRED = """
SELECT c.conname AS name, n.nspname AS schema, t.relname AS table, c.contype::text AS kind,
    (SELECT array_agg(a.attname::text ORDER BY k.place)
     FROM unnest(c.conkey) WITH ORDINALITY AS k (number, place)
     JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.number) AS columns
FROM pg_constraint c
JOIN pg_class t ON t.oid = c.conrelid
JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE c.condeferrable AND c.contype IN ('u', 'p', 'x') AND c.conrelid = ANY ($1::bigint[]::oid[])
"""


async def check_deferred(connection: asyncpg.Connection, oids: Sequence[int]) -> list[str]:
    """Check deferrable unique constraints, which rest with the triggers; return what was not.

    Raises:
        Conflict: Two rows have the same values.
    """
    notes = []
    for row in await connection.fetch(_DEFERRED, oids):
        table = TableName(row["schema"], row["table"])
        if row["kind"] == "x":
            notes.append(f"{table}: the deferrable exclusion constraint {row['name']} is unchecked")
            continue
        columns = [quoted(name) for name in row["columns"]]
        filled = " AND ".join(f"{column} IS NOT NULL" for column in columns)
        shown = ", ".join(f"{column}::text" for column in columns)
        twice = await connection.fetchrow(
            f"SELECT {shown} FROM {table.quoted} WHERE {filled}"
            f" GROUP BY {', '.join(columns)} HAVING count(*) > 1 LIMIT 1"
        )
        if twice is not None:
            example = dict(zip(row["columns"], twice, strict=True))
            raise Conflict(
                "two restored rows have the same values in a unique constraint",
                constraint=row["name"],
                table=table,
                example=example,
            )
    return notes


_SEQUENCES = """
SELECT DISTINCT n.nspname AS schema, c.relname AS name, tn.nspname AS table_schema,
    t.relname AS table_name, a.attname AS column, s.seqincrement > 0 AS ascends
FROM pg_depend d
JOIN pg_class c ON c.relkind = 'S'
JOIN pg_sequence s ON s.seqrelid = c.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
JOIN pg_attribute a
  ON a.attrelid = coalesce(f.adrelid, d.refobjid) AND a.attnum = coalesce(f.adnum, d.refobjsubid)
JOIN pg_class t ON t.oid = a.attrelid
JOIN pg_namespace tn ON tn.oid = t.relnamespace
WHERE t.oid = ANY ($1::bigint[]::oid[])
  AND a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'numeric'::regtype)
  AND (
    (d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
     AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0)
    OR
    (d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
     AND d.refobjid = c.oid)
  )
ORDER BY schema, name
"""


async def move_sequences(connection: asyncpg.Connection, oids: Sequence[int]) -> None:
    """Move the sequences behind columns past the largest value there; never back.

    Owned and identity sequences, and any that a column's default names. PostgreSQL does not undo
    this with the transaction, so it comes last: a failure after it leaves a hole in the numbers.
    """
    for row in await connection.fetch(_SEQUENCES, oids):
        sequence = TableName(row["schema"], row["name"]).quoted
        table = TableName(row["table_schema"], row["table_name"]).quoted
        furthest, past = ("max", ">=") if row["ascends"] else ("min", "<=")
        await connection.execute(
            f"SELECT setval('{sequence.replace("'", "''")}'::regclass, reached.value)"
            f" FROM (SELECT {furthest}({quoted(row['column'])})::bigint AS value FROM {table})"
            f" AS reached, {sequence} AS now, pg_sequence AS s"
            f" WHERE s.seqrelid = '{sequence.replace("'", "''")}'::regclass"
            f" AND reached.value BETWEEN s.seqmin AND s.seqmax"
            f" AND reached.value {past} now.last_value"
        )
