"""``pitr capture`` processes on one attached database, and what they go through."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from pitr.app import App
from pitr.domain.errors import PitrError
from pitr.domain.log import LaneState
from tests.postgres import servers
from tests.postgres.servers import HOST, SUPERUSER, Source

CATALOG_DELAY_S = 0.005
FROZEN_S = 5.0
"""Longest that another worker needs to take a lane whose owner is silent; less than the catalog
gives an open transaction."""

SILENT_US = 20_000_000

SENDER_TIMEOUT_S = 2
"""How soon the source lets go of a follower that says nothing."""

WAIT_S = 90.0


class Worker:
    """A process of its own group. Its connections to the catalog have its ``name`` as a setting."""

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str], said: Path):
        self.name, self.said = name, said
        with said.open("wb") as file:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "pitr", *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    @property
    def runs(self) -> bool:
        return self._popen.poll() is None

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._popen.wait()

    async def ended(self) -> int:
        """Wait for its end, and return its exit code."""
        return await asyncio.to_thread(self._popen.wait, WAIT_S)


@dataclass
class Place:
    """A source, a catalog, and the workers; all of them can be hurt."""

    folder: Path
    source: Source
    source_settings: dict[str, str]
    catalog: Source
    catalog_port: int
    app: App
    log: str
    started: list[Worker] = field(default_factory=list)
    """All workers that ever were."""

    @property
    def workers(self) -> list[Worker]:
        """Those that are there."""
        return [worker for worker in self.started if worker.runs]

    def environment(self, name: str) -> dict[str, str]:
        given = {key: value for key, value in os.environ.items() if "PITR_" not in key}
        url = f"postgresql://{SUPERUSER}@{HOST}:{self.catalog_port}/pitr?test.worker={name}"
        return given | {
            "PITR_DATA": str(self.folder / "data"),
            "PITR_LOG": self.log,
            "PITR_CATALOG_URL": url,
            "PITR_LATENESS_S": "0",
            "PITR_SEGMENT_ROWS_MIN": "3000",
            "PITR_SEAL_AGE_S": "2",
            "PITR_SNAPSHOT_CHANGES_MIN": "50000",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }

    def run(self, *arguments: str) -> Worker:
        """Start a command."""
        name = f"worker-{len(self.started)}"
        said = self.folder / f"{name}.said"
        self.started.append(Worker(name, list(arguments), self.environment(name), said))
        return self.started[-1]

    async def lane(self) -> LaneState | None:
        """Where the capture stands; None if that cannot be known just now."""
        with contextlib.suppress(PitrError):
            return next(iter(await self.app.catalog.lanes(self.log, prefix="postgres:")), None)
        return None

    async def owner(self) -> Worker | None:
        """The worker that has the lane; owners are named host/process/id."""
        lane = await self.lane()
        owner = None if lane is None else str(lane.owner)
        return next((each for each in self.started if f"/{each.pid}/" in str(owner)), None)

    async def at_work(self) -> Worker:
        """Wait until a worker that is there has the lane."""
        async with asyncio.timeout(WAIT_S):
            while (owner := await self.owner()) is None or not owner.runs:
                assert self.workers, self.started[-1].said.read_text()
                await asyncio.sleep(0.05)
        return owner

    def let_time_pass(self) -> None:
        """Whoever has the lane is silent; let it be as if that were so for long."""
        with contextlib.suppress(psycopg.Error):  # its owner was stopped holding a lock on it
            servers.execute(
                self.catalog.url("pitr"),
                "SET lock_timeout = '100ms'",
                f"UPDATE pitr.lanes SET seen_us = seen_us - {SILENT_US}",
            )


@contextlib.asynccontextmanager
async def slow_way(server: Source) -> AsyncIterator[int]:
    """A port that leads to a server with a delay: whoever is hurt is then often in an append."""
    port = urlsplit(server.base_url).port

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 20):
                await asyncio.sleep(CATALOG_DELAY_S)
                target.write(data)
                await target.drain()
        target.close()

    async def connected(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            behind, before = await asyncio.open_connection(HOST, port)
        except OSError:  # it is down just now
            target.close()
            return
        await asyncio.gather(copy(source, before), copy(behind, target))

    listener = await asyncio.start_server(connected, HOST, 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


# What they go through -----------------------------------------------------------------------------


async def hurt(place: Place, *, seed: int, done: asyncio.Event) -> list[str]:
    """Hurt one thing after the other until ``done``, with two workers all the time.

    Each thing is done before any is done again.

    Returns:
        What was done.
    """
    dice, story, acts = (
        random.Random(seed),
        list[str](),
        ["kill", "freeze", "catalog", "source", "kill"],
    )
    place.run("capture")
    while not done.is_set():
        if not acts:
            acts = ["kill", "source", "kill", "freeze", "catalog", "kill"]
            dice.shuffle(acts)
        story.append(acts.pop(0))
        match story[-1]:
            case "kill":
                await kill(place, dice)
            case "freeze":
                await freeze(place, dice)
            case "source":
                await asyncio.to_thread(place.source.kill)
                await asyncio.to_thread(place.source.start, **place.source_settings)
            case "catalog":
                await asyncio.to_thread(place.catalog.kill)
                await asyncio.sleep(dice.uniform(0, 0.5))
                await asyncio.to_thread(place.catalog.start)
        await asyncio.sleep(dice.uniform(0.1, 0.6))
    return story


async def kill(place: Place, dice: random.Random) -> None:
    """Kill a worker and start another one: most often the one at work, sometimes any."""
    victim = dice.choice(place.workers)
    if dice.random() < 0.75:
        victim = await place.at_work()
    await asyncio.sleep(dice.uniform(0, 0.5))
    victim.kill()
    place.run("capture")


async def freeze(place: Place, dice: random.Random) -> None:
    """Stop the worker at work until another one has its lane, then let it go on.

    Stopped in the middle of an append it holds the log's lock: then nobody has the lane before it
    goes on, or the catalog ends its transaction.
    """
    frozen = await place.at_work()
    await asyncio.sleep(dice.uniform(0, 0.5))
    frozen.signal(signal.SIGSTOP)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FROZEN_S):
            while await place.owner() in (None, frozen):
                place.let_time_pass()
                await asyncio.sleep(0.2)
    await asyncio.sleep(dice.uniform(0, SENDER_TIMEOUT_S + 1))
    frozen.signal(signal.SIGCONT)
