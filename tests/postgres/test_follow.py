"""An attached database in the log: every change once, in order, whatever happens meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from tests.postgres.following import app_of, attach, caught_up, following, state_of
from tests.services.world import World


async def test_changes_and_what_was_there_before(world: World, every_source_db: str) -> None:
    async with app_of(every_source_db) as app:
        await app.run(
            "CREATE TABLE notes (id int PRIMARY KEY, body text, n numeric, ok boolean)",
            "INSERT INTO notes SELECT g, 'note ' || g, g * 1.10, g % 2 = 0"
            " FROM generate_series(1, 1000) g",
            "CREATE TABLE nothing (id int PRIMARY KEY)",
        )
        source = await attach(app)
        async with following(world, source):
            await caught_up(world, app, source)
            assert await state_of(world, "public.notes") == await app.rows("notes")
            await app.run(
                "UPDATE notes SET body = 'new' WHERE id < 10",
                "DELETE FROM notes WHERE id BETWEEN 20 AND 30",
                "UPDATE notes SET id = id + 5000 WHERE id = 40",
                "INSERT INTO notes VALUES (7000, NULL, 'NaN', NULL)",
            )
            await caught_up(world, app, source)
            assert await state_of(world, "public.notes") == await app.rows("notes")
            await app.run("TRUNCATE notes", "INSERT INTO notes VALUES (1, 'one', 1.0, true)")
            await caught_up(world, app, source)
        assert await state_of(world, "public.notes") == await app.rows("notes")
        changes = await world.changes()
        positions = [change.position for change in changes if change.lane == source.lane]
        assert positions == list(range(len(positions)))
