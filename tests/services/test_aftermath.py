"""Rewinds that were killed: the next one finds out what became of them, and says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import asyncpg
import pytest

from pitr.adapters.clock import new_uid
from pitr.adapters.embedded import EmbeddedPostgres
from pitr.domain.errors import Conflict
from pitr.services.append import Appender
from pitr.services.lease import Leases
from pitr.services.rewind.rewinder import Rewinder
from tests.services.crashes import Killed
from tests.services.rewinding import AppDatabase, app_database
from tests.services.world import World

VICTIM = "victim"


@pytest.fixture
async def app(world: World, postgres: EmbeddedPostgres) -> AsyncIterator[AppDatabase]:
    """A table of five rows, which are changed in one way or the other."""
    name = f"aftermath-{uuid4().hex[:12]}"
    url = await postgres.ensure_database(name)
    setup = "CREATE TABLE things (id int PRIMARY KEY, n int)"
    async with app_database(world, url, setup, {"things": "id"}) as opened:
        await opened.step("INSERT INTO things SELECT n, 0 FROM generate_series(1, 5) AS n")
        await opened.step("UPDATE things SET n = 1 WHERE id < 4", "DELETE FROM things WHERE id = 5")
        # Whoever looks for the dead knows at once who is.
        leases = Leases(world.catalog, holder="heir", is_gone=frozenset({VICTIM}).__contains__)
        opened.rewinder = rewinder(world, leases, world.catalog)
        yield opened
    connection = await asyncpg.connect(postgres.url())
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


def rewinder(world: World, leases: Leases, catalog: Any) -> Rewinder:
    async def appender(log: str) -> Appender:
        opened = Appender(
            *(catalog, world.store, world.clock), log=log, limits=world.limits, new_id=new_uid
        )
        await opened.__aenter__()
        return opened

    return Rewinder(
        *(catalog, world.archive, world.resolver, world.clock),
        appender=appender,
        leases=leases,
        new_id=new_uid,
        limits=world.limits,
    )


async def killed_rewind(app: AppDatabase, at: str, when: str = "before") -> str:
    """Kill a rewind to the first moment; return its operation."""
    world = app.world
    plan = await app.plan(app.moments[0][0])
    catalog = Killed(world.catalog, at, when)
    dying = rewinder(world, Leases(catalog, holder=VICTIM), catalog)
    world.clock.advance(10)
    with pytest.raises(BaseException) as raised:
        await dying.apply(plan, app.sink)
    assert "Crash" in repr(raised.value), raised.value
    world.clock.advance(10)
    (last, *_) = await app.rewinder._leases.operations(world.log)
    assert (last["kind"], last["outcome"]) == ("rewind", "lost")
    return str(last["operation_id"])


async def operation(app: AppDatabase, operation_id: str) -> dict[str, Any]:
    found = await app.rewinder._leases.operations(app.world.log)
    return next(each for each in found if each["operation_id"] == operation_id)


async def test_killed_before_the_commit_it_changed_nothing(app: AppDatabase) -> None:
    _, after = app.moments[1]
    killed = await killed_rewind(app, "note_operation", "after")
    assert await app.rows() == after
    plan = await app.plan(app.moments[0][0])
    assert any(killed in note and "changed nothing" in note for note in plan.seen["notes"])
    ended = await operation(app, killed)
    assert (ended["outcome"], ended["detail"]["settled_as"]) == ("failed", "aborted")
    assert await app.world.catalog.marks(app.world.log) == []
    await app.rewinder.apply(plan, app.sink)  # its lease stands in nobody's way
    assert await app.rows() == app.moments[0][1]
    again = await app.plan("latest")
    assert not any(killed in note for note in again.seen["notes"])


async def test_killed_before_it_was_recorded_it_is_lost_and_changed_nothing(
    app: AppDatabase,
) -> None:
    killed = await killed_rewind(app, "note_operation")
    assert await app.rows() == app.moments[1][1]
    await app.rewind(app.moments[0][0])
    assert (await operation(app, killed))["outcome"] == "lost"
    assert await app.rows() == app.moments[0][1]


async def test_killed_before_the_log_was_told_it_is_told_by_the_next_one(app: AppDatabase) -> None:
    target, before = app.moments[0]
    killed = await killed_rewind(app, "note_operation", "next")
    assert await app.rows() == before
    plan = await app.plan(target)
    (note,) = [note for note in plan.seen["notes"] if killed in note]
    assert "was done" in note and "public.things" in note
    ended = await operation(app, killed)
    assert (ended["outcome"], ended["detail"]["settled_as"]) == ("done", "committed")
    assert ended["detail"]["untold"] == ["public.things"]
    assert ended["started_us"] <= ended["ended_us"] < app.world.clock.us
    assert ended["detail"]["rows"] == {"public.things": {"inserted": 1, "updated": 3, "deleted": 0}}
    with pytest.raises(Conflict, match="before the log was told"):
        await app.undo(killed)
    await app.rewinder.apply(plan, app.sink)
    assert await app.rows() == before
    assert await app.log_rows() == {name: set(rows) for name, rows in before.items()}


async def test_killed_at_its_end_it_is_done_and_can_be_undone(app: AppDatabase) -> None:
    killed = await killed_rewind(app, "end_operation")
    assert await app.rows() == app.moments[0][1]
    plan = await app.plan("latest")
    assert plan.row_count == 0
    (note,) = [note for note in plan.seen["notes"] if killed in note]
    assert "was done: the database says so" in note
    assert (await operation(app, killed))["outcome"] == "done"
    await app.undo(killed)
    assert await app.rows() == app.moments[1][1]


async def test_another_databases_rewinds_are_left_alone(
    app: AppDatabase, postgres: EmbeddedPostgres
) -> None:
    """A transaction of that id says nothing here."""
    killed = await killed_rewind(app, "note_operation", "next")
    other = {"system": "1", "database": "x", "database_oid": 1}
    await app.world.catalog.note_operation(killed, {"sink": other})
    plan = await app.plan(app.moments[0][0])
    assert not any(killed in note for note in plan.seen["notes"])
    assert (await operation(app, killed))["outcome"] == "lost"


async def test_two_rewinds_of_one_database_exclude_each_other(app: AppDatabase) -> None:
    target, before = app.moments[0]
    plan = await app.plan(target)
    outcomes = await asyncio.gather(
        *(app.rewinder.apply(plan, app.sink) for _ in range(3)), return_exceptions=True
    )
    refused = [each for each in outcomes if isinstance(each, Conflict)]
    assert len(refused) == 2, outcomes
    assert all(each.message.startswith("another operation writes") for each in refused)
    assert await app.rows() == before
    kinds = [each["outcome"] for each in await app.world.catalog.operations(app.world.log)]
    assert sorted(kinds) == ["done", "failed", "failed"]


async def test_a_transaction_of_which_nothing_is_known(app: AppDatabase) -> None:
    assert await app.sink.outcome("3") in (None, "committed")
    xid = str(await app.sql.fetchval("SELECT pg_current_xact_id()::text"))
    assert await app.sink.outcome(xid) == "committed"
    assert await app.sink.outcome(str(int(xid) + 2**33)) is None
    async with app.sql.transaction():
        xid = str(await app.sql.fetchval("SELECT pg_current_xact_id()::text"))
        assert await app.sink.outcome(xid) == "in progress"
