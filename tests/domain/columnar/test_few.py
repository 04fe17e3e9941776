"""Few rows, read page by page, are what the general way makes of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr.domain.change import Change, Op
from pitr.domain.columnar import encoding, few
from pitr.domain.columnar.changed import Between, Changed, changed_rows
from pitr.domain.columnar.encoding import FAST, Packing
from pitr.domain.columnar.footers import FooterCache
from pitr.domain.columnar.picked import Picks, picked
from pitr.domain.columnar.replay import ReplayInput
from pitr.domain.columnar.rows import tail_table
from pitr.domain.errors import DataLoss
from pitr.domain.fold import fold
from pitr.domain.target import Cut
from tests.domain.columnar.builders import MEMORY_BYTES, change, segment_file, snapshot_files
from tests.domain.columnar.test_replay import COLLECTIONS, ROWS, base_fits, cuts, histories

RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp())
    try:
        yield path
    finally:
        shutil.rmtree(path)


def few_rows(
    rows: list[tuple[str, str]], base: few.Base, changes: list[Change], cut: Cut
) -> list[tuple[str, str, str]] | None:
    young = few.young_changes(tail_table(changes))
    found = few.few_states(rows, base, young, cut, picks=Picks(FooterCache()))
    if found is None:
        return None
    return [tuple(row.values()) for batch in found for row in batch.to_pylist()]


@RELAXED
@given(data=st.data())
def test_few_rows_are_what_a_fold_of_everything_has(data: st.DataObject) -> None:
    changes = data.draw(histories())
    cut = data.draw(cuts(changes))
    base_end = data.draw(st.integers(0, len(changes)))
    wanted = sorted(data.draw(st.frozensets(st.sampled_from(ROWS), min_size=1)))
    with folder() as path:
        base = few.Base()
        if base_fits(changes[:base_end], cut):
            prefix = ReplayInput(
                segments=(segment_file(path, changes),), cut=Cut(seq_end=base_end + 1)
            )
            base = few.Base(paths=snapshot_files(path / "base", prefix), seq_end=base_end + 1)
        # What is in the base may come again, or not at all.
        young = changes[data.draw(st.integers(0, base.seq_end - 1)) :]
        found = few_rows(wanted, base, young, cut)
    state = fold(changes, cut)
    assert found == [(*row, (state[row].after or b"").decode()) for row in wanted if row in state]


@settings(RELAXED, max_examples=30)
@given(data=st.data())
def test_few_changed_rows_are_what_the_engine_finds(data: st.DataObject) -> None:
    changes = [
        replace(each, reason=data.draw(st.sampled_from([None, "why", "why: so", "whyever"])))
        for each in data.draw(histories())
    ]
    changes.append(change(len(changes) + 1, collection="pitr.own"))
    second = data.draw(st.integers(0, len(changes)))
    some_rows = st.frozensets(st.sampled_from(ROWS))
    between = Between(
        paths=(),
        all_paths=(),
        tail=tail_table(changes[second:]),
        then=data.draw(cuts(changes)),
        now=data.draw(cuts(changes)),
        collections=data.draw(st.none() | st.frozensets(st.sampled_from(COLLECTIONS))),
        keys=data.draw(st.none() | some_rows),
        brought=data.draw(st.just(frozenset()) | some_rows),
        reason=data.draw(st.sampled_from([None, None, "why"])),
    )

    def content(found: Changed) -> tuple[object, ...]:
        rows = pq.read_table(found.path).to_pylist()
        places = tuple((row["collection"], row["key"]) for row in rows)
        assert found.rows in (None, places)
        return replace(found, path=Path(), rows=None), rows

    with folder() as path:
        if second:
            files = [segment_file(path, changes[:second])]
            between = replace(between, paths=files, all_paths=files)
        expected = content(
            changed_rows(
                between, path / "a", memory_bytes=MEMORY_BYTES, spill_folder=path, threads=1
            )
        )
        young = few.young_changes(tail_table(changes))
        found = few.few_changed(young, between, path / "b")
        assert (found is None) == bool(expected[0].emptied)  # type: ignore[attr-defined]
        assert found is None or content(found) == expected


@RELAXED
@given(data=st.data())
def test_picked_rows_are_those_with_a_wanted_key(data: st.DataObject) -> None:
    """Whatever the pages are, and whatever collections share them."""
    keys = [f'{{"id":{number}}}' for number in range(20)] + ['{"id":"{é"}', "", "odd"]
    names = st.sampled_from(["a", "b", "b.ö", "c"])
    rows = data.draw(st.lists(st.tuples(names, st.sampled_from(keys)), min_size=1, max_size=120))
    changes = [
        change(seq, key=key, collection=name, after=b'"%d"' % seq, tx=key or None)
        for seq, (name, key) in enumerate(rows, 1)
    ]
    wanted = {
        name: sorted(data.draw(st.frozensets(st.sampled_from(keys))))
        for name in data.draw(st.frozensets(names))
    }
    packing = Packing(
        level=1,
        page_rows_max=data.draw(st.integers(1, 40)),
        page_bytes=1 << 20,
        column_page_bytes=data.draw(st.sampled_from([32, 1 << 20])),
    )
    with folder() as path, pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "PAGE_ROWS_MIN", 1)
        patch.setattr(encoding, "SMALL_PAGE_BATCH_ROWS", 1)
        patch.setattr(encoding, "ROW_GROUP_ROWS_MAX", data.draw(st.sampled_from([30, 1000])))
        file = segment_file(path, changes, packing=packing)
        found = picked(file, wanted, ["seq", "after", "tx", "op"], footers=FooterCache())
    assert sorted(found) == sorted(
        (each.collection, each.key, (each.seq, each.after, each.tx and each.tx.encode(), b"update"))
        for each in changes
        if each.key in wanted.get(each.collection, ())
    )


def test_what_a_truncate_emptied_is_not_taken_from_the_base(tmp_path: Path) -> None:
    keys = ['{"id":1}', '{"id":2}', '{"id":3}']
    before = [change(seq, key=key, after=b'{"a":1}') for seq, key in enumerate(keys, 1)]
    prefix = ReplayInput(segments=(segment_file(tmp_path, before),), cut=Cut(seq_end=4))
    base = few.Base(paths=snapshot_files(tmp_path / "base", prefix), seq_end=4)
    rows = [("shop.orders", key) for key in keys]
    young = [
        change(4, key=keys[1], op=Op.PATCH, after=b'{"b":2}'),
        change(5, op=Op.TRUNCATE),
        change(6, key=keys[2], op=Op.PATCH, after=b'{"b":3}'),
    ]
    before_it = few_rows(rows, base, young, Cut(seq_end=5))
    assert [row[2] for row in before_it or ()] == ['{"a":1}', '{"a":1,"b":2}', '{"a":1}']
    after_it = few_rows(rows, base, young, Cut(seq_end=7))
    assert after_it == [("shop.orders", keys[2], '{"b":3}')]


def test_where_too_much_would_be_read_there_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [change(1), change(2, key='{"id":2}')]
    file = segment_file(tmp_path, changes)
    prefix = ReplayInput(segments=(file,), cut=Cut(seq_end=3))
    base = few.Base(paths=snapshot_files(tmp_path / "base", prefix), seq_end=3)
    rows = [("shop.orders", each.key) for each in changes]
    between = Between(
        paths=(),
        all_paths=(),
        tail=tail_table(changes),
        then=Cut(seq_end=1),
        now=Cut(seq_end=3),
    )
    young = few.young_changes(tail_table(changes))
    assert few.fit([file])
    assert few_rows(rows, base, [], Cut(seq_end=3)) is not None
    assert few.few_changed(young, between, tmp_path / "changed") is not None
    monkeypatch.setattr(few, "ROWS_MAX", 1)
    assert few.few_changed(young, between, tmp_path / "changed") is None
    monkeypatch.setattr(few, "BYTES_MAX", 1)
    assert few_rows(rows, base, [], Cut(seq_end=3)) is None
    assert not few.fit([file])


def test_a_damaged_page_is_data_loss(tmp_path: Path) -> None:
    file = segment_file(tmp_path, [change(1, op=Op.CREATE)], packing=FAST)
    body = bytearray(file.read_bytes())
    body[body.index(b"id") + 1] ^= 1
    file.write_bytes(body)
    with pytest.raises(DataLoss):
        picked(file, {"shop.orders": ['{"id":1}']}, ["after"], footers=FooterCache())
    with pytest.raises(DataLoss):
        few.changes_in(file)
