"""``kill -9`` of pitr and of PostgreSQL in the middle of a restore: before or after, not between.

Real processes are killed during fresh restores, swaps and rewinds. Each kill is aimed at something
that is seen in the database: how much of the usual WAL is written, the lock of an exchange, or the
end of the transaction; whether it hit a transaction is asked of ``pg_xact_status`` afterwards.
Then the database has the rows from before or those that were asked for; the next restore succeeds,
whatever the dead one held; and ``pitr operations`` says what the database says.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import orjson
import psycopg
import pytest

from pitr.app import App, open_app
from pitr.settings import load_settings
from tests.changes import batch, draft
from tests.postgres.servers import Source, execute, fetch

ROUNDS = int(os.environ.get("PITR_TEST_RESTORE_KILLS", "1"))
"""How often each kind of restore is killed by killing pitr, and as often by killing PostgreSQL."""

SEED = int(os.environ.get("PITR_TEST_RESTORE_SEED", "0")) or 20260301
ROUNDS_MAX = ROUNDS + 10
"""A kill may miss on a busy machine; there are more until one has hit."""

ROWS = 6_000
CHANGED = 4_000
PARTS = 500
WAIT_S = 120
STARTING_S = 1.5
AFTER_S = 0.05
PAUSE_S = 0.002
MOST = 0.9
FOREVER = 1 << 30
EXISTS = "SELECT count(*) FROM pg_class WHERE oid IN (to_regclass('things'), to_regclass('parts'))"
STATE = f"""
SELECT count(*), count(*) FILTER (WHERE v = 0), count(*) FILTER (WHERE v = 1 AND id < {CHANGED}),
    (SELECT sum(v) FROM parts)
FROM things
"""
OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
SCHEMAS = "SELECT nspname::text FROM pg_namespace WHERE starts_with(nspname, %s)"
DONE = {"A": (ROWS, ROWS, 0, 0), "B": (ROWS - 1_000, ROWS - CHANGED, CHANGED - 1_000, PARTS)}

LOOK = """
SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint, writer.pid, writer.backend_xid::text,
    EXISTS (SELECT FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock'
            AND relation = to_regclass('things') AND pid = writer.pid)
FROM (SELECT) AS one LEFT JOIN (
    SELECT pid, backend_xid FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
      AND backend_type = 'client backend' AND backend_xid IS NOT NULL LIMIT 1) AS writer ON true
"""


# Aiming ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Look:
    """A database from outside: its WAL so far, in bytes, and who has written in a transaction.

    ``exchanges`` is whether that one has the live tables for itself.
    """

    at_s: float
    wal: int
    pid: int | None = None
    xid: str | None = None
    exchanges: bool = False


@dataclass(frozen=True, kw_only=True)
class Usual:
    """A restore that nobody disturbs: its WAL, and how long it and its exchange took."""

    wal: int
    took_s: float
    exchange_s: float


Aim = str
"""``wal``: in the middle of the writing; ``time``: at any time since the first write; ``exchange``:
while a swap exchanges; ``end``: right after a transaction; ``any``: at any time since the start."""

AIMS: Final[dict[str, tuple[Aim, ...]]] = {
    "fresh": ("wal", "wal", "time", "end", "any"),
    "rewind": ("wal", "wal", "time", "end", "any"),
    "swap": ("exchange", "wal", "exchange", "time", "end", "any"),
}
"""Taken in turn, so the first of them are what a short run has."""


class Watcher:
    """Looks at a database again and again, until it is the moment."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._process = process
        self.first: Look | None = None
        self.locked_s: float | None = None
        self.last = self.look()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def look(self) -> Look:
        row = self._connection.execute(LOOK).fetchone()
        assert row is not None
        wal, pid, xid, exchanges = row
        look = Look(at_s=time.monotonic(), wal=wal, pid=pid, xid=xid, exchanges=exchanges)
        if self.first is None and xid is not None and self.last.xid == xid:
            self.first = self.last  # one that lasts
        if self.locked_s is None and exchanges:
            self.locked_s = look.at_s
        self.last = look
        if self.first is None:
            time.sleep(PAUSE_S)
        return look

    def all_of_it(self) -> Usual:
        """Look until the process ends."""
        wrote = []
        while self._process.poll() is None:
            if self.look().xid is not None and self.first is not None:
                wrote.append(self.last)
        assert self.first is not None and wrote, "a restore that writes was not seen"
        end = wrote[-1]
        return Usual(
            wal=end.wal - self.first.wal,
            took_s=end.at_s - self.first.at_s,
            exchange_s=end.at_s - (self.locked_s or end.at_s),
        )

    def until(self, aim: Aim, share: float, usual: Usual) -> bool:
        """Look until that share of what is aimed at has come; False if the process ended."""
        begin_s = time.monotonic()
        while self._process.poll() is None:
            look, first = self.look(), self.first
            if aim == "any":
                has_come = look.at_s - begin_s >= share * (usual.took_s + STARTING_S)
            elif first is None:
                has_come = False
            elif aim == "wal":
                has_come = look.xid is not None and look.wal - first.wal >= share * usual.wal
            elif aim == "time":
                has_come = look.at_s - first.at_s >= share * usual.took_s
            elif aim == "exchange":
                passed_s = look.at_s - (self.locked_s or look.at_s)
                has_come = self.locked_s is not None and passed_s >= share * usual.exchange_s
            else:
                has_come = look.xid is None and look.wal - first.wal >= MOST * usual.wal
                time.sleep(share * AFTER_S if has_come else 0)
            if has_come:
                return True
        return False


# A place to restore into -------------------------------------------------------------------------


@dataclass
class Place:
    """A log with two moments, A and B, and a database for it."""

    app: App
    source: Source
    url: str
    environment: dict[str, str]
    folder: Path
    dice: random.Random
    targets: dict[str, str] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)
    hits: Counter[str] = field(default_factory=Counter)

    @property
    def log(self) -> str:
        return self.app.settings.log

    @property
    def plan_file(self) -> str:
        return str(self.folder / "plan.json")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start ``pitr``; what it says goes into a file."""
        said = self.folder / "said"
        return subprocess.Popen(
            [sys.executable, "-m", "pitr", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=said.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def said(self) -> str:
        return (self.folder / "said").read_text(errors="replace")

    async def run(self, *arguments: str) -> Usual | None:
        """Run ``pitr`` to a good end; say how it went, where it wrote."""
        process = self.start(*arguments)
        with Watcher(self.url, process) as watcher:
            if arguments[0] == "restore":
                usual = await asyncio.to_thread(watcher.all_of_it)
            else:
                usual = None
            code = await asyncio.to_thread(process.wait, WAIT_S)
        assert code == 0, (self.story, self.said())
        return usual

    def state(self) -> str:
        """Which moment the database has: A, B, or ``none`` where there are no tables."""
        ((tables,),) = fetch(self.url, EXISTS)
        if not tables:
            return "none"
        found = fetch(self.url, STATE)[0] if tables == 2 else f"{tables} table"
        names = [name for name, counts in DONE.items() if counts == found]
        assert names, (self.story, found, "it is in between")
        return names[0]

    def schemas(self, prefix: str) -> list[str]:
        return [name for (name,) in fetch(self.url, SCHEMAS, [prefix])]

    async def quiet(self) -> None:
        """Wait until PostgreSQL has seen that the dead one is gone."""
        async with asyncio.timeout(WAIT_S):
            while fetch(self.url, OTHERS)[0][0]:
                await asyncio.sleep(0.02)

    async def operations(self) -> list[dict[str, Any]]:
        """Restores and rewinds, newest first."""
        found = await self.app.leases.operations(self.log, limit=10_000)
        return [each for each in found if each["kind"] in ("restore", "rewind")]

    async def kill(self, victim: str, aim: Aim, usual: Usual, *arguments: str) -> int | None:
        """Start ``pitr`` and kill it, or PostgreSQL; the exit code where it was PostgreSQL."""
        process, share = self.start(*arguments), self.dice.random()
        with Watcher(self.url, process) as watcher:
            came = await asyncio.to_thread(watcher.until, aim, share, usual)
            last = watcher.last
            if victim == "pitr":
                process.kill()
            elif came and last.pid is not None:
                os.kill(last.pid, signal.SIGSTOP)  # to kill all of them takes a moment
        if victim == "postgres":
            await asyncio.to_thread(self.source.kill)
            await asyncio.to_thread(self.source.start)
        code = await asyncio.to_thread(process.wait, WAIT_S)
        await self.quiet()
        self._count(victim, aim, share, last)
        if victim == "pitr":
            return None
        self.story.append(f"exit {code}")
        return code

    def _count(self, victim: str, aim: Aim, share: float, last: Look) -> None:
        """Keep whether the kill hit a transaction: one that was open, and is rolled back."""
        hit = last.xid is not None and self._rolled_back(last.xid)
        where = "nothing" if not hit else "exchange" if last.exchanges else "transaction"
        self.story.append(f"{victim} by {aim} {share:.2f}: hit {where}")
        self.hits[f"{victim} in {where}"] += 1
        self.hits[victim] += 1

    def _rolled_back(self, xid: str) -> bool:
        try:
            ((outcome,),) = fetch(self.url, "SELECT pg_xact_status(%s::xid8)", [xid])
            return bool(outcome == "aborted")
        except psycopg.errors.InvalidParameterValue:  # nothing of it came to the disk
            return True


@pytest.fixture
async def place(
    source: Source, source_db: str, catalog_url: str, tmp_path: Path
) -> AsyncIterator[Place]:
    log = f"kill-{uuid4().hex[:8]}"
    data = tmp_path / "data"
    given = {"PITR_DATA": str(data), "PITR_LOG": log, "PITR_CATALOG_URL": catalog_url}
    environment = (
        os.environ | given | {"PITR_ACTOR": "ana", "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    async with open_app(load_settings(data=data, log=log, catalog_url=catalog_url)) as app:
        found = Place(app, source, source_db, environment, tmp_path, random.Random(SEED))
        appender = await app.appender(log)
        pad = "x" * 80

        def drafts(
            ids: range, v: int, op: str, collection: str = "things"
        ) -> list[dict[str, object]]:
            return [
                draft(
                    n,
                    None if op == "delete" else f'{{"id":{n},"v":{v},"pad":"{pad}"}}',
                    collection=f"public.{collection}",
                    op=op,
                )
                for n in ids
            ]

        first = drafts(range(ROWS), 0, "create") + drafts(range(PARTS), 0, "create", "parts")
        await appender.append(batch(first))
        found.targets["A"] = f"seq:{len(first)}"
        later = drafts(range(1_000, CHANGED), 1, "update") + drafts(range(1_000), 0, "delete")
        later += drafts(range(PARTS), 1, "update", "parts")
        await appender.append(batch(later, position_first=len(first)))
        found.targets["B"] = f"seq:{len(first) + len(later)}"
        yield found


# The tests ---------------------------------------------------------------------------------------

TIMEOUT_S = FOREVER if ROUNDS > 5 else 300


def kills(place: Place, kind: str, *, wanted: str = "transaction") -> Any:
    """Whom to kill and how it is aimed at, until both were hit where it is wanted."""
    for number in range(ROUNDS_MAX):
        aim = AIMS[kind][number % len(AIMS[kind])]
        for victim in ("pitr", "postgres"):
            if number < ROUNDS or not place.hits[f"{victim} in {wanted}"]:
                yield victim, aim
    print(kind, dict(place.hits), *place.story, sep="\n")
    for victim in ("pitr", "postgres"):
        assert place.hits[f"{victim} in {wanted}"], (place.hits, place.story)


@pytest.mark.timeout(TIMEOUT_S)
async def test_a_killed_fresh_restore_leaves_all_or_nothing(place: Place) -> None:
    asked = ("restore", "--to", place.targets["B"], "--into", place.url, "--yes")
    usual = await place.run(*asked)
    assert usual is not None
    for victim, aim in kills(place, "fresh"):
        execute(place.url, "DROP TABLE IF EXISTS things, parts")
        before = await ids(place)
        code = await place.kill(victim, aim, usual, *asked)
        state = place.state()
        assert state in ("none", "B")
        await check_told(place, before, code, state, was="none", wanted="B")
    if place.state() == "none":
        await place.run(*asked)
    assert place.state() == "B"
    await check_leases(place)


@pytest.mark.timeout(TIMEOUT_S)
async def test_a_killed_swap_leaves_the_old_tables_or_the_new_ones(place: Place) -> None:
    restore = ("restore", "--into", place.url, "--yes", "--to")
    await place.run(*restore, place.targets["A"])
    swap = (*restore[:1], "--mode", "swap", *restore[1:])
    usual = await place.run(*swap, place.targets["B"])
    assert usual is not None
    left: set[str] = set()
    for victim, aim in kills(place, "swap", wanted="exchange"):
        drop_old(place)
        was = place.state()
        wanted = "AB".replace(was, "")
        before = await ids(place)
        code = await place.kill(victim, aim, usual, *swap, place.targets[wanted])
        state = place.state()
        assert state in (was, wanted), place.story
        assert len(place.schemas("pitr_old_")) == (state == wanted), place.story
        await check_told(place, before, code, state, was=was, wanted=wanted)
        new = place.schemas("pitr_new_")
        assert len(new) <= 1 and (state == was or not new), (new, place.story)
        left |= set(new)
    assert left, "none died with new tables half filled"
    wanted = "AB".replace(place.state(), "")
    drop_old(place)
    await place.run(*swap, place.targets[wanted])
    assert place.state() == wanted
    assert not place.schemas("pitr_new_")
    await check_leases(place)


@pytest.mark.timeout(TIMEOUT_S)
async def test_a_killed_rewind_leaves_all_or_nothing(place: Place) -> None:
    into = ("--into", place.url)
    await place.run("restore", "--to", place.targets["B"], *into, "--yes")
    rewind = ("--mode", "rewind", *into, "--to")
    usual = await place.run("restore", "--yes", *rewind, place.targets["A"])
    assert usual is not None

    async def plan(target: str) -> str:
        await place.run("plan", *rewind, place.targets[target], "-o", place.plan_file)
        return target

    planned = ""
    for victim, aim in kills(place, "rewind"):
        was = place.state()
        wanted = "AB".replace(was, "")
        if planned != wanted:
            planned = await plan(wanted)
        before = await ids(place)
        code = await place.kill(victim, aim, usual, "apply", place.plan_file, "--yes")
        state = place.state()
        await check_told(place, before, code, state, was=was, wanted=wanted)
        # The next one finds out what became of it, and tells the log if that was not done.
        planned = await plan(wanted)
        await check_settled(place, before, done=state != was)
        if state == wanted:
            await place.run("apply", place.plan_file, "--yes")
            assert place.state() == wanted
        assert await logged(place) == state, place.story
    if place.state() != planned:
        await place.run("apply", place.plan_file, "--yes")
    assert place.state() == await logged(place) == planned
    await check_leases(place)


# What is checked ---------------------------------------------------------------------------------


async def ids(place: Place) -> list[str]:
    return [each["operation_id"] for each in await place.operations()]


async def check_told(
    place: Place, before: list[str], code: int | None, state: str, *, was: str, wanted: str
) -> None:
    """Check that the operation of the dead, and its exit, say what the database says."""
    (outcome, *_) = [
        each["outcome"] for each in await place.operations() if each["operation_id"] not in before
    ] or ["none"]
    place.story.append(f"{was} -> {state}: {outcome}")
    assert outcome != "running", place.story
    if outcome == "done":
        assert state == wanted, place.story
    if outcome == "failed":
        assert state == was, place.story
    assert code in (None, 0, 5), (place.story, place.said())
    assert code != 0 or state == wanted


async def check_leases(place: Place) -> None:
    """Check that nothing of the dead keeps others off the database; that they read runs out."""
    assert not [each for each in await place.app.catalog.leases(place.log) if each.sink]


async def check_settled(place: Place, before: list[str], *, done: bool) -> None:
    """Check what is known of the dead one after another one looked."""
    for each in await place.operations():
        if each["operation_id"] not in before:
            known = "xid" in each["detail"] or done
            allowed = ({"done"} if done else {"failed"}) if known else {"failed", "lost"}
            assert each["outcome"] in allowed, (place.story, each)


async def logged(place: Place) -> str:
    """Which moment the log says it is now."""
    view = await place.app.archive.view(place.log)
    cut = (await place.app.resolver.resolve(view, "latest")).cut
    reads = place.app.archive.reads(view, cut)
    rows: dict[str, list[Any]] = {}
    async with place.app.archive.state(view, reads) as state:
        for name in ("things", "parts"):
            batches = await asyncio.to_thread(list, state.rows(f"public.{name}"))
            rows[name] = [orjson.loads(e) for part in batches for e in part["after"].to_pylist()]
    things = rows["things"]
    changed = [row for row in things if row["v"] == 1 and row["id"] < CHANGED]
    parts = sum(row["v"] for row in rows["parts"])
    found = (len(things), len([row for row in things if row["v"] == 0]), len(changed), parts)
    return next((name for name, counts in DONE.items() if counts == found), str(found))


def drop_old(place: Place) -> None:
    for schema in place.schemas("pitr_old_"):
        execute(place.url, f'DROP SCHEMA "{schema}" CASCADE')
