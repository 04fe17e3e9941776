"""Two processes for one source: one follows it, the other is there if that one ends."""

from __future__ import annotations

import asyncio

from pitr.services.follow import OTHER
from tests.postgres.following import App, app_of, attach, caught_up, following, state_of
from tests.services.world import World


async def rows_in(world: World, app: App) -> bool:
    return await state_of(world, "public.rows") == await app.rows("rows")


async def test_the_second_waits_and_takes_over_when_the_first_ends(
    world: World, source_db: str
) -> None:
    async with app_of(source_db) as app:
        await app.run("CREATE TABLE rows (id int PRIMARY KEY)", "INSERT INTO rows VALUES (0)")
        source = await attach(app)

        async def owner() -> str | None:
            return (await world.catalog.lanes(world.log, prefix=source.lane))[0].owner

        async with following(world, source) as first:
            await caught_up(world, app, source)
            async with following(world, source) as second:
                async with asyncio.timeout(20):
                    while not second.follower.waits:
                        await asyncio.sleep(0.02)
                for number in range(1, 12):
                    await app.run(f"INSERT INTO rows VALUES ({number})")
                    await asyncio.sleep(0.2)
                    assert await owner() == first.owner
                    assert second.follower.waits
                    assert second.follower.problem == OTHER
                assert first.follower.problem is None
                await first.stop()
                await app.run("INSERT INTO rows VALUES (100)")
                await caught_up(world, app, source)
                assert await owner() == second.owner
                assert second.follower.problem is None
                async with following(world, source) as third:
                    async with asyncio.timeout(20):
                        while not third.follower.waits:
                            await asyncio.sleep(0.02)
                    await second.cut_off()  # and is known to be gone
                    await app.run("INSERT INTO rows VALUES (101)")
                    await caught_up(world, app, source)
                    assert await owner() == third.owner
        assert await owner() is None
        assert await rows_in(world, app)
        created = [each for each in await world.changes() if each.collection == "public.rows"]
        assert len(created) == len({each.key for each in created}) == 14
        assert all(gap.healed_seq_end for gap in (await world.catalog.view(world.log)).gaps)
