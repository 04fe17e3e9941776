"""What became of a transaction is asked of PostgreSQL: also where it crashes at the commit."""

from __future__ import annotations

import asyncio
from functools import partialmethod
from typing import Any

import asyncpg
import pytest

from pitr.adapters.sinks.postgres import PostgresSink
from pitr.adapters.sinks.postgres.lasting import lasting_xid
from pitr.domain.errors import Unavailable
from tests.fakes import FakeState
from tests.postgres.conftest import SourceServer
from tests.postgres.servers import OLD, WHEEL, Source, execute, fetch

STATUS = "SELECT pg_xact_status(%s::xid8)"


async def after_a_crash(source: Source, name: str, *, lasts: bool) -> str:
    """What the database says of a transaction that a crash has ended, once another committed."""
    url = source.make_database(name)
    execute(url, "CREATE TABLE t (id int)")
    connection = await asyncpg.connect(url)
    await connection.execute("BEGIN; INSERT INTO t VALUES (1)")
    if lasts:
        xid = await lasting_xid(connection, url)
    else:
        xid = await connection.fetchval("SELECT pg_current_xact_id()::text")
    await asyncio.to_thread(source.restart)
    connection.terminate()
    execute(url, *["INSERT INTO t VALUES (2)"] * 5)
    assert fetch(url, "SELECT count(*) FROM t WHERE id = 1") == [(0,)]
    (outcome,) = fetch(url, STATUS, [xid])[0]
    source.drop_database(name)
    return str(outcome)


async def test_an_id_stays_with_its_transaction(source_server: SourceServer) -> None:
    for name in (WHEEL, OLD):
        source = source_server(name)
        assert await after_a_crash(source, "lasting", lasts=True) == "aborted"


async def test_without_that_it_may_be_given_again(source: Source) -> None:
    found = [await after_a_crash(source, f"short_{n}", lasts=False) for n in range(3)]
    assert "committed" in found, "then lasting_xid has nothing to do any more"


async def test_a_fresh_restore_whose_commit_breaks_knows_what_came_of_it(
    source: Source, source_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL crashes: once before the commit, once when it is done and nobody was told."""
    done = asyncpg.transaction.Transaction.commit

    async def crashed(self: Any, *, first: bool) -> None:
        if first:
            await done(self)
        await asyncio.to_thread(source.restart)
        execute(source_db, "CREATE TABLE IF NOT EXISTS app (id int)", "INSERT INTO app VALUES (1)")
        raise ConnectionResetError("planted")

    async def restored() -> Any:
        state = FakeState({"public.t": [([1], {"id": 1})]})
        return await PostgresSink(source_db).write(state, progress=lambda _: None)

    monkeypatch.setattr(
        asyncpg.transaction.Transaction, "commit", partialmethod(crashed, first=False)
    )
    with pytest.raises(Unavailable, match="before the restore was committed"):
        await restored()
    assert fetch(source_db, "SELECT to_regclass('t')") == [(None,)]
    monkeypatch.setattr(
        asyncpg.transaction.Transaction, "commit", partialmethod(crashed, first=True)
    )
    assert (await restored()).rows == {"public.t": 1}
    assert fetch(source_db, "SELECT id FROM t") == [(1,)]
