"""Capture from real brokers: every record of every lane, once and in order, whatever goes wrong.

On Tansu each change of a group's members takes five seconds, so what can share one run does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import structlog
from aiokafka import TopicPartition
from aiokafka.admin import NewPartitions, RecordsToDelete

from pitr.adapters.embedded import EmbeddedPostgres
from pitr.adapters.kafka import feed
from pitr.adapters.objects import DirectoryStore
from pitr.app import App, open_app
from pitr.domain.errors import InvalidRequest, NotFound
from pitr.domain.log import LaneState, QuarantineItem
from pitr.services import capture as service
from pitr.services.capture import Capture
from pitr.services.status import LogStatus
from pitr.settings import Settings, load_settings
from tests.conftest import START_US
from tests.kafka import brokers
from tests.kafka.brokers import Broker
from tests.kafka.conftest import TopicFactory
from tests.kafka.test_brokers import START_MS, consuming, need, produce, producing

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 30.0


@pytest.fixture(scope="session")
def capture_url(postgres: EmbeddedPostgres) -> str:
    return asyncio.run(postgres.ensure_database("pitr_capture"))


class Opener:
    """Opens apps on one log; ``await`` nothing twice at once with the same data folder."""

    def __init__(self, broker: Broker, url: str, data: Path) -> None:
        self.broker, self.url, self.data = broker, url, data
        self.log = f"log-{uuid4().hex[:12]}"

    def settings(self, **given: object) -> Settings:
        chosen = {
            "data": self.data,
            "catalog_url": self.url,
            "log": self.log,
            "kafka_bootstrap": self.broker.bootstrap,
        }
        return load_settings(**(chosen | given))

    def __call__(self, **given: object) -> contextlib.AbstractAsyncContextManager[App]:
        return open_app(self.settings(**given))


@pytest.fixture
def opened(broker: Broker, capture_url: str, tmp_path: Path) -> Opener:
    return Opener(broker, capture_url, tmp_path / "data")


def need_quick_groups(broker: Broker) -> None:
    if broker.name == "tansu":
        pytest.skip(f"{broker.name}: many changes of a group, each of five seconds")


@contextlib.asynccontextmanager
async def capturing(app: App) -> AsyncIterator[Capture]:
    """A worker of the app that runs meanwhile, and ends in order within ten seconds."""
    capture, stop = await app.capture(), asyncio.Event()
    running = asyncio.ensure_future(capture.run(stop))
    try:
        yield capture
    finally:
        stop.set()
        await asyncio.wait_for(running, 10)


async def until(
    true: Callable[[], Awaitable[object]], *, wait_s: float = WAIT_S, what: Callable[[], Any] = str
) -> None:
    """Wait until something is so; say what was so instead when that takes too long."""
    try:
        async with asyncio.timeout(wait_s):
            while not await true():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"this did not become true: {what()}")


async def stored(app: App) -> list[dict[str, Any]]:
    """Every change of the log, in its order."""
    view = await app.catalog.view(app.settings.log)
    rows: list[dict[str, Any]] = []
    for segment in view.segments:
        path = await app.store.verified(segment)
        import pyarrow.parquet as pq

        rows += pq.read_table(path).to_pylist()
    return sorted(rows + view.tail.to_pylist(), key=lambda row: row["seq"])


async def until_stored(app: App, count: int, *, wait_s: float = WAIT_S) -> list[dict[str, Any]]:
    found = 0

    async def enough() -> bool:
        nonlocal found
        found = (await app.catalog.log(app.settings.log)).seq_next - 1
        return found >= count

    problems = lambda: f"{found} of {count}; {[c.problems | {'': c.problem} for c in app.captures]}"  # noqa: E731
    await until(enough, wait_s=wait_s, what=problems)
    rows = await stored(app)
    assert len(rows) == count
    return rows


async def lanes(app: App) -> dict[str, LaneState]:
    return {lane.lane: lane for lane in await app.catalog.lanes(app.settings.log)}


async def status(app: App) -> LogStatus:
    return await app.status.status(app.settings.log)


def change(number: int, **more: object) -> bytes:
    """A change of the row ``number``; the record gives collection and time."""
    row = {"key": {"id": number}, "op": "update", "after": {"id": number}}
    return json.dumps(row | more).encode()


def changes(*numbers: int) -> list[bytes]:
    return [change(number) for number in numbers]


def ids(rows: Sequence[dict[str, Any]]) -> list[int]:
    return [json.loads(row["key"])["id"] for row in rows]


def check_once_and_in_order(rows: Sequence[dict[str, Any]]) -> None:
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    for lane in {row["lane"] for row in rows}:
        positions = [row["position"] for row in rows if row["lane"] == lane]
        assert positions == sorted(set(positions))


# What becomes of records ------------------------------------------------------------------------


@dataclass
class Mixed:
    """What one run captured from topics of every kind."""

    topics: dict[str, str]
    opener: Opener
    rows: list[dict[str, Any]]
    quarantine: list[QuarantineItem]
    status: LogStatus
    begun_us: int

    def of(self, topic: str) -> list[dict[str, Any]]:
        return [row for row in self.rows if row["lane"].split(":")[1] == self.topics[topic]]

    def lanes(self, topic: str) -> list[LaneState]:
        return [x for x in self.status.lanes if x.lane.split(":")[1] == self.topics[topic]]


def envelope(op: str, before: object, after: object, **source: object) -> bytes:
    return json.dumps(
        {
            "before": before,
            "after": after,
            "source": {"schema": "shop", "table": "orders", "ts_us": START_US, "txId": 571}
            | source,
            "op": op,
            "ts_ms": START_MS + 5,
        }
    ).encode()


def key(number: int) -> bytes:
    return b'{"id":%d}' % number


HEARTBEAT = b'{"ts_ms":1772357400000}'
MARKER = b'{"status":"BEGIN","id":"571","event_count":null,"data_collections":null,"ts_ms":1}'
HEADERS = [
    ("trace", b"t-1"),
    ("tag", b"a"),
    ("tag", None),
    ("tag", "ü\u0000".encode()),
    ("raw", b"\xff\x00"),
    ("none", None),
    ("empty", b""),
]


async def send_all(broker: Broker, topics: dict[str, str]) -> None:
    async with producing(broker) as out:

        async def send(
            topic: str, value: bytes | None, key: bytes | None = None, **more: Any
        ) -> None:
            await out.send_and_wait(
                topics[topic], value, key, **({"partition": 0, "timestamp_ms": START_MS} | more)
            )

        await send("native", change(1), b"k", headers=HEADERS)
        await send("native", change(2, at="2026-03-01T10:00:00Z", collection="shop.carts"))
        await send("native", change(3, meta={"headers": 1, "n": 1.10}), headers=[("h", b"v")])
        await send("native", change(4), timestamp_ms=START_MS + 7)

        await send("debezium", envelope("c", None, {"id": 1, "v": 1}), key(1))
        await send("debezium", HEARTBEAT, b'{"serverName":"x"}')
        await send("debezium", envelope("u", {"id": 1, "v": 1}, {"id": 1, "v": 2}), key(1))
        await send("debezium", MARKER, b'{"id":"571"}')
        await send("debezium", envelope("d", {"id": 1, "v": 2}, None), key(1), headers=[("h", b"")])
        await send("debezium", None, key(1))
        await send("debezium", HEARTBEAT)

        await send("keyless", envelope("c", None, {"a": 1, "b": "x", "v": 1}, table="lines"))
        await send("strict", change(1), b"k")
        await send("strict", envelope("c", None, {"id": 7}), key(7))

        await send("poison", change(1))
        await send("poison", b'{"key":\xff', b"\x00\x01", headers=HEADERS, partition=0)
        await send("poison", change(2))
        await send("poison", b'{"key":{"id":3},"op":"update"}', b"k-3")
        await send("poison", change(4))
    for codec in broker.codecs:
        options = {} if codec == "none" else {"compression_type": codec}
        async with producing(broker, linger_ms=20, **options) as out:
            for number in range(20):
                value = change(number, reason=codec)
                sent = await out.send(topics["codecs"], value, partition=0, timestamp_ms=START_MS)
            await sent


async def run_mixed(opener: Opener) -> Mixed:
    broker, names = opener.broker, {}
    for name, count in {
        "native": 1,
        "debezium": 1,
        "keyless": 1,
        "strict": 1,
        "poison": 1,
        "codecs": 1,
        "empty": 2,
    }.items():
        names[name] = f"{name}-{uuid4().hex[:8]}"
        await brokers.create_topic(broker.bootstrap, names[name], partitions=count)
    await send_all(broker, names)
    given = {
        "kafka_topics": " , ".join(names.values()),
        "kafka_formats": f"{names['strict']}=debezium, {names['native']}=native",
        "kafka_key_columns": f"{names['keyless']}=a+b",
        "lateness_s": 0.5,
    }
    opener.settings = lambda **more: Opener.settings(opener, **(given | more))  # type: ignore[method-assign]
    async with opener() as app:
        begun_us = app.clock.now_us()
        async with capturing(app):
            rows = await until_stored(app, 4 + 3 + 1 + 1 + 3 + 20 * len(broker.codecs))

            async def complete() -> bool:
                return (await status(app)).watermark_us >= begun_us

            await until(complete)
        found = await app.catalog.quarantine(app.settings.log)
        mixed = Mixed(names, opener, rows, found, await status(app), begun_us)
    for name in names.values():
        await brokers.delete_topic(broker.bootstrap, name)
    return mixed


@pytest.fixture(scope="module")
def mixed(
    broker: Broker, capture_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mixed]:
    yield asyncio.run(run_mixed(Opener(broker, capture_url, tmp_path_factory.mktemp("mixed"))))


def test_every_record_is_stored_once_in_its_lane(mixed: Mixed) -> None:
    check_once_and_in_order(mixed.rows)
    (lane,) = mixed.lanes("native")
    assert [row["position"] for row in mixed.of("native")] == [0, 1, 2, 3]
    assert (lane.position, lane.problem, lane.state["last"]["position"]) == (4, None, 3)


def test_a_native_record_takes_topic_and_time_from_the_record(mixed: Mixed) -> None:
    rows = mixed.of("native")
    topic = mixed.topics["native"]
    assert [row["collection"] for row in rows] == [topic, "shop.carts", topic, topic]
    late_us = START_US + 1_800_000_000
    assert [row["commit_us"] for row in rows] == [START_US, late_us, START_US, START_US + 7_000]


def test_headers_are_kept_in_meta(mixed: Mixed) -> None:
    first, second, third, fourth = [row["meta"] for row in mixed.of("native")]
    assert json.loads(first) == {
        "headers": {
            "trace": "t-1",
            "tag": ["a", None, "ü\u0000"],
            "raw": {"base64": "/wA="},
            "none": None,
            "empty": "",
        }
    }
    assert second is fourth is None
    assert json.loads(third) == {"headers": 1, "n": 1.1, "record_headers": {"h": "v"}}


def test_debezium_changes_are_stored_and_all_else_is_passed_over(mixed: Mixed) -> None:
    rows, (lane,) = mixed.of("debezium"), mixed.lanes("debezium")
    assert [row["op"] for row in rows] == ["create", "update", "delete"]
    assert [row["position"] for row in rows] == [0, 2, 4]
    assert {row["collection"] for row in rows} == {"shop.orders"}
    assert {row["commit_us"] for row in rows} == {START_US}
    assert {row["tx"] for row in rows} == {"571"}
    assert json.loads(rows[2]["meta"])["headers"] == {"h": ""}
    assert lane.position == 7
    assert not [item for item in mixed.quarantine if item.lane == lane.lane]


def test_key_columns_are_those_of_the_topic(mixed: Mixed) -> None:
    (row,) = mixed.of("keyless")
    assert (row["collection"], row["key"]) == ("shop.lines", '{"a":1,"b":"x"}')


def test_the_format_is_that_of_the_topic(mixed: Mixed) -> None:
    (row,) = mixed.of("strict")
    (item,) = [x for x in mixed.quarantine if mixed.topics["strict"] in x.lane]
    assert (row["key"], row["op"]) == ('{"id":7}', "create")
    assert (item.position, item.format, item.code) == (0, "debezium", "missing_field")


def test_all_compressions_are_read(mixed: Mixed, broker: Broker) -> None:
    found = [(row["reason"], json.loads(row["key"])["id"]) for row in mixed.of("codecs")]
    assert found == [(codec, number) for codec in broker.codecs for number in range(20)]


def test_poison_goes_to_quarantine_and_its_neighbours_into_the_log(mixed: Mixed) -> None:
    """Invariant 13: with its bytes, key, headers, lane, position and time."""
    assert ids(mixed.of("poison")) == [1, 2, 4]
    lane = f"kafka:{mixed.topics['poison']}:0"
    first, second = [item for item in mixed.quarantine if item.lane == lane]
    assert (first.position, first.body, first.status) == (1, b'{"key":\xff', "waiting")
    assert first.meta is not None
    assert second.meta is not None
    meta = json.loads(first.meta)
    assert (meta["lane"], meta["position"], meta["time_us"]) == (lane, 1, START_US)
    assert meta["key"] == "\x00\x01"
    assert meta["headers"]["raw"] == {"base64": "/wA="}
    assert meta["headers"]["tag"] == ["a", None, "ü\u0000"]
    assert (second.position, json.loads(second.meta)["key"]) == (3, "k-3")


async def test_poison_can_be_replayed(mixed: Mixed) -> None:
    lane = f"kafka:{mixed.topics['poison']}:0"
    (item,) = [x for x in mixed.quarantine if (x.lane, x.position) == (lane, 3)]
    async with mixed.opener() as app:
        log, appender = app.settings.log, await app.appender(app.settings.log)
        with pytest.raises(InvalidRequest, match="still cannot be read"):
            await app.quarantine.replay(log, item.quarantine_id, appender=appender)
        body = change(3, collection="shop.orders")
        done = await app.quarantine.replay(log, item.quarantine_id, appender=appender, body=body)
        assert done.count == 1
        assert (await app.quarantine.item(log, item.quarantine_id)).status == "replayed"


def test_idle_and_empty_lanes_do_not_hold_the_watermark_back(mixed: Mixed) -> None:
    assert mixed.status.watermark_us >= mixed.begun_us
    assert [(lane.position, lane.at_us < START_US) for lane in mixed.lanes("empty")] == [
        (0, True),
        (0, True),
    ]
    assert all(lane.complete_us is not None for lane in mixed.status.lanes)
    assert all((lane.problem, lane.lag) == (None, 0) for lane in mixed.status.lanes)


# Where it goes on -------------------------------------------------------------------------------


async def test_capture_goes_on_where_the_catalog_says(
    broker: Broker, topic: TopicFactory, opened: Opener
) -> None:
    """Invariant 2: what Kafka's group has committed is of no account."""
    name, group = await topic(), f"g-{uuid4().hex[:8]}"
    partition = TopicPartition(name, 0)
    await produce(broker, partition, *changes(*range(10)))
    async with opened(kafka_topics=name, kafka_group=group) as app:
        async with capturing(app):
            await until_stored(app, 10)
        async with consuming(broker, group_id=group) as consumer:
            consumer.assign([partition])
            assert await consumer.committed(partition) == 10
            if broker.name != "tansu":  # which lets members only
                await consumer.commit({partition: 3})
    await produce(broker, partition, *changes(*range(10, 20)))
    group = group if broker.name != "tansu" else f"{group}-new"
    async with opened(kafka_topics=name, kafka_group=group) as app:
        async with capturing(app) as capture:
            rows = await until_stored(app, 20)
            assert capture.problems == {}
        async with consuming(broker, group_id=group) as consumer:
            consumer.assign([partition])
            assert await consumer.committed(partition) == 20
        assert ids(rows) == list(range(20))
        assert (await status(app)).gaps == ()


async def test_markers_and_aborted_records_are_no_gaps(
    broker: Broker, topic: TopicFactory, opened: Opener
) -> None:
    need(broker, "transactions")
    partition = TopicPartition(await topic(), 0)
    async with opened(kafka_topics=partition.topic, lateness_s=0.1) as app, capturing(app):
        async with producing(broker, transactional_id=uuid4().hex) as out:
            for fate, numbers in (("commit", (1, 2)), ("abort", (3, 4)), ("abort", (5,))):
                await out.begin_transaction()
                for number in numbers:
                    await out.send_and_wait(partition.topic, change(number), partition=0)
                await (out.commit_transaction if fate == "commit" else out.abort_transaction)()
        ended_us = app.clock.now_us()
        lane = f"kafka:{partition.topic}:0"

        async def complete() -> bool:
            found = (await lanes(app)).get(lane)
            return found is not None and found.position == 8 and (found.complete_us or 0) > ended_us

        await until(complete)
        assert ids(await stored(app)) == [1, 2]
        assert (await status(app)).gaps == ()


async def test_an_open_transaction_holds_the_watermark_back(
    broker: Broker, topic: TopicFactory, opened: Opener
) -> None:
    """Invariant 6: its records are older than its end, and they may still come."""
    need(broker, "transactions")
    partition = TopicPartition(await topic(), 0)
    lane = f"kafka:{partition.topic}:0"
    async with opened(kafka_topics=partition.topic, lateness_s=0) as app, capturing(app):
        async with producing(broker, transactional_id=uuid4().hex) as out:
            await out.begin_transaction()
            sent = await out.send_and_wait(partition.topic, change(1), partition=0)

            async def seen() -> bool:
                found = (await lanes(app)).get(lane)
                return found is not None and found.source_end == 1

            await until(seen)
            await asyncio.sleep(2 * service.REPORT_EVERY_S)  # that it does not move takes time
            held = (await lanes(app))[lane]
            assert (held.complete_us or 0) <= sent.timestamp * 1000
            await out.commit_transaction()
        await until_stored(app, 1)


async def test_holes_of_compaction_are_no_gaps(
    broker: Broker, topic: TopicFactory, opened: Opener
) -> None:
    need(broker, "trims")
    if not broker.ours:
        pytest.skip(f"{broker.name}: when it compacts is its own affair")
    config = {
        "cleanup.policy": "compact",
        "segment.ms": "200",
        "min.cleanable.dirty.ratio": "0.01",
    }
    partition = TopicPartition(await topic(config=config), 0)
    await produce(broker, partition, *changes(*range(5)))
    async with consuming(broker) as consumer:
        consumer.assign([partition])
        async with asyncio.timeout(60):
            while True:
                await produce(broker, partition, change(99))
                await consumer.seek_to_beginning(partition)
                if (await consumer.getone()).offset >= 4:
                    break
                await asyncio.sleep(0.3)
    async with opened(kafka_topics=partition.topic) as app:
        for _ in range(2):  # the record that the lane remembers may be gone by the second time
            async with capturing(app):

                async def at_end() -> bool:
                    found = (await lanes(app)).get(f"kafka:{partition.topic}:0")
                    return found is not None and found.lag == 0 and found.position > 4

                await until(at_end)
        check_once_and_in_order(await stored(app))
        found = await status(app)
        assert found.gaps == ()
        assert found.lanes[0].problem is None


async def test_new_topics_and_partitions_are_found(
    broker: Broker, topic: TopicFactory, opened: Opener
) -> None:
    need_quick_groups(broker)
    prefix = f"p{uuid4().hex[:8]}"
    first = await topic(name=f"{prefix}.a")
    other = await topic(name=f"other-{prefix}.a")
    await produce(broker, TopicPartition(first, 0), change(1))
    await produce(broker, TopicPartition(other, 0), change(0))
    async with opened(kafka_pattern=rf"{prefix}\..*") as app, capturing(app):
        await until_stored(app, 1)
        second = await topic(name=f"{prefix}.b")
        await produce(broker, TopicPartition(second, 0), change(2))
        async with brokers.admin(broker.bootstrap) as client:
            made = True
            try:
                await client.create_partitions({first: NewPartitions(2)})
                await produce(broker, TopicPartition(first, 1), change(3))
            except Exception:  # Tansu has no such call
                assert broker.name != "apache"
                made = False
        rows = await until_stored(app, 3 if made else 2)
        assert sorted(ids(rows)) == [1, 2, 3][: len(rows)]
        check_once_and_in_order(rows)


async def test_a_new_lane_can_begin_at_the_end(
    broker: Broker, topic: TopicFactory, opened: Opener
) -> None:
    need(broker, "exact_ends")
    partition = TopicPartition(await topic(), 0)
    await produce(broker, partition, *changes(1, 2, 3))
    given = {"kafka_topics": partition.topic, "kafka_from": "end"}
    async with opened(**given) as app:
        async with capturing(app):

            async def claimed() -> bool:
                return bool(await lanes(app))

            await until(claimed)
            await produce(broker, partition, change(4))
            await until_stored(app, 1)
        await produce(broker, partition, change(5))
        async with capturing(app):  # it is not new any more
            assert ids(await until_stored(app, 2)) == [4, 5]


# Retention, and topics made again ---------------------------------------------------------------


async def test_retention_that_overtakes_is_one_gap(
    broker: Broker, topic: TopicFactory, opened: Opener
) -> None:
    """Invariant 7."""
    need(broker, "trims")
    partition = TopicPartition(await topic(), 0)
    lane = f"kafka:{partition.topic}:0"

    async def send(first: int, end: int) -> None:
        async with producing(broker) as out:
            for number in range(first, end):
                at_ms = START_MS + number * 1000
                await out.send_and_wait(
                    partition.topic, change(number), partition=0, timestamp_ms=at_ms
                )

    await send(0, 4)
    with structlog.testing.capture_logs() as events:
        async with opened(kafka_topics=partition.topic) as app:
            async with capturing(app):
                await until_stored(app, 4)
            await send(4, 10)
            async with brokers.admin(broker.bootstrap) as client:
                await client.delete_records({partition: RecordsToDelete(7)})
            async with capturing(app):
                rows = await until_stored(app, 7)
            async with capturing(app):
                await send(10, 11)
                await until_stored(app, 8)
            (gap,) = (await status(app)).gaps
    assert ids(rows) == [0, 1, 2, 3, 7, 8, 9]
    assert (gap.lane, gap.position_first, gap.position_end, gap.seq_end) == (lane, 4, 7, 5)
    assert (gap.at_min_us, gap.at_max_us) == (START_US + 3_000_000, START_US + 7_000_000)
    (said,) = [event for event in events if event["event"] == "gap"]
    assert (said["log_level"], said["position_first"], said["position_end"]) == ("error", 4, 7)


async def test_retention_that_overtakes_while_capture_runs(
    broker: Broker, topic: TopicFactory, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It warns while retention nears, and says what was lost when it came."""
    need(broker, "trims")
    monkeypatch.setattr(service, "BOUNDS_EVERY_S", 0.2)
    monkeypatch.setattr(service, "REPORT_EVERY_S", 0.1)
    partition = TopicPartition(await topic(config={"retention.ms": "-1"}), 0)
    lane = f"kafka:{partition.topic}:0"
    with structlog.testing.capture_logs() as events:
        async with opened(kafka_topics=partition.topic) as app:
            app.limits = replace(app.limits, capture_rows_max=5)
            async with capturing(app) as capture:
                await produce(broker, partition, *changes(*range(3)))
                await until_stored(app, 3)
                append, room = capture._appender.append, asyncio.Event()

                async def held(batch: Any) -> Any:
                    await room.wait()
                    return await append(batch)

                monkeypatch.setattr(capture._appender, "append", held)
                await produce(broker, partition, *changes(*range(3, 100)))
                async with brokers.admin(broker.bootstrap) as client:
                    await client.delete_records({partition: RecordsToDelete(2)})

                async def warned() -> bool:
                    problem = (await lanes(app))[lane].problem
                    return problem is not None and "are not captured" in problem

                await until(warned, what=lambda: capture.problems)
                async with brokers.admin(broker.bootstrap) as client:
                    await client.delete_records({partition: RecordsToDelete(98)})
                room.set()

                async def at_end() -> bool:
                    return (await lanes(app))[lane].position == 100

                await until(at_end)

                async def well() -> bool:
                    return (await lanes(app))[lane].problem is None

                await until(well)
            rows, gaps = await stored(app), (await status(app)).gaps
    check_once_and_in_order(rows)
    assert ids(rows)[-1] == 99
    # What was fetched before is stored; what was not is in the gap. Nothing is in neither.
    missed = {n for gap in gaps for n in range(gap.position_first or 0, gap.position_end or 0)}
    assert len(gaps) <= 1
    assert sorted(missed | set(ids(rows))) == list(range(100))
    assert not missed & set(ids(rows))
    assert [e["log_level"] for e in events if e["event"] == "retention_nears"] == ["error"]


async def test_a_topic_made_again_halts_its_lane_until_it_is_restarted(
    broker: Broker, topic: TopicFactory, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_quick_groups(broker)
    monkeypatch.setattr(service, "HALTED_RETRY_S", 0.2)
    monkeypatch.setattr(service, "REPORT_EVERY_S", 0.1)
    shorter, longer = await topic(name="shorter"), await topic(name="longer")
    names = {"shorter": f"kafka:{shorter}:0", "longer": f"kafka:{longer}:0"}
    for one in (shorter, longer):
        await produce(broker, TopicPartition(one, 0), *changes(1, 2, 3))
    topics = f"{shorter},{longer}"
    with structlog.testing.capture_logs() as events:
        async with opened(kafka_topics=topics, lateness_s=0.1, kafka_from="end") as app:
            async with opened(kafka_topics=topics) as first, capturing(first):
                await until_stored(first, 6)
            for one, count in ((shorter, 2), (longer, 5)):
                await brokers.delete_topic(broker.bootstrap, one)
                await brokers.create_topic(broker.bootstrap, one)
                await produce(broker, TopicPartition(one, 0), *changes(*range(11, 11 + count)))
            async with capturing(app) as capture:

                async def halted() -> bool:
                    found = await lanes(app)
                    return all("made again" in (found[x].problem or "") for x in names.values())

                await until(halted, what=lambda: capture.problems)
                assert len(await stored(app)) == 6
                found = await lanes(app)
                assert "ends at 2, before position 3" in (found[names["shorter"]].problem or "")
                assert "at position 2 is another" in (found[names["longer"]].problem or "")
                assert capture.problems.keys() == set(names.values())
                for lane in names.values():
                    assert await app.lanes.restart(app.settings.log, lane) == f"{lane}~2"
                    with pytest.raises(NotFound):
                        await app.lanes.restart(app.settings.log, lane)
                rows = await until_stored(app, 6 + 2 + 5)  # from its beginning, whatever is set
                restarted_us = app.clock.now_us()

                async def complete() -> bool:
                    return (await status(app)).watermark_us > restarted_us

                await until(complete, what=lambda: capture.problems)
                after = await status(app)
    new = {lane: [r for r in rows if r["lane"] == f"{lane}~2"] for lane in names.values()}
    assert ids(new[names["shorter"]]) == [11, 12]
    assert ids(new[names["longer"]]) == [11, 12, 13, 14, 15]
    assert sorted((gap.lane, gap.position_first, gap.position_end) for gap in after.gaps) == [
        (lane, 3, None) for lane in sorted(names.values())
    ]
    assert {lane.lane: lane.problem for lane in after.lanes} == dict.fromkeys(
        [*names.values(), *new_names(names.values())]
    )
    said = [event["lane"] for event in events if event["event"] == "lane_halted"]
    assert sorted(said) == sorted(names.values())  # once each, not at every try


def new_names(names: Any) -> list[str]:
    return [f"{name}~2" for name in names]


async def test_a_topic_made_again_while_capture_runs(
    broker: Broker, topic: TopicFactory, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the broker lets a reader wait beyond the end, as Tansu does."""
    monkeypatch.setattr(service, "HALTED_RETRY_S", 0.2)
    monkeypatch.setattr(service, "REPORT_EVERY_S", 0.1)
    partition = TopicPartition(await topic(), 0)
    lane = f"kafka:{partition.topic}:0"
    await produce(broker, partition, *changes(1, 2, 3))
    async with opened(kafka_topics=partition.topic) as app, capturing(app) as capture:
        await until_stored(app, 3)
        await brokers.delete_topic(broker.bootstrap, partition.topic)
        await brokers.create_topic(broker.bootstrap, partition.topic)
        await produce(broker, partition, *changes(11, 12))

        async def halted() -> bool:
            return "made again" in ((await lanes(app))[lane].problem or "")

        await until(halted, what=lambda: capture.problems)
        await app.lanes.restart(app.settings.log, lane)
        assert ids(await until_stored(app, 5)) == [1, 2, 3, 11, 12]


async def test_a_released_lane_is_taken_up_again(
    broker: Broker, topic: TopicFactory, opened: Opener
) -> None:
    need_quick_groups(broker)
    partition = TopicPartition(await topic(), 0)
    lane = f"kafka:{partition.topic}:0"
    await produce(broker, partition, change(1))
    async with opened(kafka_topics=partition.topic) as app:
        async with capturing(app) as capture:
            await until_stored(app, 1)
            await app.lanes.release(app.settings.log, lane)
            await produce(broker, partition, change(2))
            assert ids(await until_stored(app, 2)) == [1, 2]
            assert capture.problems == {}
        await app.lanes.release(app.settings.log, lane)
        found = await status(app)
        assert found.lanes[0].complete_us is None
        assert found.watermark_us == found.now_us
        with pytest.raises(NotFound):
            await app.lanes.release(app.settings.log, "kafka:no:0")


# Many workers -----------------------------------------------------------------------------------


async def test_workers_of_a_group_share_the_lanes(
    broker: Broker, topic: TopicFactory, opened: Opener
) -> None:
    need_quick_groups(broker)
    name = await topic(4)
    sent = 0

    async def send(count: int) -> None:
        nonlocal sent
        async with producing(broker) as out:
            for number in range(sent, sent + count):
                await out.send_and_wait(name, change(number), partition=number % 4)
        sent += count

    async with opened(kafka_topics=name) as app:
        await send(40)
        async with capturing(app) as stays:
            await until_stored(app, 40)
            async with capturing(app) as leaves:
                sending = asyncio.ensure_future(send(200))

                async def shared() -> bool:
                    return len(stays._lanes) == len(leaves._lanes) == 2

                await until(shared)
                await sending
                await send(40)
                await until_stored(app, sent)
                assert leaves.stored
                sending = asyncio.ensure_future(send(200))
            await sending
            rows = await until_stored(app, sent)
            assert len(stays._lanes) == 4
            assert stays.problems == {}
        check_once_and_in_order(rows)
        assert sorted(ids(rows)) == list(range(sent))


async def test_another_group_takes_the_lanes_over(
    broker: Broker, topic: TopicFactory, opened: Opener
) -> None:
    """Invariant 2: the lane is whoever's claimed it last; the other one stores nothing more."""
    need_quick_groups(broker)
    partition = TopicPartition(await topic(), 0)
    lane = f"kafka:{partition.topic}:0"
    await produce(broker, partition, change(1))
    async with (
        opened(kafka_topics=partition.topic, kafka_group="one") as app,
        capturing(app) as one,
    ):
        await until_stored(app, 1)
        again = opened(kafka_topics=partition.topic, kafka_group="two")
        async with again as other, capturing(other) as two:

            async def taken() -> bool:
                return (await lanes(app))[lane].owner == two._owner

            await until(taken)
            for number in range(2, 12):
                await produce(broker, partition, change(number))
            rows = await until_stored(app, 11)

            async def said() -> bool:
                return one.problems == {lane: "another worker captures it"}

            await until(said)
            assert two.problems == {}
            assert (one.stored, two.stored) == (1, 10)
    assert ids(rows) == list(range(1, 12))


# Outages ----------------------------------------------------------------------------------------


async def test_a_broker_that_is_away(
    broker: Broker, topic: TopicFactory, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(broker, "ours")
    monkeypatch.setattr(feed, "SILENT_S", 1.0)
    monkeypatch.setattr(service, "REPORT_EVERY_S", 0.1)
    partition = TopicPartition(await topic(), 0)
    lane = f"kafka:{partition.topic}:0"
    await produce(broker, partition, *changes(1, 2))
    async with opened(kafka_topics=partition.topic) as app, capturing(app) as capture:
        await until_stored(app, 2)
        await asyncio.to_thread(broker.stop if broker.persists else broker.pause)

        async def said() -> bool:
            problem = (await lanes(app))[lane].problem
            return "Kafka does not answer" in (problem or "") and capture.problem is not None

        await until(said, what=lambda: (capture.problem, capture.problems))
        if broker.persists:
            await asyncio.to_thread(broker.start)
        else:
            broker.resume()
        await produce(broker, partition, *changes(3, 4))
        assert ids(await until_stored(app, 4)) == [1, 2, 3, 4]

        async def well() -> bool:
            return (await lanes(app))[lane].problem is None and capture.problem is None

        await until(well, what=lambda: (capture.problem, capture.problems))


async def test_capture_ends_while_the_broker_is_away(
    broker: Broker, topic: TopicFactory, opened: Opener
) -> None:
    need(broker, "persists")
    partition = TopicPartition(await topic(), 0)
    await produce(broker, partition, change(1))
    async with opened(kafka_topics=partition.topic) as app, capturing(app):  # within ten seconds
        await until_stored(app, 1)
        await asyncio.to_thread(broker.stop)


async def test_catalog_and_store_away_and_little_room(
    broker: Broker,
    topic: TopicFactory,
    opened: Opener,
    short_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also: what waits in memory is bounded while nothing can be stored (invariant 14)."""
    partition, data = TopicPartition(await topic(), 0), short_folder / uuid4().hex[:6]
    lane, sent = f"kafka:{partition.topic}:0", 3_000
    async with producing(broker, linger_ms=5) as out:
        for number in range(sent):
            waiting = await out.send(partition.topic, change(number), partition=0)
        await waiting
    monkeypatch.setattr(feed, "POLL_RECORDS_MAX", 50)
    monkeypatch.setattr(service, "REPORT_EVERY_S", 0.1)
    put, away = DirectoryStore.put_new, True

    async def put_new(self: DirectoryStore, *args: Any, **named: Any) -> None:
        if away:
            raise OSError(28, "No space left on device")
        await put(self, *args, **named)

    monkeypatch.setattr(DirectoryStore, "put_new", put_new)
    given = {"data": data, "catalog_url": None, "segment_rows_min": 100}
    async with opened(kafka_topics=partition.topic, **given) as app:
        app.limits = replace(app.limits, capture_rows_max=100, capture_bytes_max=10_000)
        async with capturing(app) as capture:
            most = 0

            async def refused() -> bool:
                nonlocal most
                most = max(most, *(each.queued_rows for each in capture._lanes.values()), 0)
                found = (await lanes(app)).get(lane)
                return found is not None and "No space left" in (found.problem or "")

            await until(refused, what=lambda: capture.problems)
            away = False

            async def begun() -> bool:
                nonlocal most
                most = max(most, *(each.queued_rows for each in capture._lanes.values()), 0)
                return (await app.catalog.log(app.settings.log)).seq_next > 300

            await until(begun, what=lambda: capture.problems)
            assert most <= 2 * 100 + 50
            server = psutil.Process(
                int((data / "postgres/data/postmaster.pid").read_text().split()[0])
            )
            server.kill()
            server.wait(5)

            async def away_said() -> bool:
                return "catalog" in str(capture.problems.get(lane))

            await until(away_said, what=lambda: capture.problems)
            await app.revive_catalog()
            rows = await until_stored(app, sent)
            assert ids(rows) == list(range(sent))

            async def well() -> bool:
                found = (await lanes(app))[lane]
                return (found.problem, found.lag) == (None, 0)

            await until(well, what=lambda: capture.problems)


# Settings and processes -------------------------------------------------------------------------


async def test_a_broker_that_cannot_be_reached_is_said(opened: Opener) -> None:
    nobody = f"127.0.0.1:{brokers.free_port()}"
    async with opened(kafka_topics="t", kafka_bootstrap=nobody) as app, capturing(app) as capture:

        async def said() -> bool:
            return "Kafka does not answer" in str(capture.problem)

        await until(said, what=lambda: capture.problem)


@pytest.mark.parametrize("security", ["SASL_PLAINTEXT", "SSL"])
async def test_a_broker_that_wants_other_security_is_said(
    broker: Broker, opened: Opener, security: str
) -> None:
    if security == "SSL" and broker.name == "tansu":
        pytest.skip("tansu: leaves a TLS client waiting for twenty seconds")
    given = {"kafka_username": "u", "kafka_password": "secret", "kafka_security": security}
    async with opened(kafka_topics="t", **given) as app:
        capture, stop = await app.capture(), asyncio.Event()

        async def refusal() -> str | None:
            try:
                await capture.run(stop)
            except InvalidRequest as error:
                return str(error)
            return None

        async with asyncio.TaskGroup() as group:
            running = group.create_task(refusal())

            async def said() -> bool:
                return running.done() or "Kafka " in str(capture.problem)

            await until(said, what=lambda: capture.problem)
            problem = capture.problem
            stop.set()
        text = running.result() or str(problem)
        assert "Kafka " in text
        assert "secret" not in text


async def test_name_and_password_are_checked(
    broker: Broker, opened: Opener, topic: TopicFactory
) -> None:
    if broker.login_bootstrap is None:
        pytest.skip(f"{broker.name} asks nobody for a password")
    name = await topic(1, name="login")
    await produce(broker, TopicPartition(name, 0), *changes(1, 2))
    login = {
        "kafka_bootstrap": broker.login_bootstrap,
        "kafka_topics": name,
        "kafka_security": "SASL_PLAINTEXT",
        "kafka_username": brokers.USER,
    }
    async with opened(**login, kafka_password=brokers.PASSWORD) as app, capturing(app):
        await until_stored(app, 2)
    async with opened(**login, kafka_password="wrong") as app:
        with pytest.raises(InvalidRequest, match="Authentication"):
            await (await app.capture()).run(asyncio.Event())


def test_a_time_in_other_units_is_no_time() -> None:
    time_us = feed._time_us
    assert time_us(START_MS) == START_US
    assert (time_us(None), time_us(-1)) == (None, None)
    assert (time_us(START_US * 1000), time_us(2**63 - 1)) == (None, None)


async def test_wrong_settings_are_refused_with_a_hint(opened: Opener, tmp_path: Path) -> None:
    for given, hint in (
        ({}, "PITR_KAFKA_TOPICS"),
        ({"kafka_topics": "a", "kafka_pattern": "b"}, "PITR_KAFKA_TOPICS"),
        ({"kafka_pattern": "("}, "shop"),
        ({"kafka_topics": "a", "kafka_formats": "a"}, "PITR_KAFKA_FORMATS"),
        ({"kafka_topics": "a", "kafka_formats": "a=avro"}, "native, debezium, auto"),
        ({"kafka_topics": "a", "kafka_key_columns": "=id"}, "PITR_KAFKA_KEY_COLUMNS"),
    ):
        async with opened(**given) as app:
            with pytest.raises(InvalidRequest) as refused:
                await app.capture()
            assert hint in str(refused.value.hint)
    for given, hint in (
        ({"kafka_security": "SASL_PLAINTEXT"}, "PITR_KAFKA_PASSWORD"),
        ({"kafka_security": "SSL", "kafka_ca_file": tmp_path / "no.pem"}, "PITR_KAFKA_CA_FILE"),
    ):
        async with opened(kafka_topics="t", **given) as app:
            with pytest.raises(InvalidRequest) as refused:
                await (await app.capture()).run(asyncio.Event())
            assert hint in str(refused.value.hint)


def environment(opened: Opener, **more: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PITR_DATA": str(opened.data),
        "PITR_CATALOG_URL": opened.url,
        "PITR_LOG": opened.log,
        "PITR_KAFKA_BOOTSTRAP": opened.broker.bootstrap,
        **more,
    }


async def test_worker_processes_are_started_again_and_end_in_order(
    broker: Broker, topic: TopicFactory, opened: Opener
) -> None:
    name = await topic(2)
    for number in range(2):
        await produce(broker, TopicPartition(name, number), *changes(number))
    command = [sys.executable, "-m", "pitr", "capture", "--topics", name, "--workers", "2"]
    main = subprocess.Popen(
        command,
        env=environment(opened, PITR_KAFKA_SESSION_S="2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        async with opened() as app:
            await app.ensure_log(opened.log)
            await until_stored(app, 2)
            workers = [p for p in psutil.Process(main.pid).children() if "--worker" in p.cmdline()]
            assert len(workers) == 2
            workers[0].kill()
            for number in range(2):
                await produce(broker, TopicPartition(name, number), *changes(number + 2))
            rows = await until_stored(app, 4)
            check_once_and_in_order(rows)

            async def two() -> bool:
                found = psutil.Process(main.pid).children()
                alive = [p.pid for p in found if p.status() != psutil.STATUS_ZOMBIE]
                return len(alive) == 2 and workers[0].pid not in alive

            await until(two)
            workers = psutil.Process(main.pid).children()
        main.send_signal(signal.SIGTERM)
        said, _ = await asyncio.to_thread(main.communicate, timeout=60)
    finally:
        main.kill()
        main.communicate()
    assert main.returncode == 0, said.decode()
    assert b"Traceback" not in said, said.decode()
    assert not [one for one in workers if one.is_running()]


async def test_the_command_ends_within_seconds(
    broker: Broker, topic: TopicFactory, opened: Opener
) -> None:
    need(broker, "persists")  # the workers above have told all of it on the others
    name = await topic()
    await produce(broker, TopicPartition(name, 0), *changes(1))
    command = [sys.executable, "-m", "pitr", "capture", "--topics", name]
    main = subprocess.Popen(
        command, env=environment(opened), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        async with opened() as app:
            await app.ensure_log(opened.log)
            await until_stored(app, 1)
        main.send_signal(signal.SIGTERM)
        said, _ = await asyncio.to_thread(main.communicate, timeout=5)
    finally:
        main.kill()
        main.communicate()
    assert main.returncode == 0, said.decode()
    assert b"Traceback" not in said, said.decode()


async def test_the_command_says_what_is_wrong(opened: Opener) -> None:
    command = [sys.executable, "-m", "pitr", "capture", "--topics", "t"]
    wrong = environment(opened, PITR_KAFKA_SECURITY="SASL_PLAINTEXT")
    done = await asyncio.to_thread(
        subprocess.run, command, env=wrong, capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert "PITR_KAFKA_PASSWORD" in done.stderr
    assert "Traceback" not in done.stderr
