"""``pgbench`` under capture, while pitr and PostgreSQL are killed: then and now are the same.

What a table was is known twice: from the log, and from a base backup of the source into which
PostgreSQL replayed its own WAL.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pitr.app import App, open_app
from pitr.domain.log import LogView
from pitr.domain.pgoutput.model import lsn_of
from pitr.domain.times import rfc3339
from pitr.settings import load_settings
from tests.postgres import servers
from tests.postgres.hurting import SENDER_TIMEOUT_S, WAIT_S, Place, Worker, hurt, slow_way
from tests.postgres.recovered import KEEP_WAL, Recovered, backup_of
from tests.postgres.servers import Source

SECONDS = float(os.environ.get("PITR_TEST_PGBENCH_S", "12"))
"""How long everything is hurt while pgbench runs; a minute and more by hand."""

RATE = 1_000
"""Transactions a second, of four changes each."""

COMMITS = 10
LOG = "main"
SOURCE_SETTINGS = {**KEEP_WAL, "wal_sender_timeout": f"{SENDER_TIMEOUT_S}s"}
TABLES = {
    "public.pgbench_accounts": "SELECT * FROM pgbench_accounts",
    "public.pgbench_branches": "SELECT * FROM pgbench_branches",
    "public.pgbench_tellers": "SELECT * FROM pgbench_tellers",
    "public.pgbench_history": (
        "SELECT tid, bid, aid, delta, mtime::text, filler FROM pgbench_history"
    ),
}
"""Their rows in the order of their columns, a time as PostgreSQL writes it outside of JSON."""

Rows = dict[str, Counter[str]]
"""Of each table the documents of its rows, and how often each is there."""

COLUMNS = ["seq", "collection", "op", "tx", "at_us", "position"]

AUDIT = (
    "CREATE TABLE public.moves (name text, owner text, position bigint)",
    "CREATE FUNCTION public.moved() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " INSERT INTO public.moves"
    " VALUES (current_setting('test.worker'), NEW.owner, NEW.position);"
    " RETURN NEW; END $$",
    "CREATE TRIGGER moved AFTER UPDATE OF position ON pitr.lanes"
    " FOR EACH ROW EXECUTE FUNCTION public.moved()",
)
"""Has the catalog write down which worker moved the lane, and whose the lane was then."""


@pytest.fixture
def source() -> Iterator[Source]:
    with servers.running(servers.WHEEL, fresh=True, **SOURCE_SETTINGS) as running:
        yield running


@pytest.fixture
def catalog() -> Iterator[Source]:
    with servers.running(servers.WHEEL) as running:
        running.make_database("pitr")
        yield running


@pytest.fixture
async def place(source: Source, catalog: Source) -> AsyncIterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="pitr-"))
    settings = load_settings(data=folder / "data", catalog_url=catalog.url("pitr"))
    try:
        async with open_app(settings) as app, slow_way(catalog) as port:
            await app.ensure_log(LOG)
            servers.execute(catalog.url("pitr"), *AUDIT)
            place = Place(folder, source, SOURCE_SETTINGS, catalog, port, app, LOG)
            try:
                yield place
            finally:
                for worker in place.started:
                    worker.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(300)
async def test_every_table_is_the_log_now_and_at_ten_commits(place: Place, source: Source) -> None:
    url = source.make_database("bench")
    await pgbench(source, url, "-i", "-s", "1", "-q")
    await done(place.run("attach", url, "--name", "bench", "--without-key", "full"))
    with ExitStack() as stack:
        async with benching(source, url):
            place.run("capture")
            recovered = await asyncio.to_thread(stack.enter_context, backup_of(source))
            backed_up = lsn_now(url)
            await read_with_a_kill(place)
            story = await hurt_for(place, SECONDS)
        await caught_up(place, url)
        for worker in place.workers:
            worker.signal(signal.SIGTERM)
            await done(worker)
        print("hurt:", *story)
        print(Counter(event for each in place.started for event in events(each)))

        changes = await all_changes(place.app)
        each_change_is_in_once(changes)
        only_the_owner_stored(place)
        assert await logged_rows(place.app, "latest") == rows_of(url)
        await ten_commits_are_the_same(place, changes, recovered, backed_up)


# What happens meanwhile ---------------------------------------------------------------------------


async def pgbench(source: Source, url: str, *arguments: str) -> None:
    assert source.server is not None
    process = await asyncio.create_subprocess_exec(
        str(source.server.programs / "pgbench"),
        *arguments,
        url,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await process.wait()  # it fails when its server is killed
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


@asynccontextmanager
async def benching(source: Source, url: str) -> AsyncIterator[None]:
    """Have pgbench at work meanwhile, again after each death of its server."""

    async def bench() -> None:
        while True:
            await pgbench(source, url, "-n", "-c", "4", "-R", str(RATE), "-T", "3600")
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        running = group.create_task(bench())
        try:
            yield
        finally:
            running.cancel()


async def done(worker: Worker) -> None:
    """Wait for a command that has to succeed."""
    assert await worker.ended() == 0, worker.said.read_text()


async def read_with_a_kill(place: Place) -> None:
    """Wait until all tables are read, and kill the worker in the middle of it."""
    async with asyncio.timeout(WAIT_S):
        while not (lane := await place.lane()) or len(tables_read(lane.state)) < 1:
            await asyncio.sleep(0.02)
        place.started[-1].kill()
        place.run("capture")
        while not (lane := await place.lane()) or tables_read(lane.state) < TABLES.keys():
            await asyncio.sleep(0.05)


def tables_read(state: Any) -> set[str]:
    tables = state.get("copy", {}).get("tables", {})
    return {name for name, table in tables.items() if table.get("done")}


async def hurt_for(place: Place, seconds: float) -> list[str]:
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        hurting = group.create_task(hurt(place, seed=7, done=ended))
        await asyncio.sleep(seconds)
        ended.set()
    return hurting.result()


async def caught_up(place: Place, url: str) -> None:
    end = lsn_of(lsn_now(url))
    servers.execute(url, "SELECT pg_logical_emit_message(true, 'pitr', '{}')")
    async with asyncio.timeout(WAIT_S):
        while not (lane := await place.lane()) or lsn_of(lane.state["lsn"]) < end:
            await asyncio.sleep(0.1)


def lsn_now(url: str) -> str:
    ((lsn,),) = servers.fetch(url, "SELECT pg_current_wal_lsn()::text")
    return str(lsn)


def events(worker: Worker) -> list[str]:
    """The warnings and errors of a worker by name."""
    names = ("lane_taken", "begins_again", "gap", "slot_lost", "table_was_read")
    text = worker.said.read_text(errors="replace")
    return [name for name in names for _ in range(text.count(f'"{name}"'))]


# What the tables are ------------------------------------------------------------------------------


def rows_of(url: str) -> Rows:
    """Every table of a database, in one snapshot."""
    found: Rows = {}
    with psycopg.connect(url, options="-c timezone=UTC") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        for collection, query in TABLES.items():
            rows = connection.execute(f"SELECT row_to_json(q)::text FROM ({query}) AS q")
            found[collection] = Counter(text for (text,) in rows)
    return found


async def logged_rows(app: App, target: str) -> Rows:
    """Every table as the log has it."""
    view = await app.archive.view(LOG)
    resolution = await app.resolver.resolve(view, target)
    assert not resolution.gaps
    reads = app.archive.reads(view, resolution.cut, torn=resolution.torn)
    async with app.archive.state(view, reads, collections=frozenset(TABLES)) as state:
        return {
            collection: Counter(
                text for batch in state.rows(collection) for text in batch["after"].to_pylist()
            )
            for collection in TABLES
        }


async def all_changes(app: App) -> list[dict[str, Any]]:
    view: LogView = await app.archive.view(LOG)
    paths = await app.archive.verified(view.segments)
    tables = [pq.read_table(path, columns=COLUMNS) for path in paths]
    table = pa.concat_tables([*tables, view.tail.select(COLUMNS)])
    rows: list[dict[str, Any]] = table.sort_by("seq").to_pylist()
    return rows


# What has to hold ---------------------------------------------------------------------------------


def each_change_is_in_once(changes: list[dict[str, Any]]) -> None:
    """No hole, nothing twice: each transaction of pgbench is three updates and an insert."""
    count = range(len(changes))
    assert [change["seq"] for change in changes] == [place + 1 for place in count]
    assert [change["position"] for change in changes] == list(count)
    parts = Counter(
        (change["tx"], change["collection"], change["op"])
        for change in changes
        if change["collection"] in TABLES and change["op"] != "read"
    )
    written = {tx for tx, _, _ in parts}
    assert len(written) > 100
    assert parts == {
        (tx, collection, "create" if collection.endswith("history") else "update"): 1
        for tx in written
        for collection in TABLES
    }


def only_the_owner_stored(place: Place) -> None:
    """Whoever was frozen, or late, stored nothing after another had claimed the lane."""
    moves = servers.fetch(place.catalog.url("pitr"), "SELECT name, owner, position FROM moves")
    pids = {worker.name: worker.pid for worker in place.started}
    assert len(moves) > 10
    for name, owner, position in moves:
        assert f"/{pids[name]}/" in owner, (name, owner, position)
    positions = [position for _, _, position in moves]
    assert all(before <= after for before, after in pairwise(positions))


async def ten_commits_are_the_same(
    place: Place, changes: list[dict[str, Any]], recovered: Recovered, backed_up: str
) -> None:
    """The log is asked by seq, by the transaction that follows and by time."""
    app, dice, by_time = place.app, random.Random(7), 0
    healed = max(gap.healed_seq_end or 0 for gap in (await app.archive.view(LOG)).gaps)
    ends = [
        (change, following)
        for change, following in pairwise(changes)
        if change["seq"] >= healed
        and change["tx"] != following["tx"]
        and change["collection"] in TABLES
        and following["collection"] in TABLES
        and lsn_of(lsn_text(change)) > lsn_of(backed_up)
    ]
    assert len(ends) > 100
    chosen = sorted(dice.sample(ends, COMMITS), key=lambda pair: int(pair[0]["seq"]))
    for number, (change, following) in enumerate(chosen):
        await asyncio.to_thread(recovered.go_to, lsn_text(change))
        expected = await asyncio.to_thread(rows_of, recovered.url("bench"))
        assert await logged_rows(app, f"seq:{change['seq']}") == expected
        if number % 2:
            assert await logged_rows(app, f"before-tx:{following['tx']}") == expected
        elif change["at_us"] < following["at_us"]:
            moment = rfc3339(change["at_us"])
            assert moment is not None and await logged_rows(app, moment) == expected
            by_time += 1
    assert by_time


def lsn_text(change: dict[str, Any]) -> str:
    """Where the commit record of a change's transaction is."""
    return str(change["tx"]).partition(":")[2]
