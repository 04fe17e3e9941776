"""An attached database in the log: every change once, in order, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from pitr.adapters.postgres.attached import AttachedDatabase
from pitr.domain.batch import Batch
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.pgoutput.schema_log import SCHEMAS
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


async def test_it_is_cut_off_anywhere_and_each_row_is_in_once(world: World, source_db: str) -> None:
    """Transactions of many rows come in pieces, and the follower is killed between any two."""
    dice = random.Random(5)
    async with app_of(source_db) as app:
        await app.run("CREATE TABLE rows (id int PRIMARY KEY, n int, body text)")
        source = await attach(app)
        async with following(world, source):
            await caught_up(world, app, source)
        count = 0
        for _ in range(25):
            async with app.connection.transaction():
                for _ in range(dice.randrange(1, 4)):
                    size = dice.randrange(1, 60)
                    await app.run(
                        f"INSERT INTO rows SELECT g, 0, repeat('x', 50)"
                        f" FROM generate_series({count}, {count + size - 1}) g",
                        f"UPDATE rows SET n = n + 1 WHERE id % 7 = {dice.randrange(7)}",
                    )
                    count += size
        for _ in range(30):
            async with following(world, source, capture_rows_max=dice.choice([1, 3, 10])) as worker:
                await asyncio.sleep(dice.random() * 0.35)
                await worker.cut_off()
        async with following(world, source):
            await caught_up(world, app, source)
        assert await state_of(world, "public.rows") == await app.rows("rows")
        created = [
            change.key
            for change in await world.changes()
            if change.collection == "public.rows" and change.op == "create"
        ]
        assert len(created) == len(set(created)) == count
        updates = [
            change
            for change in await world.changes()
            if change.collection == "public.rows" and change.op == "update"
        ]
        assert len(updates) == await app.value("SELECT sum(n) FROM rows")
        assert len({(change.tx, change.key, change.after) for change in updates}) == len(updates)


async def test_a_transaction_under_way_is_in_no_state(world: World, source_db: str) -> None:
    async with app_of(source_db) as app:
        await app.run("CREATE TABLE rows (id int PRIMARY KEY)")
        source = await attach(app)
        async with following(world, source):
            await caught_up(world, app, source)
        await app.run("INSERT INTO rows SELECT generate_series(1, 5)")
        await app.run("INSERT INTO rows SELECT generate_series(101, 400)")
        held = HeldStream(AttachedDatabase(source, url=source.url), rows=150)
        async with following(world, source, database=held, capture_rows_max=20) as worker:
            async with asyncio.timeout(20):
                await held.reached.wait()
            await asyncio.sleep(0.3)
            assert await state_of(world, "public.rows") == {
                str(n): {"id": str(n)} for n in range(1, 6)
            }
            await worker.cut_off()
        lane = (await world.catalog.lanes(world.log, prefix=source.lane))[0]
        assert 0 < lane.state["open"]["done"] < 300
        async with following(world, source):
            await caught_up(world, app, source)
        assert await state_of(world, "public.rows") == await app.rows("rows")


class HeldStream:
    """A database whose stream stops after so many row changes."""

    def __init__(self, real: AttachedDatabase, *, rows: int) -> None:
        self._real = real
        self._left = rows
        self.reached = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    @asynccontextmanager
    async def stream(self, lsn: int) -> AsyncIterator[Any]:
        async with self._real.stream(lsn) as stream:
            yield _Held(stream, self)

    def let_through(self, messages: list[bytes]) -> int:
        for index, message in enumerate(messages):
            self._left -= message[:1] in (b"I", b"U", b"D")
            if self._left <= 0:
                return index
        return len(messages)


class _Held:
    def __init__(self, stream: Any, held: HeldStream) -> None:
        self._stream, self._held = stream, held
        self.confirm = stream.confirm

    async def poll(self, *, bytes_max: int, timeout_s: float) -> Any:
        if self._held.reached.is_set():
            await asyncio.sleep(3600)
        polled = await self._stream.poll(bytes_max=bytes_max, timeout_s=timeout_s)
        count = self._held.let_through(polled.messages)
        if count < len(polled.messages):
            self._held.reached.set()
            return replace(polled, messages=polled.messages[:count], idle_lsn=None)
        return polled


async def test_rows_that_change_while_their_table_is_copied(world: World, source_db: str) -> None:
    async with app_of(source_db) as app, app_of(source_db) as other:
        await app.run(
            "CREATE TABLE rows (id int PRIMARY KEY, n int, body text)",
            "INSERT INTO rows SELECT g, 0, repeat('b', 200) FROM generate_series(1, 60000) g",
        )
        source = await attach(app)
        dice, done = random.Random(3), asyncio.Event()

        async def write() -> None:
            while not done.is_set():
                low = dice.randrange(60_000)
                with suppress(asyncpg.UniqueViolationError):
                    await other.run(
                        "BEGIN",
                        f"UPDATE rows SET n = n + 1 WHERE id BETWEEN {low} AND {low + 20}",
                        f"DELETE FROM rows WHERE id = {dice.randrange(60_000)}",
                        f"INSERT INTO rows VALUES ({dice.randrange(60_000)}, 9, 'i')"
                        " ON CONFLICT DO NOTHING",
                        f"UPDATE rows SET id = id + 100000 WHERE id = {dice.randrange(60_000)}",
                        "COMMIT",
                    )
                    continue
                await other.run("ROLLBACK")

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            for _ in range(6):
                async with following(world, source) as worker:
                    await asyncio.sleep(dice.random() * 0.5)
                    await worker.cut_off()
            async with following(world, source):
                await caught_up(world, app, source)
                done.set()
                await asyncio.sleep(0.2)
                await caught_up(world, app, source)
        assert await state_of(world, "public.rows") == await app.rows("rows")
        assert all(gap.healed_seq_end for gap in (await world.catalog.view(world.log)).gaps)


async def test_a_table_that_is_altered_while_it_is_copied_is_read_again(
    world: World, source_db: str
) -> None:
    async with app_of(source_db) as app:
        await app.run(
            "CREATE TABLE rows (id int PRIMARY KEY, n int, body text)",
            "INSERT INTO rows SELECT g, g, repeat('b', 300) FROM generate_series(1, 20000) g",
        )
        source = await attach(app)
        async with following(world, source):
            async with asyncio.timeout(60):
                while not await rows_copied(world, source, "public.rows"):
                    await asyncio.sleep(0.005)
            await app.run(
                "ALTER TABLE rows ALTER n TYPE text USING 'n' || n",
                "UPDATE rows SET body = 'new' WHERE id % 1000 = 0",
            )
            await caught_up(world, app, source)
            expected = await app.rows("rows")
            async with asyncio.timeout(60):
                while await state_of(world, "public.rows") != expected:
                    await asyncio.sleep(0.5)
        assert all(gap.healed_seq_end for gap in (await world.catalog.view(world.log)).gaps)


async def rows_copied(world: World, source: Any, collection: str) -> int:
    for lane in await world.catalog.lanes(world.log, prefix=source.lane):
        return int(lane.state.get("copy", {}).get("tables", {}).get(collection, {}).get("rows", 0))
    return 0


async def test_rows_of_a_partition_that_is_taken_away_are_gone(
    world: World, every_source_db: str
) -> None:
    async with app_of(every_source_db) as app:
        await app.run(
            "CREATE TABLE rows (id int PRIMARY KEY, n int) PARTITION BY RANGE (id)",
            "CREATE TABLE low PARTITION OF rows FOR VALUES FROM (0) TO (100)",
            "CREATE TABLE high PARTITION OF rows FOR VALUES FROM (100) TO (200)",
            "INSERT INTO rows SELECT g, 0 FROM generate_series(0, 199) g",
        )
        source = await attach(app)
        async with following(world, source):
            await caught_up(world, app, source)
        await app.run(
            "UPDATE rows SET n = 1 WHERE id % 10 = 0",
            "ALTER TABLE rows DETACH PARTITION low",
            "UPDATE rows SET n = 2 WHERE id % 20 = 0",
        )
        async with following(world, source):
            await caught_up(world, app, source)
            expected = await app.rows("rows")
            assert len(expected) == 100
            async with asyncio.timeout(20):
                while await state_of(world, "public.rows") != expected:
                    await asyncio.sleep(0.1)


async def test_who_and_why(world: World, source_db: str) -> None:
    async with app_of(source_db) as app:
        await app.run("CREATE TABLE rows (id int PRIMARY KEY)")
        source = await attach(app)
        said = '{"actor":"user:7","reason":"POST /checkout","meta":{"request":"r1"}}'
        async with following(world, source):
            await caught_up(world, app, source)
            async with app.connection.transaction():
                await app.run(
                    "INSERT INTO rows VALUES (1)",
                    f"SELECT pg_logical_emit_message(true, 'pitr', '{said}')",
                    "INSERT INTO rows VALUES (2)",
                )
            await app.run("INSERT INTO rows VALUES (3)")
            await caught_up(world, app, source)
        changes = [each for each in await world.changes() if each.collection == "public.rows"]
    assert [(each.actor, each.reason, each.meta) for each in changes] == [
        (None, None, None),
        ("user:7", "POST /checkout", b'{"request":"r1"}'),
        (None, None, None),
    ]
    assert changes[0].tx == changes[1].tx != changes[2].tx


async def shown(world: World, table: str, columns: set[str]) -> dict[str, Any]:
    """The rows as a plan shows them: without columns that are gone, with those that are new."""
    found = await state_of(world, table)
    return {key: {name: row.get(name) for name in columns} for key, row in found.items()}


SHAPES = [
    ("ADD COLUMN more text", False),
    ("ADD COLUMN more text NOT NULL DEFAULT 'there'", True),
    ("ADD COLUMN more double precision DEFAULT random()", True),
    ("DROP COLUMN body", False),
    ("RENAME COLUMN body TO text", True),
    ("ALTER COLUMN n TYPE text USING 'n' || n", True),
    ("ALTER COLUMN body TYPE varchar(500)", None),
    ("RENAME TO others", True),
]


@pytest.mark.parametrize(("alteration", "read_again"), SHAPES)
@pytest.mark.parametrize("writes_after", [True, False])
async def test_what_becomes_of_a_table(
    world: World, source_db: str, alteration: str, read_again: bool | None, writes_after: bool
) -> None:
    async with app_of(source_db) as app:
        await app.run(
            "CREATE TABLE rows (id int PRIMARY KEY, n int, body text)",
            "INSERT INTO rows SELECT g, g, 'b' FROM generate_series(1, 100) g",
        )
        source = await attach(app)
        async with following(world, source):
            await caught_up(world, app, source)
            await app.run("UPDATE rows SET n = n + 1 WHERE id < 10")
            await app.run(f"ALTER TABLE rows {alteration}")
            name = "others" if "TO others" in alteration else "rows"
            if writes_after:
                await app.run(f"DELETE FROM {name} WHERE id = 50")
                await app.run(f"UPDATE {name} SET id = 1000 WHERE id = 60")
            await caught_up(world, app, source)
            expected = await app.rows(name)
            columns = set(next(iter(expected.values())))
            async with asyncio.timeout(20):
                while await shown(world, f"public.{name}", columns) != expected:
                    await asyncio.sleep(0.05)
        if name == "others":
            assert await state_of(world, "public.rows") == {}
        gaps = (await world.catalog.view(world.log)).gaps
        again = [gap for gap in gaps if gap.at_min_us is not None]
        if read_again is not None:
            assert bool(again) == read_again
        assert all(gap.healed_seq_end for gap in gaps)


async def test_tables_come_and_go(world: World, source_db: str) -> None:
    async with app_of(source_db) as app:
        await app.run("CREATE TABLE one (id int PRIMARY KEY)", "INSERT INTO one VALUES (1)")
        source = await attach(app)
        async with following(world, source):
            await caught_up(world, app, source)
            await app.run("CREATE TABLE two (id int PRIMARY KEY)", "INSERT INTO two VALUES (2)")
            await app.run("DROP TABLE one")
            await caught_up(world, app, source)
            async with asyncio.timeout(20):  # that it is gone is seen by the next look
                while await state_of(world, "public.one"):
                    await asyncio.sleep(0.05)
            assert await state_of(world, "public.two") == {"2": {"id": "2"}}
            state = await world.state("latest")
        schemas = [
            json.loads(key)["collection"] for collection, key in state if collection == SCHEMAS
        ]
        assert sorted(schemas) == ["public.beats", "public.two"]


@pytest.mark.parametrize("loss", ["dropped", "advanced", "made anew"])
async def test_a_slot_that_is_lost_is_a_gap_and_the_tables_are_read_anew(
    world: World, source_db: str, loss: str
) -> None:
    async with app_of(source_db) as app:
        await app.run("CREATE TABLE rows (id int PRIMARY KEY)", "INSERT INTO rows VALUES (1), (2)")
        source = await attach(app)
        async with following(world, source):
            await caught_up(world, app, source)
        await app.run("DELETE FROM rows WHERE id = 1", "INSERT INTO rows VALUES (3)")
        if loss == "advanced":
            await app.run(
                f"SELECT pg_replication_slot_advance('{source.slot}', pg_current_wal_lsn())"
            )
        else:
            await app.run(f"SELECT pg_drop_replication_slot('{source.slot}')")
        if loss == "made anew":
            await app.run(f"SELECT pg_create_logical_replication_slot('{source.slot}', 'pgoutput')")
        async with following(world, source):
            await caught_up(world, app, source)
            assert await state_of(world, "public.rows") == {"2": {"id": "2"}, "3": {"id": "3"}}
            await app.run("INSERT INTO rows VALUES (4)")
            await caught_up(world, app, source)
        assert await state_of(world, "public.rows") == await app.rows("rows")
        gaps = [gap for gap in (await world.catalog.view(world.log)).gaps if not gap.collection]
        assert len(gaps) == 1
        assert "slot" in gaps[0].reason
        assert gaps[0].healed_seq_end is not None


async def test_another_cluster_is_refused(world: World, source_db: str, source_server: Any) -> None:
    async with app_of(source_db) as app:
        source = await attach(app)
        async with following(world, source):
            await caught_up(world, app, source)
    lane = (await world.catalog.lanes(world.log, prefix=source.lane))[0]
    await world.catalog.claim(world.log, "test", {source.lane: 0}, recorded_us=1)
    batch = Batch(
        lane=source.lane,
        position_first=lane.position,
        position_end=lane.position,
        changes=DRAFT_SCHEMA.empty_table(),
        lane_state={**lane.state, "system": "7000000000000000000"},
        owner="test",
    )
    await world.append(batch)
    async with following(world, source) as worker:
        async with asyncio.timeout(20):
            while "another database cluster" not in (worker.follower.problem or ""):
                await asyncio.sleep(0.05)
