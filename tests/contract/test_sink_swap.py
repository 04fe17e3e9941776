"""The contract of swaps in PostgreSQL: other rows, the same tables in all else, or nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partialmethod
from typing import Any

import asyncpg
import pyarrow as pa
import pytest

from pitr.adapters.sinks.postgres import PostgresSink
from pitr.adapters.sinks.postgres.swap import PostgresSwap, drop_old, list_old
from pitr.adapters.sinks.postgres.swap.dependents import dependents_of
from pitr.adapters.sinks.postgres.swap.exchange import Exchange
from pitr.adapters.sinks.postgres.swap.picture import pictures, printed_in_full
from pitr.domain.errors import (
    Conflict,
    DataLoss,
    InvalidRequest,
    NotFound,
    Unavailable,
)
from pitr.domain.outlook import Outline, Outlook
from pitr.domain.ports import SinkReport
from tests.fakes import FakeState, table_schema
from tests.swapping import PAIR, STATE, Rows, dumped, ignore, make_shop, pair, swap


async def look(url: str, state: FakeState, **options: Any) -> Outlook:
    outline = Outline(counts=state.counts, schemas=state.schemas, whole=state.whole)
    return await PostgresSwap(url, swap_id="s1", **options).look(outline)


@pytest.fixture
async def shop(sql: asyncpg.Connection, database: str) -> Any:
    """A database with tables that have everything that a table can have."""
    await make_shop(sql)
    return database


async def test_only_rows_differ_after_a_swap(shop: str, sql: asyncpg.Connection) -> None:
    """pg_dump tells no difference, before and after the old tables are dropped."""
    before = dumped(shop)
    report = await swap(shop, FakeState(STATE))
    counts = {"audit.orders": 1, "public.customers": 2, "public.orders": 1, "public.visits": 8}
    assert report.rows == counts
    assert dumped(shop) == before
    customers = await sql.fetch(
        "SELECT id, email, mood::text, boss, loud FROM customers ORDER BY 1"
    )
    assert [tuple(row) for row in customers] == [
        (3, "new@b", "so so", None, "NEW@B"),
        (30, "g@h", None, 3, "G@H"),
    ]
    assert await sql.fetchval("SELECT busiest(1)") == 30
    assert await sql.fetchval("SELECT count(*) FROM visits_new") == 3
    assert await sql.fetchval("SELECT n FROM above") == 1
    await check_old(shop, sql)
    await drop_old(shop, "s1")
    assert dumped(shop) == before
    assert await list_old(shop) == ()


async def check_old(url: str, sql: asyncpg.Connection) -> None:
    """The old tables have the old rows, and nothing that the app would stumble over."""
    [old] = await list_old(url)
    assert old.swap_id == "s1" and old.at.endswith("Z") and old.size_bytes > 0
    assert old.tables["public.orders"] == "pitr_old_s1_2.orders"
    assert old.tables["audit.orders"] == "pitr_old_s1.orders"
    assert {"public.visits", "audit.orders_page", "public.customers"} < old.tables.keys()
    assert await sql.fetchval("SELECT count(*) FROM pitr_old_s1_2.customers") == 3
    assert await sql.fetchval("SELECT page FROM pitr_old_s1_2.visits_new") == "b"
    await sql.execute("UPDATE customers SET country = NULL; DELETE FROM countries")


async def test_numbers_go_on_from_the_old_sequence_or_past_the_rows(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        """
        CREATE TABLE far (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
        CREATE TABLE near (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text);
        CREATE TABLE own (id serial PRIMARY KEY, v text);
        INSERT INTO far (v) SELECT 'x' FROM generate_series(1, 50);
        INSERT INTO own (v) SELECT 'x' FROM generate_series(1, 50);
        """
    )
    rows: Rows = [({"id": 7}, {"id": 7, "v": "then"})]
    await swap(database, FakeState({"far": rows, "near": rows, "own": rows}))
    for table, expected in (("far", 51), ("near", 8), ("own", 51)):
        await sql.execute(f"INSERT INTO {table} (v) VALUES ('new')")
        assert await sql.fetchval(f"SELECT max(id) FROM {table}") == expected
    owned = "SELECT pg_get_serial_sequence('own', 'id')"
    assert await sql.fetchval(owned) == "public.own_id_seq"


# While the app works on --------------------------------------------------------------------------


class Halting(FakeState):
    """A state that halts at a collection until somebody lets it go on."""

    def __init__(self, state: FakeState, at: str) -> None:
        self.__dict__.update(state.__dict__)
        self._at = at
        self.reached, self.go_on = threading.Event(), threading.Event()

    def rows(self, collection: str, *, documents_only: bool = False) -> Iterator[pa.RecordBatch]:
        if collection == self._at:
            self.reached.set()
            assert self.go_on.wait(30)
        yield from super().rows(collection, documents_only=documents_only)


@asynccontextmanager
async def halted(url: str, **options: Any) -> AsyncIterator[asyncio.Task[SinkReport]]:
    """A swap that waits in the middle of its long part for the block to end."""
    state = Halting(pair(), "pets")
    task = asyncio.ensure_future(swap(url, state, **options))
    reached = await asyncio.to_thread(state.reached.wait, 30)
    assert reached, task
    try:
        yield task
    finally:
        state.go_on.set()
        await asyncio.wait([task])


async def test_the_app_reads_and_writes_while_the_new_tables_are_filled(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(PAIR)
    async with halted(database) as task:
        await sql.execute("SET lock_timeout = '1s'")
        await sql.execute("INSERT INTO owners VALUES (3, 'Cid'); UPDATE owners SET name = 'x'")
        await sql.execute("INSERT INTO pets (owner) VALUES (3); TRUNCATE vets")
        assert await sql.fetchval("SELECT count(*) FROM owned") == 3
    assert any("pitr_old_s1" in note for note in task.result().notes)
    assert await sql.fetchval("SELECT string_agg(name, ',') FROM owners") == "then"
    assert await sql.fetchval("SELECT count(*) FROM pitr_old_s1.owners WHERE name = 'x'") == 3
    assert await sql.fetchval("SELECT last_value FROM pets_id_seq") == 3


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE owners ADD more int",
        "ALTER TABLE pets DROP CONSTRAINT pets_owner_fkey",
        "CREATE INDEX later ON owners (id)",
        "DROP TABLE pets CASCADE",
        "ALTER TABLE owners RENAME TO people",
        "CREATE MATERIALIZED VIEW stored AS SELECT * FROM owners",
    ],
)
async def test_what_is_altered_meanwhile_is_a_conflict(
    database: str, sql: asyncpg.Connection, statement: str
) -> None:
    await sql.execute(PAIR)
    async with halted(database) as task:
        await sql.execute(statement)
        before = dumped(database, leaving_out="pitr_new*")
    assert isinstance(task.exception(), Conflict)
    assert dumped(database) == before
    assert await sql.fetchval("SELECT count(*) FROM pg_namespace WHERE nspname ~ '^pitr'") == 0


async def test_what_only_belongs_to_the_catalogs_may_change_meanwhile(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(PAIR)
    async with halted(database) as task:
        await sql.execute("REVOKE SELECT ON owners FROM PUBLIC; COMMENT ON TABLE owners IS 'new'")
        await sql.execute("CREATE OR REPLACE VIEW owned AS SELECT 1 AS id, 't' AS name, 2 AS owner")
        await sql.execute("CREATE VIEW named AS SELECT name FROM owners")
        before = dumped(database, leaving_out="pitr_new*")
    assert task.result().rows == {"owners": 1, "pets": 1}
    assert dumped(database) == before
    assert await sql.fetchval("SELECT name FROM named") == "then"


async def test_two_restores_exclude_each_other(database: str, sql: asyncpg.Connection) -> None:
    await sql.execute(PAIR)
    async with halted(database):
        with pytest.raises(Conflict, match="another restore runs"):
            await swap(database, pair(), swap_id="s2")
        with pytest.raises(Conflict, match="another restore runs"):
            await PostgresSink(database, force=True).write(pair(), progress=ignore)
        with pytest.raises(Conflict, match="another restore runs"):
            await drop_old(database, "s1")
        assert "another restore runs in this database" in (await look(database, pair())).problems


# All or nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 3])
async def test_a_backend_killed_at_any_statement_leaves_before_or_after(
    database: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """Every fourth statement here."""
    await sql.execute(PAIR)
    before = await everything(sql)
    run, count, victim = Exchange._run, 0, first

    async def dying(self: Exchange, statements: Iterable[str]) -> None:
        nonlocal count
        for statement in statements:
            count += 1
            if count == victim:
                await sql.execute(
                    "SELECT pg_terminate_backend($1, 5000)", self.connection.get_server_pid()
                )
            await run(self, [statement])

    monkeypatch.setattr(Exchange, "_run", dying)
    while True:
        count = 0
        try:
            await swap(database, pair())
            break
        except Unavailable:
            assert await everything(sql) == before, victim
        victim += 4
    assert victim > 25
    assert await sql.fetchval("SELECT name FROM owners") == "then"


async def everything(sql: asyncpg.Connection) -> list[Any]:
    """The live tables as the catalogs show them, with their oids, and their rows."""
    async with sql.transaction():
        oids = [
            row[0]
            for row in await sql.fetch(
                "SELECT oid::bigint FROM pg_class WHERE relnamespace = 'public'::regnamespace"
                " AND relkind = 'r' ORDER BY oid"
            )
        ]
        async with printed_in_full(sql):
            found = [list((await pictures(sql, oids)).values()), await dependents_of(sql, oids)]
        for table in ("owners", "pets", "vets", "owned"):
            found.append(
                [tuple(row) for row in await sql.fetch(f"SELECT * FROM {table} t ORDER BY 1")]
            )
    return found


async def test_a_commit_that_breaks_is_looked_up(
    database: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer is lost: once the transaction was committed, once it was not."""
    await sql.execute(PAIR)
    transaction = asyncpg.transaction.Transaction
    done = transaction.commit

    async def lost(self: Any, *, first: bool) -> None:
        if self._connection.get_server_pid() == sql.get_server_pid() or self._nested:
            return await done(self)
        if not await self._connection.fetchval(
            "SELECT to_regclass('pitr_old_s1.pets') IS NOT NULL"
        ):
            return await done(self)
        if first:
            await done(self)
        await sql.execute("SELECT pg_terminate_backend($1)", self._connection.get_server_pid())
        raise ConnectionResetError("planted")

    monkeypatch.setattr(transaction, "commit", partialmethod(lost, first=False))
    with pytest.raises(Unavailable, match="before the swap was committed"):
        await swap(database, pair())
    assert await sql.fetchval("SELECT count(*) FROM owners") == 2
    monkeypatch.setattr(transaction, "commit", partialmethod(lost, first=True))
    assert (await swap(database, pair())).rows == {"owners": 1, "pets": 1}
    assert await sql.fetchval("SELECT count(*) FROM owners") == 1


async def test_what_a_dead_swap_leaves_is_dropped_by_the_next(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(PAIR)
    await sql.execute("CREATE SCHEMA pitr_new_mine; CREATE TABLE pitr_new_mine.t (id int)")
    async with halted(database, swap_id="dead") as task:
        await sql.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory'"
        )
    assert isinstance(task.exception(), Unavailable)
    assert await sql.fetchval("SELECT to_regclass('pitr_new_dead.pets') IS NOT NULL")
    assert await sql.fetchval("SELECT count(*) FROM owners") == 2
    await swap(database, pair())
    assert await sql.fetchval("SELECT to_regnamespace('pitr_new_dead') IS NULL")
    assert await sql.fetchval("SELECT to_regclass('pitr_new_mine.t') IS NOT NULL")


async def test_a_document_that_does_not_fit_leaves_nothing(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(PAIR)
    before = dumped(database)
    bad = FakeState({"owners": [({"id": n}, {"id": n, "more": n}) for n in range(5)]})
    with pytest.raises(InvalidRequest) as caught:
        await swap(database, bad)
    assert caught.value.facts["collection"] == "owners"
    twice = FakeState({"owners": [({"id": n}, {"id": 1, "name": "x"}) for n in range(2)]})
    with pytest.raises(InvalidRequest):
        await swap(database, twice)
    with pytest.raises(DataLoss):
        await swap(database, pair(fail_after=0))
    assert dumped(database) == before
    assert await sql.fetchval("SELECT count(*) FROM owners") == 2


async def test_rows_outside_that_would_refer_to_nothing_are_a_conflict(
    database: str, sql: asyncpg.Connection
) -> None:
    """Found before any lock is taken, and again under the locks."""
    await sql.execute(PAIR)
    await sql.execute("INSERT INTO vets VALUES (1, 2)")
    before = await everything(sql)
    with pytest.raises(Conflict) as caught:
        await swap(database, pair())
    assert caught.value.facts["constraint"] == "vets_pet_fkey"
    assert await everything(sql) == before
    await sql.execute("UPDATE vets SET pet = 1")
    lock = Exchange.lock

    async def late(exchange: Exchange) -> None:
        await sql.execute("UPDATE vets SET pet = 2")
        await lock(exchange)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Exchange, "lock", late)
        with pytest.raises(Conflict) as caught:
            await swap(database, pair())
    assert caught.value.facts["constraint"] == "vets_pet_fkey"
    await sql.execute("UPDATE vets SET pet = 1")
    inside = FakeState({"pets": [({"id": 1}, {"id": 1, "owner": 9})]})
    with pytest.raises(Conflict) as caught:
        await swap(database, inside)
    assert caught.value.facts["constraint"] == "pets_owner_fkey"


async def test_a_table_in_use_is_tried_again_and_then_left(
    database: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sql.execute(PAIR)
    using = sql.transaction()
    await using.start()
    await sql.execute("UPDATE owners SET name = name")
    with pytest.raises(Unavailable, match="in use all the time"):
        await swap(database, pair(), lock_timeout_s=1, lock_attempts=1)
    pauses = []

    async def ended(seconds: float) -> None:
        pauses.append(seconds)
        await using.commit()

    monkeypatch.setattr("pitr.adapters.sinks.postgres.swap.work.asyncio.sleep", ended)
    await swap(database, pair(), lock_timeout_s=1, lock_attempts=2)
    assert pauses == [1]
    assert await sql.fetchval("SELECT name FROM owners") == "then"


async def test_the_swap_gives_way_in_a_deadlock(database: str, sql: asyncpg.Connection) -> None:
    """The app holds a later table and comes to an earlier one, which the swap has by then."""
    await sql.execute(PAIR)
    async with sql.transaction():
        await sql.execute("UPDATE pets SET owner = owner")
        task = asyncio.ensure_future(swap(database, pair()))
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
        while not await sql.fetchval(waits):
            await asyncio.sleep(0.01)
        assert await sql.fetchval("SELECT count(*) FROM owners") == 2
    assert (await task).rows == {"owners": 1, "pets": 1}


async def test_no_write_is_lost_between_the_old_and_the_new(
    database: str, sql: asyncpg.Connection
) -> None:
    """By prepared statements, as apps have them: each row is in one of the two, and no error."""
    await sql.execute(PAIR)
    await sql.execute(
        "CREATE FUNCTION bump() RETURNS void LANGUAGE plpgsql AS"
        " $$ BEGIN INSERT INTO pets (owner) VALUES (1); END $$"
    )
    insert = await sql.prepare("INSERT INTO pets (owner) VALUES (1)")
    state = Halting(pair(), "pets")
    task = asyncio.ensure_future(swap(database, state))
    written = 0
    while not task.done():
        await insert.fetch()
        await sql.execute("SELECT bump()")
        written += 2
        if written == 20:
            state.go_on.set()
    await task
    old = await sql.fetchval("SELECT count(*) FROM pitr_old_s1.pets")
    new = await sql.fetchval("SELECT count(*) FROM pets")
    assert (old - 2) + (new - 1) == written
    assert await sql.fetchval("SELECT count(DISTINCT id) FROM pets") == new


# What is refused, what is made -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("CREATE MATERIALIZED VIEW stored AS SELECT * FROM owners", "stored"),
        ("CREATE TABLE child () INHERITS (owners)", "child"),
        ("CREATE FUNCTION f(owners) RETURNS int LANGUAGE sql RETURN 1", "f(public.owners)"),
        ("CREATE TABLE typed (o owners[])", "typed"),
        ("CREATE VIEW rows AS SELECT owners AS o FROM owners", "rows"),
        ("CREATE RULE copied AS ON INSERT TO vets DO ALSO DELETE FROM owners", "copied"),
        ("CREATE PROCEDURE p() BEGIN ATOMIC INSERT INTO owners VALUES (5, 'x'); END", None),
        ("ALTER TABLE owners DISABLE TRIGGER ALL", "owners"),
        (
            "CREATE TABLE parts (id int, name text) PARTITION BY LIST (id);"
            " ALTER TABLE parts ATTACH PARTITION owners DEFAULT",
            "partition",
        ),
    ],
)
async def test_what_cannot_be_carried_over_is_refused_by_name(
    database: str, sql: asyncpg.Connection, statement: str, name: str | None
) -> None:
    await sql.execute(PAIR)
    await sql.execute(statement)
    before = dumped(database)
    problems = (await look(database, pair())).problems
    if name is None:
        assert problems == ()
        await swap(database, pair())
        await sql.execute("CALL p()")
        assert await sql.fetchval("SELECT count(*) FROM owners") == 2
        return
    assert any(name in problem for problem in problems)
    with pytest.raises(InvalidRequest) as caught:
        await swap(database, pair())
    assert any(name in problem for problem in caught.value.facts["problems"])
    assert dumped(database) == before


async def test_a_look_says_what_would_be_swapped_and_made(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(PAIR)
    state = FakeState({**{"gone": [({"id": 1}, {"id": 1})]}, "owners": [], "pets": []})
    found = await look(database, state)
    actions = {each.collection: each.action for each in found.tables}
    assert actions == {"gone": "make", "owners": "swap", "pets": "swap"}
    assert found.problems == ()
    assert found.identity["database"] == database.partition("?")[0].rpartition("/")[2]
    assert "the tables that are there now are kept in pitr_old_s1" in found.notes
    assert any("view public.owned" in note for note in found.notes)


async def test_tables_that_are_gone_are_made(database: str, sql: asyncpg.Connection) -> None:
    only = FakeState({"only": [({"id": 6}, {"id": 6, "w": 1.5})]})
    assert (await swap(database, only)).rows == {"only": 1}
    assert await list_old(database) == ()
    await sql.execute(PAIR)
    schema = table_schema("gone.then", "id", "v", id="bigint")
    state = FakeState(
        {
            "owners": [({"id": 1}, {"id": 1, "name": "then"})],
            "gone.then": [({"id": 5}, {"id": 5, "v": "x"})],
            "told": [({"id": 6}, {"id": 6, "w": 1.5})],
            "pets": [],
        },
        schemas={"gone.then": schema},
    )
    report = await swap(database, state)
    assert report.rows == {"owners": 1, "gone.then": 1, "told": 1, "pets": 0}
    assert await sql.fetchval("SELECT id FROM gone.then WHERE v = 'x'") == 5
    assert await sql.fetchval("SELECT w FROM told") == Decimal("1.5")
    assert {"public.owners", "public.pets"} == (await list_old(database))[0].tables.keys()


async def test_an_owner_who_is_no_superuser_can_swap(shop: str, sql: asyncpg.Connection) -> None:
    role = "swap_app"
    await sql.execute(f"ALTER ROLE {role} LOGIN")
    name = await sql.fetchval("SELECT current_database()")
    url = shop.replace("postgres@", f"{role}@", 1)
    await sql.execute(f"CREATE SCHEMA mine AUTHORIZATION {role}")
    own = await asyncpg.connect(url)
    await own.execute(
        """
        CREATE TABLE mine.owners (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text);
        CREATE VIEW mine.names AS SELECT name FROM mine.owners;
        GRANT SELECT ON mine.owners TO swap_reader;
        INSERT INTO mine.owners (name) VALUES ('now');
        """
    )
    await own.close()
    rows: Rows = [({"id": 1}, {"id": 1, "name": "then"})]
    problems = (await look(url, FakeState({"mine.owners": rows}))).problems
    assert problems == ("the role may not make schemas in this database",)
    await sql.execute(f'GRANT CREATE ON DATABASE "{name}" TO {role}')
    before = dumped(shop)
    await swap(url, FakeState({"mine.owners": rows}))
    assert dumped(shop) == before
    assert await sql.fetchval("SELECT name FROM mine.names") == "then"
    with pytest.raises(InvalidRequest, match="may not do this"):
        await swap(url, FakeState({"notes": []}), swap_id="s2")


@pytest.mark.parametrize("swap_id", ["", "A", "a-b", "x" * 50, "é"])
def test_an_id_must_fit_into_a_name(swap_id: str) -> None:
    with pytest.raises(InvalidRequest):
        PostgresSwap("postgresql://nowhere", swap_id=swap_id)


async def test_old_tables_that_something_depends_on_are_kept(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(PAIR)
    await swap(database, pair())
    await sql.execute("CREATE VIEW lost AS SELECT * FROM pitr_old_s1.owners")
    with pytest.raises(Conflict, match="something else depends"):
        await drop_old(database, "s1")
    assert await sql.fetchval("SELECT count(*) FROM lost") == 2
    with pytest.raises(NotFound):
        await drop_old(database, "s2")
    with pytest.raises(Conflict, match="has that id already"):
        await swap(database, pair())
    await swap(database, pair(), swap_id="s2")
    assert [each.swap_id for each in await list_old(database)] == ["s1", "s2"]
    await sql.execute("DROP VIEW lost")
    assert "pitr_old_s1.owners" in await drop_old(database, "s1")
