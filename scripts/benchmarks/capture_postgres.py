"""capture-postgres: changes of an attached database to the durable log, over pg_recvlogical.

``pg_recvlogical`` throws away what a slot sends; pitr stores what a slot at the same position
sends. Beside it: how long a small transaction takes into the log, what ``pitr capture`` costs
pgbench on the source, and with ``--huge`` the memory that it takes for one transaction of 5,000,000
rows.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import psutil

from pitr.app import App, open_app
from pitr.domain.log import LaneState, Source
from pitr.domain.pgoutput.model import lsn_of
from pitr.faces.event_log import configure_logging
from pitr.services.follow import Follower
from pitr.settings import load_settings
from scripts.benchmarks.bench import LOG, Stopwatch, rate, say
from tests.postgres import servers

ROUNDS = 3
SMALL_COUNT = 100
SCALE, CLIENTS, PGBENCH_S, PGBENCH_ROUNDS = 10, 4, 20, 3
SETTLE_S = 10
"""Until a process that caught up has merged what came in."""

HUGE_ROWS = 5_000_000
ONLY_CAPTURE = {"PITR_COMPACT_COUNT_MIN": "1000000", "PITR_SNAPSHOT_CHANGES_MIN": "1000000000"}
"""Merges and snapshots have bounds of their own; they would hide what capture itself takes."""
WAIT_S = 1_800

CORES = tuple(psutil.Process().cpu_affinity())

SERVER = {
    "fsync": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "8GB",
    "autovacuum": "off",
}
"""The pgbench part measures commits that reach the disk; the rest waits for no disk."""

TABLES = """
CREATE SCHEMA shop;
CREATE TABLE shop.orders (
    id bigint PRIMARY KEY, uid uuid NOT NULL, status text NOT NULL, total numeric(12, 2) NOT NULL,
    note text NOT NULL, details jsonb NOT NULL, created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL, paid boolean NOT NULL, items int NOT NULL
);
CREATE SCHEMA sample;
CREATE TABLE sample.notes (id int PRIMARY KEY, note text NOT NULL);
SELECT setseed(0.7);
INSERT INTO sample.notes SELECT id, (
    SELECT string_agg(word, ' ' ORDER BY random()) FROM (
        SELECT word FROM unnest(string_to_array('fast parcel gift wrap leave at door ring twice'
            ' fragile handle with care express standard deliver before noon invoice enclosed no'
            ' signature return label inside second floor customer called address changed voucher'
            ' applied stock reserved partial shipment backorder', ' ')) word
        ORDER BY random() + id * 0 LIMIT 28) drawn)
FROM generate_series(0, 4095) id;
CREATE FUNCTION sample.rows(ids bigint[], seed int) RETURNS SETOF shop.orders
LANGUAGE sql AS $$
    SELECT i, md5((i + seed)::text)::uuid,
        (ARRAY['new', 'paid', 'packed', 'shipped', 'delivered', 'returned'])[1 + h % 6],
        (h % 9000000) / 100.0, note,
        jsonb_build_object('customer', h % 200000, 'currency', 'EUR',
            'ship_to', h % 250 || ' Parcel Street', 'weight_g', h % 30000, 'gift', h % 2 = 0),
        timestamptz '2026-01-01' + i * interval '5 ms',
        timestamptz '2026-02-01' + h * interval '1 ms', h % 2 = 1, 1 + h % 9
    FROM unnest(ids) i, LATERAL (SELECT abs(hashint8(i + seed)) h) drawn
    JOIN sample.notes ON notes.id = h % 4096
$$;
CREATE PROCEDURE sample.fill(changes int) LANGUAGE plpgsql AS $$
DECLARE
    size int; ids bigint[]; number int := 0; known int := 0; done int := 0;
BEGIN
    WHILE done < changes LOOP
        number := number + 1;
        size := CASE WHEN number % 400 = 200 THEN 10000 ELSE 1 + random() * 99 END;
        size := least(size, changes - done);
        IF known < 2 * size OR random() < 0.4 THEN
            ids := ARRAY(SELECT known + i FROM generate_series(1, size) i);
            INSERT INTO shop.orders SELECT * FROM sample.rows(ids, 0);
            known := known + size;
        ELSE
            ids := ARRAY(SELECT (number * 7919 + i * 2)::bigint % known + 1
                         FROM generate_series(1, least(size, known / 2)) i);
            UPDATE shop.orders o SET status = n.status, total = n.total, note = n.note,
                details = n.details, updated_at = n.updated_at, paid = n.paid
            FROM sample.rows(ids, number) n WHERE o.id = n.id;
            GET DIAGNOSTICS size = ROW_COUNT;
        END IF;
        done := done + size;
        COMMIT;
    END LOOP;
END $$;
"""

SMALL = "INSERT INTO shop.orders SELECT * FROM sample.rows(ARRAY[$1::bigint], 0)"

HUGE = """
INSERT INTO shop.orders
SELECT rows.* FROM generate_series(1, $1::int, 1000) i,
    LATERAL sample.rows(ARRAY(SELECT generate_series(i, i + 999)::bigint), 0) rows
"""


# The source -------------------------------------------------------------------------------------


class Database:
    """A source database, its programs, and a connection that makes and changes tables."""

    def __init__(self, server: servers.Source, connection: asyncpg.Connection[Any]) -> None:
        assert server.server is not None, "it is ours"
        self._server = server.server
        self._cores = CORES
        self.url = server.url()
        self.socket_url = server.url(unix=True)
        self.run = connection.execute
        self.value = connection.fetchval

    async def publish(self, publication: str, what: str) -> None:
        """Make a publication as ``pitr attach`` makes it."""
        options = "publish_via_partition_root = true"
        await self.run(f"CREATE PUBLICATION {publication} FOR {what} WITH ({options})")

    async def source(self, slot: str, publication: str) -> Source:
        """Make a slot for pitr to follow."""
        await self.value("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", slot)
        return Source(name=slot, url=self.url, slot=slot, publication=publication, created_us=1)

    async def end(self) -> int:
        """Where the WAL ends; a commit that pitr passes over comes after that."""
        end = lsn_of(await self.value("SELECT pg_current_wal_insert_lsn()::text"))
        await self.run("SELECT pg_logical_emit_message(true, 'bench', '')")
        return end

    async def drain(self, slot: str, publication: str, end: int) -> float:
        """Throw away all that a slot sends up to ``end``; seconds."""
        program = [
            *("pg_recvlogical", "-d", self.url, "-S", slot, "--start", "-n", "-f", os.devnull),
            *("-o", "proto_version=1", "-o", f"publication_names={publication}"),
            *("-o", "messages=true", "-E", f"{end >> 32:X}/{end & 0xFFFFFFFF:X}"),
        ]
        start = time.perf_counter()
        await self._run(*program)
        return time.perf_counter() - start

    async def pgbench(self, *options: str) -> float:
        """Run pgbench in a schema of its own; transactions a second, if it makes any."""
        place = urlsplit(self.url)
        where = ("-h", str(place.hostname), "-p", str(place.port), "-U", servers.SUPERUSER)
        told = await self._run("pgbench", *where, *options, place.path[1:])
        found = re.search(r"^tps = ([\d.]+)", told, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def keep_to(self, cores: Sequence[int]) -> None:
        """Let the server, and the programs from now on, use these cores only."""
        assert self._server.pid is not None, "it runs"
        self._cores = cores
        keep(self._server.pid, cores)

    async def _run(self, name: str, *arguments: str) -> str:
        environment = {**os.environ, "PGOPTIONS": "-c search_path=pgbench"}
        process = await asyncio.create_subprocess_exec(
            self._server.programs / name, *arguments, stdout=subprocess.PIPE, env=environment
        )
        keep(process.pid, self._cores)
        told, _ = await process.communicate()
        assert process.returncode == 0, f"{name} failed"
        return told.decode()


@asynccontextmanager
async def database() -> AsyncIterator[Database]:
    """A server of the wheel with the sample's tables and nothing in them."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(servers.running(servers.WHEEL, **SERVER))
        connection = await asyncpg.connect(server.url())
        stack.push_async_callback(connection.close)
        await connection.execute(TABLES)
        for setting in ("synchronous_commit", "enable_hashjoin", "enable_mergejoin"):
            await connection.execute(f"SET {setting} = off")
        yield Database(server, connection)


# pitr -------------------------------------------------------------------------------------------


@asynccontextmanager
async def fresh_app() -> AsyncIterator[App]:
    """A fresh pitr."""
    with tempfile.TemporaryDirectory(prefix="pitr-bench-") as name:
        settings = load_settings(data=Path(name) / "data", log_level="warning")
        async with open_app(settings) as app:
            await app.ensure_log(LOG)
            yield app


@asynccontextmanager
async def followed(app: App, log: str, source: Source) -> AsyncIterator[Follower]:
    """Follow in this process meanwhile."""
    follower = await app.follower(log, source)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(follower.run(stop))
        try:
            yield follower
        finally:
            stop.set()


@asynccontextmanager
async def captured(
    app: App, cores: Sequence[int] = CORES, *, polite: bool = False, **settings: str
) -> AsyncIterator[psutil.Process]:
    """Run ``pitr capture`` meanwhile; it follows what is attached.

    ``polite`` leaves the processor to others where there is not enough, as docs/postgres.md advises
    for a machine that pitr shares with the database.
    """
    command = [sys.executable, "-m", "pitr", "capture", "--data", str(app.settings.data)]
    if polite:
        command = ["nice", "-n", "10", *command]
    process = await asyncio.create_subprocess_exec(
        *command, stderr=subprocess.DEVNULL, env=os.environ | settings
    )
    keep(process.pid, cores)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        await process.wait()


async def lane_of(app: App, log: str, source: Source) -> LaneState | None:
    """The source's lane."""
    return next(iter(await app.catalog.lanes(log, prefix=source.lane)), None)


async def copied(app: App, log: str, source: Source, tables: int) -> LaneState:
    """Wait until every table is copied."""
    async with asyncio.timeout(WAIT_S):
        while True:
            lane = await lane_of(app, log, source)
            known = lane.state.get("copy", {}).get("tables", {}) if lane is not None else {}
            if lane is not None and sum(bool(one.get("done")) for one in known.values()) == tables:
                return lane
            await asyncio.sleep(0.05)


async def reached(app: App, log: str, source: Source, end: int) -> None:
    """Wait until the log has all up to a place in the WAL."""
    async with asyncio.timeout(WAIT_S):
        while True:
            lane = await lane_of(app, log, source)
            if lane is not None and lane.state.get("lsn") and lsn_of(lane.state["lsn"]) >= end:
                return
            await asyncio.sleep(0.1)


async def seconds_of(app: App, log: str, source: Source, first: int, count: int) -> float:
    """Seconds from the first change in the log to the last, as if the first came at once.

    ``first`` is where the lane stands before.
    """
    begun, start = 0, 0.0
    async with asyncio.timeout(WAIT_S):
        while True:
            lane = await lane_of(app, log, source)
            now = time.perf_counter()
            stored = lane.position - first if lane is not None else 0
            if stored and not start:
                begun, start = stored, now
            if stored >= count:
                assert stored == count, f"{stored} changes instead of {count}"
                return (now - start) * count / max(count - begun, 1)
            await asyncio.sleep(0.02)


def catalog_pid(app: App) -> int:
    """The first process of the embedded catalog."""
    assert app.server is not None, "it has no other"
    [file] = app.server.folder.rglob("postmaster.pid")
    return int(file.read_text().split()[0])


def keep(pid: int, cores: Sequence[int]) -> None:
    """Let a process, and those that it started, use these cores only."""
    process = psutil.Process(pid)
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            each.cpu_affinity(list(cores))


# What is measured -------------------------------------------------------------------------------


async def throughput(source_db: Database, app: App, changes: int) -> dict[str, Any]:
    """Drain and capture the same changes, from slots at the same positions."""
    watch = Stopwatch()
    await source_db.publish("shop", "TABLE shop.orders")
    rounds: list[tuple[str, Source, int]] = []
    for number in range(ROUNDS):
        log, source = f"round-{number}", await source_db.source(f"pitr_{number}", "shop")
        async with followed(app, log, source):
            rounds.append((log, source, (await copied(app, log, source, 1)).position))
        copy = "SELECT pg_copy_logical_replication_slot($1, $2)"
        await source_db.value(copy, source.slot, f"drain_{number}")
    with watch.step("fill the table"):
        begin = await source_db.end()
        await source_db.run(f"CALL sample.fill({changes})")
        end = await source_db.end()
        await source_db.run("CHECKPOINT")
    drains, captures, totals = [], [], []
    for number, (log, source, first) in enumerate(rounds):
        drains.append(await source_db.drain(f"drain_{number}", "shop", end))
        start = time.perf_counter()
        async with followed(app, log, source):
            captures.append(await seconds_of(app, log, source, first, changes))
            totals.append(time.perf_counter() - start)
        say(
            f"pg_recvlogical: {rate(changes, drains[-1]):,}/s,"
            f" pitr: {rate(changes, captures[-1]):,}/s, {totals[-1]:.2f} s with its start"
        )
    latency = await small_transactions(source_db, app, *rounds[-1][:2])
    for number in range(ROUNDS):
        await source_db.value("SELECT pg_drop_replication_slot($1)", f"drain_{number}")
        await source_db.value("SELECT pg_drop_replication_slot($1)", f"pitr_{number}")
    return {
        "ratio": round(min(drains) / min(captures), 2),
        "ratios": [round(a / b, 2) for a, b in zip(drains, captures, strict=True)],
        "wal_bytes": end - begin,
        "recvlogical_per_s": rate(changes, min(drains)),
        "pitr_per_s": rate(changes, min(captures)),
        "pitr_from_start_per_s": rate(changes, min(totals)),
        **latency,
    }


async def small_transactions(
    source_db: Database, app: App, log: str, source: Source
) -> dict[str, float]:
    """Milliseconds from a commit of one row to the durable log, while nothing else happens."""
    random_, waited = random.Random(7), []
    await source_db.run("SET synchronous_commit = on")
    async with followed(app, log, source) as follower:
        await reached(app, log, source, await source_db.end())
        known = await source_db.value("SELECT max(id) FROM shop.orders")
        for number in range(SMALL_COUNT):
            await asyncio.sleep(random_.uniform(0.05, 0.35))
            before = follower.following.position
            await source_db.run(SMALL, known + 1 + number)
            start = time.perf_counter()
            while follower.following.position == before:  # noqa: ASYNC110 - the point is to look
                await asyncio.sleep(0.001)
            waited.append(1_000 * (time.perf_counter() - start))
    places = quantiles(waited, n=100, method="inclusive")
    say(f"a small transaction: {places[49]:.0f} ms, 99 of 100 within {places[98]:.0f} ms")
    return {"latency_p50_ms": round(places[49], 1), "latency_p99_ms": round(places[98], 1)}


async def cost_of_capture(source_db: Database) -> dict[str, Any]:
    """What pgbench of the source does without and with a capture beside it, in turns."""
    await source_db.run("CREATE SCHEMA pgbench")
    await source_db.pgbench("-i", "-q", "-s", str(SCALE))
    # It has no key; it is inserted into only, so that this costs the source nothing.
    await source_db.run("ALTER TABLE pgbench.pgbench_history REPLICA IDENTITY FULL")
    await source_db.publish("pgbench", "TABLES IN SCHEMA pgbench")
    async with fresh_app() as app:
        # On one machine nobody sends each message over TCP: that costs the source 16 us more for
        # each transaction of pgbench.
        source = await source_db.source("pgbench", "pgbench")
        source = replace(source, url=source_db.socket_url)
        await app.catalog.add_source(LOG, source)
        async with captured(app):
            await copied(app, LOG, source, 4)
        figures = await in_turns(source_db, app, source, CORES, CORES, polite=True)
        figures["pgbench_impolite"] = await in_turns(source_db, app, source, CORES, CORES)
        half = len(CORES) // 2
        if half:
            figures["pgbench_apart"] = await in_turns(
                source_db, app, source, CORES[:half], CORES[half:]
            )
    await source_db.value("SELECT pg_drop_replication_slot('pgbench')")
    return {"pgbench_ratio": figures.pop("ratio"), "pgbench_must": 0.85, "pgbench": figures}


async def in_turns(
    source_db: Database,
    app: App,
    source: Source,
    cores: Sequence[int],
    pitr_cores: Sequence[int],
    *,
    polite: bool = False,
) -> dict[str, Any]:
    """Run pgbench without and with a capture, on these cores."""
    load = ("-n", "-c", str(CLIENTS), "-j", "2", "-T")
    without, beside, behind = [], [], []
    source_db.keep_to(cores)
    keep(catalog_pid(app), pitr_cores)
    say(f"pgbench on cores {cores}, to warm up: {await source_db.pgbench(*load, '5'):,.0f}/s")
    for _ in range(PGBENCH_ROUNDS):
        await source_db.run("CHECKPOINT")
        without.append(round(await source_db.pgbench(*load, str(PGBENCH_S))))
        async with captured(app, pitr_cores, polite=polite):
            await reached(app, LOG, source, await source_db.end())
            await asyncio.sleep(SETTLE_S)
            await source_db.run("CHECKPOINT")
            beside.append(round(await source_db.pgbench(*load, str(PGBENCH_S))))
            start = time.perf_counter()
            await reached(app, LOG, source, await source_db.end())
            behind.append(round(time.perf_counter() - start, 1))
        say(
            f"pgbench: {without[-1]:,}/s, with capture on cores {pitr_cores} {beside[-1]:,}/s;"
            f" the log was {behind[-1]} s behind"
        )
    source_db.keep_to(CORES)
    return {
        "ratio": round(max(beside) / max(without), 2),
        "tps": without,
        "tps_with_capture": beside,
        "behind_s": behind,
    }


async def memory_of_huge(source_db: Database) -> dict[str, Any]:
    """Memory of a capture of its own in the first and the second half of one huge transaction."""
    await source_db.run("TRUNCATE shop.orders")
    async with fresh_app() as app:
        source = await source_db.source("huge", "shop")
        await app.catalog.add_source(LOG, source)
        async with captured(app, **ONLY_CAPTURE) as process:
            first = (await copied(app, LOG, source, 1)).position
            watch = Stopwatch()
            with watch.step("the huge transaction"):
                await source_db.run(HUGE, HUGE_ROWS, timeout=WAIT_S)
            halves, stored, start = [0, 0], 0, time.perf_counter()
            with watch.step("its capture"):
                while stored < HUGE_ROWS:
                    lane = await lane_of(app, LOG, source)
                    stored = lane.position - first if lane is not None else 0
                    half = int(stored >= HUGE_ROWS // 2)
                    halves[half] = max(halves[half], process.memory_info().rss)
                    assert time.perf_counter() - start < WAIT_S, f"{stored} rows are stored"
                    await asyncio.sleep(0.1)
            peak = peak_of(process.pid)
    return {
        "huge_rows": HUGE_ROWS,
        "huge_per_s": rate(HUGE_ROWS, watch.seconds["its capture"]),
        "huge_bytes_first_half": halves[0],
        "huge_bytes_second_half": halves[1],
        "huge_bytes_peak": peak,
    }


def peak_of(pid: int) -> int:
    """The most memory that a process ever had, bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [kib] = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(kib) * 1024


async def run(changes: int, *, huge: bool = False) -> dict[str, Any]:
    """Measure all; ``huge`` takes minutes and some 10 GB of disk."""
    configure_logging("critical")  # that a table is new is no news
    async with database() as source_db:
        async with fresh_app() as app:
            figures = await throughput(source_db, app, changes)
        figures |= await cost_of_capture(source_db)
        if huge:
            figures |= await memory_of_huge(source_db)
    return {
        "bench": "capture-postgres",
        "ratio": figures.pop("ratio"),
        "must": 0.3,
        "aim": 0.6,
        "changes": changes,
        **figures,
    }
