"""COPYs that are cut off by whoever reads or feeds them, also when the server is through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from pitr.adapters import transactions
from pitr.adapters.postgres.chunks import read_chunk
from pitr.adapters.postgres.connection import Pool
from pitr.adapters.transactions import transaction
from tests.postgres.chunked import connected, described

HANGS_S = 20.0


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "ROLLBACK_S", 0.5)


async def test_a_chunk_whose_last_piece_is_too_large_is_read(source_db: str) -> None:
    async with connected(source_db) as db, connected(source_db) as other:
        await db.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3)")
        table = await described(db, "t", "id")

        # All rows and the end of the COPY come at once.
        async with asyncio.timeout(HANGS_S):
            chunk = await read_chunk(db, table, after=None, rows_max=1_000, bytes_max=3)
            rest = await read_chunk(other, table, after=chunk.last, rows_max=1_000, bytes_max=3)

    assert chunk.data == b"1\n2\n3\n" and not chunk.done
    assert rest.rows == 0 and rest.done


async def test_a_pool_gives_another_connection_after_such_a_chunk(source_db: str) -> None:
    async with connected(source_db) as db:
        await db.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2)")
        table = await described(db, "t", "id")
    pool = await Pool.open(source_db)
    try:
        async with asyncio.timeout(HANGS_S):
            async with pool.connection() as db:
                chunk = await read_chunk(db, table, after=None, rows_max=1_000, bytes_max=3)
            async with pool.connection() as db:
                rest = await read_chunk(db, table, after=chunk.last, rows_max=1_000, bytes_max=3)
    finally:
        await pool.close()

    assert (chunk.rows, chunk.done, rest.rows, rest.done) == (2, False, 0, True)


async def test_a_chunk_of_as_many_rows_as_were_asked_for_is_not_cut_off(source_db: str) -> None:
    async with connected(source_db) as db:
        await db.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2), (3)")
        table = await described(db, "t", "id")

        async with asyncio.timeout(HANGS_S):
            chunk = await read_chunk(db, table, after=None, rows_max=3, bytes_max=3)
            rest = await read_chunk(db, table, after=chunk.last, rows_max=3, bytes_max=3)

    assert chunk.data == b"1\n2\n3\n" and not chunk.done
    assert rest.rows == 0 and rest.done


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_source_that_fails_after_the_server_did_ends_the_transaction(
    source_db: str, cancelled: bool
) -> None:
    async with connected(source_db) as db, connected(source_db) as other:
        await db.execute("CREATE TABLE t (id int)")
        pid = db.get_server_pid()
        task = asyncio.current_task()
        assert task is not None

        async def lines() -> AsyncIterator[bytes]:
            yield b"no number\n"
            await _refused(other, pid)
            if not cancelled:
                raise ZeroDivisionError
            task.cancel()
            await asyncio.sleep(HANGS_S)

        async with asyncio.timeout(HANGS_S):
            with pytest.raises(asyncio.CancelledError if cancelled else ZeroDivisionError):
                async with transaction(db):
                    await db.copy_to_table("t", source=lines(), format="text")
            assert task.cancelling() == cancelled
            while cancelled and task.uncancel():
                pass
        assert db.is_closed()


async def test_a_rollback_that_is_answered_keeps_the_connection(source_db: str) -> None:
    async with connected(source_db) as db:
        with pytest.raises(asyncpg.DivisionByZeroError):
            async with transaction(db):
                await db.execute("CREATE TABLE gone (id int)")
                await db.execute("SELECT 1 / 0")
        async with transaction(db):
            await db.execute("CREATE TABLE kept (id int)")

        assert await db.fetchval("SELECT to_regclass('gone') IS NULL")
        assert await db.fetchval("SELECT to_regclass('kept') IS NOT NULL")


async def _refused(other: Any, pid: int) -> None:
    """Wait until a server process has refused a COPY, and that was read here."""
    question = "SELECT state = 'idle in transaction (aborted)' FROM pg_stat_activity WHERE pid = $1"
    while not await other.fetchval(question, pid):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
