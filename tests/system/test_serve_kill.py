"""``kill -9`` of a service that takes in changes: what it acknowledged is there, once, in order."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pitr.adapters.embedded import EmbeddedPostgres
from pitr.app import App, open_app
from pitr.domain.target import Cut
from pitr.settings import load_settings

IN_CI = os.environ.get("HYPOTHESIS_PROFILE") == "ci" or os.environ.get("CI") == "true"
KILLS = 20 if IN_CI else 4
START_WAIT_S = 60
ANSWER_WAIT_S = 30
SETTLE_WAIT_S = 120
KEYS = 7

SMALL = {
    "PITR_SEAL_ROWS": "60",
    "PITR_SEAL_AGE_S": "0.2",
    "PITR_SEGMENT_ROWS_MIN": "40",
    "PITR_COMPACT_COUNT_MIN": "2",
    "PITR_SNAPSHOT_CHANGES_MIN": "150",
    "PITR_RETIRED_KEPT_S": "0",
}
"""Limits so small that seals, merges, snapshots and expiry happen all the time."""


@dataclass(slots=True)
class Target:
    """Where producers send to; ``url`` changes with each start, ``up`` says when to try."""

    url: str = ""
    up: asyncio.Event = field(default_factory=asyncio.Event)
    ending: bool = False


@dataclass(slots=True)
class Producer:
    """Sends changes numbered from 0, and each body again until it is acknowledged.

    With ``numbered`` it sends lane and position, and sometimes more in the next attempt than in
    the one that failed. Otherwise it sends keys, and gives up on a body now and then: that one
    may be there whole or not at all.
    """

    name: str
    numbered: bool
    chance: random.Random
    acknowledged: set[int] = field(default_factory=set)
    given_up: list[range] = field(default_factory=list)
    ranges: list[tuple[range, int, int]] = field(default_factory=list)
    sent: int = 0

    async def run(self, target: Target) -> None:
        async with httpx.AsyncClient(timeout=ANSWER_WAIT_S, trust_env=False) as client:
            while not target.ending:
                await self._deliver(client, target)

    async def _deliver(self, client: httpx.AsyncClient, target: Target) -> None:
        numbers = range(self.sent, self.sent + self.chance.choice([1, 1, 2, 5, 30, 90]))
        while (answer := await self._attempt(client, target, numbers)) is None:
            if self.numbered and self.chance.random() < 0.5:
                numbers = range(numbers.start, numbers.stop + self.chance.randrange(40))
            elif not self.numbered and not target.ending and self.chance.random() < 0.2:
                self.given_up.append(numbers)
                break
        else:
            self._check(answer, numbers)
            self.acknowledged.update(numbers)
        self.sent = numbers.stop

    async def _attempt(
        self, client: httpx.AsyncClient, target: Target, numbers: range
    ) -> dict[str, Any] | None:
        """Send once; None if it is unknown what became of it."""
        await target.up.wait()
        how: dict[str, Any] = {"headers": {"idempotency-key": f"{self.name}-{numbers.start}"}}
        if self.numbered:
            how = {"params": {"lane": self.name, "position": numbers.start}}
        url = f"{target.url}/v1/logs/main/changes"
        try:
            response = await client.post(url, content=self._body(numbers), **how)
        except httpx.TransportError:
            await asyncio.sleep(0.02)
            return None
        if response.status_code in (429, 503):
            await asyncio.sleep(0.05)
            return None
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def _body(self, numbers: range) -> bytes:
        return b"".join(
            orjson.dumps(
                {
                    "collection": self.name,
                    "key": n % KEYS,
                    "after": {"n": n},
                    "tx": f"{self.name}:{n // 3}",
                }
            )
            + b"\n"
            for n in numbers
        )

    def _check(self, answer: dict[str, Any], numbers: range) -> None:
        assert answer["quarantined_count"] == 0
        if self.numbered:
            assert answer["position_end"] == numbers.stop
        else:
            assert answer["stored"] == len(numbers)
            self.ranges.append((numbers, answer["seq_first"], answer["seq_end"]))


@pytest.fixture
def data(short_folder: Path) -> Iterator[Path]:
    """A data folder; its PostgreSQL is stopped in the end, whoever was killed."""
    folder = short_folder / "kill"
    yield folder

    async def stop() -> None:
        await (await EmbeddedPostgres.start(folder / "postgres")).stop()

    asyncio.run(asyncio.wait_for(stop(), START_WAIT_S))


@asynccontextmanager
async def started(data: Path, number: int) -> AsyncIterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process of the service, with the file of what it says; killed at the end."""
    said = data.parent / f"kill-{number}.log"
    environment = os.environ | SMALL | {"PITR_DATA": str(data), "PITR_PORT": "0"}
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pitr", "serve"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process, said
    finally:
        if process.poll() is None:
            process.kill()
        await asyncio.to_thread(process.wait, START_WAIT_S)


async def url_of(process: subprocess.Popen[bytes], said: Path) -> str:
    """Wait until the service says where it listens."""
    async with asyncio.timeout(START_WAIT_S):
        while True:
            text = said.read_text(errors="replace")
            if found := re.search(r"http://127\.0\.0\.1:\d+(?=[\s\"])", text):
                return found.group()
            assert process.poll() is None, f"it ended by itself: {text}"
            await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_killed_service_loses_nothing_and_doubles_nothing(data: Path) -> None:
    chance = random.Random(20260301)
    target = Target()
    producers = [
        Producer(f"{'lane' if numbered else 'key'}-{n}", numbered, random.Random(n))
        for n, numbered in enumerate([True, True, True, False, False, False])
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(producer.run(target)) for producer in producers]
        for number in range(KILLS):
            await kill_one(data, number, chance, target)
        async with started(data, KILLS) as (process, said):
            target.url = await url_of(process, said)
            target.ending = True
            target.up.set()
            async with asyncio.timeout(SETTLE_WAIT_S):
                await asyncio.gather(*tasks)
            process.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(process.wait, START_WAIT_S)
            assert code == 0, said.read_text()
    async with open_app(load_settings(data=data)) as app:
        await check_log(app, producers)


async def kill_one(data: Path, number: int, chance: random.Random, target: Target) -> None:
    """Start the service, let it work a while, kill it; sometimes while it starts."""
    async with started(data, number) as (process, said):
        if number % 5 == 3:
            await asyncio.sleep(chance.uniform(0.2, 2.0))
        else:
            target.url = await url_of(process, said)
            target.up.set()
            await asyncio.sleep(chance.uniform(0.1, 2.0))
        target.up.clear()
        assert process.poll() is None, f"it ended by itself: {said.read_text()}"
        process.kill()


async def check_log(app: App, producers: list[Producer]) -> None:
    """Check every claim on the log as it is now."""
    report = await app.verifier.verify("main")
    assert report.verdict == "pass", report.checks
    rows = await all_rows(app)
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    for producer in producers:
        mine = [row for row in rows if row["collection"] == producer.name]
        check_producer(producer, mine)
    known = {producer.name for producer in producers}
    assert {row["collection"] for row in rows} <= known
    assert await state(app) == {(row["collection"], row["key"]): row["after"] for row in rows}


def check_producer(producer: Producer, rows: list[dict[str, Any]]) -> None:
    numbers = [orjson.loads(row["after"])["n"] for row in rows]
    counts = Counter(numbers)
    assert all(count == 1 for count in counts.values()), "a change is there twice"
    assert producer.acknowledged <= counts.keys(), "an acknowledged change is missing"
    assert numbers == sorted(numbers), "changes of one producer changed places"
    for given_up in producer.given_up:
        assert len(counts.keys() & set(given_up)) in (0, len(given_up)), "half a body is there"
    everything = producer.acknowledged.union(*producer.given_up)
    assert counts.keys() <= everything, "a change that nobody sent"
    if producer.numbered:
        assert [row["position"] for row in rows] == numbers
    seq_of = dict(zip(numbers, (row["seq"] for row in rows), strict=True))
    for sent, seq_first, seq_end in producer.ranges:
        assert [seq_of[n] for n in sent] == list(range(seq_first, seq_end))


async def all_rows(app: App) -> list[dict[str, Any]]:
    """Every change of the log, straight from segments and tail, in order of seq."""
    view = await app.catalog.view("main")
    paths = [app.settings.store_folder / ref.name for ref in view.segments]
    names = ["seq", "collection", "key", "after", "position"]
    tables = [pq.read_table(path, columns=names, partitioning=None) for path in paths]
    found = [row for table in [*tables, view.tail.select(names)] for row in plain(table)]
    return sorted(found, key=lambda row: row["seq"])


def plain(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


async def state(app: App) -> dict[tuple[str, str], str]:
    """The newest state, as a restore would have it."""
    view = await app.archive.view("main")
    reads = app.archive.reads(view, Cut(seq_end=view.state.seq_next))
    async with app.archive.state(view, reads) as replay:
        return await asyncio.to_thread(
            lambda: {
                (row["collection"], row["key"]): row["after"]
                for collection in replay.counts
                for batch in replay.rows(collection)
                for row in batch.to_pylist()
            }
        )
