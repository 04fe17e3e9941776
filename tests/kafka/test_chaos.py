"""Workers are killed, frozen and cut off from catalog and store; every record is in once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiokafka import AIOKafkaProducer

from pitr.adapters.embedded import EmbeddedPostgres
from pitr.adapters.embedded_files import PORT
from pitr.adapters.embedded_server import SUPERUSER
from pitr.app import App, open_app
from pitr.domain.errors import PitrError
from pitr.settings import load_settings
from tests.kafka import brokers
from tests.kafka.brokers import Broker

LOG = "main"
RECORDS = 200_000
PARTITIONS = 6
KEYS = 5_000
SESSION_S = 6
FROZEN_S = 8
"""How much longer a worker is frozen than its session lasts: Tansu takes five seconds to notice."""
CATALOG_DELAY_S = 0.04
PRODUCE_S = 25.0
WAIT_S = 120.0
EVENTS = (
    "lanes_assigned",
    "lanes_revoked",
    "lane_taken",
    "lane_begins_again",
    "gap",
    "lane_halted",
)


@dataclass
class Worker:
    """A ``pitr capture`` that can be hurt."""

    command: list[str]
    environment: dict[str, str]
    said: Path
    popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.said.open("ab") as said:
            self.popen = subprocess.Popen(
                self.command, env=self.environment, stdout=said, stderr=said, start_new_session=True
            )

    @property
    def pid(self) -> int | None:
        return None if self.popen is None else self.popen.pid

    def kill(self) -> None:
        assert self.popen is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()

    def signal(self, number: int) -> None:
        assert self.popen is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, number)


@dataclass
class Place:
    """A catalog, a store and workers on one topic."""

    folder: Path
    servers: list[EmbeddedPostgres]
    slow_url: str
    broker: Broker
    topic: str
    workers: list[Worker] = field(default_factory=list)

    def add_worker(self) -> Worker:
        environment = {name: value for name, value in os.environ.items() if "PITR_" not in name}
        environment |= {
            "PITR_DATA": str(self.folder / "data"),
            "PITR_CATALOG_URL": self.slow_url,
            "PITR_KAFKA_BOOTSTRAP": self.broker.bootstrap,
            "PITR_KAFKA_TOPICS": self.topic,
            "PITR_KAFKA_SESSION_S": str(SESSION_S),
            "PITR_SEGMENT_ROWS_MIN": "2000",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        said = self.folder / f"worker-{len(self.workers)}.log"
        worker = Worker([sys.executable, "-m", "pitr", "capture"], environment, said)
        worker.start()
        self.workers.append(worker)
        return worker


@pytest.fixture
def hurt() -> Iterator[list[Worker]]:
    """Workers that are gone when the test is over, whatever came."""
    workers: list[Worker] = []
    yield workers
    for worker in workers:
        worker.signal(signal.SIGCONT)
        worker.kill()


@pytest.fixture
def place_folder() -> Iterator[Path]:
    """A folder of this test alone, with a path that is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="pitr-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def partition_of(number: int) -> int:
    return number % KEYS % PARTITIONS


async def produce(bootstrap: str, topic: str) -> None:
    """Every record once, in order, over some time: at its offset stands its number there."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=10, acks="all")
    await producer.start()
    counts: dict[int, int] = defaultdict(int)
    begin = time.monotonic()
    try:
        for number in range(RECORDS):
            key, partition = number % KEYS, partition_of(number)
            document = {"id": key, "number": number, "nth": counts[partition]}
            counts[partition] += 1
            change = {"collection": "c", "key": key, "op": "update", "after": document}
            value = json.dumps(change).encode()
            await producer.send(topic, value, key=b"%d" % key, partition=partition)
            if number % 500 == 0:
                await asyncio.sleep(
                    max(0.0, begin + PRODUCE_S * number / RECORDS - time.monotonic())
                )
        await producer.flush()
    finally:
        await producer.stop()


@contextlib.asynccontextmanager
async def slow_catalog(server: EmbeddedPostgres) -> AsyncIterator[int]:
    """A way to the catalog that takes its time, so that workers are hurt while they append."""

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 20):
                await asyncio.sleep(CATALOG_DELAY_S)
                target.write(data)
                await target.drain()
        target.close()

    async def connected(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        socket = server.socket_folder / f".s.PGSQL.{PORT}"
        try:
            behind, before = await asyncio.open_unix_connection(str(socket))
        except OSError:  # it is down just now
            target.close()
            return
        await asyncio.gather(copy(source, before), copy(behind, target))

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()


async def hurt_them(app: App, place: Place, *, seed: int, done: asyncio.Event) -> list[str]:
    """Hurt one thing after the other until ``done``; return what was done."""
    dice = random.Random(seed)
    story: list[str] = []
    acts = ["freeze", "store", "freeze", "catalog", "kill"]
    await captured(app, 1, story)
    async with asyncio.TaskGroup() as group:
        while not done.is_set():
            act = acts.pop(0) if acts else dice.choice(["kill", "freeze", "freeze", "catalog"])
            worker = await busiest(app, place) or dice.choice(place.workers)
            story.append(act)
            if act == "kill":
                worker.kill()
                worker.start()
            elif act == "freeze":
                group.create_task(freeze(worker))
            elif act == "catalog":
                await restart(place)
            else:
                await lose_store(place)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(done.wait(), dice.uniform(0.5, 2.5))
    return story


async def busiest(app: App, place: Place) -> Worker | None:
    """The worker that stored something last; owners are named host/process/id."""
    with contextlib.suppress(PitrError):
        lanes = [lane for lane in await app.catalog.lanes(LOG) if lane.owner is not None]
        newest = max(lanes, key=lambda lane: lane.recorded_us, default=None)
        for worker in place.workers:
            if newest is not None and f"/{worker.pid}/" in str(newest.owner):
                return worker
    return None


async def freeze(worker: Worker) -> None:
    """Stop a worker for longer than its session lasts: the others take its partitions."""
    worker.signal(signal.SIGSTOP)
    await asyncio.sleep(SESSION_S + FROZEN_S)
    worker.signal(signal.SIGCONT)


async def restart(place: Place) -> None:
    """Kill the catalog's server and start it again a second later."""
    pid = int((place.servers[0].folder / "data" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(1)
    place.servers.append(await EmbeddedPostgres.start(place.servers[0].folder))


async def lose_store(place: Place) -> None:
    """Let nothing be written to the store for two seconds."""
    store = place.folder / "data" / "store"
    away = store.with_name("store-away")
    store.rename(away)
    store.write_text("not a folder")
    await asyncio.sleep(2)
    store.unlink()
    away.rename(store)


async def captured(app: App, count: int, story: list[str]) -> None:
    """Wait until so many changes are in the log."""
    deadline = time.monotonic() + WAIT_S
    stored = 0
    while time.monotonic() < deadline:
        with contextlib.suppress(PitrError):  # the catalog may be away just now
            stored = (await app.catalog.log(LOG)).seq_next - 1
        if stored >= count:
            return
        await asyncio.sleep(0.2)
    lanes = [(lane.lane, lane.position, lane.problem) for lane in await app.catalog.lanes(LOG)]
    pytest.fail(f"only {stored} of {count} after {story}: {lanes}")


async def all_changes(app: App) -> pa.Table:
    """Everything in the log, in seq order."""
    view = await app.archive.view(LOG)
    tables = [pq.read_table(path) for path in await app.archive.verified(view.segments)]
    return pa.concat_tables([*tables, view.tail]).sort_by("seq")


@pytest.mark.slow
@pytest.mark.timeout(420)
@pytest.mark.parametrize("count", [2, 3])
async def test_every_record_is_in_the_log_once(
    broker: Broker, place_folder: Path, hurt: list[Worker], count: int
) -> None:
    if count == 3 and not os.environ.get("CI"):
        pytest.skip("three workers in CI only; two are enough here")
    topic = f"chaos-{uuid4().hex[:12]}"
    await brokers.create_topic(broker.bootstrap, topic, partitions=PARTITIONS)
    server = await EmbeddedPostgres.start(place_folder / "pg")
    servers = [server]
    url = await server.ensure_database("pitr")
    settings = load_settings(data=place_folder / "data", catalog_url=url)
    try:
        async with open_app(settings) as app, slow_catalog(server) as port:
            slow_url = f"postgresql://{SUPERUSER}@127.0.0.1:{port}/pitr"
            place = Place(place_folder, servers, slow_url, broker, topic)
            await app.ensure_log(LOG)
            for _ in range(count):
                hurt.append(place.add_worker())
            done = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                hurting = group.create_task(hurt_them(app, place, seed=count, done=done))
                await produce(broker.bootstrap, topic)
                done.set()
            story = hurting.result()
            print(f"hurt on {broker.name}: {' '.join(story)}")
            try:
                await captured(app, RECORDS, story)
            finally:
                ends = {worker.said.name: worker.popen and worker.popen.poll() for worker in hurt}
                words = "\n".join(worker.said.read_text()[-2_000:] for worker in hurt)
                assert set(ends.values()) == {None}, f"ended by themselves: {ends}\n{words}"
            await asyncio.sleep(1)  # would anything come twice, it would come now
            await check(app)
            said = "".join(worker.said.read_text() for worker in hurt)
            print({event: said.count(f'"{event}"') for event in EVENTS})
    finally:
        for worker in hurt:
            worker.kill()
        for each in servers:
            await each.stop()


async def check(app: App) -> None:
    """Every record once, in the order of its partition, and the state of the last ones."""
    table = await all_changes(app)
    assert table.num_rows == RECORDS
    assert table["seq"].to_pylist() == list(range(1, RECORDS + 1))
    by_lane: dict[str, list[tuple[int, int]]] = defaultdict(list)
    newest: dict[str, int] = {}
    rows = (table[name].to_pylist() for name in ("lane", "position", "key", "after"))
    for lane, position, key, after in zip(*rows, strict=True):
        document = json.loads(after)
        by_lane[lane].append((position, document["nth"]))
        newest[key] = document["number"]
    for lane, found in by_lane.items():
        assert found == [(place, place) for place in range(len(found))], lane
    expected = {
        f'{{"id":{key}}}': RECORDS - KEYS + key
        for key in range(KEYS)  # the last round of all keys
    }
    assert newest == expected
    assert await app.catalog.quarantine_counts(LOG) == {
        "waiting": 0,
        "replayed": 0,
        "dismissed": 0,
    }
