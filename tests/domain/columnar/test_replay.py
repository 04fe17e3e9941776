"""A replay equals the fold, whatever the files are and wherever the cut is."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr.domain.change import Change, Op
from pitr.domain.columnar import fill, large, replay_sql
from pitr.domain.columnar import replay as replay_module
from pitr.domain.columnar.replay import ReplayInput
from pitr.domain.columnar.rows import tail_table
from pitr.domain.fold import fold
from pitr.domain.target import Cut
from tests.domain.columnar.builders import (
    ALL,
    change,
    expected,
    replay,
    segment_file,
    snapshot_files,
    state_of,
)

COLLECTIONS = ("a", "b.ö")
KEYS = ('{"id":1}', '{"id":10}', '{"id":"é"}')
LARGE_BYTES = 48
LONG = b'"' + b"x" * LARGE_BYTES + b'"'
ROWS = [(collection, key) for collection in COLLECTIONS for key in KEYS]
SHARES = (4, 1 << 60)
"""With the second, every row is a range of its own."""

VALUES = (b"1", b"1.10", b"null", b'{"n":1}', b'{"n":null,"m":"\xc3\xa9"}', b"[]", LONG)


@pytest.fixture(scope="module", autouse=True)
def low_limits() -> Iterator[None]:
    """Documents of 50 bytes go the way of those of 50 MB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "LARGE_BYTES", LARGE_BYTES)
        patch.setattr(replay_sql, "LARGE_BYTES", LARGE_BYTES)
        patch.setattr(replay_module, "LARGE_BYTES", LARGE_BYTES)
        patch.setattr(fill, "BATCH_BYTES", 100)
        patch.setattr(replay_module, "DIRECT_COLLECTIONS_MAX", 1)
        yield


@st.composite
def objects(draw: st.DrawFn) -> bytes:
    names = draw(st.sets(st.sampled_from("xyz")))
    return b"{%s}" % b",".join(
        b'"%s":%s' % (name.encode(), draw(st.sampled_from(VALUES))) for name in sorted(names)
    )


@st.composite
def documents(draw: st.DrawFn, op: Op) -> tuple[bytes | None, bytes | None]:
    """Draw ``after`` and ``unchanged``."""
    if op in (Op.DELETE, Op.TRUNCATE):
        return None, None
    if op != Op.PATCH:
        return draw(st.one_of(objects(), st.just(b"[7]"))), None
    if draw(st.booleans()):
        return draw(st.one_of(objects(), st.just(b"7"))), None
    return draw(objects()), draw(st.sampled_from([b'["x"]', b'["y","z"]', b"[]"]))


@st.composite
def histories(draw: st.DrawFn) -> list[Change]:
    changes: list[Change] = []
    collections = draw(st.sampled_from([COLLECTIONS, COLLECTIONS[:1]]))
    keys = draw(st.sampled_from([KEYS, KEYS[:1]]))
    for seq in range(1, draw(st.integers(1, 14)) + 1):
        op = draw(st.sampled_from([*Op, Op.PATCH, Op.UPDATE]))
        after, unchanged = draw(documents(op))
        changes.append(
            change(
                seq,
                key=draw(st.sampled_from(keys)),
                op=op,
                collection=draw(st.sampled_from(collections)),
                after=after,
                before=draw(st.sampled_from([None, b"{}"])),
                unchanged=unchanged,
                at_us=draw(st.integers(0, 4)),
                tx=draw(st.sampled_from([None, "t1", "t2"])),
                meta=draw(st.sampled_from([None, b"{}", LONG])),
            )
        )
    return changes


@st.composite
def cuts(draw: st.DrawFn, changes: list[Change]) -> Cut:
    return Cut(
        seq_end=draw(st.integers(1, len(changes) + 2)),
        at_us=draw(st.none() | st.integers(-1, 5)),
        without_tx=draw(st.frozensets(st.sampled_from(["t1", "t2"]))),
    )


def base_fits(prefix: list[Change], cut: Cut) -> bool:
    """Invariant 11, and no transaction in it that the target leaves out."""
    return all(cut.holds(seq=row.seq, at_us=row.at_us, tx=row.tx) for row in prefix)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_replay_equals_fold(data: st.DataObject) -> None:
    changes = data.draw(histories())
    cut = data.draw(cuts(changes))
    first, second = sorted(data.draw(st.tuples(*[st.integers(0, len(changes))] * 2)))
    base_end = data.draw(st.integers(0, len(changes)))
    folder = Path(tempfile.mkdtemp())
    try:
        parts = [part for part in (changes[:first], changes[first:second]) if part]
        files = tuple(segment_file(folder, part) for part in parts)
        tail = tail_table(changes[second:]) if second < len(changes) else None
        base: tuple[Path, ...] = ()
        if base_fits(changes[:base_end], cut):
            prefix = ReplayInput(segments=files, tail=tail, cut=Cut(seq_end=base_end + 1))
            base = snapshot_files(folder / "base", prefix)
        base_seq_end = base_end + 1 if base else 1
        whole = ReplayInput(
            base=base,
            base_seq_end=base_seq_end,
            segments=files,
            tail=tail,
            cut=cut,
            collections=data.draw(st.none() | st.frozensets(st.sampled_from(COLLECTIONS))),
            keys=data.draw(st.none() | st.frozensets(st.sampled_from(ROWS))),
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(replay_module, "SORT_SHARE", data.draw(st.sampled_from(SHARES)))
            rows, counts, by_collection = state_of(whole, folder)
    finally:
        shutil.rmtree(folder)
    state = fold([change for change in changes if in_scope(change, whole)], cut)
    assert rows == expected(state.values())
    assert by_collection == rows
    for collection, count in counts.items():
        assert count == sum(name == collection for name, _ in state)
    assert {name for name, _ in state} <= set(counts)
    assert list(counts) == sorted(counts)
    if not base:
        assert set(counts) == {
            change.collection
            for change in changes
            if in_scope(change, whole)
            and cut.holds(seq=change.seq, at_us=change.at_us, tx=change.tx)
        }


def in_scope(change: Change, given: ReplayInput) -> bool:
    if given.collections is not None and change.collection not in given.collections:
        return False
    if change.op == Op.TRUNCATE or given.keys is None:
        return True
    return (change.collection, change.key) in given.keys


def test_hints_only_leave_out_work(tmp_path: Path) -> None:
    """Without patches and truncates the answer does not depend on the hints."""
    changes = [change(seq, key=KEYS[seq % 3]) for seq in range(1, 9)]
    changes.append(change(9, key=KEYS[0], op=Op.DELETE))
    for hint in (True, False):
        given = ReplayInput(
            segments=(segment_file(tmp_path, changes),),
            cut=ALL,
            has_patches=hint,
            has_truncates=hint,
        )
        rows, counts, _ = state_of(given, tmp_path)
        assert rows == expected(fold(changes, ALL).values())
        assert counts == {"shop.orders": 2}


def test_no_changes_are_an_empty_state(tmp_path: Path) -> None:
    assert state_of(ReplayInput(cut=ALL), tmp_path) == ([], {}, [])


def test_a_base_from_after_the_target_is_a_bug(tmp_path: Path) -> None:
    """Never a silently wrong state (invariant 11)."""
    base = (segment_file(tmp_path, [change(1, at_us=10)]),)
    given = ReplayInput(base=base, base_seq_end=2, cut=Cut(seq_end=9, at_us=9))
    with pytest.raises(AssertionError), replay(given, tmp_path):
        pass
    assert list(tmp_path.iterdir()) == list(base), "nothing is left behind"


def test_rows_need_not_be_read_to_the_end(tmp_path: Path) -> None:
    file = segment_file(tmp_path, [change(seq, key=f'{{"id":{seq}}}') for seq in range(1, 5000)])
    with replay(ReplayInput(segments=(file,), cut=ALL), tmp_path) as state:
        assert next(state.rows("shop.orders")).num_rows
        assert sum(batch.num_rows for batch in state.rows("shop.orders")) == 4999
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("share", SHARES)
def test_chains_of_patches_end_where_the_row_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: int
) -> None:
    monkeypatch.setattr(replay_module, "SORT_SHARE", share)
    ops = [Op.UPDATE, Op.PATCH, Op.TRUNCATE, Op.PATCH, Op.PATCH, Op.DELETE, Op.PATCH, Op.PATCH]
    changes = [
        change(seq, op=op, after=None if op in (Op.DELETE, Op.TRUNCATE) else b'{"f%d":1}' % seq)
        for seq, op in enumerate([*ops, Op.PATCH, Op.PATCH], start=1)
    ]
    files = (segment_file(tmp_path, changes),)
    for seq_end in range(1, 12):
        cut = Cut(seq_end=seq_end)
        rows, _, _ = state_of(ReplayInput(segments=files, cut=cut), tmp_path)
        assert rows == expected(fold(changes, cut).values())
