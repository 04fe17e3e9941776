"""Rows into one table: encoded in a thread, sent by COPY while the next are encoded."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import asyncpg
import pyarrow as pa

from pitr.adapters.sinks.batches import Spill, ahead, prefetched, slices
from pitr.adapters.sinks.postgres.connection import translated
from pitr.adapters.sinks.postgres.infer import Inference
from pitr.adapters.sinks.postgres.making import make_schemas
from pitr.adapters.sinks.postgres.rows import Lines, RowEncoder
from pitr.adapters.sinks.postgres.tables import Table, TableName, described, existing, quoted
from pitr.domain.ports import Progress

RUN_ROWS_MAX: Final = 262_144
"""Rows of one COPY. Their keys are kept until it ends, to say which row was refused."""

RUN_BYTES_MAX: Final = 128 * 1024 * 1024
"""Bytes of one COPY, for the same reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loader:
    """Fills tables in the transaction that is open on ``connection``."""

    connection: asyncpg.Connection
    progress: Progress
    drop_unknown: bool
    temporary_folder: Path | None

    async def fill(
        self, collection: str, table: Table, batches: Iterable[pa.RecordBatch]
    ) -> tuple[int, list[str]]:
        """Copy rows into a table; return how many, and notes.

        Raises:
            InvalidRequest: A document does not fit the table, or a row breaks a constraint.
        """
        encoder = RowEncoder(collection, table, drop_unknown=self.drop_unknown)
        parts = slices(prefetched(batches))
        lines = (found for part in parts for found in encoder.encoded(part))
        rows_count = 0
        async with aclosing(ahead(lines)) as coming:
            following = await anext(coming, None)
            while following is not None:
                run = _Run(self, collection, table, coming, following)
                following = await run.copied()
                rows_count += run.rows_count
        return rows_count, _left_out_notes(collection, encoder.left_out)

    async def make(
        self, collection: str, name: TableName, batches: Iterable[pa.RecordBatch]
    ) -> tuple[Table, int, list[str]]:
        """Make a table with columns for all the documents there are, and copy the rows into it.

        The rows pass twice, the second time from a temporary file. The table, the number of rows
        and notes come back.

        Raises:
            InvalidRequest: The documents cannot be rows of a table.
        """
        inference, spill = Inference(collection), Spill(self.temporary_folder)
        try:
            async with aclosing(ahead(_seen(batches, inference, spill))) as looks:
                async for _ in looks:
                    pass
            table = await self._made(name, inference.create_statement(name))
            rows_count, _ = await self.fill(collection, table, spill.batches())
        finally:
            spill.close()
        return table, rows_count, await self._keyed(collection, name, inference)

    async def _made(self, name: TableName, statement: str) -> Table:
        await make_schemas(self.connection, [name.schema])
        await self.connection.execute(statement)
        [table] = (await existing(self.connection, [name])).values()
        return await described(self.connection, table, json_strings="value")

    async def _keyed(self, collection: str, name: TableName, inference: Inference) -> list[str]:
        key = inference.primary_key()
        if not key:
            return [f"{collection}: no primary key, as its keys are not alike or hold nulls"]
        columns = ", ".join(map(quoted, key))
        await self.connection.execute(f"ALTER TABLE {name.quoted} ADD PRIMARY KEY ({columns})")
        return []


def _left_out_notes(collection: str, members: Iterable[str]) -> list[str]:
    names = ", ".join(sorted(members))
    return [f"{collection}: left out what were no columns any more: {names}"] if names else []


def _seen(batches: Iterable[pa.RecordBatch], inference: Inference, spill: Spill) -> Iterator[None]:
    for part in slices(batches):
        inference.add(part)
        spill.add(part)
        yield


@dataclass
class _Run:
    """One COPY: lines for the same columns, up to a bound, from ``following`` on."""

    loader: Loader
    collection: str
    table: Table
    coming: AsyncIterator[Lines]
    following: Lines | None
    rows_count: int = 0
    keys: list[Sequence[str]] = field(default_factory=list)

    async def copied(self) -> Lines | None:
        """Copy; return the lines that the next run begins with, None at the end."""
        assert self.following is not None
        columns = self.following.columns
        with translated(self._place):
            async with aclosing(self._bodies(columns)) as source:
                await self.loader.connection.copy_to_table(
                    self.table.name.table,
                    schema_name=self.table.name.schema,
                    columns=columns,
                    source=source,
                    format="text",
                )
        return self.following

    async def _bodies(self, columns: tuple[str, ...]) -> AsyncGenerator[bytes, None]:
        bytes_count = 0
        while self.following is not None and self.following.columns == columns:
            if self.rows_count >= RUN_ROWS_MAX or bytes_count >= RUN_BYTES_MAX:
                return
            lines = self.following
            self.keys.append(lines.keys)
            yield lines.body
            self.rows_count += len(lines.keys)
            bytes_count += len(lines.body)
            self.loader.progress(len(lines.keys))
            self.following = await anext(self.coming, None)

    def _place(self, line: int) -> Mapping[str, object]:
        """The row that stands on a line, from 1."""
        place: dict[str, object] = {"collection": self.collection}
        for keys in self.keys:
            if line <= len(keys):
                return place | {"key": keys[line - 1]}
            line -= len(keys)
        return place
