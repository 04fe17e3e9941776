"""Where capture could have lost track of a source, found by ``test_chaos`` and ``test_random_sql``.

Each has a follower stand still, or come late, at the one moment that matters.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pitr.adapters.postgres.attached import AttachedDatabase
from pitr.adapters.postgres.replication import StreamPoll
from pitr.domain.batch import Batch
from pitr.domain.catalog import Catalog
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.errors import Unavailable
from pitr.domain.log import Source
from pitr.domain.pgoutput.schema_log import UNDESCRIBED
from pitr.services import follow_store
from tests.postgres.following import App, app_of, attach, caught_up, following, state_of
from tests.postgres.test_follow import HeldStream
from tests.services.world import World

WAIT_S = 20


class Frozen:
    """A database where the follower stands still before it looks at the slot."""

    def __init__(self, real: AttachedDatabase) -> None:
        self._real = real
        self.reached, self.thaw = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def slot(self) -> Any:
        self.reached.set()
        await self.thaw.wait()
        return await self._real.slot()


class Forgetful:
    """A catalog that is away when a gap is to end."""

    def __init__(self, real: Catalog) -> None:
        self._real = real
        self.asked = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def heal_gaps(self, *_: object, **__: object) -> int:
        self.asked.set()
        raise Unavailable("the catalog is away")


async def test_one_that_was_frozen_takes_nothing_of_its_heir_for_a_loss(
    world: World, source_db: str
) -> None:
    """It had claimed the lane, and wakes when another has, and the slot has moved on."""
    async with app_of(source_db) as app:
        await app.run("CREATE TABLE rows (id int PRIMARY KEY)", "INSERT INTO rows VALUES (1)")
        source = await attach(app)
        async with following(world, source):
            await caught_up(world, app, source)
        database = Frozen(AttachedDatabase(source, url=source.url))
        async with following(world, source, database=database) as worker:
            async with asyncio.timeout(WAIT_S):
                await database.reached.wait()  # by whoever asks first: it may not have claimed yet
                while await owner_of(world, source) != worker.owner:
                    await asyncio.sleep(0.02)
            await app.run("INSERT INTO rows VALUES (2)")
            end = await moved_on(world, app, source)
            gaps = len((await world.catalog.view(world.log)).gaps)
            database.thaw.set()
            async with asyncio.timeout(WAIT_S):
                while not worker.follower.waits:
                    await asyncio.sleep(0.02)
            await worker.stop()
        assert len((await world.catalog.view(world.log)).gaps) == gaps
        assert await app.value(SLOT_AT, source.slot) == end, "it is still that of the heir"


SLOT_AT = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1"


async def owner_of(world: World, source: Source) -> str | None:
    (lane,) = await world.catalog.lanes(world.log, prefix=source.lane)
    return lane.owner


async def moved_on(world: World, app: App, source: Source) -> str:
    """Have another owner at work: it stores that it is further, and releases the slot."""
    end = str(await app.value("SELECT pg_current_wal_lsn()::text"))
    (lane,) = await world.catalog.lanes(world.log, prefix=source.lane)
    now_us = 2**62
    await world.catalog.claim(world.log, "heir", {source.lane: 0}, recorded_us=now_us)
    await world.append(
        Batch(
            lane=source.lane,
            position_first=lane.position,
            position_end=lane.position,
            changes=DRAFT_SCHEMA.empty_table(),
            lane_state={**lane.state, "lsn": end},
            owner="heir",
        )
    )
    await app.run(f"SELECT pg_replication_slot_advance('{source.slot}', '{end}')")
    return end


async def test_a_gap_ends_though_whoever_read_the_table_was_killed_before_it_said_so(
    world: World, source_db: str
) -> None:
    async with app_of(source_db) as app:
        await app.run("CREATE TABLE rows (id int PRIMARY KEY)", "INSERT INTO rows VALUES (1)")
        source = await attach(app)
        catalog = Forgetful(world.catalog)
        dying = replace(world, catalog=catalog)
        async with following(dying, source) as worker:
            async with asyncio.timeout(WAIT_S):
                while not await is_read(world, source, "public.rows"):
                    await asyncio.sleep(0.02)
                await catalog.asked.wait()
            await worker.cut_off()
        assert not any(gap.healed_seq_end for gap in (await world.catalog.view(world.log)).gaps)
        async with following(world, source):
            await healed(world)


async def is_read(world: World, source: Source, collection: str) -> bool:
    for lane in await world.catalog.lanes(world.log, prefix=source.lane):
        tables = lane.state.get("copy", {}).get("tables", {})
        return bool(tables.get(collection, {}).get("done"))
    return False


async def test_a_transaction_in_pieces_begins_behind_what_was_confirmed(
    world: World, source_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log was told that nothing came, and released the slot, before the first piece."""
    monkeypatch.setattr(follow_store, "HEARTBEAT_S", 0.0)
    async with app_of(source_db) as app:
        await app.run("CREATE TABLE rows (id int PRIMARY KEY)")
        source = await attach(app)
        held = HeldStream(AttachedDatabase(source, url=source.url), rows=150)
        async with following(world, source, database=held, capture_rows_max=20) as worker:
            await caught_up(world, app, source)
            await app.run("CREATE TABLE silent ()", "DROP TABLE silent")
            end = await app.value("SELECT pg_current_wal_lsn()::text")
            async with asyncio.timeout(WAIT_S):
                while not await app.value(IS_PAST, source.slot, end):
                    await asyncio.sleep(0.02)
            await app.run("INSERT INTO rows SELECT generate_series(1, 300)")
            async with asyncio.timeout(WAIT_S):
                await held.reached.wait()
                while not await open_count(world, source):
                    await asyncio.sleep(0.02)
            await worker.cut_off()
        async with following(world, source):
            await caught_up(world, app, source)
        assert await state_of(world, "public.rows") == await app.rows("rows")
        assert {gap.collection for gap in (await world.catalog.view(world.log)).gaps} == {
            "public.rows",
            "public.beats",
        }


class Silent:
    """A database that says nothing but that it has read its WAL up to ``before``."""

    def __init__(self, real: AttachedDatabase, *, before: int) -> None:
        self._real, self._before = real, before

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    @asynccontextmanager
    async def stream(self, _: int) -> AsyncIterator[Any]:
        yield SimpleNamespace(poll=self._poll, confirm=lambda _: None)

    async def _poll(self, **_: object) -> StreamPoll:
        await asyncio.sleep(0.02)
        lsn = self._before
        return StreamPoll(messages=[], size_bytes=0, server_lsn=lsn, idle_lsn=lsn, idle_us=0)


async def test_silence_before_the_rest_of_a_transaction_is_not_its_end(
    world: World, source_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source reads a large transaction again, and says how far it is meanwhile."""
    async with app_of(source_db) as app:
        await app.run("CREATE TABLE rows (id int PRIMARY KEY)")
        source = await attach(app)
        async with following(world, source):
            await caught_up(world, app, source)
        await app.run("INSERT INTO rows SELECT generate_series(1, 300)")
        held = HeldStream(AttachedDatabase(source, url=source.url), rows=150)
        async with following(world, source, database=held, capture_rows_max=20) as worker:
            async with asyncio.timeout(WAIT_S):
                while not await open_count(world, source):
                    await asyncio.sleep(0.02)
            await worker.cut_off()
        monkeypatch.setattr(follow_store, "HEARTBEAT_S", 0.0)
        (lane,) = await world.catalog.lanes(world.log, prefix=source.lane)
        silent = Silent(
            AttachedDatabase(source, url=source.url), before=int(lane.state["open"]["lsn"]) - 1
        )
        async with following(world, source, database=silent) as worker:
            async with asyncio.timeout(WAIT_S):
                while worker.follower.following.notes.lsn != silent._before:
                    await asyncio.sleep(0.02)
            assert await state_of(world, "public.rows") == {}, "a part of it shows"
            await worker.cut_off()
        async with following(world, source):
            await caught_up(world, app, source)
        assert await state_of(world, "public.rows") == await app.rows("rows")
        changes = [each for each in await world.changes() if each.collection == "public.rows"]
        created = [each.key for each in changes if each.op == "create"]
        assert len(created) == len(set(created)), "a part of it is there twice"


IS_PAST = """
SELECT confirmed_flush_lsn >= $2::text::pg_lsn FROM pg_replication_slots WHERE slot_name = $1
"""


async def open_count(world: World, source: Source) -> int:
    """How many rows the log has of a transaction that goes on."""
    (lane,) = await world.catalog.lanes(world.log, prefix=source.lane)
    return int((lane.state["open"] or {"done": 0})["done"])


@pytest.mark.parametrize("is_cut_off", [False, True])
@pytest.mark.parametrize(
    ("there", "back"),
    [
        ("ALTER TABLE rows ADD c int DEFAULT 5", "ALTER TABLE rows DROP c"),
        ("ALTER TABLE rows RENAME n TO m", "ALTER TABLE rows RENAME m TO n"),
    ],
)
async def test_a_table_that_was_another_for_a_while_is_read_again(
    world: World, source_db: str, there: str, back: str, is_cut_off: bool
) -> None:
    """When the stream is read the table is what it was: no document tells what it was between."""
    async with app_of(source_db) as app:
        await app.run(
            "CREATE TABLE rows (id int, n int)",
            "ALTER TABLE rows REPLICA IDENTITY FULL",
            "INSERT INTO rows VALUES (1, 1), (2, 2)",
        )
        source = await attach(app)
        async with following(world, source):
            await caught_up(world, app, source)
        await app.run(there, "UPDATE rows SET id = id + 10", back, "INSERT INTO rows VALUES (3, 3)")
        if is_cut_off:
            async with following(world, source) as worker:
                async with asyncio.timeout(WAIT_S):
                    while UNDESCRIBED not in await gap_reasons(world):
                        await asyncio.sleep(0.001)
                await worker.cut_off()
        async with following(world, source):
            await caught_up(world, app, source)
            expected = await app.rows("rows")
            async with asyncio.timeout(WAIT_S):
                while await state_of(world, "public.rows") != expected:
                    await asyncio.sleep(0.05)
            await healed(world)
        assert UNDESCRIBED in await gap_reasons(world)


async def test_a_table_that_is_gone_before_it_was_seen_leaves_no_rows(
    world: World, source_db: str
) -> None:
    async with app_of(source_db) as app:
        await app.run("CREATE TABLE rows (id int PRIMARY KEY)")
        source = await attach(app)
        async with following(world, source):
            await caught_up(world, app, source)
        await app.run(
            "CREATE TABLE passing (id int PRIMARY KEY)",
            "INSERT INTO passing VALUES (1)",
            "DROP TABLE passing",
        )
        async with following(world, source):
            await caught_up(world, app, source)
            async with asyncio.timeout(WAIT_S):
                while await state_of(world, "public.passing"):
                    await asyncio.sleep(0.05)
            await healed(world)
        assert "create" in {
            change.op for change in await world.changes() if change.collection == "public.passing"
        }


async def gap_reasons(world: World) -> set[str]:
    gaps = (await world.catalog.view(world.log)).gaps
    return {reason for gap in gaps for reason in gap.reason.split("; ")}


async def healed(world: World) -> None:
    """Wait until no gap is open."""
    async with asyncio.timeout(WAIT_S):
        while not all(gap.healed_seq_end for gap in (await world.catalog.view(world.log)).gaps):
            await asyncio.sleep(0.02)
