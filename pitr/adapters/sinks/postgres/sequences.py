"""Sequences, moved to where they stood or past the rows that are there now; never back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import asyncpg

from pitr.adapters.sinks.postgres.tables import Table, TableName, quoted
from pitr.domain.pgoutput.sequence_log import SampledSequence
from pitr.domain.pgoutput.sql import literal

_SEQUENCES = """
SELECT DISTINCT n.nspname AS schema, c.relname AS name, t.oid::bigint AS table, a.attname AS column,
    s.seqincrement > 0 AS ascends
FROM pg_depend d
JOIN pg_class c ON c.relkind = 'S'
JOIN pg_sequence s ON s.seqrelid = c.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_attrdef f ON d.classid = 'pg_attrdef'::regclass AND f.oid = d.objid
JOIN pg_attribute a
  ON a.attrelid = coalesce(f.adrelid, d.refobjid) AND a.attnum = coalesce(f.adnum, d.refobjsubid)
JOIN pg_class t ON t.oid = a.attrelid
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


_LOOSE = """
SELECT n.nspname AS schema, c.relname AS name, s.seqincrement > 0 AS ascends
FROM unnest($1::text[], $2::text[]) AS wanted (schema, name)
JOIN pg_namespace n ON n.nspname = wanted.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name AND c.relkind = 'S'
JOIN pg_sequence s ON s.seqrelid = c.oid
WHERE has_schema_privilege(n.oid, 'USAGE') AND has_sequence_privilege(c.oid, 'UPDATE')
  AND has_sequence_privilege(c.oid, 'SELECT')
  AND NOT EXISTS (
    SELECT FROM pg_depend d
    WHERE (d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('a', 'i')
           AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid > 0)
       OR (d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_class'::regclass
           AND d.refobjid = c.oid))
ORDER BY schema, name
"""
"""Sequences that belong to no column. All are read before one is moved."""


async def sequences_of(connection: asyncpg.Connection, oids: Iterable[int]) -> list[asyncpg.Record]:
    """Find the sequences behind columns of tables: schema, name, table, column, ascends."""
    found: list[asyncpg.Record] = await connection.fetch(_SEQUENCES, list(oids))
    return found


async def move_sequences(
    connection: asyncpg.Connection,
    tables: Iterable[Table],
    *,
    samples: Sequence[SampledSequence] = (),
    whole: bool = False,
    known: Sequence[asyncpg.Record] | None = None,
) -> None:
    """Move the sequences behind columns to where they stood, and past the largest value there.

    Owned and identity sequences, and any that a column's default names; where the ``whole`` state
    is restored also those of the samples that belong to no column. None moves back. PostgreSQL
    does not undo this with the transaction, so it comes last: a failure after it leaves a hole in
    the numbers.

    Args:
        known: What ``sequences_of`` said; it may be of more tables.
    """
    loaded = {table.oid: table for table in tables}
    stood: dict[tuple[str, str], list[SampledSequence]] = {}
    for sample in samples:
        stood.setdefault((sample.schema, sample.name), []).append(sample)
    found = known if known is not None else await sequences_of(connection, loaded)
    for row in found:
        table = loaded.get(row["table"])
        if table is None:
            continue
        for sample in _samples_of(table, row["column"], stood):
            await _move_to(connection, row, sample)
        await _move_past_rows(connection, row, table.name)
    if whole and stood:
        schemas, names = zip(*stood, strict=True)
        for row in await connection.fetch(_LOOSE, schemas, names):
            for sample in stood[row["schema"], row["name"]]:
                await _move_to(connection, row, sample)


async def sequences_to_move(
    connection: asyncpg.Connection,
    tables: Iterable[Table],
    *,
    filled: Collection[int],
    samples: Sequence[SampledSequence] = (),
    whole: bool = False,
) -> list[str]:
    """Name those that ``move_sequences`` would look at, and move where they are behind.

    Args:
        filled: The oids of tables that get rows.
    """
    loaded = {table.oid: table for table in tables}
    stood: dict[tuple[str, str], list[SampledSequence]] = {}
    for sample in samples:
        stood.setdefault((sample.schema, sample.name), []).append(sample)
    found = [
        f"{row['schema']}.{row['name']}"
        for row in await sequences_of(connection, loaded)
        if row["table"] in filled or _samples_of(loaded[row["table"]], row["column"], stood)
    ]
    if whole and stood:
        schemas, names = zip(*stood, strict=True)
        rows = await connection.fetch(_LOOSE, schemas, names)
        found += [f"{row['schema']}.{row['name']}" for row in rows]
    return list(dict.fromkeys(found))


def _samples_of(
    table: Table, column: str, stood: Mapping[tuple[str, str], list[SampledSequence]]
) -> list[SampledSequence]:
    """What stood behind this column where the rows come from, whatever it was called there."""
    known = table.schema.sequences if table.schema is not None else ()
    return [
        sample
        for each in known
        if each.column == column
        for sample in stood.get((each.schema, each.name), ())
    ]


async def _move_to(
    connection: asyncpg.Connection, row: asyncpg.Record, sample: SampledSequence
) -> None:
    sequence, regclass = _named(row)
    past = ">" if row["ascends"] else "<"
    await connection.execute(
        f"SELECT setval({regclass}, $1, $2) FROM {sequence} AS now, pg_sequence AS s"
        f" WHERE s.seqrelid = {regclass} AND $1 BETWEEN s.seqmin AND s.seqmax"
        f" AND ($1 {past} now.last_value OR $1 = now.last_value AND $2 AND NOT now.is_called)",
        sample.last_value,
        sample.is_called,
    )


async def _move_past_rows(
    connection: asyncpg.Connection, row: asyncpg.Record, table: TableName
) -> None:
    sequence, regclass = _named(row)
    furthest, past = ("max", ">=") if row["ascends"] else ("min", "<=")
    await connection.execute(
        f"SELECT setval({regclass}, reached.value)"
        f" FROM (SELECT {furthest}({quoted(row['column'])})::bigint AS value FROM {table.quoted})"
        f" AS reached, {sequence} AS now, pg_sequence AS s"
        f" WHERE s.seqrelid = {regclass}"
        f" AND reached.value BETWEEN s.seqmin AND s.seqmax"
        f" AND reached.value {past} now.last_value"
    )


def _named(row: asyncpg.Record) -> tuple[str, str]:
    """A sequence as it stands in SQL, and as a constant."""
    sequence = TableName(row["schema"], row["name"]).quoted
    return sequence, f"{literal(sequence)}::regclass"
