"""Invariant 10: what went in comes out byte for byte, through tail, segment, snapshot and merge."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import msgspec
import orjson
import pyarrow.parquet as pq
import pytest

from pitr.adapters.clock import new_uid
from pitr.adapters.decoding import ProcessDecoder
from pitr.adapters.inputs import open_input
from pitr.adapters.sinks import sink_for
from pitr.services.append import Appender
from pitr.services.history import HistoryReader
from pitr.services.ingest import FileIngest
from pitr.services.restore import Restorer, RestoreRequest
from tests.services.world import World

PLANES = "".join(chr(plane * 0x10000 + 0x61) for plane in range(17) if plane not in (0,))

VALUES = {
    "beyond 2^64": str(2**64 + 1),
    "negative": str(-(2**200)),
    "forty digits": "1234567890123456789012345678901234567890.0000000000000000000000000000000010",
    "trailing zero": "1.10",
    "exponent": "1E+400",
    "negative zero": "-0.0",
    "null": "null",
    "empty text": '""',
    "spaces": '{ "a" : [ 1 , 2 ] }',
    "deep": "[" * 200 + "]" * 200,
    "planes": orjson.dumps(PLANES).decode(),
    "escapes": '"\\u0041\\/\\n\\u0000\\ud83d\\ude00"',
    "quotes": '"she said \\"no\\" \\\\ /"',
    "long": '"' + "x" * 100_000 + '"',
    "empty object": "{}",
    "empty name": '{"":1}',
}

KEYS = ['"a/b"', '"say \\"x\\""', '"\\u00e9\\ud83d\\ude00"', '""', "123456789012345678901234567890"]


def lines() -> dict[str, bytes]:
    """Documents by the text of their key."""
    found = {}
    for number, (name, value) in enumerate(VALUES.items()):
        key = f'{{"id":{number},"n":{orjson.dumps(name).decode()}}}'
        found[key] = f'{{"id":{number}, "v":{value}}}'.encode()
    found |= {f'{{"id":{key}}}': f'{{"id":{key},"present":null}}'.encode() for key in KEYS}
    return found


def body() -> bytes:
    rows = [
        b'{"collection":"odd \\"names\\"/%%2F","key":%b,"op":"create","after":%b}' % (k.encode(), v)
        for k, v in lines().items()
    ]
    return b"\n".join(rows) + b"\n"


COLLECTION = 'odd "names"/%2F'


async def ingest(world: World, folder: Path) -> None:
    path = folder / "in.ndjson"
    path.write_bytes(body())
    async with Appender(
        world.catalog,
        world.store,
        world.clock,
        log=world.log,
        limits=world.limits,
        new_id=new_uid,
    ) as appender:
        report = await FileIngest(
            world.catalog, ProcessDecoder(processes=1), limits=world.limits
        ).ingest(open_input(str(path)), log=world.log, appender=appender, format="native")
    assert (report.stored, report.quarantined) == (len(lines()), 0)


async def age(world: World, stage: str) -> None:
    """Bring the changes into the tail, a segment, a merged segment or a snapshot."""
    if stage == "tail":
        return
    await world.sealer.seal(world.log, force=True)
    if stage == "merged":
        await world.compactor.compact(world.log, everything=True)
    if stage == "snapshot":
        await world.snapshotter.snapshot(world.log)


@pytest.fixture(params=["tail", "segment", "merged", "snapshot"])
async def aged(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> World:
    await ingest(world, tmp_path)
    await age(world, request.param)
    return world


def canonical(key: str) -> str:
    """The key as pitr writes it: decoded text, exact numbers."""
    parts = msgspec.json.decode(key.encode(), type=dict[str, msgspec.Raw])
    encode = msgspec.json.encode
    cleaned = {
        name: encode(msgspec.json.decode(value)) if bytes(value)[:1] == b'"' else bytes(value)
        for name, value in sorted(parts.items())
    }
    members = [encode(name) + b":" + value for name, value in cleaned.items()]
    return (b"{" + b",".join(members) + b"}").decode()


async def test_documents_come_back_byte_for_byte(aged: World) -> None:
    found = {key: after for (_, key), (after, _) in (await aged.state("latest")).items()}
    assert found == {canonical(key): value for key, value in lines().items()}


async def test_history_shows_the_same_bytes(aged: World) -> None:
    reader = HistoryReader(aged.archive)
    for key, value in lines().items():
        (change,) = await reader.changes(aged.log, COLLECTION, canonical(key))
        assert change.after == value


@pytest.mark.parametrize("kind", ["ndjson", "parquet"])
async def test_files_hold_the_same_bytes(world: World, tmp_path: Path, kind: str) -> None:
    await ingest(world, tmp_path)
    restorer = Restorer(
        *(world.catalog, world.archive, world.resolver, world.clock),
        leases=world.leases,
        new_id=lambda: uuid4().hex,
    )
    plan = await restorer.plan(RestoreRequest(log=world.log, target="latest"))
    out = tmp_path / f"out.{kind}"
    await restorer.restore(plan, sink_for(str(out)))
    wanted = sorted(lines().values())
    if kind == "parquet":
        found = [text.encode() for text in pq.read_table(out)["after"].to_pylist()]
    else:
        rows = [
            msgspec.json.decode(line, type=dict[str, msgspec.Raw])
            for line in out.read_bytes().splitlines()
        ]
        found = [bytes(row["after"]) for row in rows]
    assert sorted(found) == wanted


async def test_a_restore_can_be_ingested_again(world: World, tmp_path: Path) -> None:
    await ingest(world, tmp_path)
    before = await world.state("latest")
    restorer = Restorer(
        *(world.catalog, world.archive, world.resolver, world.clock),
        leases=world.leases,
        new_id=lambda: uuid4().hex,
    )
    plan = await restorer.plan(RestoreRequest(log=world.log, target="latest"))
    out = tmp_path / "out.ndjson"
    await restorer.restore(plan, sink_for(str(out)))
    async with Appender(
        world.catalog,
        world.store,
        world.clock,
        log=world.log,
        limits=world.limits,
        new_id=new_uid,
    ) as appender:
        await FileIngest(world.catalog, ProcessDecoder(processes=1), limits=world.limits).ingest(
            open_input(str(out)), log=world.log, appender=appender
        )
    after = await world.state("latest")
    assert {row: image[0] for row, image in after.items()} == {
        row: image[0] for row, image in before.items()
    }
    assert (await world.catalog.log(world.log)).seq_next == 2 * len(lines()) + 1
