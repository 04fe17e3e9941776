"""capture-kafka: changes from a topic to the durable log, over a bare aiokafka drain of it.

The broker is the one of the tests (Tansu in memory), Apache Kafka with PITR_BENCH_KAFKA=apache, or
the one at PITR_TEST_KAFKA_BOOTSTRAP with PITR_BENCH_KAFKA=external.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from pitr.adapters.kafka.feed import FETCH_BYTES, PARTITION_FETCH_BYTES
from pitr.app import App, open_app
from pitr.settings import load_settings
from scripts.benchmarks.bench import LOG, Stopwatch, rate, say
from scripts.benchmarks.data import Sample
from tests.kafka import brokers

PARTITIONS = 4
DRAINS = 2


async def fill(bootstrap: str, topic: str, sample: Sample) -> int:
    """Produce the sample, each row in one partition; return bytes."""
    await brokers.create_topic(bootstrap, topic, partitions=PARTITIONS)
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, linger_ms=20, max_batch_size=256 * 1024, acks=1
    )
    await producer.start()
    size = 0
    sent: deque[Any] = deque()
    try:
        for number, line in enumerate(sample.lines()):
            value = line.rstrip(b"\n")
            size += len(value)
            row = number % sample.rows
            key = b'{"id":%d}' % row
            sent.append(await producer.send(topic, value, key=key, partition=row % PARTITIONS))
            if len(sent) > 50_000:
                await sent.popleft()
        await producer.flush()
    finally:
        await producer.stop()
    return size


async def drain(bootstrap: str, topic: str, count: int) -> float:
    """Read the topic in a group and throw it away; seconds from the first record to the last."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=f"drain-{uuid4().hex[:8]}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_bytes=FETCH_BYTES,
        max_partition_fetch_bytes=PARTITION_FETCH_BYTES,
    )
    await consumer.start()
    try:
        found, start = 0, 0.0
        while found < count:
            got = await consumer.getmany(timeout_ms=200)
            if got and not start:
                start, found = time.perf_counter(), 0
                continue  # the first fetch was under way while the group formed
            found += sum(map(len, got.values()))
            if start and not got:
                break
        return (time.perf_counter() - start) * count / max(found, 1)
    finally:
        await consumer.stop()


@asynccontextmanager
async def fresh_app(bootstrap: str, topic: str) -> AsyncIterator[App]:
    """A fresh pitr that captures the topic."""
    with tempfile.TemporaryDirectory(prefix="pitr-bench-") as name:
        settings = load_settings(
            data=Path(name) / "data",
            log_level="warning",
            kafka_bootstrap=bootstrap,
            kafka_topics=topic,
            kafka_group=f"bench-{uuid4().hex[:8]}",
        )
        async with open_app(settings) as app:
            await app.ensure_log(LOG)
            yield app


async def seconds_of(app: App, count: int, look: Callable[[float], None] | None = None) -> float:
    """Seconds from the first change in the log to the last, as if the first came at once.

    ``look`` is told which part is done, again and again.
    """
    first, start = 0, 0.0
    while True:
        stored = (await app.catalog.log(LOG)).seq_next - 1
        now = time.perf_counter()
        if look is not None:
            look(stored / count)
        if stored and not start:
            first, start = stored, now
        if stored >= count:
            return (now - start) * count / max(count - first, 1)
        await asyncio.sleep(0.02)


async def one_worker(bootstrap: str, topic: str, count: int) -> float:
    """Capture in this process."""
    async with fresh_app(bootstrap, topic) as app:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task((await app.capture()).run(stop))
            try:
                return await seconds_of(app, count)
            finally:
                stop.set()


class Memory:
    """The most that any worker, with its decoders, held in each half of the work, bytes."""

    def __init__(self, process: int) -> None:
        self._process = psutil.Process(process)
        self._looked = 0.0
        self.halves = [0, 0]

    def look(self, done: float) -> None:
        """Look at the workers, at most once a second."""
        if time.perf_counter() - self._looked < 1:
            return
        self._looked, half = time.perf_counter(), int(done >= 0.5)
        for worker in self._process.children():
            with suppress(psutil.Error):
                held = [each.memory_info().rss for each in [worker, *worker.children()]]
                self.halves[half] = max(self.halves[half], sum(held))


async def two_workers(bootstrap: str, topic: str, count: int) -> tuple[float, list[int]]:
    """Capture with ``pitr capture --workers 2``; seconds, and memory of a worker by half."""
    async with fresh_app(bootstrap, topic) as app:
        command = [
            *(sys.executable, "-m", "pitr", "capture", "--data", str(app.settings.data)),
            *("--bootstrap", bootstrap, "--topics", topic, "--workers", "2"),
            *("--group", str(app.settings.kafka_group)),
        ]
        process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
        memory = Memory(process.pid)
        try:
            return await seconds_of(app, count, memory.look), memory.halves
        finally:
            process.terminate()
            await process.wait()


async def run(changes: int) -> dict[str, Any]:
    """Measure drain and capture on the same topic."""
    watch = Stopwatch()
    sample = Sample(changes, max(changes // 10, 1))
    name = os.environ.get("PITR_BENCH_KAFKA", "tansu")
    with (
        tempfile.TemporaryDirectory(prefix="pitr-bench-") as folder,
        brokers.running(name, Path(folder)) as broker,
    ):
        topic = f"bench-{uuid4().hex[:8]}"
        with watch.step("fill the topic"):
            size = await fill(broker.bootstrap, topic, sample)
        drained = min([await drain(broker.bootstrap, topic, changes) for _ in range(DRAINS)])
        say(f"drain: {rate(changes, drained):,}/s")
        one = await one_worker(broker.bootstrap, topic, changes)
        say(f"one worker: {rate(changes, one):,}/s")
        two, halves = await two_workers(broker.bootstrap, topic, changes)
        say(f"two workers: {rate(changes, two):,}/s")
    return {
        "bench": "capture-kafka",
        "ratio": round(drained / one, 2),
        "must": 0.4,
        "aim": 0.8,
        "broker": f"{broker.name} {broker.version}",
        "changes": changes,
        "bytes": size,
        "partitions": PARTITIONS,
        "drain_per_s": rate(changes, drained),
        "one_worker_per_s": rate(changes, one),
        "two_workers_per_s": rate(changes, two),
        "two_workers_ratio": round(drained / two, 2),
        "worker_bytes_first_half": halves[0],
        "worker_bytes_second_half": halves[1],
    }
