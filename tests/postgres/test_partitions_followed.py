"""A partitioned table is one collection: its partitions are in no log under their own names."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from pitr.domain.catalog import Catalog
from tests.postgres.following import app_of, attach, caught_up, following, state_of
from tests.services.world import World

MADE = (
    "CREATE TABLE parted (id int PRIMARY KEY, v int) PARTITION BY RANGE (id)",
    "CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (10)",
    "CREATE TABLE high PARTITION OF parted FOR VALUES FROM (10) TO (20)",
)


async def test_partitions_are_no_collections(world: World, source_db: str) -> None:
    """The stream describes a partition, too, before the first of its rows, which are its root's."""
    async with app_of(source_db) as app:
        await app.run(*MADE)
        source = await attach(app)
        await app.run("INSERT INTO parted VALUES (1, 1), (11, 1)")
        async with following(world, source):
            await caught_up(world, app, source)
            await app.run("ALTER TABLE parted ADD w int", "UPDATE parted SET v = 2, w = 3")
            await caught_up(world, app, source)
            assert await state_of(world, "public.parted") == await app.rows("parted")
        found = {each.collection for each in await world.changes()}
        gaps = (await world.catalog.view(world.log)).gaps
        assert {gap.collection for gap in gaps} == {"public.parted", "public.beats"}
        assert found == {"public.parted", "public.beats", "pitr.schemas"}
        assert all(gap.healed_seq_end for gap in gaps)


async def test_a_partition_that_was_taken_away_is_written_to_as_a_table(
    world: World, source_db: str
) -> None:
    """The stream had described it before: the same words say something else now."""
    async with app_of(source_db) as app:
        await app.run(*MADE)
        source = await attach(app)
        async with following(world, source):
            await caught_up(world, app, source)
            await app.run("INSERT INTO parted VALUES (1, 1), (11, 1)")
            await caught_up(world, app, source)
            await app.run(
                "ALTER TABLE parted DETACH PARTITION low",
                "INSERT INTO low VALUES (2, 2)",
                "UPDATE low SET v = 3 WHERE id = 1",
            )
            await caught_up(world, app, source)
            for table in ("parted", "low"):
                assert await state_of(world, f"public.{table}") == await app.rows(table)
        assert all(gap.healed_seq_end for gap in (await world.catalog.view(world.log)).gaps)


class Slow:
    """A catalog where the ends of gaps take their time."""

    def __init__(self, real: Catalog) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def heal_gaps(self, *given: Any, **named: Any) -> int:
        await asyncio.sleep(0.2)
        return await self._real.heal_gaps(*given, **named)


async def test_who_waits_for_the_follower_waits_for_the_ends_of_gaps(
    world: World, source_db: str
) -> None:
    """A table that was read is in the log right before its gap ends; restores look at gaps."""
    async with app_of(source_db) as app:
        await app.run("CREATE TABLE rows (id int PRIMARY KEY)", "INSERT INTO rows VALUES (1)")
        source = await attach(app)
        async with following(replace(world, catalog=Slow(world.catalog)), source):
            await caught_up(world, app, source)
            gaps = (await world.catalog.view(world.log)).gaps
        assert gaps and all(gap.healed_seq_end for gap in gaps)
