"""``kill -9`` of pitr and of PostgreSQL in the middle of a restore: before or after, not between.

Real processes are killed at random moments of a fresh restore and of a rewind. Afterwards the
database has the rows from before or those that were asked for; the next restore succeeds at once,
whatever the dead one held; and ``pitr operations`` says what the database says.
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import psycopg
import pytest

from pitr.app import App, open_app
from pitr.settings import load_settings
from tests.changes import batch, draft
from tests.postgres.servers import Source, fetch

ROUNDS = int(os.environ.get("PITR_TEST_RESTORE_KILLS", "3"))
"""How often each kind of restore is killed, every third time by killing PostgreSQL instead."""

SEED = int(os.environ.get("PITR_TEST_RESTORE_SEED", "0")) or 20260301
ROWS = 6_000
CHANGED = 4_000
WAIT_S = 120
FOREVER = 1 << 30
EXISTS = "SELECT to_regclass('things') IS NOT NULL"
STATE = f"""
SELECT count(*), count(*) FILTER (WHERE v = 0), count(*) FILTER (WHERE v = 1 AND id < {CHANGED})
FROM things
"""
OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
WRITERS = f"{OTHERS} AND backend_xid IS NOT NULL"
DONE = {"A": (ROWS, ROWS, 0), "B": (ROWS - 1_000, ROWS - CHANGED, CHANGED - 1_000)}


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
    took_s: float = 1.0
    story: list[str] = field(default_factory=list)

    @property
    def log(self) -> str:
        return self.app.settings.log

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

    async def run(self, *arguments: str) -> None:
        """Run ``pitr`` to a good end."""
        process = self.start(*arguments)
        code = await asyncio.to_thread(process.wait, WAIT_S)
        assert code == 0, (self.story, self.said())

    def state(self) -> str:
        """Which moment the database has: A, B, or ``none`` where there is no table."""
        if not fetch(self.url, EXISTS)[0][0]:
            return "none"
        found = fetch(self.url, STATE)[0]
        names = [name for name, counts in DONE.items() if counts == found]
        assert names, (self.story, found, "it is in between")
        return names[0]

    async def quiet(self) -> None:
        """Wait until PostgreSQL has seen that the dead one is gone."""
        async with asyncio.timeout(WAIT_S):
            while fetch(self.url, OTHERS)[0][0]:
                await asyncio.sleep(0.02)

    async def operations(self) -> list[dict[str, Any]]:
        """Restores and rewinds, newest first."""
        found = await self.app.leases.operations(self.log, limit=10_000)
        return [each for each in found if each["kind"] in ("restore", "rewind")]

    async def at_work(self, process: subprocess.Popen[bytes], count: int) -> None:
        """Wait until an operation began that was not among the first ``count``, or it ended."""
        async with asyncio.timeout(WAIT_S):
            while process.poll() is None and len(await self.operations()) <= count:
                await asyncio.sleep(0.01)

    async def writing(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until somebody writes to the database, or the process ended."""
        async with asyncio.timeout(WAIT_S):
            while process.poll() is None and not fetch(self.url, WRITERS)[0][0]:
                await asyncio.sleep(0.01)


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

        def drafts(ids: range, v: int, op: str) -> list[dict[str, object]]:
            return [
                draft(
                    n,
                    None if op == "delete" else f'{{"id":{n},"v":{v},"pad":"{pad}"}}',
                    collection="public.things",
                    op=op,
                )
                for n in ids
            ]

        await appender.append(batch(drafts(range(ROWS), 0, "create")))
        found.targets["A"] = f"seq:{ROWS}"
        later = drafts(range(1_000, CHANGED), 1, "update") + drafts(range(1_000), 0, "delete")
        await appender.append(batch(later, position_first=ROWS))
        found.targets["B"] = f"seq:{ROWS + CHANGED}"
        yield found


async def killed(place: Place, number: int, *arguments: str) -> int | None:
    """Kill ``pitr``, or PostgreSQL, while ``pitr`` works; the exit code where it was PostgreSQL."""
    count, dice = len(await place.operations()), place.dice
    kills_postgres = number % 3 == 2
    process = place.start(*arguments)
    chance = dice.random()
    if kills_postgres or chance < 0.5:
        await place.at_work(process, count)
        await place.writing(process)
        pause_s = dice.uniform(0, 0.25 * place.took_s)
    elif chance < 0.9:
        await place.at_work(process, count)
        pause_s = dice.uniform(0, 1.15 * place.took_s)
    else:
        pause_s = dice.uniform(0, 1.5)
    await asyncio.sleep(pause_s)
    place.story.append(f"{'postgres' if kills_postgres else 'pitr'} after {pause_s:.3f} s")
    if not kills_postgres:
        process.kill()
        await asyncio.to_thread(process.wait, WAIT_S)
        await place.quiet()
        return None
    await asyncio.to_thread(place.source.kill)
    await asyncio.to_thread(place.source.start)
    code = await asyncio.to_thread(process.wait, WAIT_S)
    await place.quiet()
    place.story.append(f"exit {code}")
    return code


async def check_told(place: Place, before: list[str], state: str, was: str) -> None:
    """Check that the operation of the dead says what the database says."""
    (outcome, *_) = [
        each["outcome"] for each in await place.operations() if each["operation_id"] not in before
    ] or ["none"]
    place.story.append(f"{was} -> {state}: {outcome}")
    assert outcome != "running", place.story
    if outcome == "done":
        assert state != was, place.story
    if outcome == "failed":
        assert state == was, place.story


@pytest.mark.timeout(FOREVER if ROUNDS > 10 else 300)
async def test_a_killed_fresh_restore_leaves_all_or_nothing(place: Place) -> None:
    asked = ("restore", "--to", place.targets["B"], "--into", place.url, "--yes")
    await place.run(*asked)
    (first,) = await place.operations()
    place.took_s = (first["ended_us"] - first["started_us"]) / 1e6
    for number in range(ROUNDS):
        execute(place.url, "DROP TABLE IF EXISTS things")
        before = [each["operation_id"] for each in await place.operations()]
        code = await killed(place, number, *asked)
        state = place.state()
        assert state in ("none", "B")
        await check_told(place, before, state, "none")
        assert code in (None, 0, 5), (place.story, place.said())
        assert code != 0 or state == "B"
        if state == "none":
            await place.run(*asked)
            assert place.state() == "B"
    await check_leases(place)


@pytest.mark.timeout(FOREVER if ROUNDS > 10 else 300)
async def test_a_killed_rewind_leaves_all_or_nothing(place: Place) -> None:
    into = ("--into", place.url)
    await place.run("restore", "--to", place.targets["B"], *into, "--yes")
    rewind = ("restore", "--mode", "rewind", *into, "--yes", "--to")
    await place.run(*rewind, place.targets["A"])
    (first, _) = await place.operations()
    place.took_s = (first["ended_us"] - first["started_us"]) / 1e6
    for number in range(ROUNDS):
        was = place.state()
        wanted = "AB".replace(was, "")
        before = [each["operation_id"] for each in await place.operations()]
        code = await killed(place, number, *rewind, place.targets[wanted])
        state = place.state()
        await check_told(place, before, state, was)
        assert code in (None, 0, 5), (place.story, place.said())
        assert code != 0 or state == wanted
        # The next one finds out what became of it, and tells the log if that was not done.
        await place.run(*rewind, place.targets[wanted])
        assert place.state() == wanted
        await check_settled(place, before, state, was)
        assert await logged(place) == wanted, place.story
    await check_leases(place)


async def check_leases(place: Place) -> None:
    """Check that nothing of the dead keeps others off the database; that they read runs out."""
    print(place.story)
    assert not [each for each in await place.app.catalog.leases(place.log) if each.sink]


async def check_settled(place: Place, before: list[str], state: str, was: str) -> None:
    """Check what is known of the dead one after another one looked."""
    mine = [each for each in await place.operations() if each["operation_id"] not in before]
    for each in mine[1:]:
        assert (each["outcome"] == "done") == (state != was), (place.story, mine)


async def logged(place: Place) -> str:
    """Which moment the log says it is now."""
    view = await place.app.archive.view(place.log)
    cut = (await place.app.resolver.resolve(view, "latest")).cut
    reads = place.app.archive.reads(view, cut)
    async with place.app.archive.state(view, reads) as state:
        batches = await asyncio.to_thread(list, state.rows("public.things"))
    rows = [orjson.loads(each) for part in batches for each in part["after"].to_pylist()]
    changed = [row for row in rows if row["v"] == 1 and row["id"] < CHANGED]
    found = (len(rows), len([row for row in rows if row["v"] == 0]), len(changed))
    return next((name for name, counts in DONE.items() if counts == found), str(found))


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())
