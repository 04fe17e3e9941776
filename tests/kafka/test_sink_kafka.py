"""The contract of ``Sink`` on topics: exact, all or nothing, and never over what was there."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.partitioner import DefaultPartitioner

from pitr.adapters.kafka import KafkaConfig
from pitr.adapters.sinks import sink_for
from pitr.adapters.sinks.kafka import KafkaSink
from pitr.adapters.sinks.kafka_keys import HeldKeys, is_ours, key_head
from pitr.adapters.sinks.kafka_place import parse_place
from pitr.domain.errors import Conflict, DataLoss, InvalidRequest, SinkNotEmpty, Unavailable
from pitr.domain.outlook import Outline
from pitr.domain.ports import RestorableState, SinkReport
from pitr.domain.records import Reading, Records, decode_records
from tests.fakes import FakeState
from tests.kafka import brokers
from tests.kafka.brokers import Broker
from tests.kafka.conftest import TopicFactory

ROWS = [
    ('{"id":1}', '{"id":1,"v":340282366920938463463374607431768211456}'),
    ('{"id":2}', '{"id":2,"v":1234567890123456789012345678901234567.890}'),
    ('{"id":3}', '{ "v" : [ 1 ,\t2 ],\n "id":3,"e":1E+400 }'),
    ('{"id":"é😀","shop":"x,y"}', '{"v":"é 漢 𝄞 😀 \\ud83d\\ude00 \\u0000 \\u2028 \u2028"}'),
    ('{"id":1.10}', '{"id":1.10,"v":null,"w":""}'),
]
STATE = {'a"b/c': ROWS, "shop.orders": [*ROWS, ('{"id":9}', "{}")], "shop.empty": []}
PLAIN = "transaction=false&idempotent=false"


def ignore(_rows: int) -> None:
    """Nobody watches the progress."""


def config_of(bootstrap: str | None) -> KafkaConfig:
    return KafkaConfig(bootstrap=bootstrap or "nowhere:1")


def url(broker: Broker, topic: str, *parameters: str) -> str:
    """A URL that this broker can serve."""
    given = [*parameters, *([] if broker.transactions else [PLAIN])]
    return f"kafka://{broker.bootstrap}/{topic}?{'&'.join(given)}".removesuffix("?")


async def write(state: RestorableState, into: str, *, force: bool = False) -> SinkReport:
    sink = sink_for(into, force=force, kafka=config_of)
    return await sink.write(state, progress=ignore)


def fresh(name: str = "restored") -> str:
    return f"{name}-{uuid4().hex[:12]}"


async def topics(broker: Broker) -> set[str]:
    async with brokers.admin(broker.bootstrap) as admin:
        return set(await admin.list_topics())


async def consumed(
    broker: Broker, topic: str, count: int, *, committed: bool = True
) -> dict[int, list[Any]]:
    """Read ``count`` records by partition, and whatever else comes within half a second."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker.bootstrap,
        isolation_level="read_committed" if committed else "read_uncommitted",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    found: dict[int, list[Any]] = {}
    try:
        async with brokers.admin(broker.bootstrap) as admin:
            (about,) = await admin.describe_topics([topic])
        places = [TopicPartition(topic, one["partition"]) for one in about["partitions"]]
        consumer.assign(places)
        async with asyncio.timeout(30):
            quiet = False
            while not quiet or sum(map(len, found.values())) < count:
                got = await consumer.getmany(*places, timeout_ms=500)
                quiet = not got
                for place, records in got.items():
                    found.setdefault(place.partition, []).extend(records)
    finally:
        await consumer.stop()
    return found


async def pairs(broker: Broker, topic: str, count: int) -> list[tuple[bytes, bytes | None]]:
    found = await consumed(broker, topic, count)
    return [(record.key, record.value) for records in found.values() for record in records]


async def publish(
    broker: Broker, topic: str, records: Sequence[tuple[bytes | None, bytes | None]], **to: Any
) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    await producer.start()
    try:
        for key, value in records:
            await producer.send_and_wait(topic, value, key=key, **to)
    finally:
        await producer.stop()


def shared_key(collection: str, key: str) -> bytes:
    return f"{key_head(collection)}{key}}}".encode()


# What is published ------------------------------------------------------------------------------


async def test_rows_come_back_byte_for_byte_and_are_captured_as_the_same_state(
    broker: Broker,
) -> None:
    topic = fresh()
    counted: list[int] = []
    sink = sink_for(url(broker, topic), kafka=config_of)
    report = await sink.write(FakeState(STATE), progress=counted.append)
    assert dict(report.rows) == {name: len(rows) for name, rows in STATE.items()}
    assert sum(counted) == 11
    assert report.where == f"kafka://{broker.bootstrap}/{topic}"
    assert any(note.startswith(f"{topic}: made, compacted") for note in report.notes)

    found = await pairs(broker, topic, 11)
    expected = {
        shared_key(name, key): (name, key, document)
        for name, rows in STATE.items()
        for key, document in rows
    }
    assert len(found) == len(expected) == 11
    for key, value in found:
        name, row_key, document = expected[key]
        assert value == (
            f'{{"collection":{orjson.dumps(name).decode()},"key":{row_key},'
            f'"op":"read","after":{document}}}'.encode()
        )
        assert orjson.loads(key)["collection"] == name
    records = Records(
        lane=f"kafka:{topic}:0",
        position_first=0,
        position_end=len(found),
        positions=list(range(len(found))),
        values=[value for _, value in found],
        keys=[key for key, _ in found],
        times_us=[1] * len(found),
    )
    decoded = decode_records(records, Reading(collection=topic))
    assert decoded.quarantined == ()
    changes = decoded.changes.select(["collection", "key", "op", "after"]).to_pylist()
    assert {(one["collection"], one["key"], one["after"]) for one in changes} == set(
        expected.values()
    )
    assert {one["op"] for one in changes} == {"read"}


async def test_the_topic_is_made_compacted_and_records_lie_where_clients_look(
    broker: Broker,
) -> None:
    topic = fresh()
    rows = [(f'{{"id":{n}}}', f'{{"n":{n}}}') for n in range(300)]
    await write(FakeState({"c": rows}, batch_rows=70), url(broker, topic, "partitions=3"))
    found = await consumed(broker, topic, 300)
    assert set(found) == {0, 1, 2}
    choose = DefaultPartitioner()
    for partition, records in found.items():
        assert {choose(one.key, [0, 1, 2], [0, 1, 2]) for one in records} == {partition}
    async with brokers.admin(broker.bootstrap) as admin:
        from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

        wanted = [ConfigResource(ConfigResourceType.TOPIC, topic)]
        (answer,) = await admin.describe_configs(wanted)
    assert ("cleanup.policy", "compact") in [e[:2] for r in answer.resources for e in r[4]]


async def test_each_collection_has_its_own_topic_where_asked(broker: Broker) -> None:
    mark = uuid4().hex[:8]
    state = FakeState({f"shop.a{mark}": ROWS, f"shop.b{mark}": ROWS[:2], f"shop.c{mark}": []})
    report = await write(state, url(broker, "r-{collection}"))
    assert dict(report.rows) == {f"shop.a{mark}": 5, f"shop.b{mark}": 2, f"shop.c{mark}": 0}
    assert {f"r-shop.{one}{mark}" for one in "abc"} <= await topics(broker)
    found = await pairs(broker, f"r-shop.a{mark}", 5)
    assert {key.decode() for key, _ in found} == {key for key, _ in ROWS}
    assert await pairs(broker, f"r-shop.c{mark}", 0) == []


async def test_a_name_that_makes_no_topic_is_refused_before_anything_is_made(
    broker: Broker,
) -> None:
    before = await topics(broker)
    with pytest.raises(InvalidRequest, match="makes no name") as raised:
        await write(FakeState(STATE), url(broker, "r-{collection}"))
    assert raised.value.facts["collection"] == 'a"b/c'
    assert await topics(broker) == before


async def test_many_rows_fill_many_batches(broker: Broker) -> None:
    topic = fresh()
    rows = [(f'{{"id":{n}}}', f'{{"n":{n},"t":"{n:0>200}"}}') for n in range(20_000)]
    report = await write(
        FakeState({"c": rows}, batch_rows=5_000), url(broker, topic, "partitions=2")
    )
    assert report.rows["c"] == 20_000
    found = dict(await pairs(broker, topic, 20_000))
    assert len(found) == 20_000
    assert found[shared_key("c", '{"id":19999}')].endswith(b'9"}}')  # type: ignore[union-attr]


async def test_rows_larger_than_a_batch_fit_if_the_topic_lets_them(
    broker: Broker, topic: TopicFactory
) -> None:
    name = await topic(config={"max.message.bytes": "9000000"})
    big = f'{{"v":"{uuid4().hex * 60_000}"}}'
    rows = [('{"id":1}', "{}"), ('{"id":2}', big), ('{"id":3}', "{}")]
    await write(FakeState({"c": rows}), url(broker, name))
    found = dict(await pairs(broker, name, 3))
    assert found[shared_key("c", '{"id":2}')] == (
        b'{"collection":"c","key":{"id":2},"op":"read","after":' + big.encode() + b"}"
    )


async def test_a_row_that_the_topic_does_not_take_is_named(broker: Broker) -> None:
    if broker.name == "tansu":
        pytest.skip("Tansu takes records of any size")
    topic = fresh()
    noise = "".join(uuid4().hex for _ in range(100_000))
    rows = [('{"id":1}', "{}"), ('{"id":2}', f'{{"v":"{noise}"}}')]
    with pytest.raises(InvalidRequest, match="no record that large") as raised:
        await write(FakeState({"c": rows}), url(broker, topic))
    assert raised.value.facts["key"] == '{"collection":"c","key":{"id":2}}'
    assert topic not in await topics(broker)


# All or nothing ---------------------------------------------------------------------------------


async def test_a_topic_that_we_made_is_gone_after_a_failure(broker: Broker) -> None:
    topic = fresh()
    with pytest.raises(DataLoss):
        await write(FakeState({"c": ROWS}, fail_after=3), url(broker, topic))
    assert topic not in await topics(broker)


async def test_a_restore_that_is_given_up_leaves_nothing(broker: Broker) -> None:
    topic = fresh()
    loop = asyncio.get_running_loop()

    class GivenUp(FakeState):
        def rows(self, collection: str, *, documents_only: bool = False) -> Any:
            yield from super().rows(collection)
            loop.call_soon_threadsafe(writing.cancel)
            while not writing.cancelling():  # or all may be written before the loop comes to it
                time.sleep(0.001)
            yield from FakeState({"c": rows}).rows("c")

    rows = [(f'{{"id":{n}}}', f'{{"t":"{uuid4().hex * 3000}"}}') for n in range(60)]
    writing = asyncio.ensure_future(write(GivenUp({"c": rows}), url(broker, topic)))
    await asyncio.wait([writing])
    assert writing.cancelled()
    assert topic not in await topics(broker)


async def test_a_restore_is_given_up_also_where_the_client_keeps_that_to_itself(
    broker: Broker, topic: TopicFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = await topic()
    stop, stopped = AIOKafkaConsumer.stop, []

    async def cancelled_meanwhile(consumer: AIOKafkaConsumer) -> None:
        if not stopped:  # the one that looked for records in the topic
            asyncio.get_running_loop().call_soon(writing.cancel)
        await stop(consumer)
        stopped.append(writing.cancelling())

    with monkeypatch.context() as patch:
        patch.setattr(AIOKafkaConsumer, "stop", cancelled_meanwhile)
        writing = asyncio.ensure_future(write(FakeState({"c": ROWS}), url(broker, name)))
        await asyncio.wait([writing])
    assert stopped and stopped[0] == 1, "the client passes cancellations on by now"
    assert writing.cancelled()
    assert await pairs(broker, name, 0) == []


async def test_a_restore_that_is_given_up_before_its_transaction_leaves_nothing(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not broker.transactions:
        pytest.skip(f"NOT TESTED ON {broker.name.upper()}: it has no transactions")
    topic, begin = fresh(), AIOKafkaProducer.begin_transaction

    async def cancelled_meanwhile(producer: AIOKafkaProducer) -> None:
        writing.cancel()
        await begin(producer)

    monkeypatch.setattr(AIOKafkaProducer, "begin_transaction", cancelled_meanwhile)
    writing = asyncio.ensure_future(write(FakeState({"c": ROWS}), url(broker, topic)))
    await asyncio.wait([writing])
    assert writing.cancelled()
    assert topic not in await topics(broker)


async def test_a_failure_leaves_nothing_that_readers_see_and_no_hindrance(
    broker: Broker, topic: TopicFactory
) -> None:
    if not broker.transactions:
        pytest.skip(f"NOT TESTED ON {broker.name.upper()}: it has no transactions")
    name = await topic()
    rows = [(f'{{"id":{n}}}', f'{{"t":"{uuid4().hex * 3000}"}}') for n in range(60)]
    with pytest.raises(DataLoss):
        await write(FakeState({"c": rows}, fail_after=50), url(broker, name))
    assert sum(map(len, (await consumed(broker, name, 1, committed=False)).values())) > 0
    assert await pairs(broker, name, 0) == []
    await write(FakeState({"c": ROWS}), url(broker, name))  # what was aborted is nothing
    assert len(await pairs(broker, name, 5)) == 5


async def test_nobody_sees_rows_before_all_are_there(broker: Broker, topic: TopicFactory) -> None:
    if not broker.transactions:
        pytest.skip(f"NOT TESTED ON {broker.name.upper()}: it has no transactions")
    name = await topic()
    seen: list[int] = []
    loop = asyncio.get_running_loop()

    class Watched(FakeState):
        def rows(self, collection: str, *, documents_only: bool = False) -> Any:
            yield from super().rows(collection)
            looking = asyncio.run_coroutine_threadsafe(consumed(broker, name, 0), loop)
            seen.append(len(looking.result(20)))

    rows = [(f'{{"id":{n}}}', f'{{"t":"{uuid4().hex * 3000}"}}') for n in range(60)]
    await write(Watched({"c": rows}), url(broker, name))
    assert seen == [0]
    assert len(await pairs(broker, name, 60)) == 60


async def test_a_second_restore_undoes_the_first_that_is_under_way(
    broker: Broker, topic: TopicFactory
) -> None:
    if not broker.transactions:
        pytest.skip(f"NOT TESTED ON {broker.name.upper()}: it has no transactions")
    name = await topic()
    loop = asyncio.get_running_loop()

    class Overtaken(FakeState):
        def rows(self, collection: str, *, documents_only: bool = False) -> Any:
            yield from super().rows(collection)
            second = write(FakeState({"c": ROWS}), url(broker, name))
            asyncio.run_coroutine_threadsafe(second, loop).result(30)

    rows = [(f'{{"id":{n}}}', f'{{"t":"{uuid4().hex * 3000}"}}') for n in range(60)]
    with pytest.raises(Conflict, match="took over"):
        await write(Overtaken({"b": rows}), url(broker, name))
    found = await pairs(broker, name, 5)
    assert {orjson.loads(key)["collection"] for key, _ in found} == {"c"}


@pytest.mark.slow
async def test_a_transaction_that_took_too_long_is_undone_and_says_so(broker: Broker) -> None:
    if not broker.transactions:
        pytest.skip(f"NOT TESTED ON {broker.name.upper()}: it has no transactions")
    topic = fresh()
    loop = asyncio.get_running_loop()

    class Slow(FakeState):
        def rows(self, collection: str, *, documents_only: bool = False) -> Any:
            yield from super().rows(collection)
            asyncio.run_coroutine_threadsafe(asyncio.sleep(14), loop).result()

    rows = [(f'{{"id":{n}}}', f'{{"t":"{uuid4().hex * 3000}"}}') for n in range(30)]
    with pytest.raises(Unavailable, match="longer than the broker allows") as raised:
        await write(Slow({"c": rows}), url(broker, topic, "transaction_timeout_s=1"))
    assert "transaction_timeout_s" in str(raised.value.hint)
    assert topic not in await topics(broker)


async def test_without_a_transaction_what_is_left_is_said(
    broker: Broker, topic: TopicFactory
) -> None:
    name = await topic()
    rows = [(f'{{"id":{n}}}', f'{{"t":"{uuid4().hex * 3000}"}}') for n in range(60)]
    into = f"kafka://{broker.bootstrap}/{name}?{PLAIN}"
    with pytest.raises(DataLoss, match="records_left="):
        await write(FakeState({"c": rows}, fail_after=50), into)
    report = await write(FakeState({"c": rows}), into, force=True)
    assert "without a transaction" in " ".join(report.notes)


# What is there already --------------------------------------------------------------------------


async def test_records_are_in_the_way_unless_forced(broker: Broker, topic: TopicFactory) -> None:
    name = await topic(2)
    await publish(broker, name, [(b"k", b"v")], partition=1)
    with pytest.raises(SinkNotEmpty) as raised:
        await write(FakeState({"c": ROWS}), url(broker, name))
    assert raised.value.facts["topic"] == name
    assert await pairs(broker, name, 1) == [(b"k", b"v")]
    await write(FakeState({"c": ROWS}), url(broker, name), force=True)
    assert len(await pairs(broker, name, 6)) == 6


async def test_a_look_says_which_topics_are_made_and_which_are_in_the_way(
    broker: Broker,
) -> None:
    name = fresh()
    outline = Outline(counts={"a": 2})
    seen = await sink_for(url(broker, name), kafka=config_of).look(outline)
    assert [(t.where, t.action, t.rows) for t in seen.tables] == [(name, "make", 2)]
    assert (seen.identity["topic"], seen.problems) == (name, ())
    assert name not in await topics(broker)
    await write(FakeState({"a": ROWS[:2]}), url(broker, name))
    seen = await sink_for(url(broker, name), kafka=config_of).look(outline)
    assert (len(seen.problems), seen.tables[0].action) == (1, "write")
    seen = await sink_for(url(broker, name), force=True, kafka=config_of).look(outline)
    assert seen.problems == ()


async def test_tombstones_for_what_the_state_does_not_have(
    broker: Broker, topic: TopicFactory
) -> None:
    name = await topic(2)
    gone, elsewhere = shared_key("c", '{"id":77}'), shared_key("c", '{"id":1}')
    other = DefaultPartitioner()(elsewhere, [1, 0], [1, 0])  # the partition of nobody's choice
    strange = [(b"k", b"v"), (None, b"v"), (b'{"collection": "c","key":{"id":5}}', b"v")]
    dead = shared_key("c", '{"id":78}')
    await publish(broker, name, [(gone, b"1"), *strange, (dead, b"1"), (dead, None)], partition=0)
    await publish(broker, name, [(elsewhere, b"old")], partition=other)
    await publish(broker, name, [(shared_key("c", '{"id":2}'), b"old")])
    into = url(broker, name, "tombstones=true")
    with pytest.raises(InvalidRequest, match="tombstones"):
        await write(FakeState({"c": ROWS}), into)
    report = await write(FakeState({"c": ROWS}), into, force=True)
    notes = " ".join(report.notes)
    assert "tombstones for rows that the state does not have: 2" in notes
    assert "left alone: 3" in notes
    assert report.rows == {"c": 5}
    latest: dict[tuple[int, bytes], bytes | None] = {}
    for partition, records in (await consumed(broker, name, 15)).items():
        latest |= {(partition, one.key): one.value for one in records if one.key is not None}
    alive = {key for (_, key), value in latest.items() if value is not None}
    ours = {shared_key("c", key) for key, _ in ROWS}
    assert alive == ours | {key for key, _ in strange if key is not None}
    assert latest[other, elsewhere] is None


async def test_tombstones_in_topics_of_single_collections(
    broker: Broker, topic: TopicFactory
) -> None:
    name = await topic(name="c")
    await publish(broker, name, [(b'{"id":1}', b"1"), (b'{"id":2}', b"1"), (b"5", b"1")])
    report = await write(
        FakeState({name: ROWS[:1]}), url(broker, "{collection}", "tombstones=true"), force=True
    )
    assert "does not have: 1" in " ".join(report.notes)
    assert (b'{"id":2}', None) in await pairs(broker, name, 5)


# What cannot be ---------------------------------------------------------------------------------


async def test_a_broker_without_transactions_says_what_to_do(broker: Broker) -> None:
    if broker.transactions:
        pytest.skip(f"{broker.name} has transactions")
    topic = fresh()
    for parameters, missing in (("", "transaction"), ("?transaction=false", "idempotent")):
        with pytest.raises(InvalidRequest, match=f"has no {missing}") as raised:
            await write(FakeState(STATE), f"kafka://{broker.bootstrap}/{topic}{parameters}")
        assert f"?{missing}=false" in str(raised.value.hint)
    assert topic not in await topics(broker)


async def test_a_transaction_that_the_broker_does_not_allow(broker: Broker) -> None:
    if not broker.transactions:
        pytest.skip(f"NOT TESTED ON {broker.name.upper()}: it has no transactions")
    topic = fresh()
    with pytest.raises(InvalidRequest, match="no transaction that long"):
        await write(FakeState(STATE), url(broker, topic, "transaction_timeout_s=100000"))
    assert topic not in await topics(broker)


@pytest.mark.slow
async def test_a_broker_that_goes_away_is_not_waited_for_for_ever(broker: Broker) -> None:
    if not broker.ours:
        pytest.skip("it is not ours to stop")
    loop = asyncio.get_running_loop()

    class Killed(FakeState):
        def rows(self, collection: str, *, documents_only: bool = False) -> Any:
            yield from super().rows(collection)
            asyncio.run_coroutine_threadsafe(asyncio.to_thread(broker.kill), loop).result()

    rows = [(f'{{"id":{n}}}', f'{{"t":"{uuid4().hex * 3000}"}}') for n in range(60)]
    async with asyncio.timeout(110):
        with pytest.raises(Unavailable):
            await write(Killed({"c": rows}), url(broker, fresh()))


async def test_no_broker() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(Unavailable, match="does not answer"):
            await write(FakeState(STATE), f"kafka://127.0.0.1:{taken.getsockname()[1]}/t")


@pytest.mark.parametrize(
    "wrong",
    [
        "kafka://h:1",
        "kafka://h:1/",
        "kafka://h:1/a/b",
        "kafka://h:1/a b",
        "kafka://h:x/t",
        "kafka://[::1/t",
        "kafka://,/t",
        "kafka://h:1/..",
        "kafka://h:1/t#f",
        "kafka://h:1/t?partitions=0",
        "kafka://h:1/t?partitions=x",
        "kafka://h:1/t?transaction=no",
        "kafka://h:1/t?idempotent=false",
        "kafka://h:1/t?password=geheim",
        "kafka://ana:geheim@h:1/t",
        "kafka://ana:ge/heim@h:1/t",
        "kafka://h:1/t?x",
    ],
)
def test_urls_that_name_no_topic(wrong: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        sink_for(wrong, kafka=config_of)
    assert "heim" not in f"{raised.value} {raised.value.hint} {raised.value.facts}"


def test_urls_that_name_a_topic() -> None:
    place = parse_place("kafka://a:1,[::1]:2/%7Bcollection%7D.r?partitions=3&tombstones=true")
    assert (place.bootstrap, place.topic) == ("a:1,[::1]:2", "{collection}.r")
    assert (place.partitions, place.tombstones, place.transaction) == (3, True, True)
    assert place.topic_of("shop") == "shop.r"
    assert parse_place("kafka:///t").bootstrap is None
    sink = sink_for("kafka:///t", kafka=config_of)
    assert isinstance(sink, KafkaSink)
    with pytest.raises(InvalidRequest):
        sink_for("kafka:///t")


def test_keys_are_ours_only_byte_for_byte() -> None:
    for key in (b'{"id":1}', '{"a":"é","b":[1.0]}'.encode()):
        assert is_ours(key, shared=False)
        assert is_ours(b'{"collection":"c","key":' + key + b"}", shared=True)
    for key in (None, b"", b"1", b"{}", b'{"id": 1}', b'{"b":1,"a":1}', b"\xff", b'{"id":null}'):
        assert not is_ours(key, shared=False)
        assert not is_ours(b'{"collection":"c","key":' + (key or b"") + b"}", shared=True)
    assert not is_ours(b'{"key":{"id":1},"collection":"c"}', shared=True)
    assert not is_ours(b'{"collection":"c","key":{"id":1},"x":1}', shared=True)


def test_held_keys_follow_the_records() -> None:
    class Record:
        def __init__(self, key: bytes | None, value: bytes | None) -> None:
            self.key, self.value = key, value

    held = HeldKeys(shared=False)
    a, b = TopicPartition("t", 0), TopicPartition("t", 1)
    one, two = b'{"id":1}', b'{"id":2}'
    held.add({a: [Record(one, b"v"), Record(one, None), Record(two, b"v"), Record(two, b"w")]})
    held.add({b: [Record(two, b"v"), Record(b"?", b"v"), Record(one, b"v")]})
    held.discard([(b, one), (a, one)])
    assert list(held.left()) == [(a, two), (b, two)]
    assert held.strange == {"t": 1}
    held.close()
