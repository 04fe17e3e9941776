"""The brokers themselves: what the other Kafka tests stand on holds on each of them.

Where a broker does less than Apache Kafka, the test of that is skipped on it, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from tests.conftest import START_US
from tests.kafka import brokers
from tests.kafka.brokers import Broker
from tests.kafka.conftest import TopicFactory

START_MS = START_US // 1_000
ROOT = Path(__file__).resolve().parents[2]


def need(broker: Broker, flag: str) -> None:
    if not getattr(broker, flag):
        pytest.skip(f"{broker.name} {broker.version}: {flag} is false")


@contextlib.asynccontextmanager
async def producing(broker: Broker, **options: object) -> AsyncIterator[Any]:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, **options)
    await producer.start()
    try:
        yield producer
    finally:
        await producer.stop()


@contextlib.asynccontextmanager
async def consuming(broker: Broker, *topics: str, **options: object) -> AsyncIterator[Any]:
    chosen = {"enable_auto_commit": False, "auto_offset_reset": "earliest", **options}
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=broker.bootstrap, **chosen)
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def produce(broker: Broker, partition: TopicPartition, *values: bytes | None) -> None:
    async with producing(broker) as producer:
        for value in values:
            await producer.send_and_wait(
                partition.topic, value, key=b"k", partition=partition.partition
            )


async def read(consumer: Any, count: int) -> list[Any]:
    records: list[Any] = []
    async with asyncio.timeout(30):
        while len(records) < count:
            for some in (await consumer.getmany(timeout_ms=200)).values():
                records += some
    return records


async def everything(broker: Broker, partition: TopicPartition, **options: object) -> list[Any]:
    """All records from the log's start to the high watermark of a fetch."""
    async with consuming(broker, **options) as consumer:
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        records: list[Any] = []
        async with asyncio.timeout(30):
            while consumer.highwater(partition) != await consumer.position(partition):
                for some in (await consumer.getmany(timeout_ms=100)).values():
                    records += some
        return records


async def test_a_broker_can_do_what_its_flags_say(broker: Broker) -> None:
    found = await brokers.probe(broker.bootstrap)
    assert replace(broker, **found) == broker


@pytest.mark.parametrize("codec", brokers.CODECS)
async def test_a_thousand_records_come_back(
    broker: Broker, topic: TopicFactory, codec: str
) -> None:
    if codec not in broker.codecs:
        pytest.skip(f"{broker.name} {broker.version} does not take {codec}")
    name = await topic()
    sent = [
        (
            None if n % 7 == 1 else f"key {n}".encode(),
            None if n % 7 == 3 else f"value {n}".encode() * (n % 13),
            (("n", str(n).encode()), ("empty", b""), ("none", None))[: n % 4],
            START_MS + n,
        )
        for n in range(1_000)
    ]
    options = {} if codec == "none" else {"compression_type": codec}
    async with producing(broker, linger_ms=5, **options) as producer:
        waiting = [
            await producer.send(name, value, key, 0, timestamp_ms=at, headers=list(headers))
            for key, value, headers, at in sent
        ]
        acknowledged = [await one for one in waiting]
    assert [one.offset for one in acknowledged] == list(range(1_000))
    got = await everything(broker, TopicPartition(name, 0))
    assert [record.offset for record in got] == list(range(1_000))
    assert [(r.key, r.value, r.headers, r.timestamp) for r in got] == sent
    assert {record.timestamp_type for record in got} == {0}


async def test_a_reader_goes_where_it_wants(broker: Broker, topic: TopicFactory) -> None:
    name = await topic(2)
    partition, other = TopicPartition(name, 0), TopicPartition(name, 1)
    async with producing(broker, linger_ms=50) as producer:  # few batches of many records
        for n in range(100):
            await producer.send(partition.topic, b"%d" % n, partition=0)
    async with consuming(broker) as consumer:
        if broker.exact_ends:
            ends = await consumer.end_offsets([partition, other])
            assert ends == {partition: 100, other: 0}
        begins = await consumer.beginning_offsets([partition, other])
        assert begins == {partition: 0, other: 0}
        consumer.assign([partition, other])
        for offset in (57, 3, 99):
            consumer.seek(partition, offset)
            first = await consumer.getone(partition)
            assert (first.offset, first.value) == (offset, b"%d" % offset)
        assert await consumer.position(partition) == 100
        assert consumer.highwater(partition) == 100
        await consumer.seek_to_beginning(partition)
        assert len(await read(consumer, 100)) == 100


async def test_a_waiting_reader_gets_a_record_at_once(broker: Broker, topic: TopicFactory) -> None:
    need(broker, "wakes_readers")
    name = await topic()
    async with consuming(broker, fetch_max_wait_ms=20_000) as consumer, producing(broker) as out:
        consumer.assign([TopicPartition(name, 0)])
        waiting = asyncio.ensure_future(consumer.getone())
        await asyncio.sleep(0.5)
        await out.send_and_wait(name, b"late", partition=0)
        assert (await asyncio.wait_for(waiting, 5)).value == b"late"


async def test_offsets_are_found_by_time(broker: Broker, topic: TopicFactory) -> None:
    need(broker, "record_times")
    partition = TopicPartition(await topic(), 0)
    async with producing(broker) as producer:
        for at_ms in (START_MS, START_MS + 10, START_MS + 5, START_MS + 20):
            await producer.send_and_wait(partition.topic, b"x", partition=0, timestamp_ms=at_ms)
    async with consuming(broker) as consumer:
        found = {}
        for at_ms in (0, 1, 6, 10, 11, 20, 21):
            answer = await consumer.offsets_for_times({partition: START_MS + at_ms})
            found[at_ms] = answer[partition] and answer[partition].offset
    assert found == {0: 0, 1: 1, 6: 1, 10: 1, 11: 3, 20: 3, 21: None}


async def test_an_offset_beyond_the_end_is_refused(broker: Broker, topic: TopicFactory) -> None:
    need(broker, "out_of_range")
    partition = TopicPartition(await topic(), 0)
    await produce(broker, partition, b"one")
    async with consuming(broker, auto_offset_reset="none") as consumer:
        consumer.assign([partition])
        consumer.seek(partition, 2)
        with pytest.raises(OffsetOutOfRangeError):
            await asyncio.wait_for(consumer.getone(), 10)


async def test_a_group_shares_partitions_and_offsets(broker: Broker, topic: TopicFactory) -> None:
    """Tansu takes five seconds for each change of a group's members."""
    name, group = await topic(4), f"g-{uuid4().hex[:12]}"
    partitions = {TopicPartition(name, number) for number in range(4)}
    options = {"group_id": group, "heartbeat_interval_ms": 300, "session_timeout_ms": 10_000}

    async def until_held(consumers: list[Any], count: int) -> None:
        async with asyncio.timeout(40):
            while {len(one.assignment()) for one in consumers} != {count}:
                await asyncio.gather(*(one.getmany(timeout_ms=100) for one in consumers))

    for partition in partitions:
        await produce(broker, partition, b"0", b"1", b"2")
    async with consuming(broker, name, **options) as stays:
        await until_held([stays], 4)
        async with consuming(broker, name, **options) as leaves:
            await until_held([stays, leaves], 2)
            assert stays.assignment() | leaves.assignment() == partitions
            left, others = sorted(leaves.assignment()), sorted(stays.assignment())
            await leaves.commit({left[0]: 1, left[1]: 3})
        await until_held([stays], 4)
        # Whoever takes a partition over goes on behind what was committed.
        assert [await stays.committed(one) for one in left + others] == [1, 3, None, None]
        assert await stays.position(left[1]) == 3


async def test_an_idempotent_producer(broker: Broker, topic: TopicFactory) -> None:
    need(broker, "idempotent")
    partition = TopicPartition(await topic(), 0)
    async with producing(broker, enable_idempotence=True) as producer:
        for n in range(50):
            await producer.send(partition.topic, b"%d" % n, partition=0)
    got = await everything(broker, partition)
    assert [record.value for record in got] == [b"%d" % n for n in range(50)]


async def test_markers_of_transactions_are_holes(broker: Broker, topic: TopicFactory) -> None:
    need(broker, "transactions")
    partition = TopicPartition(await topic(), 0)
    async with producing(broker, transactional_id=uuid4().hex) as producer:
        for fate, values in (("commit", "ab"), ("abort", "cd"), ("commit", "e")):
            await producer.begin_transaction()
            for value in values:
                await producer.send_and_wait(partition.topic, value.encode(), partition=0)
            await (
                producer.commit_transaction if fate == "commit" else producer.abort_transaction
            )()
    committed = await everything(broker, partition, isolation_level="read_committed")
    assert [(r.offset, r.value) for r in committed] == [(0, b"a"), (1, b"b"), (6, b"e")]
    uncommitted = await everything(broker, partition)
    assert [record.offset for record in uncommitted] == [0, 1, 3, 4, 6]
    async with consuming(broker) as consumer:
        assert (await consumer.end_offsets([partition]))[partition] == 8


async def test_an_open_transaction_holds_the_end_back(broker: Broker, topic: TopicFactory) -> None:
    need(broker, "transactions")
    partition = TopicPartition(await topic(), 0)
    await produce(broker, partition, b"before")
    async with producing(broker, transactional_id=uuid4().hex) as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(partition.topic, b"open", partition=0)
        await produce(broker, partition, b"after")
        async with consuming(broker, isolation_level="read_committed") as consumer:
            consumer.assign([partition])
            assert (await consumer.end_offsets([partition]))[partition] == 1
            assert [record.value for record in await read(consumer, 1)] == [b"before"]
            await producer.commit_transaction()
            assert [record.value for record in await read(consumer, 2)] == [b"open", b"after"]


async def test_a_topic_made_again_begins_at_nothing(broker: Broker, topic: TopicFactory) -> None:
    partition = TopicPartition(await topic(), 0)
    await produce(broker, partition, b"old", b"old", b"old")
    await brokers.delete_topic(broker.bootstrap, partition.topic)
    await brokers.create_topic(broker.bootstrap, partition.topic, partitions=1)
    await produce(broker, partition, b"new")
    got = await everything(broker, partition)
    assert [(record.offset, record.value) for record in got] == [(0, b"new")]


async def test_a_topic_that_is_there_is_not_made_twice(broker: Broker, topic: TopicFactory) -> None:
    name = await topic()
    with pytest.raises(KafkaError, match="already exists"):
        await brokers.create_topic(broker.bootstrap, name)


async def test_deleted_records_move_the_start(broker: Broker, topic: TopicFactory) -> None:
    need(broker, "trims")
    partition = TopicPartition(await topic(), 0)
    await produce(broker, partition, *(b"%d" % n for n in range(5)))
    async with brokers.admin(broker.bootstrap) as client:
        assert await client.delete_records({partition: RecordsToDelete(3)}) == {partition: 3}
    async with consuming(broker, auto_offset_reset="none") as consumer:
        assert await consumer.beginning_offsets([partition]) == {partition: 3}
        consumer.assign([partition])
        consumer.seek(partition, 0)
        with pytest.raises(OffsetOutOfRangeError):
            await asyncio.wait_for(consumer.getone(), 10)
    assert [record.offset for record in await everything(broker, partition)] == [3, 4]


async def test_old_records_stay_unless_a_topic_says_otherwise(
    broker: Broker, topic: TopicFactory
) -> None:
    need(broker, "trims")
    if not broker.ours:
        pytest.skip(f"{broker.name}: when it looks for old records is its own affair")
    keeps = TopicPartition(await topic(), 0)
    drops = TopicPartition(await topic(config={"retention.ms": "60000"}), 0)
    async with producing(broker) as producer, consuming(broker) as consumer:
        for one in (keeps, drops):
            await producer.send_and_wait(one.topic, b"old", partition=0, timestamp_ms=START_MS)
        async with asyncio.timeout(30):
            while (await consumer.beginning_offsets([drops]))[drops] == 0:
                await asyncio.sleep(0.2)
        assert await consumer.beginning_offsets([keeps]) == {keeps: 0}


async def test_compaction_leaves_holes(broker: Broker, topic: TopicFactory) -> None:
    need(broker, "trims")
    if not broker.ours:
        pytest.skip(f"{broker.name}: when it compacts is its own affair")
    config = {
        "cleanup.policy": "compact",
        "segment.ms": "200",
        "min.cleanable.dirty.ratio": "0.01",
    }
    partition = TopicPartition(await topic(config=config), 0)
    await produce(broker, partition, *(b"%d" % n for n in range(5)))
    async with asyncio.timeout(60):
        while len(got := await everything(broker, partition)) > 2:
            await produce(broker, partition, b"last")  # the newest segment is never compacted
            await asyncio.sleep(0.5)
    assert got[0].offset >= 4


async def test_it_comes_back_on_the_same_port(broker: Broker, topic: TopicFactory) -> None:
    need(broker, "ours")
    partition = TopicPartition(await topic(), 0)
    for end in (broker.stop, broker.kill):
        await produce(broker, partition, b"before")
        await asyncio.to_thread(end)
        with pytest.raises(KafkaError):
            await produce(broker, partition, b"lost")
        await asyncio.to_thread(broker.start)
        if not broker.persists:
            assert partition.topic not in await topics(broker)
            await brokers.create_topic(broker.bootstrap, partition.topic)
    await produce(broker, partition, b"after")
    values = [record.value for record in await everything(broker, partition)]
    assert values == [b"before", b"before", b"after"][0 if broker.persists else 2 :]


async def topics(broker: Broker) -> list[str]:
    async with brokers.admin(broker.bootstrap) as client:
        names: list[str] = await client.list_topics()
        return names


async def test_a_paused_broker_answers_later(broker: Broker, topic: TopicFactory) -> None:
    need(broker, "ours")
    name = await topic()
    async with producing(broker) as producer:
        broker.pause()
        sent = asyncio.ensure_future(producer.send_and_wait(name, b"slow", partition=0))
        done, _ = await asyncio.wait({sent}, timeout=0.5)
        assert not done
        broker.resume()
        assert (await asyncio.wait_for(sent, 20)).offset == 0


STARTER = """
import sys
from pathlib import Path
from tests.kafka import brokers

with brokers.tansu(Path(sys.argv[1])) as broker:
    print(broker.server.pid, flush=True)
    sys.stdin.read()
"""


def test_a_broker_ends_with_whoever_started_it(tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert starter.stdout is not None
    server = psutil.Process(int(starter.stdout.readline()))
    assert server.name().startswith("tansu")
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    server.wait(10)
