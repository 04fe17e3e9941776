"""Single changes, found by pages, are those that a look at every change finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr.domain.change import Change
from pitr.domain.columnar import encoding, scan, single
from pitr.domain.columnar.encoding import Packing
from pitr.domain.columnar.footers import FooterCache
from pitr.domain.columnar.rows import empty_table, tail_table
from pitr.domain.columnar.single import changes_beside, neighbours
from pitr.domain.errors import DataLoss
from tests.domain.columnar.builders import change, segment_file
from tests.domain.columnar.logs import logs, stored

RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
Pair = tuple[Change | None, Change | None]


def naive_neighbours(changes: list[Change], at_us: int) -> Pair:
    ordered = sorted(changes, key=lambda row: (row.at_us, row.seq))
    before = [row for row in ordered if row.at_us <= at_us]
    after = [row for row in ordered if row.at_us > at_us]
    return before[-1] if before else None, after[0] if after else None


def naive_beside(changes: list[Change], seq_end: int) -> Pair:
    found = {row.seq: row for row in changes}
    return found.get(seq_end - 1), found.get(seq_end)


def no_engine(*_: Any, **__: Any) -> Any:
    raise AssertionError("the engine is asked")


@pytest.fixture
def without_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "neighbours", no_engine)
    monkeypatch.setattr(scan, "changes_between", no_engine)


@RELAXED
@given(data=st.data())
def test_changes_beside_a_time_or_a_seq_are_found_by_pages(data: st.DataObject) -> None:
    changes = data.draw(logs())
    with stored(data, changes) as log, pytest.MonkeyPatch.context() as patch:
        patch.setattr(single, "PAGES_MAX", 1_000)
        patch.setattr(scan, "neighbours", no_engine)
        patch.setattr(scan, "changes_between", no_engine)
        footers, paths = FooterCache(), [path for _, path in log.files]
        for at_us in range(-1, 11):
            found = neighbours(paths, log.tail, at_us, footers=footers)
            assert found == naive_neighbours(changes, at_us)
        for seq_end in range(1, len(changes) + 3):
            some = log.paths(range(seq_end - 1, seq_end + 1))
            for near in (paths, some):
                beside = changes_beside(near, log.tail, seq_end, footers=footers)
                assert beside == naive_beside(changes, seq_end)


@settings(RELAXED, max_examples=5)
@given(data=st.data())
def test_where_pages_tell_too_little_the_engine_finds_them(data: st.DataObject) -> None:
    changes = data.draw(logs())
    with stored(data, changes) as log, pytest.MonkeyPatch.context() as patch:
        patch.setattr(single, "PAGES_MAX", data.draw(st.integers(0, 2)))
        paths = [path for _, path in log.files]
        at_us, seq_end = data.draw(st.integers(-1, 10)), data.draw(st.integers(1, 42))
        found = neighbours(paths, log.tail, at_us, footers=FooterCache())
        assert found == naive_neighbours(changes, at_us) == scan.neighbours(paths, log.tail, at_us)
        beside = changes_beside(paths, log.tail, seq_end, footers=FooterCache())
        assert beside == naive_beside(changes, seq_end)


def merged_file(folder: Path, count: int) -> tuple[Path, list[Change]]:
    """Times that go with seqs, in keys that do not, in pages of 16 rows."""
    changes = [change(seq, key=f'{{"id":{seq * 7_919 % count}}}') for seq in range(1, count + 1)]
    packing = Packing(level=1, page_rows_max=16, page_bytes=1 << 20)
    return segment_file(folder, changes, packing=packing), changes


@pytest.mark.usefixtures("without_engine")
def test_the_ends_of_a_merged_file_take_few_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "ROW_GROUP_ROWS_MAX", 500)
    path, changes = merged_file(tmp_path, 2_000)
    young = [change(2_001), change(2_002)]
    for files, tail in (
        ([path, segment_file(tmp_path, young)], empty_table()),
        ([path], tail_table(young)),
    ):
        footers = FooterCache()
        assert neighbours(files, tail, 2_000, footers=footers) == (changes[-1], young[0])
        assert changes_beside(files, tail, 2_001, footers=footers) == (changes[-1], young[0])
        assert neighbours(files, tail, 0, footers=footers) == (None, changes[0])
        assert changes_beside(files, tail, 1, footers=footers) == (None, changes[0])


@pytest.mark.usefixtures("without_engine")
def test_changes_of_one_time_take_few_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [change(seq, key=f'{{"id":{seq}}}', at_us=5) for seq in range(1, 1_001)]
    packing = Packing(level=1, page_rows_max=16, page_bytes=1 << 20)
    path = segment_file(tmp_path, changes, packing=packing)
    monkeypatch.setattr(single, "PAGES_MAX", 1)
    assert neighbours([path], None, 7, footers=FooterCache()) == (changes[-1], None)
    assert neighbours([path], None, 4, footers=FooterCache()) == (None, changes[0])


def test_a_damaged_or_missing_file_is_data_loss(tmp_path: Path) -> None:
    path = segment_file(tmp_path, [change(1)])
    body = bytearray(path.read_bytes())
    body[body.index(b"shop.orders") + 1] ^= 1
    path.write_bytes(body)
    with pytest.raises(DataLoss):
        neighbours([path], None, 1, footers=FooterCache())
    with pytest.raises(DataLoss):
        changes_beside([path], None, 1, footers=FooterCache())
    with pytest.raises(DataLoss):
        neighbours([tmp_path / "none"], None, 1, footers=FooterCache())
