"""The shop's own database: its tables, PostgreSQL's own copy of it, and what an operator broke."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from pitr.adapters.embedded import EmbeddedPostgres
from pitr.demo.programs import output_of, plain_environment
from pitr.demo.schema import DDL, SCHEMA

MISTAKE = (
    "DELETE FROM shop.orders WHERE status <> 'cancelled'",
    "UPDATE shop.customers SET email = '', newsletter = false",
)
"""Meant were ``=`` for ``<>``, and ``WHERE id = …``. The delete cascades to lines and payments."""


async def create_shop(server: EmbeddedPostgres, name: str) -> str:
    """Create a database with the shop's tables, all empty, and return its URL."""
    url = await server.ensure_database(name)
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(DDL)
    finally:
        await connection.close()
    return url


async def copy_shop(server: EmbeddedPostgres, source: str, copy: str, *, file: Path) -> str:
    """Copy the shop's tables with pg_dump and psql, by way of a file; return the copy's URL.

    ``CREATE DATABASE … TEMPLATE`` would be faster, but not while pitr follows the source.
    """
    url = await server.ensure_database(copy)
    await _run(server, "pg_dump", f"--schema={SCHEMA}", f"--file={file}", source)
    await _psql(server, url, "--set=ON_ERROR_STOP=1", f"--file={file}")
    return url


async def make_mistake(server: EmbeddedPostgres, url: str) -> list[str]:
    """Run ``MISTAKE`` with psql, in one transaction, and return what it says to each statement."""
    said = await _psql(server, url, *(f"--command={statement}" for statement in MISTAKE))
    return said.splitlines()


async def _psql(server: EmbeddedPostgres, url: str, *arguments: str) -> str:
    return await _run(server, "psql", "--no-psqlrc", "--single-transaction", *arguments, url)


async def _run(server: EmbeddedPostgres, program: str, *arguments: str) -> str:
    return await output_of(server.bin_folder / program, *arguments, env=plain_environment())


async def fetch_row(url: str, query: str) -> asyncpg.Record:
    """Return the first row of a query."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchrow(query)
    finally:
        await connection.close()
