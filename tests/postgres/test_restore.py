"""Restores of an attached database: every commit comes back exactly, into every sink."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from pitr.adapters.clock import new_uid
from pitr.adapters.kafka import KafkaConfig
from pitr.adapters.sinks import sink_for
from pitr.adapters.sinks.files import StdoutSink
from pitr.domain.errors import Conflict, InvalidRequest, NotFound, SinkNotEmpty
from pitr.domain.log import Gap
from pitr.domain.pgoutput.schema_log import SCHEMAS
from pitr.domain.ports import Sink
from pitr.domain.times import rfc3339
from pitr.services.restore import known_collections
from tests.kafka import brokers
from tests.kafka.brokers import Broker
from tests.postgres.following import App, app_of, attach, caught_up, following
from tests.postgres.restoring import binary, database_of, restore, twin_of
from tests.postgres.servers import Source
from tests.services.world import World

SHOP = """
CREATE TYPE status AS ENUM ('new', 'paid', 'sent');
CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text NOT NULL UNIQUE,
    profile jsonb NOT NULL DEFAULT '{}',
    boss bigint REFERENCES customers
);
CREATE TABLE orders (
    customer bigint REFERENCES customers ON DELETE CASCADE,
    number int,
    total numeric(12, 2) NOT NULL,
    tax numeric GENERATED ALWAYS AS (total * 0.19) STORED,
    status status NOT NULL DEFAULT 'new',
    notes text[],
    raw json,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (customer, number)
);
CREATE TABLE visits (at timestamptz NOT NULL, page text, ip inet);
ALTER TABLE visits REPLICA IDENTITY FULL;
"""
ORDERED = {"customers": "id", "orders": "customer, number", "visits": "at, page, ip"}


class Commits:
    """Transactions that leave a copy of each table as it was when they committed."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.xids: list[str] = []

    async def run(self, *statements: str) -> None:
        number = len(self.xids)
        tables = [
            name
            for (name,) in await self.app.connection.fetch(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
                " AND tablename <> 'beats'"
            )
        ]
        async with self.app.connection.transaction():
            await self.app.run(*statements)
            await self.app.run(f"CREATE SCHEMA kept_{number}")
            for name in tables:
                await self.app.run(f"CREATE TABLE kept_{number}.{name} AS TABLE public.{name}")
            self.xids.append(await self.app.value("SELECT pg_current_xact_id()::text"))

    async def targets(self, world: World) -> list[dict[str, str]]:
        """The ways to say each commit, by its number."""
        last = {each.tx.partition(":")[0]: each for each in await world.changes() if each.tx}
        found = []
        for number, xid in enumerate(self.xids):
            change = last[xid]
            ways = {"seq": f"seq:{change.seq}", "time": rfc3339(change.at_us)}
            if number + 1 < len(self.xids):
                ways["before the next"] = f"before-tx:{last[self.xids[number + 1]].tx}"
            found.append({name: str(way) for name, way in ways.items()})
        return found


async def kept(app: App, number: int, name: str, *, columns: str = "*") -> bytes:
    return await binary(app, f"SELECT {columns} FROM kept_{number}.{name} ORDER BY {ORDERED[name]}")


async def test_every_commit_comes_back(
    world: World, every_source: Source, every_source_db: str
) -> None:
    """Into a database with the app's own tables, one after the other, with and without objects."""
    dice = random.Random(11)
    async with app_of(every_source_db) as app:
        await app.run(
            SHOP,
            "INSERT INTO customers (email) SELECT g || '@x.org' FROM generate_series(1, 50) g",
            "INSERT INTO orders SELECT g, 1, g * 1.1 FROM generate_series(1, 50) g",
        )
    async with (
        twin_of(every_source, database_of(every_source_db)) as twin,
        app_of(every_source_db) as app,
        app_of(twin) as restored,
    ):
        source = await attach(app, what="FOR TABLE customers, orders, visits")
        commits = Commits(app)
        async with following(world, source):
            await caught_up(world, app, source)
            for number in range(16):
                await commits.run(*_work(dice, number))
            await caught_up(world, app, source)
        targets = await commits.targets(world)
        assert len(targets) == 16
        order = dice.sample(range(16), 8)
        for place, number in enumerate(order):
            if place == 3:
                await world.sealer.seal(world.log, force=True)
            if place == 6:
                await world.snapshotter.snapshot(world.log)
            # The watermark is just below the last change.
            ways = targets[number].keys() - ({"time"} if number == 15 else set())
            way = dice.choice(sorted(ways))
            report = await restore(world, twin, targets[number][way], force=True)
            assert set(report.sink.rows) == {f"public.{name}" for name in ORDERED}
            for name, ordered in ORDERED.items():
                found = await binary(restored, f"SELECT * FROM {name} ORDER BY {ordered}")
                assert found == await kept(app, number, name), (number, way, name)
        assert await restored.value("SELECT nextval('customers_id_seq')") > 50


def _work(dice: random.Random, number: int) -> Iterator[str]:
    some = f"{dice.randrange(1, 40)} AND {dice.randrange(40, 90)}"
    yield (
        "INSERT INTO customers (email, boss)"
        f" SELECT 'new-{number}-' || g, 3 FROM generate_series(1, 5) g"
    )
    yield (
        "INSERT INTO orders (customer, number, total, status, notes, raw)"
        " SELECT customer, max(number) + 1, 7.70, 'paid', '{a,NULL,\"b c\"}', '{ \"a\":  1.10 }'"
        f" FROM orders WHERE customer BETWEEN {some} GROUP BY customer"
    )
    yield f"UPDATE orders SET total = total + 0.01, raw = NULL WHERE customer BETWEEN {some}"
    yield f"UPDATE customers SET profile = '{{\"n\": {number}}}' WHERE id BETWEEN {some}"
    yield "INSERT INTO visits SELECT now(), '/' || g, '10.0.0.1' FROM generate_series(1, 3) g"
    if number % 3 == 0:
        yield f"DELETE FROM customers WHERE id = {dice.randrange(10, 50)}"
        yield f"UPDATE orders SET number = number + 100 WHERE customer = {dice.randrange(1, 9)}"
    if number % 5 == 4:
        yield "DELETE FROM visits WHERE ctid = (SELECT min(ctid) FROM visits)"
    if number == 9:
        yield "TRUNCATE visits"


CHANGES = [
    "ALTER TABLE rows ADD COLUMN more text",
    "ALTER TABLE rows ADD COLUMN filled text NOT NULL DEFAULT 'there'",
    "ALTER TABLE rows DROP COLUMN body",
    "ALTER TABLE rows ADD COLUMN body jsonb",
    "ALTER TABLE rows RENAME COLUMN more TO much",
    "ALTER TABLE rows ALTER COLUMN n TYPE text USING 'n' || n",
    'ALTER TABLE rows DROP COLUMN filled, ADD COLUMN "odd \'name" mood',
]


async def test_tables_come_back_as_they_were_into_an_empty_database(
    world: World, source: Source, source_db: str
) -> None:
    """Columns, types and key of the moment, whatever became of the table since."""
    async with app_of(source_db) as app:
        await app.run(
            "CREATE TYPE mood AS ENUM ('calm', 'wild')",
            "CREATE TABLE rows (id int PRIMARY KEY, n int, body text)",
            "INSERT INTO rows SELECT g, g, 'b' FROM generate_series(1, 50) g",
        )
        attached = await attach(app, what="FOR TABLE rows")
        commits = Commits(app)
        async with following(world, attached):
            await caught_up(world, app, attached)
            for number, alteration in enumerate(["SELECT", *CHANGES]):
                await app.run(alteration, f"DELETE FROM rows WHERE id = {number}")
                await caught_up(world, app, attached)
                await commits.run(
                    f"INSERT INTO rows (id) VALUES ({100 + number})",
                    f"UPDATE rows SET id = id + 1000 WHERE id = {number + 10}",
                )
                await caught_up(world, app, attached)
        targets = await commits.targets(world)
        for number, ways in enumerate(targets):
            async with twin_of(source) as empty, app_of(empty) as restored:
                await restored.run("CREATE TYPE mood AS ENUM ('calm', 'wild')")
                is_last = number + 1 == len(targets)
                report = await restore(world, empty, "latest" if is_last else ways["time"])
                assert set(report.sink.rows) == {"public.rows"}
                rows = "SELECT * FROM {}.rows ORDER BY id"
                found = await binary(restored, rows.format("public"))
                assert found == await binary(app, rows.format(f"kept_{number}")), number
                describing = (
                    "SELECT string_agg(format('%s %s', attname, format_type(atttypid, atttypmod)),"
                    " ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = $1::text::regclass"
                    " AND attnum > 0 AND NOT attisdropped"
                )
                columns = await restored.value(describing, "rows")
                assert columns == await app.value(describing, f"kept_{number}.rows")
                with pytest.raises(asyncpg.UniqueViolationError):
                    await restored.run("INSERT INTO rows SELECT * FROM rows LIMIT 1")


async def test_into_the_table_that_a_column_was_dropped_from_since(
    world: World, source: Source, source_db: str
) -> None:
    async with app_of(source_db) as app:
        await app.run(
            "CREATE TABLE rows (id int PRIMARY KEY, old text, doc jsonb)",
            "INSERT INTO rows VALUES (1, 'o', '\"{}\"'), (2, NULL, NULL)",
        )
        attached = await attach(app, what="FOR TABLE rows")
        async with following(world, attached):
            await caught_up(world, app, attached)
            before = (await world.changes())[-1].seq
            await app.run("ALTER TABLE rows DROP COLUMN old, ADD COLUMN new text")
            await app.run("INSERT INTO rows VALUES (3, 'null', 'n')")
            await caught_up(world, app, attached)
    async with twin_of(source, database_of(source_db)) as twin, app_of(twin) as restored:
        with pytest.raises(InvalidRequest, match="old"):
            await restore(world, twin, f"seq:{before}", force=True)
        await restore(world, twin, f"seq:{before}", force=True, drop_unknown=True)
        assert await restored.rows("rows") == {
            "1": {"id": "1", "doc": '"{}"', "new": None},
            "2": {"id": "2", "doc": None, "new": None},
        }
        report = await restore(world, twin, force=True)
        assert report.sink.notes == ("public.rows: left out what were no columns any more: old",)
        assert await restored.rows("rows") == {
            "1": {"id": "1", "doc": '"{}"', "new": None},
            "2": {"id": "2", "doc": None, "new": None},
            "3": {"id": "3", "doc": "null", "new": "n"},
        }


async def test_a_table_that_was_empty_comes_back_empty(
    world: World, source: Source, source_db: str
) -> None:
    """Also if no row of it was ever seen: what is in it now came later."""
    async with app_of(source_db) as app:
        await app.run("CREATE TABLE rows (id int PRIMARY KEY)", "CREATE TABLE other (id int)")
        attached = await attach(app, what="FOR TABLE rows")
        async with following(world, attached):
            await caught_up(world, app, attached)
    async with twin_of(source, database_of(source_db)) as twin, app_of(twin) as restored:
        await restored.run("INSERT INTO rows VALUES (1)", "INSERT INTO other VALUES (1)")
        for asked in (None, frozenset({"public.rows"})):
            with pytest.raises(SinkNotEmpty):
                await restore(world, twin, collections=asked)
        report = await restore(world, twin, force=True)
        assert report.sink.rows == {"public.rows": 0}
        assert await restored.value("SELECT count(*) FROM rows") == 0
        assert await restored.value("SELECT count(*) FROM other") == 1
    async with twin_of(source) as empty, app_of(empty) as restored:
        await restore(world, empty)
        assert await restored.value("SELECT count(*) FROM rows") == 0


async def test_a_table_that_is_not_whole_yet_keeps_only_itself_from_being_restored(
    world: World, source: Source, source_db: str
) -> None:
    async with app_of(source_db) as app:
        await app.run("CREATE TABLE one (id int PRIMARY KEY)", "INSERT INTO one VALUES (1)")
        attached = await attach(app, what="FOR TABLE one")
        async with following(world, attached):
            await caught_up(world, app, attached)
    gap = Gap(
        lane=attached.lane,
        position_first=None,
        position_end=None,
        at_min_us=None,
        at_max_us=None,
        seq_end=1,
        reason="its rows are read for the first time",
        recorded_us=1,
        collection="public.two",
    )
    await world.catalog.record_gap(world.log, gap)
    sink = StdoutSink(io.BytesIO())
    with pytest.raises(Conflict, match="gap"):
        await restore(world, sink)
    report = await restore(world, sink, collections=frozenset({"public.one"}))
    assert (report.sink.rows, report.plan.resolution.gaps) == ({"public.one": 1}, ())


# What is the log's own ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The first broker that can be had."""
    name = next((name for name in brokers.NAMES if brokers.absent(name) is None), None)
    if name is None:
        pytest.skip(f"NOT TESTED ON KAFKA: {brokers.absent(brokers.NAMES[0])}")
    with brokers.running(name, tmp_path_factory.mktemp(name)) as started:
        yield started


async def captured(world: World, url: str) -> None:
    async with app_of(url) as app:
        await app.run("CREATE TABLE one (id int PRIMARY KEY)", "INSERT INTO one VALUES (1)")
        attached = await attach(app, what="FOR TABLE one")
        async with following(world, attached):
            await caught_up(world, app, attached)
    assert SCHEMAS in known_collections(await world.archive.view(world.log))


@pytest.mark.parametrize("sealed", [False, True])
async def test_no_sink_gets_what_is_the_logs_own_unless_it_is_named(
    world: World, source: Source, source_db: str, tmp_path: Path, sealed: bool
) -> None:
    await captured(world, source_db)
    if sealed:
        await world.sealer.seal(world.log, force=True)
        await world.snapshotter.snapshot(world.log)
    stream = io.BytesIO()
    sinks = {
        "folder": sink_for(str(tmp_path / "folder")),
        "csv": sink_for(str(tmp_path / "csv"), format="csv"),
        "one csv": sink_for(str(tmp_path / "one.csv")),
        "parquet": sink_for(str(tmp_path / "one.parquet")),
        "stdout": sink_for("-", stream=stream),
    }
    async with twin_of(source) as empty:
        sinks["postgres"] = sink_for(empty)
        for name, sink in sinks.items():
            report = await restore(world, sink)
            assert report.sink.rows == {"public.one": 1}, name
        async with app_of(empty) as restored:
            assert (
                await restored.value("SELECT count(*) FROM pg_tables WHERE tablename = 'one'") == 1
            )
            assert await restored.value("SELECT to_regnamespace('pitr')") is None
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["public.one.ndjson"]
    assert [json.loads(line)["collection"] for line in stream.getvalue().splitlines()] == [
        "public.one"
    ]
    report = await restore(
        world, sink_for("-", stream=stream), collections=frozenset({SCHEMAS, "public.one"})
    )
    assert report.sink.rows == {SCHEMAS: 1, "public.one": 1}
    with pytest.raises(NotFound) as refused:
        await restore(world, sink_for("-", stream=stream), collections=frozenset({"public.no"}))
    assert refused.value.hint == "it has: public.one"


async def test_kafka_does_not_get_what_is_the_logs_own_unless_it_is_named(
    world: World, source_db: str, broker: Broker
) -> None:
    await captured(world, source_db)
    plain = "" if broker.transactions else "?transaction=false&idempotent=false"

    def topic(name: str) -> Sink:
        into = f"kafka://{broker.bootstrap}/{name}-{new_uid()[:8]}{plain}"
        return sink_for(into, kafka=lambda _: KafkaConfig(bootstrap=broker.bootstrap))

    assert (await restore(world, topic("all"))).sink.rows == {"public.one": 1}
    report = await restore(world, topic("own"), collections=frozenset({SCHEMAS}))
    assert report.sink.rows == {SCHEMAS: 1}
