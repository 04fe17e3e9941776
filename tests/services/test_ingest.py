"""Ingesting files: resumable, once, whole transactions, nothing dropped."""

from __future__ import annotations

import gzip
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import zstandard

from pitr.adapters.catalog import PostgresCatalog
from pitr.adapters.clock import new_uid
from pitr.adapters.decoding import ProcessDecoder
from pitr.adapters.inputs import Input, open_input
from pitr.adapters.objects import DirectoryStore
from pitr.domain.errors import InvalidRequest, NotFound, TooLarge, Unavailable
from pitr.domain.limits import Limits
from pitr.services.append import Appender
from pitr.services.ingest import FileIngest, IngestReport
from tests.conftest import ManualClock

LIMITS = Limits(segment_rows_min=400, ingest_bytes_max=4_000)


def line(number: int, *, tx: str | None = None) -> bytes:
    change = {"collection": "c", "key": number, "op": "update", "after": {"id": number}, "tx": tx}
    return orjson.dumps({name: value for name, value in change.items() if value is not None})


def lines(first: int, end: int) -> bytes:
    return b"".join(line(number) + b"\n" for number in range(first, end))


class Ingest:
    """One log, and files that go into it."""

    def __init__(self, catalog: PostgresCatalog, appender: Appender, log: str) -> None:
        self.catalog = catalog
        self.appender = appender
        self.log = log
        self.limits = LIMITS

    async def file(self, path: Path) -> IngestReport:
        return await self.stream(open_input(str(path)))

    async def pipe(self, body: bytes) -> IngestReport:
        stream = io.BytesIO(body)
        stream.seekable = lambda: False  # type: ignore[method-assign]
        return await self.stream(Input(stream, name="-", size_bytes=None))

    async def stream(self, reader: Input) -> IngestReport:
        service = FileIngest(self.catalog, ProcessDecoder(processes=1), limits=self.limits)
        return await service.ingest(reader, log=self.log, appender=self.appender, format="native")

    async def keys(self) -> list[int]:
        view = await self.catalog.view(self.log)
        assert not view.segments
        return [orjson.loads(key)["id"] for key in view.tail.column("key").to_pylist()]


@pytest.fixture
async def ingest(
    catalog: PostgresCatalog, store: DirectoryStore, clock: ManualClock, log: str
) -> AsyncIterator[Ingest]:
    async with Appender(catalog, store, clock, log=log, limits=LIMITS, new_id=new_uid) as appender:
        yield Ingest(catalog, appender, log)


async def test_every_line_is_stored_in_order(ingest: Ingest, tmp_path: Path) -> None:
    file = tmp_path / "a.ndjson"
    file.write_bytes(lines(0, 300))
    report = await ingest.file(file)
    assert (report.stored, report.lines, report.quarantined) == (300, 300, 0)
    assert (report.seq_first, report.seq_end) == (1, 301)
    assert await ingest.keys() == list(range(300))


async def test_the_same_content_twice_adds_nothing(ingest: Ingest, tmp_path: Path) -> None:
    """Invariant 2, by content: the same file, a copy of another name, a pipe, packed."""
    body = lines(0, 300)
    first, copy = tmp_path / "a.ndjson", tmp_path / "b.ndjson"
    first.write_bytes(body)
    copy.write_bytes(body)
    packed, squeezed = tmp_path / "a.gz", tmp_path / "a.zst"
    packed.write_bytes(gzip.compress(body))
    squeezed.write_bytes(zstandard.compress(body))
    await ingest.file(first)
    for again in (first, copy, packed, squeezed):
        report = await ingest.file(again)
        assert (report.stored, report.skipped_lines, report.resumed) == (0, 300, True)
    assert (await ingest.pipe(body)).stored == 0
    assert await ingest.keys() == list(range(300))


async def test_a_file_that_grew_goes_on_where_it_stopped(ingest: Ingest, tmp_path: Path) -> None:
    file = tmp_path / "a.ndjson"
    file.write_bytes(lines(0, 100))
    await ingest.file(file)
    file.write_bytes(lines(0, 150))
    report = await ingest.file(file)
    assert (report.stored, report.skipped_lines) == (50, 100)
    assert (await ingest.pipe(lines(0, 170))).stored == 20
    assert await ingest.keys() == list(range(170))


async def test_another_file_with_the_same_first_line_is_stored_whole(
    ingest: Ingest, tmp_path: Path
) -> None:
    await ingest.pipe(lines(0, 100))
    other = lines(0, 1) + lines(500, 520)
    report = await ingest.pipe(other)
    assert (report.stored, report.resumed) == (21, False)
    assert (await ingest.pipe(other)).stored == 0
    assert (await ingest.pipe(lines(0, 100))).stored == 0


async def test_it_goes_on_after_a_failure(ingest: Ingest, tmp_path: Path) -> None:
    file = tmp_path / "a.ndjson"
    file.write_bytes(lines(0, 300))
    append, calls = ingest.appender.append, 0

    async def failing(batch: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Unavailable("away")
        return await append(batch)  # type: ignore[arg-type]

    ingest.appender.append = failing  # type: ignore[method-assign, assignment]
    with pytest.raises(Unavailable):
        await ingest.file(file)
    stored = await ingest.keys()
    assert 0 < len(stored) < 300
    report = await ingest.file(file)
    assert report.skipped_lines == len(stored)
    assert await ingest.keys() == list(range(300))


async def test_bad_lines_are_quarantined_and_their_neighbours_stored(
    ingest: Ingest, tmp_path: Path
) -> None:
    """Invariant 13."""
    body = line(0) + b"\n{not json\n\xff\xfe\n" + line(1) + b"\n\n" + line(2)[:-4]
    report = await ingest.pipe(body)
    assert (report.stored, report.quarantined, report.lines) == (2, 3, 6)
    assert await ingest.keys() == [0, 1]
    items = await ingest.catalog.quarantine(ingest.log)
    assert [item.position for item in items] == [1, 2, 5]
    assert [item.body for item in items] == [b"{not json", b"\xff\xfe", line(2)[:-4]]
    assert (await ingest.pipe(body)).quarantined == 0


async def test_blocks_do_not_tear_transactions(ingest: Ingest) -> None:
    body = b"".join(line(n, tx=f"t{n // 7}") + b"\n" for n in range(400))
    await ingest.pipe(body)
    assert await ingest.keys() == list(range(400))
    state = await ingest.catalog.log(ingest.log)
    for seq_end in range(1, 401):
        torn = await ingest.catalog.torn(state, seq_end=seq_end, at_us=None)
        assert torn == {}, "every transaction came in one append"


async def test_a_transaction_larger_than_a_block_is_known_to_be_in_parts(ingest: Ingest) -> None:
    await ingest.pipe(b"".join(line(n, tx="huge") + b"\n" for n in range(300)))
    assert await ingest.keys() == list(range(300))
    state = await ingest.catalog.log(ingest.log)
    assert await ingest.catalog.torn(state, seq_end=150, at_us=None) == {"huge": 1}


async def test_a_line_longer_than_a_block_is_stored(ingest: Ingest) -> None:
    long = orjson.dumps({"collection": "c", "key": 1, "after": {"v": "x" * 3_000_000}})
    body = line(0) + b"\n" + long + b"\n" + line(2) + b"\n"
    assert (await ingest.pipe(body)).stored == 3
    assert await ingest.keys() == [0, 1, 2]


async def test_a_line_longer_than_a_segment_is_refused_and_named(ingest: Ingest) -> None:
    ingest.limits = replace(LIMITS, segment_bytes_max=1_000_000)
    with pytest.raises(TooLarge, match="bytes_max"):
        await ingest.pipe(line(0) + b"\n" + b"x" * 5_000_000 + b"\n")
    assert await ingest.keys() == [0]


async def test_an_empty_input_stores_nothing(ingest: Ingest) -> None:
    for body in (b"", b"\n\n\n"):
        report = await ingest.pipe(body)
        assert (report.stored, report.quarantined) == (0, 0)


async def test_files_that_cannot_be_read_are_named(ingest: Ingest, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="missing"):
        open_input(str(tmp_path / "missing"))
    with pytest.raises(InvalidRequest):
        open_input(str(tmp_path))


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
async def test_a_cut_off_file_is_never_taken_for_a_whole_one(
    ingest: Ingest, tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    packed = compress(lines(0, 1_000)) + compress(lines(1_000, 2_000))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.write_bytes(packed)
    cut.write_bytes(packed[:-20])
    with pytest.raises(InvalidRequest, match="damaged"):
        await ingest.file(cut)
    report = await ingest.file(whole)
    assert report.lines == 2_000
