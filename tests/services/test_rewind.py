"""Rewinds: only what differs, in one transaction, as it was; undone the same way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr.adapters.catalog import PostgresCatalog
from pitr.adapters.embedded import EmbeddedPostgres
from pitr.adapters.migrations_folder import migrations_folder
from pitr.adapters.objects import DirectoryStore
from pitr.adapters.sinks.postgres.rewind.database import PostgresRewind
from pitr.domain.errors import Conflict, InvalidRequest, NotFound, Unavailable
from pitr.domain.manifest import GENESIS_HASH
from pitr.domain.rewind.columns import ColumnRules
from pitr.domain.rewind.plan import RewindPlan
from pitr.services.rewind.requests import RewindRequest
from tests.changes import batch, draft
from tests.conftest import START_US, ManualClock
from tests.services.rewinding import AppDatabase, app_database, both_ways, counts
from tests.services.world import World

SHOP = """
CREATE TABLE customers (id int PRIMARY KEY, name text UNIQUE, boss int REFERENCES customers);
CREATE TABLE orders (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer int NOT NULL REFERENCES customers ON DELETE CASCADE,
    price numeric(10, 2) NOT NULL DEFAULT 1, doubled numeric GENERATED ALWAYS AS (price * 2) STORED,
    note text
);
CREATE TABLE lines (
    order_id int REFERENCES orders ON DELETE CASCADE, number int, item text NOT NULL,
    PRIMARY KEY (order_id, number)
);
"""
SHOP_KEYS = {"customers": "id", "orders": "id", "lines": "order_id,number"}


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The URL of an empty database of its own."""
    name = f"rewind-{uuid4().hex[:12]}"
    yield await postgres.ensure_database(name)
    connection = await asyncpg.connect(postgres.url())
    await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await connection.close()


@pytest.fixture
async def shop(
    world: World, database: str, request: pytest.FixtureRequest
) -> AsyncIterator[AppDatabase]:
    async with app_database(world, database, SHOP, SHOP_KEYS) as app:
        app.at_once = getattr(request, "param", "") == "one go"
        await app.step(
            "INSERT INTO customers VALUES (1, 'ada', NULL), (2, 'bob', 1), (3, 'eve', 3)",
            "INSERT INTO orders (customer, price) VALUES (1, 10), (2, 20), (2, 30)",
            "INSERT INTO lines VALUES (1, 1, 'a'), (2, 1, 'b'), (3, 1, 'c')",
        )
        yield app


async def test_what_happened_since_is_taken_back_and_nothing_else(shop: AppDatabase) -> None:
    [(target, before)] = shop.moments
    await shop.step("UPDATE orders SET price = 11 WHERE id = 1")
    await shop.step("INSERT INTO customers VALUES (4, 'dan', 1)")
    await shop.step("UPDATE customers SET boss = 4 WHERE id = 2")
    await shop.step("DELETE FROM orders WHERE customer = 2")
    xmin = await shop.sql.fetchval("SELECT xmin::text FROM customers WHERE id = 1")
    plan = await shop.plan(target)
    assert counts(plan) == {"customers": (0, 1, 1), "orders": (2, 1, 0), "lines": (2, 0, 0)}
    assert plan.does["order"] == ["public.customers", "public.orders", "public.lines"]
    report = await shop.rewind(target)
    assert report.row_count == 7
    assert await shop.rows() == before
    assert await shop.sql.fetchval("SELECT xmin::text FROM customers WHERE id = 1") == xmin


@both_ways
async def test_what_changed_and_is_as_it_was_may_be_anything(shop: AppDatabase) -> None:
    async def seen(*values: str) -> None:
        drafts = [
            draft(0, f'{{"id":1,"v":"{value}"}}', collection="public.seen", op="update")
            | {"key": '{"id":1}'}
            for value in values
        ]
        await shop.world.append(batch(drafts, lane="other", position_first=None))

    await shop.sql.execute("CREATE VIEW seen AS SELECT id, name AS v FROM customers")
    await seen("a")
    target = await shop.step("UPDATE customers SET name = 'bo' WHERE id = 2")
    await seen("b", "a")
    await shop.step("DELETE FROM lines")
    assert (await shop.rewind(target)).row_count == 3
    await seen("b")
    with pytest.raises(InvalidRequest, match="not a table"):
        await shop.rewind(target)
    assert await shop.rows() == shop.moments[-2][1]


@both_ways
async def test_a_rewind_is_part_of_history_and_can_be_undone_and_that_too(
    shop: AppDatabase,
) -> None:
    [(target, before)] = shop.moments
    await shop.step("DELETE FROM customers WHERE id = 2", "INSERT INTO customers VALUES (7, 'bob')")
    after = await shop.rows()
    done = await shop.rewind(target)
    log = shop.world.log
    (operation,) = await shop.world.catalog.operations(log)
    assert (operation["kind"], operation["outcome"]) == ("rewind", "done")
    assert operation["detail"]["rows"]["customers".join(["public.", ""])]["deleted"] == 1
    assert operation["actor"] == "ana"
    own = [each for each in await shop.world.changes() if each.lane.startswith("rewind:")]
    assert {each.reason for each in own} == {f"rewind:{done.operation_id}"}
    assert len({each.tx for each in own}) == 1 and len(own) == done.appended == 6
    assert {table: set(rows) for table, rows in before.items()} == await shop.log_rows()
    # Targets before it, and its mark, are what they were.
    assert {table: set(rows) for table, rows in after.items()} == await shop.log_rows(
        f"mark:{done.mark}"
    )
    undone = await shop.undo(done.operation_id)
    assert await shop.rows() == after
    await shop.undo(undone.operation_id)
    assert await shop.rows() == before
    assert {table: set(rows) for table, rows in before.items()} == await shop.log_rows()
    kinds = [each["kind"] for each in await shop.world.catalog.operations(log)]
    assert kinds == ["undo", "undo", "rewind"]


async def test_an_undo_touches_only_the_rows_of_its_rewind(shop: AppDatabase) -> None:
    [(target, _)] = shop.moments
    await shop.step("UPDATE customers SET name = 'wrong' WHERE id = 1")
    done = await shop.rewind(target)
    await shop.step("UPDATE customers SET name = 'EVE' WHERE id = 3")
    await shop.undo(done.operation_id)
    names = await shop.sql.fetch("SELECT name FROM customers ORDER BY id")
    assert [row["name"] for row in names] == ["wrong", "bob", "EVE"]
    # A row that was changed after the rewind is not overwritten unasked.
    done = await shop.rewind(target)
    await shop.step("UPDATE customers SET name = 'newer' WHERE id = 1")
    with pytest.raises(Conflict, match="changed") as caught:
        await shop.undo(done.operation_id)
    assert caught.value.facts["conflicts"] == 1
    with pytest.raises(NotFound):
        await shop.undo("nothing")


@pytest.mark.parametrize("at_once", [False, True])
async def test_values_of_unique_indexes_are_swapped(
    world: World, database: str, at_once: bool
) -> None:
    setup = """
    CREATE TABLE t (id int PRIMARY KEY, a text UNIQUE, b int UNIQUE DEFERRABLE, c int, kept text);
    CREATE UNIQUE INDEX partial ON t (lower(a)) WHERE c > 0;
    CREATE TABLE child (id int PRIMARY KEY, a text REFERENCES t (a) ON UPDATE CASCADE);
    """
    async with app_database(world, database, setup, {"t": "id", "child": "id"}) as app:
        app.at_once = at_once
        target = await app.step(
            "INSERT INTO t SELECT n, 'a' || n, n, n FROM generate_series(1, 4) n",
            "INSERT INTO child SELECT n, 'a' || n FROM generate_series(1, 4) n",
        )
        await app.step(
            "UPDATE t SET a = '-' || a, b = -b",
            "UPDATE t SET a = 'a' || (5 - id), b = 5 - id WHERE id > 1",
            "DELETE FROM child WHERE id = 1",
            "DELETE FROM t WHERE id = 1",
            "INSERT INTO t VALUES (9, 'a4', 4, 1)",
        )
        after = await app.rows()
        done = await app.rewind(target)
        assert await app.rows() == app.moments[0][1]
        await app.undo(done.operation_id)
        assert await app.rows() == after


async def test_rows_that_refer_to_each_other_in_circles(world: World, database: str) -> None:
    setup = """
    CREATE TABLE a (id int PRIMARY KEY, b int);
    CREATE TABLE b (id int PRIMARY KEY, a int NOT NULL REFERENCES a,
        next int REFERENCES b ON DELETE CASCADE);
    ALTER TABLE a ADD CONSTRAINT to_b FOREIGN KEY (b) REFERENCES b ON DELETE SET NULL;
    CREATE TABLE late (id int PRIMARY KEY, other int NOT NULL
        REFERENCES late DEFERRABLE INITIALLY DEFERRED);
    """
    async with app_database(world, database, setup, {"a": "id", "b": "id", "late": "id"}) as app:
        target = await app.step(
            "INSERT INTO a VALUES (1), (2)",
            "INSERT INTO b VALUES (1, 1, 1), (2, 2, 1), (3, 2, 2)",
            "UPDATE a SET b = id + 1",
            "INSERT INTO late VALUES (1, 2), (2, 1)",
        )
        await app.step("DELETE FROM b WHERE id = 1")
        await app.step("DELETE FROM a", "INSERT INTO a VALUES (5)", "INSERT INTO b VALUES (5, 5)")
        await app.step("DELETE FROM late", "INSERT INTO late VALUES (2, 2)")
        after = await app.rows()
        done = await app.rewind(target)
        assert await app.rows() == app.moments[0][1]
        await app.undo(done.operation_id)
        assert await app.rows() == after


@pytest.mark.parametrize("at_once", [False, True])
async def test_triggers_do_not_fire_and_are_as_they_were(
    world: World, database: str, at_once: bool
) -> None:
    setup = """
    CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE p_low PARTITION OF p FOR VALUES FROM (0) TO (10);
    CREATE TABLE p_high PARTITION OF p FOR VALUES FROM (10) TO (20);
    """
    async with app_database(world, database, setup, {"t": "id", "p": "id"}) as app:
        app.at_once = at_once
        target = await app.step("INSERT INTO t VALUES (1, 'x')", "INSERT INTO p VALUES (1, 'x')")
        await app.step("UPDATE t SET v = 'y'", "UPDATE p SET v = 'y', id = 11")
        await app.sql.execute(
            """
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE 'the trigger fired'; END $$;
            CREATE TRIGGER plain BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION refuse();
            CREATE TRIGGER always BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION refuse();
            CREATE TRIGGER each BEFORE UPDATE ON t EXECUTE FUNCTION refuse();
            CREATE TRIGGER part AFTER INSERT ON p_low FOR EACH ROW EXECUTE FUNCTION refuse();
            ALTER TABLE t ENABLE ALWAYS TRIGGER always;
            ALTER TABLE t ENABLE REPLICA TRIGGER each;
            ALTER TABLE p_low ENABLE ALWAYS TRIGGER part;
            """
        )
        triggers = "SELECT tgname, tgenabled::text FROM pg_trigger ORDER BY tgrelid, tgname"
        before = await app.sql.fetch(triggers)
        await app.rewind(target)
        assert await app.rows() == app.moments[0][1]
        assert await app.sql.fetch(triggers) == before


@both_ways
async def test_sequences_move_past_what_is_put_back(shop: AppDatabase) -> None:
    [(target, _)] = shop.moments
    await shop.step("DELETE FROM orders")
    await shop.sql.execute("ALTER TABLE orders ALTER COLUMN id RESTART WITH 1")
    plan = await shop.plan(target)
    assert plan.seen["sequences"] == [
        {"sequence": "public.orders_id_seq", "table": "public.orders", "column": "id", "to": 3}
    ]
    await shop.rewind(target)
    assert await shop.sql.fetchval("INSERT INTO orders (customer) VALUES (1) RETURNING id") == 4


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_truncated_and_partitioned_table_comes_back(
    world: World, database: str, at_once: bool
) -> None:
    setup = """
    CREATE TABLE p (region text, id int, v jsonb, PRIMARY KEY (region, id))
        PARTITION BY LIST (region);
    CREATE TABLE p_eu PARTITION OF p FOR VALUES IN ('eu') PARTITION BY RANGE (id);
    CREATE TABLE p_eu_1 PARTITION OF p_eu FOR VALUES FROM (0) TO (100);
    CREATE TABLE p_rest PARTITION OF p DEFAULT;
    """
    async with app_database(world, database, setup, {"p": "region,id"}) as app:
        app.at_once = at_once
        target = await app.step(
            "INSERT INTO p SELECT 'eu', n, '{\"n\": 1.10}' FROM generate_series(1, 20) n",
            "INSERT INTO p VALUES ('us', 1, NULL)",
        )
        await app.step("INSERT INTO p VALUES ('us', 2, NULL)")
        await app.step("TRUNCATE p")
        await app.step("INSERT INTO p VALUES ('eu', 3, '[]'), ('asia', 1, '{}')")
        plan = await app.plan(target)
        assert counts(plan) == {"p": (20, 1, 1)} and plan.seen["emptied"] == ["public.p"]
        done = await app.rewind(target)
        assert await app.rows() == app.moments[0][1]
        assert {name: set(rows) for name, rows in app.moments[0][1].items()} == await app.log_rows()
        await app.undo(done.operation_id)
        assert await app.rows() == app.moments[-1][1]


TYPES = {
    "mood": ["'so so'", "'\"it''s\"'"],
    "mood[]": ["'{\"so so\",NULL}'"],
    "json": ['\'{ "b": 1.10,\n "a": [1] }\'', "'{\"b\": 1.1}'"],
    "jsonb": ["'{\"b\": 1.10}'", "'{\"b\": 1.1}'"],
    "bytea": [r"'\x00ff5c'", r"'\x'"],
    "uuid": ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
    "numeric": ["1.0", "1.00", "'NaN'", "1234567890123456789012345678901234567.890"],
    "double precision": ["'-0'", "0", "0.1", "'Infinity'"],
    "interval": ["'1 mon'", "'30 days'", "'720:00:00'"],
    "timestamptz": ["'2026-03-01 09:30:00.250001+02'", "'infinity'"],
    "inet": ["'192.168.0.1/24'", "'::1'"],
    "int4range": ["'[1,5)'", "'empty'"],
    "text[]": [r"""ARRAY['a"b\c', NULL, 'NULL', '']"""],
    "char(5)": ["'abc'"],
    "point": ["'(1.5,-2)'"],
    "bigint": ["9223372036854775807"],
}


async def test_every_value_comes_back_to_the_letter(world: World, database: str) -> None:
    """Each value takes the place of each other of its type, equal ones of another text too."""
    setup = "CREATE TYPE mood AS ENUM ('so so', '\"it''s\"');"
    tables = {f"t{number}": kind for number, kind in enumerate(TYPES)}
    for table, kind in tables.items():
        setup += f"CREATE TABLE {table} (id int PRIMARY KEY, v {kind});"
    async with app_database(world, database, setup, dict.fromkeys(tables, "id")) as app:
        inserts = [
            f"INSERT INTO {table} VALUES ({number}, {value})"
            for table, kind in tables.items()
            for number, value in enumerate([*TYPES[kind], "NULL"])
        ]
        target = await app.step(*inserts)
        changes = [
            f"UPDATE {table} SET v = {value} WHERE id = {number}"
            for table, kind in tables.items()
            for number, value in enumerate(["NULL", *reversed(TYPES[kind])])
        ]
        await app.step(*changes)
        after = await app.rows()
        done = await app.rewind(target)
        assert await app.rows() == app.moments[0][1]
        await app.undo(done.operation_id)
        assert await app.rows() == after


async def test_columns_on_one_side_only_go_by_the_rule_that_is_shown(
    world: World, database: str
) -> None:
    setup = "CREATE TABLE t (id int PRIMARY KEY, v text UNIQUE, old text)"
    async with app_database(world, database, setup, {"t": "id"}) as app:
        target = await app.run("INSERT INTO t VALUES (1, 'a', 'x'), (2, 'b', 'y')")
        await app.run("UPDATE t SET v = 'c' WHERE id = 1", "DELETE FROM t WHERE id = 2")
        await app.sql.execute("ALTER TABLE t DROP COLUMN old, ADD COLUMN new text DEFAULT 'n'")
        await app.sql.execute("ALTER TABLE t DISABLE TRIGGER told; UPDATE t SET new = 'set'")
        with pytest.raises(InvalidRequest, match="one side only") as caught:
            await app.plan(target)
        assert caught.value.facts["columns"] == ["old"]
        plan = await app.plan(target, rules=ColumnRules(gone="drop"))
        [described] = plan.does["collections"]
        assert described["columns_on_one_side"] == [
            {"column": "new", "side": "database", "rule": "keep"},
            {"column": "old", "side": "log", "rule": "drop"},
        ]
        await app.rewind(target, rules=ColumnRules(gone="drop"))
        rows = await app.sql.fetch("SELECT * FROM t ORDER BY id")
        assert [tuple(row) for row in rows] == [(1, "a", "set"), (2, "b", "n")]
        await app.sql.execute("UPDATE t SET new = 'set'")
        await app.run("ALTER TABLE t ENABLE TRIGGER told", "UPDATE t SET v = 'd' || id")
        assert counts(await app.plan(target, rules=ColumnRules(gone="drop"))) == {"t": (0, 2, 0)}


@both_ways
async def test_rows_that_changed_outside_the_log_are_never_overwritten_silently(
    shop: AppDatabase,
) -> None:
    [(target, _)] = shop.moments
    await shop.step(
        "UPDATE customers SET name = name || '!'",
        "DELETE FROM lines WHERE order_id > 1",
    )
    await shop.sql.execute(
        """
        SET session_replication_role = replica;
        UPDATE customers SET name = 'other' WHERE id = 1;
        DELETE FROM customers WHERE id = 3;
        INSERT INTO lines VALUES (2, 1, 'new'), (3, 1, 'c');
        UPDATE orders SET note = 'outside, but in no row that is taken back' WHERE id = 1;
        RESET session_replication_role;
        """
    )
    before = await shop.rows()
    plan = await shop.plan(target)
    conflicts = plan.seen["conflicts"]
    assert conflicts["counts"] == {"public.customers": 2, "public.lines": 1}
    found = [(each["collection"], each["key"], each["kind"]) for each in conflicts["examples"]]
    assert found == [
        ("public.customers", '{"id":1}', "changed"),
        ("public.customers", '{"id":3}', "gone"),
        ("public.lines", '{"number":1,"order_id":2}', "appeared"),
    ]
    assert plan.seen["settled"] == {"public.lines": 1}
    with pytest.raises(Conflict, match="not what the log says") as caught:
        await shop.rewind(target)
    assert caught.value.facts["conflicts"] == 3
    assert await shop.rows() == before
    marks = await shop.world.catalog.marks(shop.world.log)
    assert marks == []

    skipped = await shop.rewind(target, on_conflict="skip")
    rows = await shop.rows()
    assert rows["customers"] == ["(1,other,)", "(2,bob,1)"]
    assert rows["lines"] == ["(1,1,a)", "(2,1,new)", "(3,1,c)"]
    await shop.undo(skipped.operation_id)
    assert await shop.rows() == before

    done = await shop.rewind(target, on_conflict="overwrite")
    rows = await shop.rows()
    assert rows["customers"] == ["(1,ada,)", "(2,bob,1)", "(3,eve,3)"]
    assert rows["lines"] == ["(1,1,a)", "(2,1,b)", "(3,1,c)"]
    await shop.undo(done.operation_id)
    assert await shop.rows() == before


async def test_a_plan_that_does_not_hold_any_more_is_refused(
    shop: AppDatabase, postgres: EmbeddedPostgres
) -> None:
    [(target, before)] = shop.moments
    await shop.step("UPDATE customers SET name = 'x' WHERE id = 1")
    plan = await shop.plan(target)
    altered = plan.body().replace(b'"update":1', b'"update":2')
    with pytest.raises(InvalidRequest, match="altered"):
        RewindPlan.of_body(altered)
    # Another row may change: it is not of the plan, and is left.
    await shop.step("UPDATE customers SET name = 'y' WHERE id = 2")
    report = await shop.rewinder.apply(plan, shop.sink)
    assert report.row_count == 1 and "1 changes came since the plan" in report.notes[0]
    assert (await shop.rows())["customers"] == ["(1,ada,)", "(2,y,1)", "(3,eve,3)"]

    plan = await shop.plan(target)
    await shop.step("UPDATE customers SET name = 'z' WHERE id = 2")
    with pytest.raises(Conflict, match=r"rows of public\.customers changed since"):
        await shop.rewinder.apply(plan, shop.sink)
    plan = await shop.plan(target)
    await shop.sql.execute("ALTER TABLE customers RENAME COLUMN name TO label")
    with pytest.raises(PitrErrors, match=r"customers"):
        await shop.rewinder.apply(plan, shop.sink)
    await shop.sql.execute("ALTER TABLE customers RENAME COLUMN label TO name")
    await shop.rewinder.apply(plan, shop.sink)
    assert await shop.rows() == before


PitrErrors = (Conflict, InvalidRequest)


@both_ways
async def test_a_part_is_taken_back_if_it_stands_by_itself(shop: AppDatabase) -> None:
    [(target, _)] = shop.moments
    await shop.step(
        "DELETE FROM customers WHERE id = 2", "UPDATE customers SET name = 'A' WHERE id = 1"
    )
    before = await shop.rows()
    only = frozenset({"public.orders"})
    plan = await shop.plan(target, collections=only)
    assert counts(plan) == {"orders": (2, 0, 0)} and plan.seen["torn"]["count"] == 1
    with pytest.raises(Conflict, match="refers to a row that is not there") as caught:
        await shop.rewind(target, collections=only)
    assert caught.value.facts["constraint"] == "orders_customer_fkey"
    assert await shop.rows() == before
    (operation, *_) = await shop.world.catalog.operations(shop.world.log)
    assert operation["outcome"] == "failed"
    key = frozenset({("public.customers", '{"id":1}')})
    assert (await shop.rewind(target, keys=key)).row_count == 1
    assert (await shop.rows())["customers"] == ["(1,ada,)", "(3,eve,3)"]
    with pytest.raises(NotFound):
        await shop.plan(target, collections=frozenset({"public.nothing"}))


@both_ways
async def test_rows_that_stay_keep_what_they_refer_to(shop: AppDatabase) -> None:
    """Also where the referring table is in no log at all."""
    [(target, _)] = shop.moments
    await shop.step("INSERT INTO customers VALUES (8, 'new', NULL)")
    await shop.sql.execute(
        "CREATE TABLE outside (customer int REFERENCES customers ON DELETE CASCADE);"
        "INSERT INTO outside VALUES (8)"
    )
    with pytest.raises(Conflict, match="a row that stays refers") as caught:
        await shop.rewind(target)
    assert caught.value.facts["example"] == {"customer": "8"}
    await shop.sql.execute("DELETE FROM outside")
    await shop.rewind(target)


async def test_a_table_without_a_unique_key_or_none_at_all_is_refused(
    world: World, database: str
) -> None:
    setup = "CREATE TABLE t (id int, v text); CREATE TABLE gone (id int PRIMARY KEY)"
    async with app_database(world, database, setup, {"t": "id", "gone": "id"}) as app:
        target = await app.run("INSERT INTO t VALUES (1, 'a')", "INSERT INTO gone VALUES (1)")
        await app.run("UPDATE t SET v = 'b'")
        with pytest.raises(InvalidRequest, match="no unique index") as caught:
            await app.plan(target)
        assert caught.value.facts["key"] == ["id"]
        await app.run("DELETE FROM gone")
        await app.sql.execute("DROP TABLE gone")
        with pytest.raises(InvalidRequest, match="not there"):
            await app.plan(target, collections=frozenset({"public.gone"}))


async def test_the_whole_table_is_not_read(world: World, database: str) -> None:
    setup = """
    CREATE TABLE parent (id int PRIMARY KEY, v text);
    CREATE TABLE t (id int PRIMARY KEY, v text, p int REFERENCES parent);
    CREATE INDEX ON t (p);
    INSERT INTO parent SELECT n, 'x' FROM generate_series(1, 20000) n;
    INSERT INTO t SELECT n, 'x', n FROM generate_series(1, 20000) n;
    ANALYZE parent, t;
    """
    async with app_database(world, database, setup, {"t": "id", "parent": "id"}) as app:
        target = await app.told()
        await app.run("UPDATE t SET v = 'y'", "UPDATE parent SET v = 'y' WHERE id < 5")
        target = await app.run("UPDATE t SET v = 'z' WHERE id < 100")
        await app.run("UPDATE t SET v = 'w' WHERE id BETWEEN 50 AND 149")
        await app.run("DELETE FROM t WHERE id < 3", "DELETE FROM parent WHERE id < 3")
        await app.sql.execute("ANALYZE")
        reads = "SELECT sum(seq_tup_read)::int FROM pg_stat_user_tables WHERE relname <> 'changes'"
        await app.sql.execute("SELECT pg_stat_force_next_flush()")
        before = await app.sql.fetchval(reads)
        report = await app.rewind(target)
        assert report.row_count == 104
        await app.sql.execute("SELECT pg_stat_clear_snapshot()")
        assert await app.sql.fetchval(reads) - before < 1_000


# Killed ------------------------------------------------------------------------------------------


class Killer:
    """Ends the server's side of a rewind's connection before its n-th statement, or after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        self.url, self.left, self.after, self.statements = url, -1, False, 0
        for name in ("execute", "fetch", "fetchrow", "fetchval", "copy_to_table"):
            monkeypatch.setattr(asyncpg.Connection, name, self._wrapped(name))

    def _wrapped(self, name: str) -> Any:
        real = getattr(asyncpg.Connection, name)

        async def call(connection: asyncpg.Connection, *args: Any, **rest: Any) -> Any:
            if self.left < 0:
                return await real(connection, *args, **rest)
            self.left -= 1
            self.statements += 1
            if self.left < 0 and not self.after:
                await asyncio.to_thread(_terminate, self.url, connection.get_server_pid())
            answer = await real(connection, *args, **rest)
            if self.left < 0:
                await asyncio.to_thread(_terminate, self.url, connection.get_server_pid())
                await real(connection, "SELECT 1")
            return answer

        return call

    def arm(self, left: int, *, after: bool = False) -> None:
        self.left, self.after, self.statements = left, after, 0


def _terminate(url: str, pid: int) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


async def test_a_killed_rewind_leaves_everything_as_it_was(
    shop: AppDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 12: at any statement; at the commit the database is asked what came of it."""
    [(target, before)] = shop.moments
    await shop.step("DELETE FROM customers WHERE id = 2", "UPDATE orders SET price = 3")
    after = await shop.rows()
    plan = await shop.plan(target)
    killer = Killer(monkeypatch, shop.url)
    await shop.rewinder.apply(plan, _armed(shop.sink, killer, 1_000))
    total = killer.statements
    assert await shop.rows() == before and total > 50
    (last, *_) = await shop.world.catalog.operations(shop.world.log)
    await shop.undo(last["operation_id"])
    assert await shop.rows() == after

    for left in [5, total // 2, total - 12, total - 2, total - 1]:
        plan = await shop.plan(target)
        shop.world.clock.advance(10)
        with pytest.raises(Unavailable):
            await shop.rewinder.apply(plan, _armed(shop.sink, killer, left))
        assert await shop.rows() == after, left
        (failed, *_) = await shop.world.catalog.operations(shop.world.log)
        assert failed["outcome"] == "failed"
    plan = await shop.plan(target)
    await shop.rewinder.apply(plan, _armed(shop.sink, killer, total - 1, after=True))
    assert await shop.rows() == before


async def test_one_go_that_is_killed_leaves_everything_as_it_was(
    shop: AppDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its look and its writing are one transaction."""
    [(target, before)] = shop.moments
    await shop.step("DELETE FROM customers WHERE id = 2", "UPDATE orders SET price = 3")
    after, shop.at_once = await shop.rows(), True
    killer, sink = Killer(monkeypatch, shop.url), shop.sink
    shop.sink = _armed(sink, killer, 1_000)
    done = await shop.rewind(target)
    total, shop.sink = killer.statements, sink
    assert await shop.rows() == before and total > 50
    await shop.undo(done.operation_id)
    for left in [5, total // 2, total - 12, total - 1]:
        shop.sink = _armed(sink, killer, left)
        with pytest.raises(Unavailable):
            await shop.rewind(target)
        assert await shop.rows() == after, left
    shop.sink = _armed(sink, killer, total - 1, after=True)
    await shop.rewind(target)
    assert await shop.rows() == before


async def test_in_one_go_nobody_writes_between_the_plan_and_its_end(shop: AppDatabase) -> None:
    [(target, before)] = shop.moments
    await shop.step("UPDATE orders SET price = 3")
    after = await shop.rows()
    request = RewindRequest(log=shop.world.log, target=target)
    await shop.sql.execute("SET lock_timeout = '100ms'")
    for at_once in (True, False):
        async with shop.rewinder.planned(request, shop.sink, at_once=at_once) as opened:
            written = shop.sql.execute("UPDATE orders SET price = price WHERE id = 1")
            if at_once:
                with pytest.raises(asyncpg.LockNotAvailableError):
                    await written
            else:
                await written
            assert opened.plan.row_count == 3 and await shop.rows() == after
        # Nobody applied it, so nothing happened, and nothing is locked.
        assert await shop.told() and await shop.rows() == after
        async with shop.sql.transaction():
            await shop.sql.execute("LOCK TABLE orders, customers, lines")
    async with shop.rewinder.planned(request, shop.sink, at_once=True) as opened:
        with pytest.raises(Conflict, match="another restore"):
            await shop.rewind(target)
        report = await opened.apply(opened.plan, actor="ana", reason="oops")
        assert await shop.rows() == before
    found = await shop.world.catalog.operations(shop.world.log)
    [own] = [each for each in found if each["operation_id"] == report.operation_id]
    assert (own["outcome"], own["actor"], own["reason"]) == ("done", "ana", "oops")
    assert own["detail"]["xid"] and {each["outcome"] for each in found} == {"done", "failed"}


@pytest.mark.parametrize("at_once", [True, False])
async def test_an_app_that_wants_a_table_that_is_locked_goes_on(
    shop: AppDatabase, at_once: bool
) -> None:
    """It holds another one that the rewind waits for: in the deadlock it is the rewind that gives
    way, also if it has waited for longer than PostgreSQL takes to look for one."""
    [(target, before)] = shop.moments
    await shop.step("UPDATE orders SET price = 3")
    shop.at_once = at_once
    async with shop.sql.transaction():
        await shop.sql.execute("LOCK TABLE lines IN ROW EXCLUSIVE MODE")
        rewinding = asyncio.create_task(shop.rewind(target))
        await _waiting(shop)
        await asyncio.sleep(1.2)
        await shop.sql.execute("LOCK TABLE customers, orders IN ROW EXCLUSIVE MODE")
    await rewinding
    assert await shop.rows() == before


async def _waiting(shop: AppDatabase) -> None:
    query = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"
    while not await shop.sql.fetchval(query):
        await asyncio.sleep(0.01)


def _armed(sink: PostgresRewind, killer: Killer, left: int, *, after: bool = False) -> Any:
    """The sink, whose connection alone is ended."""

    class ArmedLocked:
        def __init__(self, locked: Any, left: int) -> None:
            self.locked, self.left = locked, left

        async def look(self, *args: Any, **rest: Any) -> ArmedHeld:
            killer.left = self.left
            try:
                return ArmedHeld(await self.locked.look(*args, **rest), killer.left)
            finally:
                killer.left = -1

    class ArmedHeld:
        def __init__(self, held: Any, left: int) -> None:
            self.held, self.sight, self.left = held, held.sight, left

        async def rewind(self, **rest: Any) -> Any:
            killer.left = self.left
            try:
                return await self.held.rewind(**rest)
            finally:
                killer.left = -1

    class Armed:
        warm, position, outcome = sink.warm, sink.position, sink.outcome
        kept = contextlib.nullcontext  # else one that was kept is tried out first: one more

        @contextlib.asynccontextmanager
        async def locking(self, *args: Any, **rest: Any) -> AsyncIterator[Any]:
            killer.arm(left, after=after)
            try:
                async with sink.locking(*args, **rest) as locked:
                    still, killer.left = killer.left, -1
                    yield ArmedLocked(locked, still)
            finally:
                killer.left = -1

        async def rewind(self, *args: Any, **rest: Any) -> Any:
            killer.arm(left, after=after)
            try:
                return await sink.rewind(*args, **rest)
            finally:
                killer.left = -1

    return Armed()


# A role that may not set session_replication_role ------------------------------------------------


@pytest.fixture
async def owned(shop: AppDatabase) -> AsyncIterator[AppDatabase]:
    """The shop, whose owner is no superuser."""
    name = f"owner_{uuid4().hex[:8]}"
    await shop.sql.execute(f"CREATE ROLE {name} LOGIN; ALTER SCHEMA public OWNER TO {name}")
    for table in shop.tables:
        await shop.sql.execute(f"ALTER TABLE {table} OWNER TO {name}")
    shop.sink = PostgresRewind(re.sub("//[^/]*@|//", f"//{name}@", shop.url, count=1))
    yield shop
    await shop.sql.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


async def test_an_owner_takes_rows_back_with_foreign_keys_active(owned: AppDatabase) -> None:
    [(target, before)] = owned.moments
    await owned.step(
        "INSERT INTO customers VALUES (4, 'dan', NULL)",
        "UPDATE orders SET customer = 4 WHERE id = 1",
        "UPDATE customers SET boss = 4 WHERE id = 2",
        "DELETE FROM customers WHERE id = 3",
    )
    done = await owned.rewind(target)
    assert await owned.rows() == before
    await owned.undo(done.operation_id)
    await owned.rewind(target)
    # A name that is taken by a row that goes: deleting has to come first.
    await owned.step(
        "DELETE FROM customers WHERE id = 3", "INSERT INTO customers VALUES (5, 'eve')"
    )
    await owned.rewind(target)
    assert await owned.rows() == before


async def test_an_owner_is_refused_what_would_spread_or_cannot_be_ordered(
    owned: AppDatabase,
) -> None:
    [(target, _)] = owned.moments
    await owned.step("INSERT INTO customers VALUES (8, 'new', NULL)")
    await owned.sql.execute(
        "CREATE TABLE outside (customer int REFERENCES customers ON DELETE CASCADE);"
        "INSERT INTO outside VALUES (8); GRANT ALL ON outside TO PUBLIC"
    )
    with pytest.raises(Conflict, match="would also change rows that refer to it"):
        await owned.rewind(target)
    assert await owned.sql.fetchval("SELECT count(*) FROM outside") == 1
    await owned.sql.execute("DROP TABLE outside")
    await owned.rewind(target)
    await owned.step(
        "UPDATE customers SET name = 'x' WHERE id = 1",
        "UPDATE customers SET name = 'ada' WHERE id = 2",
        "UPDATE customers SET name = 'bob' WHERE id = 1",
    )
    after = await owned.rows()
    # Two customers swapped their names, and their orders hold them where they are.
    with pytest.raises(Conflict, match="refer") as caught:
        await owned.rewind(target)
    assert "session_replication_role" in (caught.value.hint or "")
    assert await owned.rows() == after


# Any statements, any moments ---------------------------------------------------------------------

ZOO = """
CREATE TABLE a (id int PRIMARY KEY, u int UNIQUE, up int REFERENCES a ON DELETE CASCADE, v numeric);
CREATE TABLE b (x int, y text, a int REFERENCES a ON DELETE SET NULL ON UPDATE CASCADE,
    g int GENERATED ALWAYS AS (x * 2) STORED, PRIMARY KEY (x, y)) PARTITION BY RANGE (x);
CREATE TABLE b1 PARTITION OF b FOR VALUES FROM (0) TO (2);
CREATE TABLE b2 PARTITION OF b DEFAULT;
CREATE TABLE c (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, x int, y text, d int UNIQUE
    DEFERRABLE INITIALLY DEFERRED,
    FOREIGN KEY (x, y) REFERENCES b ON DELETE CASCADE ON UPDATE CASCADE);
"""
ZOO_KEYS = {"a": "id", "b": "x,y", "c": "id"}
small = st.integers(1, 3)
sql = st.one_of(
    st.builds("INSERT INTO a VALUES ({}, {}, {}, {}.0)".format, small, small, small, small),
    st.builds("INSERT INTO a VALUES ({}, NULL, NULL, {})".format, small, small),
    st.builds("UPDATE a SET id = {} WHERE id = {}".format, small, small),
    st.builds("UPDATE a SET u = 4 - u, v = v * 1.0 WHERE id <> {}".format, small),
    st.builds("UPDATE a SET up = {} WHERE id = {}".format, small, small),
    st.builds("DELETE FROM a WHERE id = {}".format, small),
    st.builds("INSERT INTO b VALUES ({}, '{}', {})".format, small, small, small),
    st.builds("UPDATE b SET x = x % 3 + 1, a = {} WHERE y = '{}'".format, small, small),
    st.builds("DELETE FROM b WHERE x = {}".format, small),
    st.builds("INSERT INTO c (x, y, d) VALUES ({}, '{}', {})".format, small, small, small),
    st.builds("UPDATE c SET d = 4 - d WHERE x <> {}".format, small),
    st.just("INSERT INTO a SELECT n, n, 1, n FROM generate_series(1, 3) n"),
    st.just("INSERT INTO b SELECT n, n, n FROM generate_series(1, 3) n"),
    st.just("INSERT INTO c (x, y, d) SELECT n, n, n FROM generate_series(1, 3) n"),
    st.just("TRUNCATE c"),
    st.just("TRUNCATE a, b, c"),
)
step = st.one_of(
    st.lists(sql, min_size=1, max_size=4),
    st.lists(sql, min_size=1, max_size=4),
    st.integers(0, 20),
    st.just("undo"),
)


@settings(
    max_examples=15 if os.environ.get("HYPOTHESIS_PROFILE") == "ci" else 6,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(step, min_size=6, max_size=12), is_owner=st.booleans(), at_once=st.booleans())
def test_any_moment_comes_back(zoo: Zoo, steps: list[Any], is_owner: bool, at_once: bool) -> None:
    """An owner who is no superuser may be refused, and then nothing has changed."""
    zoo.run(steps, is_owner=is_owner, at_once=at_once)


class Zoo:
    """One database and one loop for all examples; each has a log of its own."""

    def __init__(self, url: str, catalog_url: str, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.url, self.catalog_url, self.folder = url, catalog_url, folder
        self.owner = f"owner_{uuid4().hex[:8]}"

    def run(self, steps: list[Any], *, is_owner: bool, at_once: bool) -> None:
        self.runner.run(self._run(steps, is_owner, at_once))

    async def _run(self, steps: list[Any], is_owner: bool, at_once: bool) -> None:
        catalog = await PostgresCatalog.open(self.catalog_url, migrations=migrations_folder())
        log = f"log-{uuid4().hex[:12]}"
        await catalog.create_log(log, uid=log, created_us=START_US, manifest_hash=GENESIS_HASH)
        store = DirectoryStore(self.folder / "store")
        world = World(catalog, store, ManualClock(), log, self.folder / "scratch")
        setup = f"DROP SCHEMA IF EXISTS told CASCADE; DROP TABLE IF EXISTS a, b, c; {ZOO}"
        try:
            async with app_database(world, self.url, setup, ZOO_KEYS) as app:
                app.at_once = at_once
                if is_owner:
                    await app.sql.execute(
                        f"ALTER TABLE a OWNER TO {self.owner}; ALTER TABLE b OWNER TO {self.owner};"
                        f"ALTER TABLE b1 OWNER TO {self.owner};"
                        f"ALTER TABLE b2 OWNER TO {self.owner}; ALTER TABLE c OWNER TO {self.owner}"
                    )
                    url = re.sub("//[^/]*@|//", f"//{self.owner}@", app.url, count=1)
                    app.sink = PostgresRewind(url)
                await self._steps(app, steps)
        finally:
            await catalog.close()

    async def _steps(self, app: AppDatabase, steps: list[Any]) -> None:
        await app.step("INSERT INTO a VALUES (1, 1, 1, 1)", "INSERT INTO b VALUES (1, '1', 1)")
        undoable: tuple[str, dict[str, list[str]]] | None = None
        for each in steps:
            before = await app.rows()
            if isinstance(each, list):
                undoable = None
                with contextlib.suppress(asyncpg.PostgresError):
                    await app.step(*each)
                continue
            if each == "undo" and undoable is None:
                continue
            try:
                if undoable is not None and each == "undo":
                    expected = undoable[1]
                    done = await app.undo(undoable[0])
                else:
                    target, expected = app.moments[each % len(app.moments)]
                    done = await app.rewind(target)
            except Conflict as error:
                assert "session_replication_role" in (error.hint or ""), error
                assert await app.rows() == before
                undoable = None
            else:
                assert await app.rows() == expected
                undoable = (done.operation_id, before) if done.row_count else None
        for target, expected in [*app.moments, ("latest", await app.rows())]:
            assert await app.log_rows(target) == {t: set(rows) for t, rows in expected.items()}


@pytest.fixture
def zoo(postgres: EmbeddedPostgres, catalog_url: str, tmp_path: Path) -> Iterator[Zoo]:
    name = f"zoo-{uuid4().hex[:12]}"
    found = Zoo(asyncio.run(postgres.ensure_database(name)), catalog_url, tmp_path)
    with psycopg.connect(found.url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {found.owner} LOGIN")
        connection.execute(f"ALTER SCHEMA public OWNER TO {found.owner}")
    yield found
    found.runner.close()
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        connection.execute(f"DROP ROLE {found.owner}")
