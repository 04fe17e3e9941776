"""What tests of chunks share: a table as the stream would describe it, and all of its chunks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from pitr.adapters.postgres.chunks import read_chunk
from pitr.adapters.postgres.forms import Forms
from pitr.domain.pgoutput.copying import CHUNK_BYTES, Chunk
from pitr.domain.pgoutput.copytext import changes_of
from pitr.domain.pgoutput.model import SESSION, Column, Relation
from pitr.domain.pgoutput.sql import identifier

COLUMNS = """
SELECT attname::text AS name, atttypid::bigint AS type_oid, atttypmod AS typmod FROM pg_attribute
WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum
"""


@asynccontextmanager
async def connected(url: str, **settings: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def described(connection: Any, table: str, *key: str) -> Relation:
    """A table as the stream would describe it; all columns are the key if none is named."""
    schema, _, name = table.rpartition(".")
    relid = await connection.fetchval("SELECT $1::text::regclass::oid::bigint", table)
    found = await connection.fetch(COLUMNS, relid)
    forms = Forms()
    await forms.learn(connection, forms.missing(row["type_oid"] for row in found))
    columns = tuple(
        Column(
            **dict(row),
            form=forms.form(row["type_oid"]).form,
            element=forms.form(row["type_oid"]).element,
        )
        for row in found
    )
    return Relation(
        relid=relid,
        schema=schema.strip('"') or "public",
        name=name.strip('"'),
        identity="d" if key else "f",
        columns=columns,
        key=key or tuple(column.name for column in columns),
    )


async def all_chunks(
    connection: Any, relation: Relation, *, rows_max: int = 7, bytes_max: int = 2 * CHUNK_BYTES
) -> list[Chunk]:
    """Read a table to its end; where to go on is written as JSON each time."""
    chunks: list[Chunk] = []
    after = None
    while not chunks or not chunks[-1].done:
        chunk = await read_chunk(
            connection, relation, after=after, rows_max=rows_max, bytes_max=bytes_max
        )
        assert chunk.data.count(b"\n") == chunk.rows
        assert chunk.rows or chunk.done
        after = json.loads(json.dumps(chunk.last))
        chunks.append(chunk)
        assert len(chunks) < 10_000
    return chunks


def documents(chunks: list[Chunk], relation: Relation) -> list[dict[str, Any]]:
    """The rows of chunks, in order; numbers as texts."""
    tables = [changes_of(chunk.data, relation) for chunk in chunks]
    return [
        json.loads(after, parse_int=str, parse_float=str)
        for table in tables
        for after in table["after"].to_pylist()
    ]


async def as_texts(connection: Any, query: str) -> list[dict[str, str | None]]:
    """What a query gives, each value as its type's output function writes it for the stream."""
    async with connection.transaction():
        for name, value in SESSION.items():
            if name != "search_path":
                await connection.execute("SELECT set_config($1, $2, true)", name, value)
        names = [each.name for each in (await connection.prepare(query)).get_attributes()]
        # A cast to text is not what the output function writes: char(n) and inet, for two.
        columns = ", ".join(
            f"CASE WHEN num_nulls(x.{each}) = 0 THEN format('%s', x.{each}) END AS {each}"
            for each in map(identifier, names)
        )
        found = await connection.fetch(f"SELECT {columns} FROM ({query}) x")
    return [dict(row) for row in found]
