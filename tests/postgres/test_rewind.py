"""Rewinds of a database that is attached: its stream brings them into the log, marked."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pitr.adapters.clock import SystemClock, new_uid
from pitr.adapters.sinks.postgres.rewind.database import PostgresRewind
from pitr.services.append import Appender
from pitr.services.lease import Leases
from pitr.services.resolve import Resolver
from pitr.services.rewind.requests import RewindRequest
from pitr.services.rewind.rewinder import Rewinder, RewindReport
from tests.postgres.conftest import SourceServer
from tests.postgres.following import App, app_of, attach, caught_up, following
from tests.postgres.restoring import binary, database_of
from tests.postgres.servers import OLD, Source
from tests.postgres.test_restore import ORDERED, SHOP, Commits, _work, kept
from tests.postgres.test_types import Zoo, make_hostile
from tests.postgres.zoo import types_of
from tests.services.crashes import Crash, Killed
from tests.services.world import World

KEYED = ("customers", "orders")


class Rewinding:
    """A rewinder for one database, of which its stream tells the log, or else ``appender``."""

    def __init__(self, world: World, app: App, appender: Appender | None = None) -> None:
        async def given(_log: str) -> Appender:
            assert appender is not None, "the stream brings everything"
            return appender

        clock = SystemClock()
        self.log, self.sink = world.log, PostgresRewind(app.url)
        self.rewinder = Rewinder(
            world.catalog,
            world.archive,
            Resolver(world.catalog, world.archive, clock),
            clock,
            appender=given,
            leases=Leases(world.catalog, holder="test"),
            new_id=new_uid,
            limits=world.limits,
        )

    async def rewind(self, target: str, *names: str) -> RewindReport:
        request = RewindRequest(
            log=self.log, target=target, collections=frozenset(f"public.{n}" for n in names)
        )
        plan = await self.rewinder.plan(request, self.sink)
        assert not plan.seen["conflicts"]["counts"], plan.seen["conflicts"]
        return await self.rewinder.apply(plan, self.sink, actor="ana", reason="a drill")

    async def undo(self, operation_id: str) -> RewindReport:
        plan = await self.rewinder.plan_undo(self.log, operation_id, self.sink)
        return await self.rewinder.apply(plan, self.sink)


async def test_every_commit_comes_back_in_place(world: World, source_db: str) -> None:
    dice = random.Random(7)
    async with app_of(source_db) as app:
        await app.run(
            SHOP,
            "INSERT INTO customers (email) SELECT g || '@x.org' FROM generate_series(1, 50) g",
            "INSERT INTO orders SELECT g, 1, g * 1.1 FROM generate_series(1, 50) g",
        )
        attached = await attach(app, what="FOR TABLE customers, orders, visits")
        await world.catalog.add_source(world.log, attached)
        commits, rewinding = Commits(app), Rewinding(world, app)

        async def now() -> list[bytes]:
            return [
                await binary(app, f"SELECT * FROM {name} ORDER BY {ORDERED[name]}")
                for name in KEYED
            ]

        async with following(world, attached):
            await caught_up(world, app, attached)
            for number in range(4):
                await commits.run(*_work(dice, number))
            await caught_up(world, app, attached)
            targets = await commits.targets(world)
            for number, way in ((2, "time"), (0, "before the next")):
                before = await now()
                done = await rewinding.rewind(targets[number][way], *KEYED)
                assert done.row_count and done.appended == 0
                assert set(done.lanes.values()) == {"postgres:app"}
                expected = [await kept(app, number, name) for name in KEYED]
                assert await now() == expected, (number, way)
                # It waits until the stream has brought what was done.
                again = await rewinding.rewind(targets[number][way], *KEYED)
                assert again.row_count == 0, "the log knows what was done"
            own = [each for each in await world.changes() if each.reason is not None]
            own = [each for each in own if done.operation_id in (each.reason or "")]
            assert {each.reason for each in own} == {f"rewind:{done.operation_id}: a drill"}
            assert {each.actor for each in own} == {"ana"}
            assert {each.lane for each in own} == {"postgres:app"}
            undone = await rewinding.undo(done.operation_id)
            assert await now() == before
            await rewinding.undo(undone.operation_id)
            assert await now() == expected
            assert await app.value("SELECT nextval('customers_id_seq')") > 50
            # What somebody does right before is no conflict either; and is undone by itself.
            await app.run("UPDATE orders SET total = total + 1")
            latest = RewindRequest(log=world.log, target="latest")
            plan = await rewinding.rewinder.plan(latest, rewinding.sink)
            assert not plan.seen["notes"], "it has waited"
            changes = [each for each in await world.changes() if each.collection == "public.orders"]
            tx = changes[-1].tx or ""
            plan = await rewinding.rewinder.plan_revert(world.log, tx, rewinding.sink)
            assert not plan.seen["conflicts"]["counts"] and not plan.seen["notes"]
            scanned = await rewinding.rewinder.plan(
                RewindRequest(log=world.log, target=f"before-tx:{tx}", scan=True), rewinding.sink
            )
            assert "public.visits was not compared: its rows have no key" in scanned.seen["notes"]
            assert scanned.row_count == plan.row_count > 0, "both find the same rows"
            await rewinding.rewinder.apply(plan, rewinding.sink)
            assert await now() == expected
        plan = await rewinding.rewinder.plan(latest, rewinding.sink)
        assert plan.seen["notes"] == [
            "nobody follows postgres:app, so the log may not have the newest changes"
        ]


async def test_of_a_killed_rewind_the_stream_brings_the_changes(
    world: World, source_db: str
) -> None:
    """It was committed, and could tell nobody: the next one asks the database, and undoes it."""
    async with app_of(source_db) as app:
        await app.run(
            "CREATE TABLE things (id int PRIMARY KEY, n int)",
            "INSERT INTO things SELECT g, 0 FROM generate_series(1, 9) AS g",
        )
        attached = await attach(app, what="FOR TABLE things")
        await world.catalog.add_source(world.log, attached)
        async with following(world, attached):
            await caught_up(world, app, attached)
            before = f"seq:{(await world.catalog.log(world.log)).seq_next - 1}"
            await app.run("UPDATE things SET n = 1 WHERE id < 4")
            await caught_up(world, app, attached)
            rewinding, dying = Rewinding(world, app), Rewinding(world, app)
            catalog = Killed(world.catalog, "note_operation", "next")
            dying.rewinder._catalog = dying.rewinder._operations._catalog = catalog
            with pytest.raises(Crash):
                await dying.rewind(before, "things")
            killed, *_ = await world.catalog.operations(world.log)
            assert "xid" in killed["detail"]
            assert await app.value("SELECT sum(n) FROM things") == 0
            await caught_up(world, app, attached)
            undone = await rewinding.undo(killed["operation_id"])
            assert undone.row_count == 3
            assert await app.value("SELECT sum(n) FROM things") == 3
            _, done, *_ = await world.catalog.operations(world.log)
            assert (done["outcome"], done["detail"]["settled_as"]) == ("done", "committed")
            assert done["detail"]["lanes"] == {"public.things": "postgres:app"}
            assert done["detail"]["untold"] == []


@pytest.fixture
def old(source_server: SourceServer) -> Iterator[tuple[Source, str]]:
    """PostgreSQL 15, and the URL of a database on it."""
    server, name = source_server(OLD), f"src_{new_uid()[:12]}"
    yield server, server.make_database(name)
    server.drop_database(name)


async def test_every_type_comes_back_in_place_bit_for_bit(
    world: World, old: tuple[Source, str]
) -> None:
    """Also where the database is set up so that nothing is written the usual way."""
    server, url = old
    async with app_of(url) as app:
        types, _ = await types_of(app.connection)
        zoo = Zoo(types)
        await app.run(zoo.table("zoo"))
        await zoo.fill(app, "zoo")
        await app.run("CREATE TABLE original AS TABLE zoo")
    await make_hostile(server, database_of(url))
    async with app_of(url) as app:
        attached = await attach(app, what="FOR TABLE zoo")
        await world.catalog.add_source(world.log, attached)
        columns = ", ".join(column for column, _ in zoo.names)
        others = ", ".join(f"o.{column}" for column, _ in zoo.names)
        async with following(world, attached):
            await caught_up(world, app, attached)
            target = f"seq:{(await world.catalog.log(world.log)).seq_next - 1}"
            await app.run(
                "UPDATE zoo SET touched = 1",
                f"UPDATE zoo z SET ({columns}) = ROW({others}) FROM zoo o"
                f" WHERE o.id = (z.id + 1) % {zoo.rows} AND z.id % 3 > 0",
                "DELETE FROM zoo WHERE id % 3 = 0",
            )
            await caught_up(world, app, attached)
            rewinding = Rewinding(world, app)
            report = await rewinding.rewind(target, "zoo")
            assert report.row_count == zoo.rows
            texts = "SELECT {}::text FROM {} ORDER BY id"
            for column, type_ in zoo.names:
                found, expected = [
                    [row[0] for row in await app.connection.fetch(texts.format(column, table))]
                    for table in ("zoo", "original")
                ]
                assert found == expected, type_
            await caught_up(world, app, attached)
            await rewinding.undo(report.operation_id)
            assert await app.value("SELECT count(*) FROM zoo WHERE touched = 1") == sum(
                1 for number in range(zoo.rows) if number % 3
            )
