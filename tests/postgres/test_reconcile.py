"""Live tables against the log at one exact position, and repairs of the log."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import asyncpg
import pyarrow as pa
import pytest

from pitr.adapters.clock import new_uid
from pitr.adapters.postgres import frozen as frozen_adapter
from pitr.adapters.postgres.attached import AttachedDatabase
from pitr.domain.batch import Batch
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.errors import Conflict, InvalidRequest, NotFound, Unavailable
from pitr.domain.log import Gap, Source
from pitr.domain.reconcile import GONE, Drift, Reconciled
from pitr.services import reconcile as reconcile_service
from pitr.services import reconcile_repair, reconcile_write
from tests.postgres.following import App, app_of, attach, caught_up, following, state_of
from tests.postgres.reconciling import OWNER, found, known, of, reconcile
from tests.services.world import World

ROWS = "public.rows"


async def plant(world: World, *changes: dict[str, Any], lane: str = "http:elsewhere") -> None:
    """Store changes that the source does not know of."""
    usual = {"collection": ROWS, "op": "update"}
    rows = [usual | {"position": place} | each for place, each in enumerate(changes)]
    table = pa.Table.from_pylist(rows, schema=DRAFT_SCHEMA)
    await world.append(Batch(lane=lane, position_first=None, position_end=len(rows), changes=table))


def row(number: int, **members: Any) -> dict[str, Any]:
    return {"key": f'{{"id":{number}}}', "after": json.dumps({"id": number, **members})}


def key(number: int) -> str:
    return f'{{"id":{number}}}'


@asynccontextmanager
async def hidden(app: App, source: Source, *operations: str) -> AsyncIterator[None]:
    """Publish only these operations meanwhile: what else happens is lost to the log."""
    alter = f"ALTER PUBLICATION {source.publication} SET (publish = '{{}}')"
    await app.run(alter.format(", ".join(operations)))
    yield
    await app.run(alter.format("insert, update, delete, truncate"))


async def test_each_kind_of_drift_is_found_and_repaired(world: World, source_db: str) -> None:
    async with app_of(source_db) as app:
        await app.run(
            "CREATE TABLE rows (id int PRIMARY KEY, body text, n numeric, tags text[], j jsonb)",
            "INSERT INTO rows SELECT g, 'row ' || g, g * 1.10, ARRAY['a', 'é'], '{\"x\": 1}'"
            " FROM generate_series(1, 200) g",
            "CREATE TABLE parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at)",
            "CREATE TABLE parts_1 PARTITION OF parts"
            " FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
            "CREATE TABLE parts_2 PARTITION OF parts DEFAULT",
            "INSERT INTO parts SELECT g, date '2026-01-20' + g FROM generate_series(1, 20) g",
            "CREATE TABLE keyless (a int, b text)",
            "ALTER TABLE keyless REPLICA IDENTITY FULL",
            "INSERT INTO keyless VALUES (1, 'x'), (1, 'x'), (2, NULL), (NULL, 'y')",
        )
        source = await known(world, await attach(app))
        async with following(world, source):
            await caught_up(world, app, source)
            assert (await reconcile(world)).verdict == "pass"
            async with hidden(app, source, "insert"):
                await app.run(
                    "UPDATE rows SET body = 'lost', n = NULL WHERE id = 1",
                    "UPDATE rows SET n = '3.300' WHERE id = 3",
                    "DELETE FROM rows WHERE id = 5",
                    "UPDATE parts SET id = 300 WHERE id = 3",
                    "DELETE FROM keyless WHERE b IS NULL",
                )
            async with hidden(app, source, "delete"):
                await app.run(
                    "INSERT INTO rows VALUES (900, E'a\\\\b\\n', 1, NULL, 'null')",
                    "INSERT INTO keyless VALUES (3, 'z'), (3, 'z')",
                )
            spelled = '{ "tags":["a","\\u00e9"],"j":"{\\"x\\": 1}","n":7.70, "body":"row 7","id":7}'
            await plant(
                world,
                row(6, body="row 6", n="6.60", tags=["a", "é"], j='{"x": 1}'),
                {"key": key(7), "after": spelled},
                row(800, body="nobody's"),
                {"key": key(8), "op": "delete"},
            )
            result = await reconcile(world)
            assert result.verdict == "fail"
            rows = of(result, ROWS)
            assert (rows.rows_live, rows.rows_log) == (200, 200)
            assert found(rows) == {
                "missing": {key(8): (), key(900): ()},
                "extra": {key(5): (), key(800): ()},
                "different": {key(1): ("body", "n"), key(3): ("n",), key(6): ("n",)},
            }
            assert rows.drift is not None and rows.drift.columns == {"body": 1, "n": 3}
            assert found(of(result, "public.parts")) == {
                "missing": {'{"at":"2026-01-23","id":300}': ()},
                "extra": {'{"at":"2026-01-23","id":3}': ()},
                "different": {},
            }
            keyless = of(result, "public.keyless")
            assert keyless.rows_live == 5
            assert found(keyless) == {
                "missing": {'{"a":3,"b":"z"}': ()},
                "extra": {'{"a":2}': ()},
                "different": {},
            }

            before = await world.changes()
            result = await reconcile(world, repair=True, actor="ops", reason="checked")
            (lane,) = await world.catalog.lanes(world.log, prefix=source.lane)
            assert lane.owner != OWNER
            assert result.verdict == "pass"
            assert result.repair is not None
            done = {each.collection: each for each in result.repair.collections}
            assert (done[ROWS].reads, done[ROWS].deletes, done[ROWS].left) == (5, 2, 0)
            assert {*done} == {ROWS, "public.parts", "public.keyless"}
            added = (await world.changes())[len(before) :]
            mended = [change for change in added if change.lane == source.lane]
            assert {change.op for change in mended} == {"read", "delete"}
            assert {change.tx for change in mended} == {result.repair.tx}
            assert {(each.actor, each.reason) for each in mended} == {
                ("ops", "pitr reconcile: checked")
            }
            assert (await reconcile(world)).verdict == "pass"
            assert await state_of(world, ROWS) == await texts(app)
            (operation,) = await world.catalog.operations(world.log)
            assert (operation["kind"], operation["outcome"]) == ("reconcile", "done")
            assert operation["detail"]["collections"][ROWS] == {"reads": 5, "deletes": 2, "left": 0}

            # Whoever followed goes on, and each position is there once.
            await app.run("UPDATE rows SET body = 'after' WHERE id < 20")
            await caught_up(world, app, source)
            assert (await reconcile(world)).verdict == "pass"
            positions = [
                each.position for each in await world.changes() if each.lane == source.lane
            ]
            assert positions == list(range(len(positions)))


async def test_it_works_on_every_version(world: World, every_source_db: str) -> None:
    async with app_of(every_source_db) as app:
        await app.run(
            "CREATE TABLE rows (id int PRIMARY KEY, n numeric)",
            "INSERT INTO rows SELECT g, g * 1.10 FROM generate_series(1, 20) g",
        )
        source = await known(world, await attach(app))
        async with following(world, source):
            await caught_up(world, app, source)
            async with hidden(app, source, "insert"):
                await app.run("UPDATE rows SET n = 0 WHERE id = 1")
            result = await reconcile(world, repair=True)
        assert found(of(result, ROWS))["different"] == {key(1): ("n",)}
        assert {each.collection: each.verdict for each in result.collections} == {
            ROWS: "fail",
            "public.beats": "pass",
        }
        assert result.verdict == "pass"
        assert await state_of(world, ROWS) == await app.rows("rows")


async def texts(app: App) -> dict[str, Any]:
    """The table ``rows`` as the log has it."""
    rows = await app.connection.fetch(
        "SELECT id::text, body, n::text, to_json(tags)::text AS tags, j::text FROM rows"
    )
    read = {each["id"]: dict(each) for each in rows}
    for each in read.values():
        each["tags"] = each["tags"] and json.loads(each["tags"])
    return read


async def test_a_busy_database_never_seems_to_drift(world: World, source_db: str) -> None:
    """Transactions of all sizes commit while positions are taken; some are stored in pieces."""
    async with app_of(source_db) as app, app_of(source_db) as other:
        await app.run(
            "CREATE TABLE rows (id int PRIMARY KEY, n int, body text)",
            "CREATE TABLE logs (id serial PRIMARY KEY, n int)",
            "INSERT INTO rows SELECT g, 0, repeat('x', 3000 * (g % 2))"
            " FROM generate_series(1, 300) g",
            "ALTER TABLE rows ALTER body SET STORAGE EXTERNAL",
        )
        source = await known(world, await attach(app))
        async with following(world, source, capture_rows_max=40, segment_rows_min=2_000):
            await caught_up(world, app, source)
            writers = [
                asyncio.ensure_future(write(each, seed)) for seed, each in enumerate((app, other))
            ]
            try:
                for _ in range(4):
                    result = await reconcile(world)
                    # A table that is emptied while it is looked at cannot be compared.
                    assert result.verdict != "fail", result
                    assert of(result, ROWS).verdict == "pass"
                    assert (of(result, ROWS).rows_live or 0) > 100
            finally:
                for writer in writers:
                    writer.cancel()
                await asyncio.wait(writers)
            assert all(writer.cancelled() for writer in writers)


async def write(app: App, seed: int) -> None:
    """Write on and on, in transactions of one row to some hundred."""
    dice = random.Random(seed)
    while True:
        number, many = dice.randrange(1, 300), dice.choice([1, 3, 10, 100])
        statements = [
            f"UPDATE rows SET n = n + 1 WHERE id BETWEEN {number} AND {number + many}",
            f"DELETE FROM rows WHERE id BETWEEN {number} AND {number + 5}",
            f"INSERT INTO rows SELECT g, 0, 'new' FROM generate_series({number}, {number + many}) g"
            " ON CONFLICT DO NOTHING",
            f"UPDATE rows SET id = id + 1000 WHERE id = {number} AND NOT EXISTS"
            f" (SELECT FROM rows WHERE id = {number + 1000})",
            f"INSERT INTO logs (n) SELECT generate_series(1, {many})",
            "TRUNCATE logs",
        ]
        with suppress(asyncpg.DeadlockDetectedError, asyncpg.UniqueViolationError):
            async with app.connection.transaction():
                for _ in range(dice.randrange(1, 4)):
                    await app.run(dice.choice(statements))
        await asyncio.sleep(dice.choice([0, 0.01, 0.05]))


async def test_a_position_lies_right_between_two_commits(world: World, source_db: str) -> None:
    """A transaction that commits while the slot is made is before the position, or after it."""
    async with app_of(source_db) as app, app_of(source_db) as late:
        await app.run("CREATE TABLE rows (id int PRIMARY KEY)")
        source = await known(world, await attach(app))
        async with following(world, source):
            await caught_up(world, app, source)
            before = late.connection.transaction()
            await before.start()
            await late.run("INSERT INTO rows VALUES (1)")  # the slot waits for this
            running = asyncio.ensure_future(reconcile(world))
            await asyncio.sleep(0.2)
            await app.run("INSERT INTO rows VALUES (2)")
            await before.commit()
            await app.run("INSERT INTO rows VALUES (3)")
            result = await running
            assert result.verdict == "pass"
            assert of(result, ROWS).rows_live in (2, 3)


# Repairs ------------------------------------------------------------------------------------------


@asynccontextmanager
async def drifting(world: World, url: str, *, rows: int = 50) -> AsyncIterator[tuple[App, Source]]:
    """A table whose log has other rows; a value in it is long, and stays in the table's TOAST."""
    async with app_of(url) as app:
        await app.run(
            "CREATE TABLE rows (id int PRIMARY KEY, n int, long text)",
            "ALTER TABLE rows ALTER long SET STORAGE EXTERNAL",
            f"INSERT INTO rows SELECT g, 0, repeat('x', 3000) FROM generate_series(1, {rows}) g",
        )
        source = await known(world, await attach(app))
        async with following(world, source):
            await caught_up(world, app, source)
            yield app, source


async def test_what_changed_since_is_not_overwritten(
    world: World, source_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with drifting(world, source_db) as (app, source):
        await plant(world, *(row(n, n=9, long="planted") for n in (1, 2, 3)))
        await plant(world, row(100, n=1, long="a"), row(101, n=1, long="a"))

        async def meanwhile() -> None:
            await app.run(
                "UPDATE rows SET n = 2, long = 'newer' WHERE id = 1",
                "UPDATE rows SET n = 3 WHERE id = 2",  # what is long is not told
                "INSERT INTO rows VALUES (100, 5, 'mine now')",
            )
            await caught_up(world, app, source)

        with monkeypatch.context() as context:
            before_repair(context, meanwhile)
            result = await reconcile(world, ROWS, repair=True)
        assert result.repair is not None
        (done,) = result.repair.collections
        assert (done.reads, done.deletes, done.superseded, done.left) == (1, 1, 2, 1)
        assert result.verdict == "fail"
        state = await state_of(world, ROWS)
        assert (state["1"]["long"], state["100"]["long"], "101" in state) == (
            "newer",
            "mine now",
            False,
        )
        assert (state["2"]["n"], state["2"]["long"]) == ("3", "planted")
        again = await reconcile(world, ROWS, repair=True)
        assert found(of(again, ROWS))["different"] == {key(2): ("long",)}
        assert again.verdict == "pass"
        assert await state_of(world, ROWS) == await app.rows("rows")


def before_repair(monkeypatch: pytest.MonkeyPatch, what: Any) -> None:
    """Do something between the comparison and the repair."""

    class Late(reconcile_repair.Repairer):
        async def repaired(self, *args: Any, **options: Any) -> Reconciled:
            await what()
            return await super().repaired(*args, **options)

    monkeypatch.setattr(reconcile_service, "Repairer", Late)


async def test_a_table_that_is_emptied_since_is_left_alone(
    world: World, source_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with drifting(world, source_db) as (app, source):
        await plant(world, row(1, n=9, long="planted"))

        async def meanwhile() -> None:
            await app.run("TRUNCATE rows")
            await caught_up(world, app, source)

        before_repair(monkeypatch, meanwhile)
        result = await reconcile(world, ROWS, repair=True)
        assert result.repair is not None
        assert [(each.reads, each.left) for each in result.repair.collections] == [(0, 1)]
        assert result.verdict == "fail"
        assert await state_of(world, ROWS) == {}


async def test_many_deletes_are_refused_unless_they_are_allowed(
    world: World, source_db: str
) -> None:
    async with drifting(world, source_db, rows=200) as (app, source):
        await plant(world, row(1, n=9, long="planted"))
        async with hidden(app, source, "insert, update"):
            await app.run("DELETE FROM rows WHERE id > 99")
        count = len(await world.changes())
        with pytest.raises(Conflict) as error:
            await reconcile(world, ROWS, repair=True)
        assert error.value.facts == {
            "collection": ROWS,
            "deletes": 101,
            "rows_log": 200,
            "rows_live": 99,
        }
        dry = await reconcile(world, ROWS, repair=True, dry_run=True)
        assert dry.repair is not None and dry.verdict == "fail"
        assert dry.repair.refused == (ROWS,)
        assert [(each.reads, each.deletes) for each in dry.repair.collections] == [(1, 101)]
        assert len(await world.changes()) == count
        assert await world.catalog.operations(world.log) == []
        done = await reconcile(world, ROWS, repair=True, allow_deletes=True)
        assert done.verdict == "pass"
        assert await state_of(world, ROWS) == await app.rows("rows")
        async with hidden(app, source, "insert, update"):
            await app.run("DELETE FROM rows")
        with pytest.raises(Conflict):
            await reconcile(world, ROWS, repair=True)


async def test_a_repair_of_many_rows_is_one_transaction(
    world: World, source_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile_write, "PIECE_ROWS", 3)
    seen = []

    class Watched(reconcile_write.Writer):
        async def store(self, *args: Any) -> None:
            await super().store(*args)
            seen.append(await state_of(world, ROWS))

    monkeypatch.setattr(reconcile_repair, "Writer", Watched)
    async with drifting(world, source_db) as (app, source):
        await plant(world, *(row(n, n=9, long="planted") for n in range(1, 41)))
        planted = await state_of(world, ROWS)
        complete_us = await complete(world, source)
        result = await reconcile(world, ROWS, repair=True, limits={"capture_rows_max": 8})
        assert result.verdict == "pass"
        assert len(seen) == 7 and all(state == planted for state in seen[:-1])
        assert await state_of(world, ROWS) == await app.rows("rows")
        assert result.repair is not None
        mended = [each for each in await world.changes() if each.tx == result.repair.tx]
        assert len(mended) == 40
        middle = (mended[0].seq + mended[-1].seq) // 2
        assert await state_of(world, ROWS, f"seq:{middle}") == planted
        # What was complete before the repair stays what it was.
        assert len({each.at_us for each in mended}) == 1
        assert mended[0].at_us > complete_us


async def test_a_repair_that_breaks_off_is_done_by_the_next(
    world: World, source_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile_write, "PIECE_ROWS", 5)
    stored: list[object] = []

    class Broken(reconcile_write.Writer):
        async def store(self, *args: Any) -> None:
            if len(stored) == 2:
                raise Unavailable("the store is full")
            await super().store(*args)
            stored.append(args)

    async with drifting(world, source_db) as (app, source):
        await plant(world, *(row(n, n=9, long="planted") for n in range(1, 41)))
        with monkeypatch.context() as context:
            context.setattr(reconcile_repair, "Writer", Broken)
            with pytest.raises(Unavailable, match="the store is full"):
                await reconcile(world, ROWS, repair=True, limits={"capture_rows_max": 5})
        (operation,) = await world.catalog.operations(world.log)
        assert (operation["outcome"], operation["detail"]["why"]) == ("failed", "the store is full")
        await app.run("UPDATE rows SET n = 5, long = 'new' WHERE id = 1")
        result = await reconcile(world, ROWS, repair=True)
        assert (of(result, ROWS).drift or Drift()).count == 30
        assert result.verdict == "pass"
        assert await state_of(world, ROWS) == await app.rows("rows")
        positions = [each.position for each in await world.changes() if each.lane == source.lane]
        assert positions == list(range(len(positions)))


async def complete(world: World, source: Source) -> int:
    """Wait until the lane is said to be complete past its last change; return up to when."""
    async with asyncio.timeout(20):
        while True:
            (lane,) = await world.catalog.lanes(world.log, prefix=source.lane)
            if lane.complete_us is not None and lane.complete_us > lane.at_us:
                return lane.complete_us
            await asyncio.sleep(0.05)


# What is not known --------------------------------------------------------------------------------


async def test_what_cannot_be_told_is_inconclusive(world: World, source_db: str) -> None:
    async with app_of(source_db) as app:
        await app.run(
            "CREATE TABLE rows (id int PRIMARY KEY)",
            "CREATE TABLE altered (id int PRIMARY KEY)",
            "CREATE TABLE holed (id int PRIMARY KEY)",
            "CREATE TABLE gone (id int PRIMARY KEY)",
            "INSERT INTO altered VALUES (1)",
        )
        source = await known(world, await attach(app))
        async with following(world, source):
            await caught_up(world, app, source)
            gap = Gap(
                lane=source.lane,
                position_first=1,
                position_end=None,
                at_min_us=None,
                at_max_us=None,
                seq_end=0,
                reason="it is unknown",
                recorded_us=1,
                collection="public.holed",
            )
            (lane,) = await world.catalog.lanes(world.log, prefix=source.lane)
            await world.catalog.open_gap(world.log, lane.owner or "", gap)
            # Tables are looked at each minute, or when rows come.
            await app.run(
                "ALTER TABLE altered ADD COLUMN n int DEFAULT 5",
                "CREATE TABLE fresh (id int PRIMARY KEY)",
                "DROP TABLE gone",
            )
            result = await reconcile(world)
            reasons = {each.collection: each.inconclusive for each in result.collections}
            assert reasons.pop(ROWS) is None
            assert reasons.pop("public.beats") is None
            assert reasons == {
                "public.altered": "the log does not know yet that it was altered: column n came"
                " with values",
                "public.holed": "a gap in the log: it is unknown",
                "public.fresh": "its rows were not read yet",
                "public.gone": GONE,
            }
            assert result.verdict == "inconclusive"
            assert (await reconcile(world, ROWS)).verdict == "pass"
            # What is inconclusive is not repaired.
            repaired = await reconcile(world, repair=True)
            assert repaired.verdict == "inconclusive"
            assert repaired.repair is not None and not repaired.repair.collections
            with pytest.raises(NotFound):
                await reconcile(world, "public.no_such")


async def test_what_is_captured_in_part_is_inconclusive(world: World, source_db: str) -> None:
    async with app_of(source_db) as app:
        await app.run(
            "CREATE TABLE rows (id int PRIMARY KEY)",
            "CREATE TABLE filtered (id int PRIMARY KEY)",
            "CREATE TABLE inserted (id int)",
            "CREATE TABLE beats (id int PRIMARY KEY)",
            "INSERT INTO rows VALUES (1)",
            "CREATE PUBLICATION inserts FOR TABLE inserted WITH (publish = 'insert, truncate')",
        )
        source = await attach(app, what="FOR TABLE rows, beats, filtered WHERE (id > 5)")
        options = {"publications": [source.publication, "inserts"]}
        source = await known(world, replace(source, options=options))
        async with following(world, source):
            await caught_up(world, app, source)
            result = await reconcile(world)
        assert {each.collection: each.inconclusive for each in result.collections} == {
            ROWS: None,
            "public.beats": None,
            "public.filtered": "the publication leaves out some of its rows",
            "public.inserted": "only what is inserted into it is captured",
        }


async def test_a_table_that_is_altered_under_the_snapshot_is_not_read(
    source_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRUNCATE is not safe under MVCC: the table would seem to be empty."""
    monkeypatch.setitem(frozen_adapter.SETTINGS, "lock_timeout", "200ms")
    async with app_of(source_db) as app:
        await app.run(
            "CREATE TABLE kept (id int PRIMARY KEY)",
            "CREATE TABLE emptied (id int PRIMARY KEY)",
            "CREATE TABLE renamed (a int, b int)",
            "CREATE TABLE parts (id int) PARTITION BY LIST (id)",
            "CREATE TABLE held (id int)",
            *(f"INSERT INTO {name} VALUES (1)" for name in ("kept", "emptied", "renamed", "held")),
        )
        source = await attach(app)
        database = AttachedDatabase(source, url=source.url)
        before = {each.name: each for each in (await database.schemas()).values()}
        async with database.frozen(f"s_{new_uid()[:8]}", wait_s=10) as frozen:
            await app.run(
                "INSERT INTO kept VALUES (2)",
                "TRUNCATE emptied",
                "ALTER TABLE renamed RENAME a TO c",
                "ALTER TABLE renamed RENAME b TO a",
                "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1)",
                "CREATE TABLE young (id int)",
            )
            after = {each.name: each for each in (await database.schemas()).values()}
            async with app.connection.transaction():
                await app.run("LOCK TABLE held")
                for tables in (before, after):
                    for name in ("emptied", "renamed", "parts"):
                        with pytest.raises(Conflict):
                            async with frozen.locked(tables[name]):
                                pass
                with pytest.raises(Conflict):
                    async with frozen.locked(after["held"]):
                        pass
            with pytest.raises(NotFound):
                async with frozen.locked(after["young"]):
                    pass
            with pytest.raises(Conflict):  # what is known of it is of another moment
                async with frozen.locked(replace(before["kept"], columns=())):
                    pass
            read: list[bytes] = []

            async def take(data: bytes) -> None:
                read.append(data)

            relation = await database.relation_of(before["kept"])
            async with frozen.locked(before["kept"]):
                await frozen.read(relation, take)
            assert b"".join(read) == b"1\n"
            # The lock is gone with the reading.
            await app.run("SET lock_timeout = '1s'", "ALTER TABLE kept ADD COLUMN n int")
        await database.close()


async def test_columns_that_came_and_went_are_no_drift(world: World, source_db: str) -> None:
    async with app_of(source_db) as app:
        await app.run(
            "CREATE TABLE rows (id int PRIMARY KEY, old text, n int)",
            "INSERT INTO rows SELECT g, 'x', g FROM generate_series(1, 50) g",
        )
        source = await known(world, await attach(app))
        async with following(world, source):
            await caught_up(world, app, source)
            await app.run(
                "ALTER TABLE rows ADD COLUMN new text",
                "ALTER TABLE rows DROP COLUMN old",
                "UPDATE rows SET new = 'set' WHERE id = 1",
            )
            await caught_up(world, app, source)
            assert (await reconcile(world)).verdict == "pass"
            async with hidden(app, source, "insert"):
                await app.run("UPDATE rows SET new = 'lost' WHERE id = 2")
            result = await reconcile(world)
            assert found(of(result, ROWS))["different"] == {key(2): ("new",)}


async def test_who_is_asked_and_who_answers(world: World, source_db: str) -> None:
    async with app_of(source_db) as app:
        await app.run("CREATE TABLE rows (id int PRIMARY KEY)")
        with pytest.raises(NotFound):
            await reconcile(world)
        source = await known(world, await attach(app))
        with pytest.raises(NotFound) as error:
            await reconcile(world, name="other")
        assert error.value.hint == "attached are app"
        with pytest.raises(Unavailable):
            await reconcile(world)
        async with following(world, source):
            await caught_up(world, app, source)
        with pytest.raises(Unavailable) as missing:
            await reconcile(world, wait_us=300_000)
        assert "pitr capture" in (missing.value.hint or "")
        async with app.connection.transaction():
            await app.run("INSERT INTO rows VALUES (1)")
            with pytest.raises(Unavailable) as busy:
                await reconcile(world, wait_us=300_000)
            assert "pg_stat_activity" in (busy.value.hint or "")
        # Nothing is left of slots that were made, or were to be.
        own = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'pitr_reconcile%'"
        async with asyncio.timeout(20):
            while await app.value(own):
                await asyncio.sleep(0.05)
        with suppress(asyncpg.ConfigurationLimitExceededError):
            while True:
                await app.run(f"SELECT pg_create_physical_replication_slot('f_{new_uid()[:8]}')")
        try:
            with pytest.raises(InvalidRequest) as full:
                await reconcile(world)
        finally:
            await app.run(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE slot_type = 'physical'"
            )
        assert "max_replication_slots" in (full.value.hint or "")
        await known(world, await attach(app, "second"))
        with pytest.raises(InvalidRequest) as many:
            await reconcile(world)
        assert many.value.hint == "attached are app, second"
