"""Rewinds of a database that is attached: its stream brings them into the log, marked."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from pitr.adapters.clock import SystemClock, new_uid
from pitr.adapters.sinks.postgres.rewind.database import PostgresRewind
from pitr.domain.errors import Conflict
from pitr.services.append import Appender
from pitr.services.resolve import Resolver
from pitr.services.rewind.rewinder import Rewinder, RewindReport, RewindRequest
from tests.postgres.conftest import SourceServer
from tests.postgres.following import App, app_of, attach, caught_up, following
from tests.postgres.restoring import binary, database_of
from tests.postgres.servers import OLD, Source
from tests.postgres.test_restore import ORDERED, SHOP, Commits, _work, kept
from tests.postgres.test_types import Zoo, make_hostile
from tests.postgres.zoo import types_of
from tests.services.world import World

KEYED = ("customers", "orders")


class Rewinding:
    """A rewinder for one database, which nobody but its stream tells the log of."""

    def __init__(self, world: World, app: App) -> None:
        async def none(_log: str) -> Appender:
            raise AssertionError("the stream brings everything")

        clock = SystemClock()
        self.log, self.sink = world.log, PostgresRewind(app.url)
        self.rewinder = Rewinder(
            world.catalog,
            world.archive,
            Resolver(world.catalog, world.archive, clock),
            clock,
            appender=none,
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
                await caught_up(world, app, attached)
                again = await rewinding.rewind(targets[number][way], *KEYED)
                assert again.row_count == 0, "the log knows what was done"
            own = [each for each in await world.changes() if each.reason is not None]
            own = [each for each in own if done.operation_id in (each.reason or "")]
            assert {each.reason for each in own} == {f"rewind:{done.operation_id}: a drill"}
            assert {each.actor for each in own} == {"ana"}
            assert {each.lane for each in own} == {"postgres:app"}
            undone = await rewinding.undo(done.operation_id)
            assert await now() == before
            try:
                await rewinding.undo(undone.operation_id)
            except Conflict as error:
                assert "does not have all changes" in str(error)
                await caught_up(world, app, attached)
                await rewinding.undo(undone.operation_id)
            assert await now() == expected
            assert await app.value("SELECT nextval('customers_id_seq')") > 50


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
