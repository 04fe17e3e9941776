"""Bad input is named or quarantined, and its neighbours are stored (invariant 13)."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from pitr.adapters.catalog import PostgresCatalog
from pitr.adapters.clock import new_uid
from pitr.domain.batch import Batch
from pitr.domain.errors import Conflict, InvalidRequest, NotFound
from pitr.domain.formats import decode_lines, line_count
from pitr.services.append import Appender
from pitr.services.quarantine import Quarantine
from tests.services.world import World

GOOD = b'{"collection":"c","key":1,"after":{"id":1}}'
LARGE = b'{"collection":"c","key":2,"after":{"id":2,"v":"' + b"x" * 10_000_000 + b'"}}'

BAD = {
    "truncated": GOOD[:-5],
    "garbage": b"\x00\x01 nonsense",
    "invalid UTF-8": b'{"collection":"c","key":1,"after":{"v":"\xff"}}',
    "naive time": b'{"collection":"c","key":1,"after":{},"at":"2026-03-01T09:30:00"}',
    "unknown op": b'{"collection":"c","key":1,"op":"upsert","after":{}}',
    "missing key": b'{"collection":"c","after":{}}',
    "missing collection": b'{"key":1,"after":{}}',
    "duplicate name": b'{"collection":"c","key":1,"after":{"a":1,"a":2}}',
    "duplicate field": b'{"collection":"c","collection":"d","key":1,"after":{}}',
    "unknown field": b'{"collection":"c","key":1,"afer":{}}',
    "not an object": b"[1,2,3]",
    "lone surrogate": b'{"collection":"c","key":"\\ud800","after":{}}',
    "null key": b'{"collection":"c","key":null,"after":{}}',
    "two values": GOOD + b" " + GOOD,
    "key too long": b'{"collection":"c","key":"' + b"k" * 10_000 + b'","after":{}}',
}


async def send(world: World, body: bytes) -> Batch:
    decoded = decode_lines(body, format="native", position_first=0)
    one = Batch(
        lane="a",
        position_first=0,
        position_end=line_count(body),
        changes=decoded.changes,
        quarantined=decoded.quarantined,
    )
    await world.append(one)
    return one


@pytest.mark.parametrize("name", BAD)
async def test_one_bad_line_keeps_out_itself_only(
    world: World, catalog: PostgresCatalog, name: str
) -> None:
    await send(world, b"\n".join([GOOD, BAD[name], GOOD]) + b"\n")
    view = await catalog.view(world.log)
    assert view.tail.column("position").to_pylist() == [0, 2]
    (item,) = await catalog.quarantine(world.log)
    assert (item.position, item.body) == (1, BAD[name])
    assert item.reason
    assert item.code.isidentifier()


async def test_all_bad_lines_at_once(world: World, catalog: PostgresCatalog) -> None:
    body = b"\n".join(part for bad in BAD.values() for part in (bad, GOOD)) + b"\n"
    await send(world, body)
    assert (await catalog.log(world.log)).seq_next == len(BAD) + 1
    items = await catalog.quarantine(world.log)
    assert [item.body for item in items] == list(BAD.values())


async def test_a_document_of_ten_megabytes_is_stored(world: World) -> None:
    await send(world, b"\n".join([GOOD, LARGE, GOOD]) + b"\n")
    state = await world.state("latest")
    after, _ = state["c", '{"id":2}']
    assert after == LARGE[LARGE.index(b'{"id":2,"v"') : -1]


async def test_quarantined_input_comes_back_after_a_fix_once(world: World) -> None:
    await send(world, b'{"collection":"c","key":1,"op":"upsert","after":{"id":1}}\n')
    quarantine = Quarantine(world.catalog)
    (item,) = await world.catalog.quarantine(world.log)
    async with Appender(
        world.catalog,
        world.store,
        world.clock,
        log=world.log,
        limits=world.limits,
        new_id=new_uid,
    ) as appender:
        with pytest.raises(InvalidRequest) as error:
            await quarantine.replay(world.log, item.quarantine_id, appender=appender)
        assert error.value.facts["reason"] == "unknown_op"
        fixed = item.body.replace(b"upsert", b"update")
        attempts = [
            quarantine.replay(world.log, item.quarantine_id, appender=appender, body=fixed)
            for _ in range(3)
        ]
        results = await asyncio.gather(*attempts, return_exceptions=True)
        with pytest.raises(NotFound):
            await quarantine.replay(world.log, item.quarantine_id + 1_000_000, appender=appender)
    assert sum(isinstance(result, Conflict) for result in results) == 2
    assert await world.state("latest") == {("c", '{"id":1}'): (b'{"id":1}', 1)}
    counts = await world.catalog.quarantine_counts(world.log)
    assert counts == {"waiting": 0, "replayed": 1, "dismissed": 0}


async def test_quarantined_bytes_are_kept_exactly(world: World) -> None:
    bad = bytes(range(1, 10)) + bytes(range(11, 256))
    await send(world, bad + b"\n")
    (item,) = await world.catalog.quarantine(world.log)
    assert item.body == bad
    assert orjson.dumps(item.reason)
