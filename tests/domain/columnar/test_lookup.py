"""A row's history from its pages is the same as from all rows, and damage is noticed."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr.domain.change import Change, Op
from pitr.domain.columnar import encoding
from pitr.domain.columnar.encoding import Packing
from pitr.domain.columnar.footers import Footer, FooterCache
from pitr.domain.columnar.lookup import row_history
from pitr.domain.columnar.merge import merged
from pitr.domain.columnar.replay import ReplayInput
from pitr.domain.columnar.rows import tail_table
from pitr.domain.errors import DataLoss
from tests.domain.columnar.builders import ALL, change, segment_file, state_of

ROWS = [(collection, f'{{"id":{number}}}') for collection in "abc" for number in range(12)]


def slow_history(changes: list[Change], collection: str, key: str) -> list[Change]:
    return [
        change
        for change in reversed(changes)
        if change.collection == collection and change.key in (key, "")
    ]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_history_equals_a_filter_over_everything(data: st.DataObject) -> None:
    """With pages of two rows and row groups of seven, every edge is near."""
    count = data.draw(st.integers(1, 30))
    changes = []
    for seq in range(1, count + 1):
        collection, key = data.draw(st.sampled_from(ROWS))
        op = data.draw(st.sampled_from([Op.UPDATE, Op.UPDATE, Op.DELETE, Op.TRUNCATE]))
        long = data.draw(st.sampled_from([1, 1, 1, 400]))
        given_after = None if op in (Op.DELETE, Op.TRUNCATE) else b"x" * long
        changes.append(change(seq, key=key, op=op, collection=collection, after=given_after))
    first, second = sorted(data.draw(st.tuples(*[st.integers(0, count)] * 2)))
    folder = Path(tempfile.mkdtemp())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "ROW_GROUP_ROWS_MAX", 7)
        packing = Packing(level=1, page_rows_max=2, page_bytes=1 << 20)
        patch.setattr(encoding, "PAGE_ROWS_MIN", 2)
        patch.setattr(encoding, "WRITE_BATCH_ROWS", 1)
        patch.setattr(encoding, "PAGE_BYTES_MAX", data.draw(st.sampled_from([100, 1 << 20])))
        parts = [part for part in (changes[:first], changes[first:second]) if part]
        paths = [segment_file(folder, part, packing=packing) for part in parts]
    tail = tail_table(changes[second:])
    footers = FooterCache()
    for collection, key in {*data.draw(st.lists(st.sampled_from(ROWS))), ("a", ""), ("z", "x")}:
        found = row_history(paths, tail, collection, key, footers=footers)
        assert found == slow_history(changes, collection, key)
    shutil.rmtree(folder)


def test_keys_past_the_limit_of_statistics(tmp_path: Path) -> None:
    """Writers leave out statistics of very long values; such pages are read."""
    keys = [f'{{"id":"{letter * 6000}"}}' for letter in "abc"]
    changes = [change(seq, key=key) for seq, key in enumerate(keys, start=1)]
    paths = [segment_file(tmp_path, changes)]
    for row in changes:
        assert row_history(paths, None, "shop.orders", row.key, footers=FooterCache()) == [row]


@pytest.mark.parametrize("column", ["key", "after", "seq", "op"])
def test_a_flipped_byte_in_a_page_is_noticed(tmp_path: Path, column: str) -> None:
    changes = [change(seq, key=f'{{"id":{seq}}}') for seq in range(1, 50)]
    path = segment_file(tmp_path, changes)
    group = Footer(path).groups[0]
    at = list(Change.__dataclass_fields__).index(column)
    with path.open("rb") as file:
        pages = group.pages(file.fileno(), at)
    body = bytearray(path.read_bytes())
    offset, length = pages.place(0)
    body[offset + length - 3] ^= 0x10
    path.write_bytes(body)
    with pytest.raises(DataLoss):
        row_history([path], None, "shop.orders", '{"id":7}', footers=FooterCache())


@pytest.mark.parametrize("keep", [0, 3, 100, -1, -9])
def test_a_cut_off_file_is_data_loss(tmp_path: Path, keep: int) -> None:
    path = segment_file(tmp_path, [change(1)])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataLoss):
        row_history([path], None, "shop.orders", '{"id":1}', footers=FooterCache())


def test_footers_are_kept_within_their_bound(tmp_path: Path) -> None:
    paths = [segment_file(tmp_path, [change(seq)]) for seq in range(1, 8)]
    cost = Footer(paths[0]).cost_bytes
    footers = FooterCache(bytes_max=3 * cost + cost // 2)
    kept = [footers.footer(path) for path in paths]
    assert footers.footer(paths[-1]) is kept[-1]
    assert footers.footer(paths[0]) is not kept[0]


def test_all_page_indexes_of_known_files_are_read_ahead(tmp_path: Path) -> None:
    paths = [segment_file(tmp_path, [change(seq)]) for seq in (1, 2)]
    footers = FooterCache()
    kept = [footers.footer(path) for path in paths]
    paths[1].unlink()
    footers.read_indexes()
    [group] = kept[0].groups
    assert len(group.known_pages) == len(group.chunks)
    assert group.known_bounds
    assert footers.footer(paths[0]) is kept[0]
    with pytest.raises(FileNotFoundError):
        footers.footer(paths[1])


def test_a_damaged_page_index_is_data_loss(tmp_path: Path) -> None:
    path = segment_file(tmp_path, [change(1)])
    footers = FooterCache()
    [group] = footers.footer(path).groups
    body = bytearray(path.read_bytes())
    offset, length = group.chunks[3].offset_index
    body[offset : offset + length] = b"\xff" * length
    path.write_bytes(body)
    with pytest.raises(DataLoss):
        footers.read_indexes()


def test_a_file_of_another_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "FILE_FORMAT", 2)
    path = segment_file(tmp_path, [change(1)])
    monkeypatch.undo()
    with pytest.raises(DataLoss, match="unknown format"):
        row_history([path], None, "shop.orders", '{"id":1}', footers=FooterCache())
    with pytest.raises(DataLoss, match="unknown format"):
        state_of(ReplayInput(segments=(path,), cut=ALL), tmp_path)
    with pytest.raises(DataLoss, match="unknown format"):
        list(merged([path]))
