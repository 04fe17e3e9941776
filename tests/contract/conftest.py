"""Fixtures of the contract suites."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest

from pitr.adapters.embedded import EmbeddedPostgres


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The URL of an empty database of its own."""
    name = f"sink-{uuid4().hex[:12]}"
    yield await postgres.ensure_database(name)
    connection = await asyncpg.connect(postgres.url())
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to ``database``, as an app has one."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()
