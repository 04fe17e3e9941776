"""Compares two databases row by row and column by column, without knowing where they come from.

It asks PostgreSQL alone: which tables there are, what their keys are, and how it writes each row.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import asyncpg

EXAMPLES_MAX = 5
"""Differences of a table that are told in full."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDifference:
    """How a table differs from the truth: rows it lacks, has beyond it, or has otherwise."""

    table: str
    rows: int
    lost: int
    added: int
    changed: int
    examples: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether every row is there with every value, and no other."""
        return not self.examples


async def compare(truth_url: str, other_url: str, *, schema: str) -> list[TableDifference]:
    """Compare every table that either database has in ``schema``; by table, sorted."""
    truth, other = await asyncio.gather(_contents(truth_url, schema), _contents(other_url, schema))
    return [
        await asyncio.to_thread(difference, table, truth.get(table), other.get(table))
        for table in sorted(truth.keys() | other.keys())
    ]


def difference(
    table: str, truth: dict[str, str] | None, other: dict[str, str] | None
) -> TableDifference:
    """Compare rows by key; None is a table that does not exist."""
    if truth is None or other is None:
        where = "the truth" if truth is None else "the other database"
        example = (f"{table} does not exist in {where}",)
        return TableDifference(
            table=table,
            rows=len(truth or ()),
            lost=len(truth or ()),
            added=len(other or ()),
            changed=0,
            examples=example,
        )
    lost = [key for key in truth if key not in other]
    added = [key for key in other if key not in truth]
    changed = [key for key, row in truth.items() if key in other and other[key] != row]
    examples = [
        *(f"{table} {key} is lost" for key in lost[:EXAMPLES_MAX]),
        *(f"{table} {key} should not exist" for key in added[:EXAMPLES_MAX]),
        *(f"{table} {key}: {truth[key]} became {other[key]}" for key in changed[:EXAMPLES_MAX]),
    ]
    return TableDifference(
        table=table,
        rows=len(truth),
        lost=len(lost),
        added=len(added),
        changed=len(changed),
        examples=tuple(examples[:EXAMPLES_MAX]),
    )


_TABLES = """
SELECT c.relname, array_agg(a.attname ORDER BY array_position(i.indkey::int2[], a.attnum))
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
WHERE c.relkind = 'r' AND n.nspname = $1
GROUP BY c.relname
"""


async def _contents(url: str, schema: str) -> dict[str, dict[str, str]]:
    """Every row of every table as PostgreSQL writes it, by key; one moment for all tables."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return {
                table: dict(await connection.fetch(_rows(schema, table, key)))
                for table, key in await connection.fetch(_TABLES, schema)
            }
    finally:
        await connection.close()


def _rows(schema: str, table: str, key: list[str]) -> str:
    columns = ", ".join(f"t.{_quoted(name)}" for name in key)
    return f"SELECT ROW({columns})::text, t::text FROM {_quoted(schema)}.{_quoted(table)} AS t"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


_IDENTITIES = """
SELECT format('%I.%I', n.nspname, c.relname), a.attname,
       format('SELECT coalesce(max(%I), 0) FROM %I.%I', a.attname, n.nspname, c.relname)
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND a.attidentity <> '' AND c.relkind = 'r'
"""


async def taken_ids(url: str, *, schema: str) -> list[str]:
    """Name the identity columns whose next value would collide with a row; takes that value."""
    connection = await asyncpg.connect(url)
    try:
        taken = []
        for table, column, largest in await connection.fetch(_IDENTITIES, schema):
            following = await connection.fetchval(_NEXT_VALUE, table, column)
            if following <= await connection.fetchval(largest):
                taken.append(f"{table}.{column}: the next value {following} is taken already")
        return taken
    finally:
        await connection.close()


_NEXT_VALUE = "SELECT nextval(pg_get_serial_sequence($1, $2))"
