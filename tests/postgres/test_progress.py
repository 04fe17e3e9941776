"""How far the first reading is: counted with the rows, whatever happens to who reads them."""

from __future__ import annotations

import asyncio
from typing import Any

from pitr.adapters.postgres.attached import AttachedDatabase
from pitr.domain.log import Source
from pitr.domain.pgoutput.copying import Chunk
from pitr.domain.pgoutput.progress import progress_of
from tests.postgres.following import app_of, attach, caught_up, following
from tests.services.world import World


async def lane_of(world: World, source: Source) -> Any:
    found = await world.catalog.lanes(world.log, prefix=source.lane)
    return found[0] if found else None


async def reads_in_the_log(world: World) -> int:
    return sum(
        change.op == "read" and change.collection == "public.rows"
        for change in await world.changes()
    )


class SmallChunks:
    """A database that gives few rows at once, and after ``chunks`` chunks no more."""

    def __init__(self, real: AttachedDatabase, *, chunks: int) -> None:
        self._real, self._left = real, chunks
        self.held = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def chunk(self, relation: Any, *, after: Any, rows_max: int) -> Chunk:
        if self._left == 0:
            self.held.set()
            await asyncio.sleep(3600)
        self._left -= 1
        return await self._real.chunk(relation, after=after, rows_max=min(rows_max, 300))


async def test_what_was_read_is_counted_exactly_when_it_is_cut_off_and_goes_on(
    world: World, source_db: str
) -> None:
    async with app_of(source_db) as app:
        await app.run(
            "CREATE TABLE rows (id int PRIMARY KEY, body text)",
            "INSERT INTO rows SELECT g, 'b' FROM generate_series(1, 2000) g",
            "CREATE TABLE nothing (id int PRIMARY KEY)",
            "ANALYZE",
        )
        source = await attach(app)
        assert not progress_of(await lane_of(world, source)).begun
        counted = 0
        for number in range(3):
            database = SmallChunks(AttachedDatabase(source, url=source.url), chunks=2)
            async with following(world, source, database=database) as worker:
                async with asyncio.timeout(30):
                    await database.held.wait()
                    while not (number or (await lane_of(world, source)).copy_rate):
                        await asyncio.sleep(0.1)
                await worker.cut_off()
            progress = progress_of(await lane_of(world, source))
            assert progress.rows_read == await reads_in_the_log(world) > counted
            counted = progress.rows_read
            assert not progress.complete
            assert progress.rows_expected == 2000
        async with following(world, source):
            await caught_up(world, app, source)
        progress = progress_of(await lane_of(world, source))
        assert progress.complete
        assert (progress.rows_read, progress.rows_expected) == (2001, 2001)  # one beat
        assert await reads_in_the_log(world) == 2000


async def test_a_database_without_tables_is_read_when_that_is_seen(
    world: World, source_db: str
) -> None:
    async with app_of(source_db) as app:
        source = await attach(app)
        async with following(world, source), asyncio.timeout(20):
            while not progress_of(await lane_of(world, source)).complete:
                await asyncio.sleep(0.02)


async def test_rows_are_estimated_without_reading_them(every_source_db: str) -> None:
    async with app_of(every_source_db) as app, app_of(every_source_db) as other:
        await app.run(
            "CREATE TABLE seen (id int PRIMARY KEY)",
            "INSERT INTO seen SELECT generate_series(1, 700)",
            "CREATE TABLE parted (id int) PARTITION BY RANGE (id)",
            "CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (100)",
            "CREATE TABLE high PARTITION OF parted FOR VALUES FROM (100) TO (1000)",
            "CREATE TABLE later PARTITION OF parted FOR VALUES FROM (1000) TO (2000)",
            "INSERT INTO parted SELECT generate_series(0, 299)",
            "ANALYZE",
            "CREATE TABLE empty (id int)",
            "CREATE TABLE unseen (id int, body text)",
            "INSERT INTO unseen SELECT g, repeat('b', 30) FROM generate_series(1, 20000) g",
            "SELECT pg_stat_reset()",
        )
        source = await attach(app)
        database = AttachedDatabase(source, url=source.url)
        relids = {
            name: await app.value("SELECT $1::text::regclass::oid::bigint", name)
            for name in ("seen", "parted", "empty", "unseen")
        }
        try:
            found = await database.estimated_rows([*relids.values(), 1])
            assert {*found} == {*relids.values()}
            assert found[relids["seen"]] == 700
            assert found[relids["parted"]] == 300
            assert found[relids["empty"]] == 0
            assert 10_000 < found[relids["unseen"]] < 40_000
            async with other.connection.transaction():
                await other.run("LOCK TABLE unseen IN ACCESS EXCLUSIVE MODE")
                found = await database.estimated_rows(list(relids.values()))
            assert relids["unseen"] not in found
            assert found[relids["seen"]] == 700
        finally:
            await database.close()
