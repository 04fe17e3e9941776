"""A database to capture from, for questions: all that is not the stream of its changes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, cast

from pitr.adapters.postgres.connection import Pool
from pitr.adapters.postgres.facts import read_facts, read_slot
from pitr.adapters.postgres.forms import Forms
from pitr.adapters.postgres.schemas import read_schemas
from pitr.adapters.postgres.sequences import sequence_values
from pitr.adapters.postgres.tables import every_table, sizes
from pitr.domain.errors import Conflict, Unavailable
from pitr.domain.pgoutput.messages import RawColumn, RawRelation
from pitr.domain.pgoutput.model import Column, Relation, lsn_of
from pitr.domain.pgoutput.schema import Identity, TableColumn, TableSchema
from pitr.domain.pgoutput.selection import Chosen, Selection, choose
from pitr.domain.pgoutput.source import Schemas, SequenceValue, SlotState, SourceFacts

SEQUENCE_READS_MAX: Final = 3

_NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"

_WAL_END: Final = """
SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
             ELSE pg_current_wal_lsn() END)::text
"""

_EMIT: Final = "SELECT pg_logical_emit_message($1::bool, $2::text, $3::bytea)::text"

_KEY: Final = """
SELECT a.attname::text
FROM pg_index x
CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY AS k (number, place)
JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number
WHERE x.indrelid = $1::bigint::oid AND x.indisprimary AND x.indimmediate
  AND k.place <= x.indnkeyatts
ORDER BY k.place
"""


class SourceDatabase:
    """A database to capture from. All methods raise ``Unavailable`` when it does not answer."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._forms = Forms()

    @classmethod
    async def open(cls, url: str) -> SourceDatabase:
        """Connect.

        Raises:
            InvalidRequest: It refuses user or settings, or the URL cannot be used.
            NotFound: There is no such database.
        """
        return cls(await Pool.open(url))

    async def close(self) -> None:
        """Let go of all connections."""
        await self.pool.close()

    async def facts(self) -> SourceFacts:
        """Read what matters of the server, the database and the role."""
        async with self.pool.connection() as connection:
            return await read_facts(connection)

    async def slot(self, name: str) -> SlotState | None:
        """Read how a replication slot stands; None if there is none of this name."""
        async with self.pool.connection() as connection:
            return await read_slot(connection, name)

    async def tables(self, selection: Selection) -> Chosen:
        """Read the tables of a selection, with estimates of their rows and bytes.

        Raises:
            NotFound: The selection names something that is not there.
        """
        async with self.pool.transaction(one_view=True) as connection:
            chosen = choose(await every_table(connection), selection)
            found = await sizes(connection, chosen.tables)
        tables = (
            replace(table, rows_estimate=rows, size_bytes=size)
            for table in chosen.tables
            for rows, size in [found[table.relid]]
        )
        return replace(chosen, tables=tuple(tables))

    async def schemas(self, relids: Sequence[int]) -> Schemas:
        """Read the schema documents of those tables that exist, as of one snapshot."""
        return await read_schemas(self.pool, relids)

    async def sequences(self, relids: Sequence[int] | None = None) -> tuple[SequenceValue, ...]:
        """Read what sequences stand at; all of the app's if none are named."""
        for _ in range(SEQUENCE_READS_MAX):
            try:
                async with self.pool.connection() as connection:
                    return await sequence_values(connection, relids)
            except Conflict:  # one was dropped meanwhile
                continue
        raise Unavailable("sequences are dropped all the time", hint="try again")

    async def relation(self, raw: RawRelation) -> Relation:
        """Complete what a relation message says: the form of each column, and the rows' key.

        The message is of its time, the catalogs are of now: a type that was dropped since is a
        string, and the key comes from the message itself wherever that has it.
        """
        flagged = tuple(column.name for column in raw.columns if column.in_identity)
        async with self.pool.connection() as connection:
            await self._learn(connection, (column.type_oid for column in raw.columns))
            if raw.identity == "d" or (raw.identity == "i" and flagged):
                key = flagged
            else:
                key = await _key_of(connection, raw.relid)
        names = tuple(column.name for column in raw.columns)
        columns = (self._column(column, in_identity=column.in_identity) for column in raw.columns)
        return Relation(
            relid=raw.relid,
            schema=raw.schema,
            name=raw.name,
            identity=cast(Identity, raw.identity),
            columns=tuple(columns),
            key=key if key and {*key} <= {*names} else names,
        )

    async def relation_of(
        self,
        schema: TableSchema,
        *,
        chosen: Collection[str] | None = None,
        generated: bool = False,
    ) -> Relation:
        """Describe a table as the stream would.

        Args:
            schema: Its document.
            chosen: The columns that are published, None for all.
            generated: Stored generated columns are published too.
        """
        columns = [
            column
            for column in schema.columns
            if (column.generated is None or (generated and not column.virtual))
            and (chosen is None or column.name in chosen)
        ]
        async with self.pool.connection() as connection:
            await self._learn(connection, (column.type_oid for column in columns))
        whole = schema.identity == "f"
        names = tuple(column.name for column in columns)
        return Relation(
            relid=schema.relid,
            schema=schema.schema,
            name=schema.name,
            identity=schema.identity,
            columns=tuple(
                self._column(column, in_identity=whole or column.name in schema.identity_columns)
                for column in columns
            ),
            key=schema.row_key if {*schema.row_key} <= {*names} else names,
        )

    async def _learn(self, connection: Any, oids: Iterable[int]) -> None:
        missing = self._forms.missing(oids)
        if missing:
            await self._forms.learn(connection, missing)

    def _column(self, column: TableColumn | RawColumn, *, in_identity: bool) -> Column:
        found = self._forms.form(column.type_oid)
        return Column(
            name=column.name,
            type_oid=column.type_oid,
            typmod=column.typmod,
            form=found.form,
            element=found.element,
            in_identity=in_identity,
        )

    async def now_us(self) -> int:
        """Return the server's clock, µs since 1970-01-01 UTC."""
        async with self.pool.connection() as connection:
            return int(await connection.fetchval(_NOW))

    async def current_wal_lsn(self) -> int:
        """Return where the WAL ends."""
        async with self.pool.connection() as connection:
            return lsn_of(await connection.fetchval(_WAL_END))

    async def emit(self, prefix: str, content: bytes, *, transactional: bool = True) -> int:
        """Write a message into the WAL, in a transaction of its own; return its position."""
        async with self.pool.connection() as connection:
            return lsn_of(await connection.fetchval(_EMIT, transactional, prefix, content))


async def _key_of(connection: Any, relid: int) -> tuple[str, ...]:
    """Return the columns of the primary key; a deferrable one may be double for a while."""
    return tuple(row[0] for row in await connection.fetch(_KEY, relid))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SourceDatabase]:
    """Connect, and let go at the end."""
    source = await SourceDatabase.open(url)
    try:
        yield source
    finally:
        await source.close()
