"""Swaps in an attached database, and on an older server than that of the contract suite."""

from __future__ import annotations

import asyncpg
import pytest

from tests.fakes import FakeState
from tests.postgres import servers
from tests.postgres.conftest import SourceServer, _database
from tests.postgres.following import app_of, attach, caught_up, following, state_of
from tests.services.world import World
from tests.swapping import PAIR, STATE, dumped, make_shop, pair, swap


async def test_only_rows_differ_on_an_older_server(source_server: SourceServer) -> None:
    with _database(source_server(servers.OLD)) as url:
        sql = await asyncpg.connect(url)
        try:
            await make_shop(sql)
            before = dumped(url)
            await swap(url, FakeState(STATE))
            assert dumped(url) == before
            assert await sql.fetchval("SELECT count(*) FROM visits") == 8
        finally:
            await sql.close()


@pytest.mark.parametrize("what", ["FOR ALL TABLES", "FOR TABLE owners, pets, vets"])
async def test_capture_reads_swapped_tables_anew(world: World, source_db: str, what: str) -> None:
    """History shows the swap, the log is right after it, and knows nothing of other tables."""
    async with app_of(source_db) as app:
        await app.run(PAIR)
        source = await attach(app, what=what)
        if what != "FOR ALL TABLES":
            await app.run("CREATE TABLE beats (id int PRIMARY KEY)")
            await app.run(f"ALTER PUBLICATION {source.publication} ADD TABLE beats")
        async with following(world, source):
            await caught_up(world, app, source)
            await swap(source_db, pair())
            await app.run("INSERT INTO owners VALUES (9, 'since')")
            await caught_up(world, app, source)
            for table in ("owners", "pets", "vets"):
                assert await state_of(world, f"public.{table}") == await app.rows(table)
            await app.run("UPDATE owners SET name = 'later'")
            await caught_up(world, app, source)
            assert await state_of(world, "public.owners") == await app.rows("owners")
        assert all(gap.healed_seq_end for gap in (await world.catalog.view(world.log)).gaps)
        changes = [
            each for each in await world.changes() if not each.collection.startswith("pitr.")
        ]
        known = {"public.owners", "public.pets", "public.vets", "public.beats"}
        assert {each.collection for each in changes} <= known
        owners = [each.op.value for each in changes if each.collection == "public.owners"]
        assert owners[:3] == ["read", "read", "truncate"]
        assert await app.value("SELECT count(*) FROM pitr_old_s1.owners") == 2
