"""The shop's own database: its tables, what the app writes to them, and what an operator broke."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import asyncpg

from pitr.adapters.embedded import EmbeddedPostgres
from pitr.demo.changes import Transaction
from pitr.demo.schema import DDL, TABLES, Key, Row, Table

MISTAKE = (
    "DELETE FROM shop.orders WHERE status <> 'cancelled'",
    "UPDATE shop.customers SET email = '', newsletter = false",
)
"""Meant were ``=`` for ``<>``, and ``WHERE id = …``. The delete cascades to lines and payments."""

_Rows = dict[Key, Row | None]


class ShopDatabase:
    """A connection to the shop's database; an async context manager."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: asyncpg.Connection

    async def __aenter__(self) -> Self:
        self._connection = await asyncpg.connect(self._url)
        for table in TABLES:
            await self._connection.execute(
                f"CREATE TEMP TABLE incoming_{table.name} (LIKE {table.collection})"
                " ON COMMIT DELETE ROWS"
            )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._connection.close()

    async def write(self, transactions: Sequence[Transaction]) -> None:
        """Write what the transactions leave behind, in one commit."""
        final = _final_rows(transactions)
        async with self._connection.transaction():
            for table in TABLES:
                await self._write_rows(table, final[table])
            for table in reversed(TABLES):
                await self._delete_rows(table, final[table])

    async def _write_rows(self, table: Table, final: _Rows) -> None:
        names = table.written
        records = [tuple(row[name] for name in names) for row in final.values() if row is not None]
        if records:
            await self._connection.copy_records_to_table(
                f"incoming_{table.name}", columns=names, records=records
            )
            await self._connection.execute(_upsert(table))

    async def _delete_rows(self, table: Table, final: _Rows) -> None:
        keys = [key for key, row in final.items() if row is None]
        if keys:
            terms = " AND ".join(f"{name} = ${n}" for n, name in enumerate(table.key, 1))
            await self._connection.executemany(
                f"DELETE FROM {table.collection} WHERE {terms}", keys
            )

    async def make_mistake(self) -> None:
        """Run ``MISTAKE`` in one transaction."""
        async with self._connection.transaction():
            for statement in MISTAKE:
                await self._connection.execute(statement)


def _final_rows(transactions: Sequence[Transaction]) -> dict[Table, _Rows]:
    final: dict[Table, _Rows] = {table: {} for table in TABLES}
    for transaction in transactions:
        for change in transaction.changes:
            final[change.table][change.key] = change.row
    return final


def _upsert(table: Table) -> str:
    names, key = ", ".join(table.written), ", ".join(table.key)
    values = ", ".join(
        f"{name} = excluded.{name}" for name in table.written if name not in table.key
    )
    return (
        f"INSERT INTO {table.collection} ({names}) SELECT {names} FROM incoming_{table.name}"
        f" ON CONFLICT ({key}) DO UPDATE SET {values}"
    )


async def create_shop(server: EmbeddedPostgres, name: str) -> str:
    """Create a database with the shop's tables, all empty, and return its URL."""
    url = await server.ensure_database(name)
    await _execute(url, DDL)
    return url


async def copy_shop(server: EmbeddedPostgres, source: str, copy: str) -> str:
    """Copy a whole database with PostgreSQL's own means, and return the copy's URL.

    Nobody may be connected to the source.
    """
    await _execute(server.url(), f"CREATE DATABASE {copy} TEMPLATE {source}")
    return server.url(copy)


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def fetch_value(url: str, query: str) -> object:
    """Return the first value of a query."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()
