"""What a rewind can be asked for: one transaction, a condition, a part with its references."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr.adapters.catalog import PostgresCatalog
from pitr.adapters.embedded import EmbeddedPostgres
from pitr.adapters.migrations_folder import migrations_folder
from pitr.adapters.objects import DirectoryStore
from pitr.domain.batch import Batch
from pitr.domain.errors import Conflict, InvalidRequest, NotFound
from pitr.domain.manifest import GENESIS_HASH
from pitr.domain.rewind.plan import RewindPlan
from pitr.services.rewind.rewinder import RewindReport
from tests.changes import batch, draft
from tests.conftest import START_US, ManualClock
from tests.services.rewinding import AppDatabase, app_database, both_ways, counts
from tests.services.world import World

SHOP = """
CREATE TABLE customers (id int PRIMARY KEY, name text UNIQUE, boss int REFERENCES customers);
CREATE TABLE orders (id int PRIMARY KEY, customer text REFERENCES customers (name), price numeric);
CREATE TABLE lines (
    order_id int REFERENCES orders ON DELETE CASCADE, number int, item text NOT NULL,
    PRIMARY KEY (order_id, number)
);
"""
SHOP_KEYS = {"customers": "id", "orders": "id", "lines": "order_id,number"}


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """The URL of an empty database of its own."""
    name = f"rules-{uuid4().hex[:12]}"
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
            "INSERT INTO customers VALUES (1, 'ada', NULL), (2, 'bob', 1), (3, 'eve', 2)",
            "INSERT INTO orders VALUES (1, 'ada', 10), (2, 'bob', 20), (3, 'eve', 30)",
            "INSERT INTO lines VALUES (1, 1, 'a'), (2, 1, 'b'), (3, 1, 'c')",
        )
        yield app


async def tx_of(app: AppDatabase, *statements: str) -> str:
    """Run statements as one transaction; return its id."""
    await app.step(*statements)
    found = (await app.world.changes())[-1].tx
    assert found is not None
    return found


async def plan_revert(app: AppDatabase, tx: str) -> RewindPlan:
    return await app.rewinder.plan_revert(app.world.log, tx, app.sink)


async def revert(app: AppDatabase, tx: str, **options: Any) -> RewindReport:
    plan = RewindPlan.of_body((await plan_revert(app, tx)).body())
    app.world.clock.advance(10)
    return await app.rewinder.apply(plan, app.sink, **options)


# One transaction ---------------------------------------------------------------------------------


async def test_one_transaction_is_undone_and_nothing_else(shop: AppDatabase) -> None:
    tx = await tx_of(
        shop,
        "UPDATE customers SET name = 'BOB' WHERE id = 2 AND false",
        "UPDATE orders SET price = 21 WHERE id = 2",
        "UPDATE orders SET price = 22 WHERE id = 2",
        "INSERT INTO customers VALUES (9, 'new', NULL)",
        "DELETE FROM lines WHERE order_id = 3",
    )
    await shop.step("UPDATE orders SET price = 11 WHERE id = 1", "DELETE FROM lines WHERE item='a'")
    after = await shop.rows()
    plan = await plan_revert(shop, tx)
    assert counts(plan) == {"customers": (0, 0, 1), "orders": (0, 1, 0), "lines": (1, 0, 0)}
    assert plan.does["scope"]["kind"] == "revert" and plan.seen["transaction"]["changes"] == 4
    done = await revert(shop, tx)
    rows = await shop.rows()
    assert rows["customers"] == ["(1,ada,)", "(2,bob,1)", "(3,eve,2)"]
    assert rows["orders"] == ["(1,ada,11)", "(2,bob,20)", "(3,eve,30)"]
    assert rows["lines"] == ["(2,1,b)", "(3,1,c)"]
    (operation, *_) = await shop.world.catalog.operations(shop.world.log)
    assert (operation["kind"], operation["outcome"]) == ("revert", "done")
    # Undone, and that too.
    undone = await shop.undo(done.operation_id)
    assert await shop.rows() == after
    await shop.undo(undone.operation_id)
    assert await shop.rows() == rows
    assert {name: set(found) for name, found in rows.items()} == await shop.log_rows()
    assert (await revert(shop, tx)).row_count == 0, "all is as it was without it"


async def test_rows_that_changed_since_are_conflicts_and_named(shop: AppDatabase) -> None:
    tx = await tx_of(shop, "UPDATE orders SET price = price + 1")
    later = await tx_of(shop, "UPDATE orders SET price = 99 WHERE id = 1")
    await shop.step("UPDATE orders SET price = 77 WHERE id = 2")
    await shop.step("UPDATE orders SET price = 20 WHERE id = 2")
    await shop.sql.execute(
        "SET session_replication_role = replica; UPDATE orders SET price = 5 WHERE id = 3;"
        "RESET session_replication_role"
    )
    plan = await plan_revert(shop, tx)
    found = {each["key"]: each["since"] for each in plan.seen["conflicts"]["examples"]}
    assert found.keys() == {'{"id":1}', '{"id":3}'}, "the second is as it was, already"
    assert found['{"id":1}']["tx"] == later and found['{"id":3}'] is None
    with pytest.raises(Conflict, match="not what the log says"):
        await revert(shop, tx)
    done = await revert(shop, tx, on_conflict="skip")
    assert done.row_count == 0
    await revert(shop, tx, on_conflict="overwrite")
    assert (await shop.rows())["orders"] == ["(1,ada,10)", "(2,bob,20)", "(3,eve,30)"]


async def test_a_truncate_is_undone_around_what_came_since(shop: AppDatabase) -> None:
    tx = await tx_of(shop, "INSERT INTO lines VALUES (1, 2, 'x')", "TRUNCATE lines")
    await shop.step("INSERT INTO lines VALUES (2, 7, 'since')")
    plan = await plan_revert(shop, tx)
    assert counts(plan) == {"lines": (3, 0, 0)} and plan.seen["emptied"] == ["public.lines"]
    await revert(shop, tx)
    assert (await shop.rows())["lines"] == ["(1,1,a)", "(2,1,b)", "(2,7,since)", "(3,1,c)"]
    await shop.step("INSERT INTO lines VALUES (2, 8, 'y')")
    again = await tx_of(shop, "TRUNCATE lines")
    await shop.step("INSERT INTO lines VALUES (1, 1, 'other')")
    with pytest.raises(Conflict, match="not what the log says") as caught:
        await revert(shop, again)
    assert caught.value.facts["conflicts"] == 1


async def test_ids_that_say_no_one_transaction_are_refused(world: World, database: str) -> None:
    def told(lane: str, tx: str, *rows: tuple[int, str], **rest: Any) -> Batch:
        made = [
            draft(key, f'{{"id":{key},"v":{value}}}', collection="public.t", tx=tx)
            for key, value in rows
        ]
        return batch(made, lane=lane, position_first=None, **rest)

    async with app_database(world, database, "CREATE TABLE t (id int PRIMARY KEY, v int)") as app:
        with pytest.raises(NotFound, match="no such transaction"):
            await plan_revert(app, "nothing")
        await world.append(told("postgres:one", "7", (1, "1")))
        await world.append(told("postgres:two", "7", (2, "1")))
        with pytest.raises(Conflict, match="several transactions") as caught:
            await plan_revert(app, "7")
        assert caught.value.facts["lanes"] == ["postgres:one", "postgres:two"]
        # A transaction of which the source has not sent the rest.
        await world.append(told("postgres:one", "8", (3, "1"), lane_state={"open_tx": "8"}))
        with pytest.raises(Conflict, match="may not have the whole"):
            await plan_revert(app, "8")
        await world.append(told("postgres:one", "8", (4, "1"), lane_state={"open_tx": None}))
        plan = await plan_revert(app, "8")
        assert counts(plan) == {} and "what 2 rows were is not known" in plan.seen["notes"][0]


async def test_others_among_the_changes_of_a_transaction(world: World, database: str) -> None:
    """Lanes bring their parts of a transaction one after the other."""

    async def tell(lane: str, *rows: tuple[str, int, int]) -> None:
        made = [
            draft(key, f'{{"id":{key},"v":{value}}}', collection="public.t", tx=tx)
            for tx, key, value in rows
        ]
        await world.append(batch(made, lane=lane, position_first=None))

    setup = "CREATE TABLE t (id int PRIMARY KEY, v int)"
    async with app_database(world, database, setup) as app:
        app.tables["t"] = "id"
        await tell("app", ("1", 1, 10), ("1", 2, 20))
        await tell("app", ("A", 1, 11))
        await tell("app", ("B", 2, 21), ("A", 2, 22), ("A", 3, 30))
        await app.sql.execute("INSERT INTO t VALUES (1, 11), (2, 22), (3, 30)")
        plan = await plan_revert(app, "A")
        # What the third row was before, nobody has said.
        assert counts(plan) == {"t": (0, 2, 0)}
        assert plan.does["collections"][0]["unknown"] == 1
        assert "public.t: what 1 rows were is not known" in plan.seen["notes"][0]
        await revert(app, "A")
        assert (await app.rows())["t"] == ["(1,10)", "(2,21)", "(3,30)"]
        await tell("app", ("C", 1, 5), ("D", 1, 6), ("C", 2, 7))
        with pytest.raises(Conflict, match="among the changes") as caught:
            await plan_revert(app, "C")
        assert caught.value.facts["rows"] == ['public.t {"id":1}']


# Conditions --------------------------------------------------------------------------------------


async def test_rows_that_meet_a_condition_then_or_now(shop: AppDatabase) -> None:
    [(target, _)] = shop.moments
    await shop.step(
        "UPDATE orders SET price = price + 1",
        "UPDATE customers SET name = 'x' || name, boss = NULL WHERE id = 9",
        "DELETE FROM lines WHERE order_id = 1",
    )
    await shop.step("UPDATE orders SET customer = 'ada' WHERE id = 3")
    plan = await shop.plan(target, where=("customer = ada",))
    assert counts(plan) == {"orders": (0, 2, 0)}
    assert plan.seen["notes"] == ["public.lines is left out: it has no column customer"]
    other = await shop.plan(target, where=("customer = eve",))
    assert counts(other) == {"orders": (0, 1, 0)} and other.hash != plan.hash
    await shop.rewind(target, where=("customer = ada", "price > 10"))
    assert (await shop.rows())["orders"] == ["(1,ada,10)", "(2,bob,21)", "(3,eve,30)"]
    with pytest.raises(InvalidRequest, match="no row of the collection has a column"):
        await shop.plan(target, where=("customer = a",), collections=frozenset({"public.lines"}))
    with pytest.raises(InvalidRequest, match="documents of a change"):
        await shop.plan(target, where=("before.customer = a",))


# References --------------------------------------------------------------------------------------


@both_ways
async def test_missing_parents_are_listed_or_brought_along(shop: AppDatabase) -> None:
    [(target, before)] = shop.moments
    await shop.step(
        "DELETE FROM lines", "DELETE FROM orders", "DELETE FROM customers WHERE id > 1",
        "UPDATE customers SET name = 'ADA'",
    )  # fmt: skip
    after = await shop.rows()
    only = frozenset({("public.lines", '{"number":1,"order_id":3}')})
    plan = await shop.plan(target, keys=only)
    [missing] = plan.seen["references"]["missing"]["examples"]
    assert missing == {
        "collection": "public.lines",
        "key": '{"number":1,"order_id":3}',
        "constraint": "lines_order_id_fkey",
        "columns": ("order_id",),
        "values": ("3",),
        "parent_table": "public.orders",
        "parent_columns": ("id",),
        "parent": "public.orders",
        "rows": 1,
    }
    with pytest.raises(Conflict, match="refers to a row that is not there"):
        await shop.rewind(target, keys=only)
    # The order refers to its customer by name, that one to his boss, and she is there.
    plan = await shop.plan(target, keys=only, with_references=True)
    assert counts(plan) == {"customers": (2, 0, 0), "orders": (1, 0, 0), "lines": (1, 0, 0)}
    references = plan.seen["references"]
    assert references["brought"] == {"public.customers": 2, "public.orders": 1}
    assert references["missing"]["count"] == 0
    done = await shop.rewind(target, keys=only, with_references=True)
    rows = await shop.rows()
    assert rows["customers"] == ["(1,ADA,)", "(2,bob,1)", "(3,eve,2)"]
    assert rows["orders"] == before["orders"][2:] and rows["lines"] == before["lines"][2:]
    await shop.undo(done.operation_id)
    assert await shop.rows() == after
    # With the name that it is referred to by, the first customer comes back too.
    orders = frozenset({("public.orders", '{"id":1}')})
    await shop.rewind(target, keys=orders, with_references=True)
    assert (await shop.rows())["customers"] == ["(1,ada,)"]


async def test_rows_that_stay_and_refer_to_what_would_go_are_listed(shop: AppDatabase) -> None:
    [(target, _)] = shop.moments
    await shop.step(
        "INSERT INTO customers VALUES (7, 'new', NULL), (8, 'other', 7)",
        "INSERT INTO orders VALUES (7, 'new', 1), (8, 'new', 1)",
    )
    plan = await shop.plan(target, collections=frozenset({"public.customers"}))
    assert plan.seen["references"]["staying"] == {
        "count": 1,
        "examples": [
            {
                "collection": "public.customers",
                "key": '{"id":7}',
                "constraint": "orders_customer_fkey",
                "table": "public.orders",
                "row": '{"id":7}',
                "rows": 2,
            }
        ],
    }
    whole = await shop.plan(target)
    assert whole.seen["references"]["staying"]["count"] == 0


# Constraints that are rare -----------------------------------------------------------------------


async def test_rare_constraints_are_checked_for_what_is_written(
    world: World, database: str
) -> None:
    setup = """
    CREATE EXTENSION IF NOT EXISTS btree_gist;
    CREATE TABLE parent (id int PRIMARY KEY);
    CREATE TABLE child (id int PRIMARY KEY, parent int);
    INSERT INTO child VALUES (99, 99);
    ALTER TABLE child ADD FOREIGN KEY (parent) REFERENCES parent NOT VALID;
    CREATE TABLE rooms (id int, during int4range, PRIMARY KEY (id, during WITHOUT OVERLAPS));
    CREATE TABLE stays (id int PRIMARY KEY, room int, during int4range,
        FOREIGN KEY (room, PERIOD during) REFERENCES rooms (id, PERIOD during));
    CREATE TABLE slots (id int PRIMARY KEY, during int4range, off boolean,
        EXCLUDE USING gist ((during) WITH &&) WHERE (NOT off) DEFERRABLE INITIALLY DEFERRED);
    """
    keys = {"parent": "id", "child": "id", "rooms": "id,during", "stays": "id", "slots": "id"}
    async with app_database(world, database, setup, keys) as app:
        target = await app.step(
            "INSERT INTO parent VALUES (1)",
            "INSERT INTO child VALUES (1, 1)",
            "INSERT INTO rooms VALUES (1, '[1,5)'), (1, '[5,9)')",
            "INSERT INTO stays VALUES (1, 1, '[2,8)')",
            "INSERT INTO slots VALUES (1, '[1,5)', false), (2, '[3,9)', true)",
        )
        await app.step("UPDATE child SET parent = NULL WHERE id = 1", "DELETE FROM parent")
        await app.step("DELETE FROM stays", "DELETE FROM rooms WHERE during = '[5,9)'")
        await app.step("UPDATE slots SET during = '[5,7)' WHERE id = 1")
        await app.step("UPDATE slots SET during = '[3,5)', off = false WHERE id = 2")

        async def refused(message: str, table: str) -> None:
            with pytest.raises(Conflict, match=message):
                await app.rewind(target, collections=frozenset({f"public.{table}"}))

        await refused("refers to a row that is not there", "child")
        await refused("the period of a row is not covered", "stays")
        key = frozenset({("public.slots", '{"id":1}')})
        with pytest.raises(Conflict, match="two rows exclude each other"):
            await app.rewind(target, keys=key)
        done = await app.rewind(target)
        assert not done.notes and await app.rows() == app.moments[0][1]
        await app.step("INSERT INTO rooms VALUES (2, '[1,5)')")
        await app.step("INSERT INTO stays VALUES (2, 2, '[1,2)')")
        await refused("the period of a row is not covered", "rooms")


# Whole tables ------------------------------------------------------------------------------------


@both_ways
async def test_a_scan_finds_what_the_log_was_never_told(shop: AppDatabase) -> None:
    [(target, before)] = shop.moments
    await shop.step(
        "UPDATE customers SET boss = 1 WHERE id = 3", "INSERT INTO lines VALUES (1, 9, 'x')"
    )
    await shop.sql.execute(
        """
        SET session_replication_role = replica;
        UPDATE orders SET price = 5 WHERE id = 3;
        DELETE FROM lines WHERE order_id = 2;
        INSERT INTO lines VALUES (2, 7, 'never told');
        UPDATE customers SET boss = 2 WHERE id = 3;
        RESET session_replication_role;
        """
    )  # fmt: skip
    after = await shop.rows()
    assert counts(await shop.plan(target)) == {"customers": (0, 1, 0), "lines": (0, 0, 1)}
    plan = await shop.plan(target, scan=True)
    assert counts(plan) == {"orders": (0, 1, 0), "lines": (1, 0, 2)}
    assert plan.seen["unknown_to_log"] == {
        "public.lines": {"count": 1, "keys": ['{"number":7,"order_id":2}']}
    }
    assert not plan.seen["conflicts"]["counts"]
    assert (await shop.plan(target, scan=True)).hash == plan.hash
    await shop.sql.execute(
        "SET session_replication_role = replica; UPDATE lines SET item = 'y' WHERE number = 7;"
        "RESET session_replication_role"
    )
    with pytest.raises(Conflict, match=r"rows of public\.lines changed since"):
        await shop.rewinder.apply(plan, shop.sink)
    after = await shop.rows()
    done = await shop.rewind(target, scan=True)
    assert done.row_count == 4 and await shop.rows() == before
    assert {table: set(rows) for table, rows in before.items()} == await shop.log_rows()
    # What it found came into the log first, so it can be undone to the letter.
    found = [each for each in await shop.world.changes() if (each.reason or "").startswith("found")]
    assert {each.op for each in found} == {"read", "delete"}
    await shop.undo(done.operation_id)
    assert await shop.rows() == after
    with pytest.raises(InvalidRequest, match="whole tables"):
        await shop.plan(target, scan=True, where=("id = 1",))


async def test_a_scan_deletes_no_row_of_which_then_nothing_is_known(
    world: World, database: str
) -> None:
    setup = "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY)"
    async with app_database(world, database, setup, {"t": "id", "u": "id"}) as app:
        target = await app.run("INSERT INTO u VALUES (1)")
        read = draft(1, '{"id":1,"v":1}', collection="public.t", op="read")
        await world.append(batch([read], lane="copy", position_first=None))
        await app.sql.execute("ALTER TABLE t DISABLE TRIGGER told; INSERT INTO t VALUES (1, 1)")
        with pytest.raises(Conflict, match="does not know what rows"):
            await app.plan(target, scan=True)
        plan = await app.plan(target, scan=True, collections=frozenset({"public.u"}))
        assert counts(plan) == {}


# What a rewind wrote, brought by another lane once more ------------------------------------------


async def echo(app: AppDatabase, lane: str, *rows: tuple[int, str | None]) -> None:
    """What the app's stream says of customers: the document, or None for a delete."""
    made = [
        draft(key, after, collection="public.customers", op="update" if after else "delete")
        for key, after in rows
    ]
    await app.world.append(batch(made, lane=lane, position_first=None))


async def test_the_echo_of_a_rewind_is_nobodys_change(shop: AppDatabase) -> None:
    [(target, _)] = shop.moments
    await shop.step("UPDATE customers SET boss = 3 WHERE id = 2", "DELETE FROM orders WHERE id = 1")
    await shop.step("INSERT INTO customers VALUES (4, 'new', NULL)")
    after = await shop.rows()
    done = await shop.rewind(target)
    rewound = await shop.log_rows()
    await echo(shop, "kafka:shop-0", (2, '{"id":2,"name":"bob","boss":1}'), (4, None))
    assert await shop.log_rows() == rewound
    again = await shop.plan(target)
    assert again.row_count == 0 and not again.seen["conflicts"]["counts"]
    # Somebody whom the log knows nothing of changed the row: that was not the echo.
    told = "SET session_replication_role = replica; UPDATE customers SET boss = {} WHERE id = 2"
    await shop.sql.execute(told.format(2))
    plan = await shop.rewinder.plan_undo(shop.world.log, done.operation_id, shop.sink)
    assert [each["since"] for each in plan.seen["conflicts"]["examples"]] == [None]
    await shop.sql.execute(told.format(1) + "; RESET session_replication_role")
    await shop.undo(done.operation_id)
    assert await shop.rows() == after


@both_ways
async def test_what_came_after_the_echo_stays_the_newest(shop: AppDatabase) -> None:
    """The app's stream may be faster than the rewind is in telling the log of itself."""
    [(target, _)] = shop.moments
    await shop.step("UPDATE customers SET boss = NULL")
    given, told = shop.rewinder._appender, list[str]()

    async def late(log: str) -> Any:
        if not told:
            told.append(log)
            await echo(shop, "kafka:shop-0", (2, '{"id":2,"name":"bob","boss":1}'))
            await echo(shop, "kafka:shop-0", (2, '{"id":2,"name":"bob","boss":3}'))
            await echo(shop, "kafka:shop-1", (3, '{"id":3,"name":"eve","boss":null}'))
        return await given(log)

    shop.rewinder._appender = late
    done = await shop.rewind(target)
    assert not done.notes
    # The second customer was changed after the rewind; of the third an older change came late.
    assert (await shop.log_rows())["customers"] == {"(1,ada,)", "(2,bob,3)", "(3,eve,2)"}
    reasons = [each.reason for each in await shop.world.changes()][-1:]
    assert reasons == [f"after rewind:{done.operation_id}"]


# Transactions that are open ----------------------------------------------------------------------


async def test_a_transaction_that_is_open_now_is_in_neither_state(shop: AppDatabase) -> None:
    """Its first rows are in the log, and all of them in the database: it was committed there."""
    [(target, before)] = shop.moments

    async def piece(key: int, document: str, open_tx: str | None) -> None:
        made = draft(key, document, collection="public.customers", tx="big")
        state = {"open_tx": open_tx}
        await shop.world.append(batch([made], lane="b", position_first=None, lane_state=state))

    await shop.step("UPDATE customers SET boss = 2")
    await piece(1, '{"id":1,"name":"ada","boss":3}', "big")
    await shop.step("UPDATE orders SET price = 1")
    await shop.sql.execute(
        "SET session_replication_role = replica; UPDATE customers SET boss = 3 WHERE id < 3;"
        "RESET session_replication_role"
    )
    plan = await shop.plan(target)
    assert counts(plan) == {"customers": (0, 2, 0), "orders": (0, 3, 0)}
    assert plan.seen["conflicts"]["counts"] == {"public.customers": 2}
    with pytest.raises(Conflict, match="not what the log says"):
        await shop.rewinder.apply(plan, shop.sink)
    # Once the rest is there, the plan does not hold any more, and a new one has no conflicts.
    await piece(2, '{"id":2,"name":"bob","boss":3}', None)
    with pytest.raises(Conflict, match=r"rows of public\.customers changed since"):
        await shop.rewinder.apply(plan, shop.sink)
    plan = await shop.plan(target)
    assert not plan.seen["conflicts"]["counts"]
    await shop.rewinder.apply(plan, shop.sink)
    assert await shop.rows() == before


# Any transaction ---------------------------------------------------------------------------------

small = st.integers(1, 3)
statement = st.one_of(
    st.builds("INSERT INTO t VALUES ({}, {})".format, small, small),
    st.builds("UPDATE t SET v = v + {} WHERE id = {}".format, small, small),
    st.builds("UPDATE t SET id = {} WHERE id = {}".format, small, small),
    st.builds("DELETE FROM t WHERE id = {}".format, small),
    st.builds("INSERT INTO u VALUES ({}, 1)".format, small),
    st.builds("UPDATE u SET v = {} WHERE id <= {}".format, small, small),
    st.just("TRUNCATE u"),
)
transactions = st.lists(st.lists(statement, min_size=1, max_size=3), min_size=2, max_size=6)

Rows = dict[tuple[str, int], str]


@settings(
    max_examples=8 if os.environ.get("HYPOTHESIS_PROFILE") == "ci" else 4,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=transactions, place=st.integers(0, 5))
def test_any_transaction_is_undone_and_its_rows_alone(
    postgres: EmbeddedPostgres,
    catalog_url: str,
    tmp_path: Path,
    steps: list[list[str]],
    place: int,
) -> None:
    """The oracle is the database itself, right before the transaction."""
    asyncio.run(_reverted(postgres, catalog_url, tmp_path, steps, place))


async def _reverted(
    postgres: EmbeddedPostgres, catalog_url: str, folder: Path, steps: list[list[str]], place: int
) -> None:
    url = await postgres.ensure_database("reverted")
    catalog = await PostgresCatalog.open(catalog_url, migrations=migrations_folder())
    log = f"log-{uuid4().hex[:12]}"
    await catalog.create_log(log, uid=log, created_us=START_US, manifest_hash=GENESIS_HASH)
    store = DirectoryStore(folder / "store")
    world = World(catalog, store, ManualClock(), log, folder / "scratch")
    setup = (
        "DROP SCHEMA IF EXISTS told CASCADE; DROP TABLE IF EXISTS t, u;"
        "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE u (id int PRIMARY KEY, v int)"
    )
    try:
        async with app_database(world, url, setup, {"t": "id", "u": "id"}) as app:
            told: list[tuple[str, Rows, Rows]] = []
            for each in steps:
                before, count = await by_id(app), len(await world.changes())
                with contextlib.suppress(asyncpg.PostgresError):
                    await app.step(*each)
                    if changes := (await world.changes())[count:]:
                        told.append((changes[0].tx or "", before, await by_id(app)))
            if told:
                await _check_reverted(app, *told[place % len(told)])
    finally:
        await catalog.close()


async def _check_reverted(app: AppDatabase, tx: str, before: Rows, after: Rows) -> None:
    now = await by_id(app)
    own = {row for row in {*before, *after} if before.get(row) != after.get(row)}
    # Rows that are as they were before it, whoever did that, are fine.
    since = {row for row in own if now.get(row) not in (before.get(row), after.get(row))}
    if since:
        with pytest.raises(Conflict, match="not what the log says") as caught:
            await revert(app, tx)
        assert caught.value.facts["conflicts"] == len(since)
        assert await by_id(app) == now
        return
    await revert(app, tx)
    expected = now | {row: before[row] for row in own if row in before}
    for row in own - before.keys():
        expected.pop(row, None)
    assert await by_id(app) == expected


async def by_id(app: AppDatabase) -> Rows:
    """Every row, by its table and its id."""
    return {
        (table, int(row[1:].split(",")[0])): row
        for table, rows in (await app.rows()).items()
        for row in rows
    }
