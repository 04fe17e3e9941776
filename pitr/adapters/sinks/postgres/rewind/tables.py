"""The tables of a rewind as the database describes them: keys, unique indexes, rules, sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import asyncpg

from pitr.adapters.sinks.postgres.tables import (
    Table,
    TableName,
    described,
    existing,
    quoted,
    table_names,
)
from pitr.domain.errors import InvalidRequest
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.rewind.columns import (
    ColumnPlan,
    ColumnRules,
    LiveColumn,
    Schemas,
    Work,
    check_keyed,
    column_plan,
)

KEY_COLUMN: Final = "pitr_key"
"""What the temporary tables call the row's key in the log, unless the table has such a column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueIndex:
    """A unique index, or that of an exclusion constraint.

    ``columns`` are all that its entries depend on. ``operators`` compare the columns of one that
    is plain (no expression, no condition); otherwise it is empty.
    """

    name: str
    columns: tuple[str, ...]
    operators: tuple[str, ...]
    immediate: bool
    exclusion: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFacts:
    """What ``Column`` does not say. ``default`` is its expression in SQL."""

    generated: bool
    always_identity: bool
    default: str | None


@dataclass(frozen=True, kw_only=True)
class RewindTable:
    """One table of a rewind, with its rows to be.

    ``number`` names its temporary tables. ``now`` and ``then`` are the table with the schema of
    either moment. ``oids`` are its own and those of its partitions.
    """

    number: int
    work: Work
    then: Table
    now: Table
    partitioned: bool
    oids: tuple[int, ...]
    columns: ColumnPlan
    facts: Mapping[str, ColumnFacts]
    key: tuple[tuple[str, str], ...]
    unique: tuple[UniqueIndex, ...]

    @property
    def name(self) -> TableName:
        """The table."""
        return self.now.name

    @property
    def collection(self) -> str:
        """The collection of its rows."""
        return self.work.collection

    @property
    def captured(self) -> bool:
        """Whether its rows were captured from the table itself: values have its own text."""
        return self.work.schema_now is not None

    @property
    def target(self) -> str:
        """The table in SQL, without tables that inherit from it."""
        return self.name.quoted if self.partitioned else f"ONLY {self.name.quoted}"

    @cached_property
    def key_column(self) -> str:
        """The name of the column with the row's key in the log."""
        name = KEY_COLUMN
        while name in self.facts:
            name += "_"
        return quoted(name)

    @cached_property
    def plain(self) -> tuple[str, ...]:
        """The columns that the database does not fill by itself."""
        return tuple(name for name, facts in self.facts.items() if not facts.generated)

    @cached_property
    def fixed(self) -> tuple[str, ...]:
        """The columns by which a row is put anew where they differ: no update may pass over them.

        Two rows may swap values of a unique index; identities that are always generated take no
        update.
        """
        always = {name for name, facts in self.facts.items() if facts.always_identity}
        found = always | {name for index in self.unique for name in index.columns}
        if any(self.facts[name].generated for name in found):
            return self.columns.written
        return tuple(name for name in self.columns.written if name in found)

    @cached_property
    def kept(self) -> tuple[str, ...]:
        """The columns that keep what they have in rows that are put anew."""
        others = {*self.columns.written, *self.columns.defaulted}
        return tuple(name for name in self.plain if name not in others)

    def temporary(self, suffix: str) -> TableName:
        """The name of one of its temporary tables."""
        return TableName("pg_temp", f"pitr_rewind_{self.number}_{suffix}")

    def same_key(self, left: str, right: str) -> str:
        """The condition that two aliases have the same key: for the index, and to the letter."""
        parts = []
        for name, operator in self.key:
            column = quoted(name)
            parts.append(f"{left}.{column} {operator} {right}.{column}")
            parts.append(f"{left}.{column}::text = {right}.{column}::text")
        return " AND ".join(parts)

    def same(self, left: str, right: str, columns: Sequence[str]) -> str:
        """The condition that two aliases have the same values, as texts."""
        parts = [
            f"{left}.{quoted(name)}::text IS NOT DISTINCT FROM {right}.{quoted(name)}::text"
            for name in columns
        ]
        return " AND ".join(parts) or "true"


_KINDS = """
SELECT c.oid::bigint AS oid, c.relkind::text AS kind,
    ARRAY(SELECT t.relid::oid::bigint FROM pg_partition_tree(c.oid) t WHERE t.relid <> c.oid)
        AS partitions
FROM pg_class c WHERE c.oid = ANY ($1::bigint[]::oid[])
"""

_FACTS = """
SELECT a.attname::text AS name, a.attgenerated <> '' AS generated,
    a.attidentity = 'a' AS always_identity,
    CASE WHEN a.attidentity <> ''
         THEN format('nextval(%L)', pg_get_serial_sequence(a.attrelid::regclass::text, a.attname))
         WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END AS "default"
FROM pg_attribute a
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = $1::bigint::oid AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""

# What an index depends on is in its key, in its expressions and in its condition.
_UNIQUE = """
SELECT i.indexrelid::regclass::text AS name, i.indimmediate AS immediate,
    NOT i.indisunique AS exclusion,
    ARRAY(
        SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = i.indrelid AND a.attnum > 0 AND (
            a.attnum = ANY (i.indkey::int2[]) OR EXISTS (
                SELECT FROM pg_depend d
                WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                  AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid
                  AND d.refobjsubid = a.attnum))
    ) AS depends,
    i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AS plain,
    ARRAY(
        SELECT a.attname::text
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
        WHERE k.place <= i.indnkeyatts ORDER BY k.place
    ) AS columns,
    ARRAY(
        SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname)
        FROM unnest(i.indclass::oid[]) WITH ORDINALITY AS k (class, place)
        JOIN pg_opclass c ON c.oid = k.class
        JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype
         AND m.amoprighttype = c.opcintype AND m.amopstrategy = 3
        JOIN pg_operator o ON o.oid = m.amopopr
        JOIN pg_namespace n ON n.oid = o.oprnamespace
        ORDER BY k.place
    ) AS operators
FROM pg_index i
WHERE i.indrelid = ANY ($1::bigint[]::oid[]) AND i.indislive
  AND (i.indisunique OR i.indisexclusion)
ORDER BY i.indrelid = $2::bigint::oid DESC, i.indisprimary DESC, name
"""

_RULES = """
SELECT r.rulename::text AS rule, c.oid::regclass::text AS table
FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
WHERE c.oid = ANY ($1::bigint[]::oid[]) AND r.ev_type <> '1' AND r.ev_enabled::text = ANY ($2)
ORDER BY 2, 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedTable:
    """A table as the catalogs of the database have it, and both moments' columns of it."""

    then: Table
    now: Table
    partitioned: bool
    oids: tuple[int, ...]
    facts: Mapping[str, ColumnFacts]
    unique: tuple[UniqueIndex, ...]


def names_of(tables: Mapping[str, Schemas]) -> dict[str, TableName]:
    """Return the names of the tables of collections.

    Raises:
        InvalidRequest: A collection cannot be a table.
    """
    known = {name: schemas.newest for name, schemas in tables.items()}
    return table_names(list(tables), {}, {name: each for name, each in known.items() if each})


async def described_tables(
    connection: asyncpg.Connection, tables: Mapping[str, Schemas]
) -> dict[str, DescribedTable]:
    """Describe the tables of collections, those that are there.

    Raises:
        InvalidRequest: A collection cannot be a table; or one is a view, or the like.
    """
    names = names_of(tables)
    found = await existing(connection, names.values())
    oids = [table.oid for table in found.values()]
    kinds = {row["oid"]: row for row in await connection.fetch(_KINDS, oids)}
    return {
        collection: await _described(
            connection, found[name], tables[collection], kinds[found[name].oid]
        )
        for collection, name in names.items()
        if name in found
    }


async def _described(
    connection: asyncpg.Connection, table: Table, schemas: Schemas, kind: asyncpg.Record
) -> DescribedTable:
    then = now = await _columns_of(connection, table, schemas.then)
    if schemas.now != schemas.then:
        now = await _columns_of(connection, table, schemas.now)
    oids = (table.oid, *kind["partitions"])
    return DescribedTable(
        then=then,
        now=now,
        partitioned=kind["kind"] == "p",
        oids=oids,
        facts={
            row["name"]: ColumnFacts(
                generated=row["generated"],
                always_identity=row["always_identity"],
                default=row["default"],
            )
            for row in await connection.fetch(_FACTS, table.oid)
        },
        unique=tuple(map(_unique, await connection.fetch(_UNIQUE, oids, table.oid))),
    )


def rewind_tables(
    described: Mapping[str, DescribedTable], works: Sequence[Work], rules: ColumnRules
) -> list[RewindTable]:
    """Make what is to be done of what the tables are.

    Raises:
        InvalidRequest: A table is not there, has no key as the rows have, or columns do not fit.
    """
    return [_rewind_table(described, work, rules, number) for number, work in enumerate(works)]


def _rewind_table(
    described: Mapping[str, DescribedTable], work: Work, rules: ColumnRules, number: int
) -> RewindTable:
    check_keyed(work)
    table = described.get(work.collection)
    if table is None:
        raise InvalidRequest(
            "the table is not there, and a rewind makes none",
            hint="make it, or restore into an empty database",
            collection=work.collection,
            table=names_of({work.collection: work.schemas})[work.collection],
        )
    live = [LiveColumn(name=name, generated=each.generated) for name, each in table.facts.items()]
    return RewindTable(
        number=number,
        work=work,
        then=table.then,
        now=table.now,
        partitioned=table.partitioned,
        oids=table.oids,
        columns=column_plan(work, live, rules),
        facts=table.facts,
        key=_key(work, table.now, table.unique),
        unique=table.unique,
    )


async def _columns_of(
    connection: asyncpg.Connection, table: Table, schema: TableSchema | None
) -> Table:
    return await described(connection, table, json_strings="auto", schema=schema, may_read=False)


def _unique(row: asyncpg.Record) -> UniqueIndex:
    plain = row["plain"]
    return UniqueIndex(
        name=row["name"],
        columns=tuple(row["columns"] if plain else row["depends"]),
        operators=tuple(row["operators"]) if plain else (),
        immediate=row["immediate"],
        exclusion=row["exclusion"],
    )


def _key(work: Work, table: Table, unique: Sequence[UniqueIndex]) -> tuple[tuple[str, str], ...]:
    """The key's columns with the operators of the index that finds a row by them.

    Raises:
        InvalidRequest: There is no such index.
    """
    wanted = work.key
    for index in unique:
        if index.operators and index.immediate and sorted(index.columns) == sorted(wanted):
            return tuple(zip(index.columns, index.operators, strict=True))
    raise InvalidRequest(
        "the table has no unique index on the columns of its rows' key",
        hint="make one; without it a row of the log names no single row of the table",
        table=table.name,
        key=list(wanted),
    )


async def check_rules(
    connection: asyncpg.Connection, oids: Sequence[int], *, replica: bool
) -> None:
    """Refuse tables whose rules would turn what is written into something else.

    Raises:
        InvalidRequest: There is one.
    """
    modes = ["A", "R"] if replica else ["O", "A"]
    row = await connection.fetchrow(_RULES, oids, modes)
    if row is not None:
        raise InvalidRequest(
            "a rule of the table rewrites what is written to it",
            hint=f"ALTER TABLE {row['table']} DISABLE RULE {quoted(row['rule'])}, and try again",
            table=row["table"],
            rule=row["rule"],
        )
