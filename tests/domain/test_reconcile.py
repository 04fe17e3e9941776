"""Comparing two states of a collection: by key and digest, then by what documents say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.domain.columnar import engine
from pitr.domain.columnar.compare import Comparison
from pitr.domain.columnar.lane_changes import LaneChanges, Newer, boundary_of
from pitr.domain.columnar.meaning import VALUE_BYTES, values_of
from pitr.domain.columnar.rowfile import ROW_SCHEMA, RowFile
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.errors import Conflict
from pitr.domain.log import Gap
from pitr.domain.pgoutput.copying import CopyState, TableCopy
from pitr.domain.pgoutput.notes import Notes
from pitr.domain.reconcile import (
    Compared,
    Drift,
    Place,
    Reconciled,
    Repair,
    Repaired,
    check_deletes,
    in_gap,
    not_read,
    too_many_deletes,
)

MEMORY_BYTES = 512 * 2**20
Rows = Mapping[str, str]


def row_file(folder: Path, name: str, rows: Sequence[tuple[str, str]], *, size: int = 2) -> RowFile:
    file = RowFile(folder, name)
    for first in range(0, len(rows), size):
        keys, documents = zip(*rows[first : first + size], strict=True)
        file.add(pa.table([pa.array(keys), pa.array(documents)], schema=ROW_SCHEMA))
    file.close()
    return file


@contextmanager
def opened(folder: Path) -> Iterator[engine.Engine]:
    one = engine.Engine(memory_bytes=MEMORY_BYTES, spill_folder=folder, threads=1)
    try:
        yield one
    finally:
        one.close()


def compared(
    live: Sequence[tuple[str, str]],
    logged: Sequence[tuple[str, str]],
    columns: Sequence[str],
    *,
    keyed_by_row: bool = False,
    examples_max: int = 1_000,
) -> tuple[Drift, list[tuple[str, str]], list[str]]:
    """The drift, and what a repair reads and deletes."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        with opened(folder) as one:
            comparison = Comparison(
                one,
                row_file(folder, "a", live),
                row_file(folder, "b", logged),
                columns=columns,
                keyed_by_row=keyed_by_row,
                folder=folder,
            )
            drift = comparison.drift(examples_max=examples_max)
            reads, deletes = RowFile(folder, "reads"), RowFile(folder, "deletes")
            comparison.to_repair(reads, deletes)
        for file in (reads, deletes):
            file.close()
        rows = [row for batch in reads.all_rows() for row in batch.to_pylist()]
        gone = [row["key"] for batch in deletes.all_rows() for row in batch.to_pylist()]
        return drift, [(row["key"], row["after"]) for row in rows], gone


VALUES = st.sampled_from(["1", "1.0", '"a"', '"\\u0061"', "null", "[1, 2]", "[1,2]", '"é"'])
KEYS = st.integers(0, 5).map(lambda n: f'{{"id":{n}}}')
MEANT = {'"\\u0061"': '"a"', "[1, 2]": "[1,2]"}


def document(members: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'"{name}":{value}' for name, value in members.items()) + "}"


DOCUMENTS = st.dictionaries(st.sampled_from(["a", "b", "gone"]), VALUES)


@given(st.dictionaries(KEYS, DOCUMENTS), st.dictionaries(KEYS, DOCUMENTS))
@settings(max_examples=25, deadline=None)
def test_drift_is_what_a_plain_comparison_finds(
    live: Mapping[str, Mapping[str, str]], logged: Mapping[str, Mapping[str, str]]
) -> None:
    columns = ("a", "b")

    def said(members: Mapping[str, str]) -> list[str]:
        values = [members.get(name, "null") for name in columns]
        return [MEANT.get(value, value) for value in values]

    both = live.keys() & logged.keys()
    expected = {
        key: [
            n for n, x, y in zip(columns, said(live[key]), said(logged[key]), strict=True) if x != y
        ]
        for key in both
    }
    different = {key: tuple(names) for key, names in expected.items() if names}
    ours, theirs = (
        [(key, document(members)) for key, members in side.items()] for side in (live, logged)
    )
    drift, reads, deletes = compared(ours, theirs, columns)
    found: dict[str, dict[str, tuple[str, ...]]] = {
        kind: {} for kind in ("missing", "extra", "different")
    }
    for example in drift.examples:
        found[example.kind][example.key] = example.columns
    assert found["missing"].keys() == live.keys() - logged.keys()
    assert found["extra"].keys() == logged.keys() - live.keys()
    assert found["different"] == different
    assert (drift.missing, drift.extra, drift.different) == tuple(map(len, found.values()))
    assert drift.columns == {
        name: count
        for name in columns
        if (count := sum(name in names for names in different.values()))
    }
    written = dict(ours)
    assert dict(reads) == {
        key: written[key] for key in (live.keys() - logged.keys()) | different.keys()
    }
    assert {*deletes} == logged.keys() - live.keys()


def test_examples_are_bounded_and_rows_that_are_equal_are_one_without_a_key() -> None:
    live = [(f'{{"id":{n}}}', f'{{"id":{n},"a":1}}') for n in range(9) for _ in range(2)]
    logged = [(f'{{"id":{n}}}', f'{{"id":{n},"a":{2 if n < 5 else 1}}}') for n in range(8)]
    drift, reads, _ = compared(live, logged, ("id", "a"), keyed_by_row=True, examples_max=2)
    assert (drift.missing, drift.different, drift.columns) == (1, 5, {"a": 5})
    assert [each.kind for each in drift.examples] == ["missing", "different", "different"]
    assert len(reads) == 6


@pytest.mark.parametrize(
    ("key", "one", "other", "same"),
    [
        ('{"id":1}', '{"id":1,"a":null}', '{"id":1}', True),
        ('{"id":1}', '{"a":"x"}', '{"id":1,"a":"x"}', True),
        ('{"id":1}', '{"id":1,"a":1.10}', '{"id":1,"a":1.1}', False),
        ('{"id":1}', '{"id":1,"a":"1"}', '{"id":1,"a":1}', False),
        ('{"id":1}', '{"id":1,"a":"null"}', '{"id":1,"a":null}', False),
        ('{"id":1}', '{"id":1,"a":{"y":1,"x":[ ]}}', '{"a":{"x":[],"y":1},"id":1}', True),
        ('{"id":1}', '{"id":1,"a":["\\u00e9"]}', '{"id":1,"a":[ "é"]}', True),
        ('{"id":1}', '{"id":1,"a":["\\u00e9"]}', '{"id":1,"a":["e"]}', False),
        ('{"id":1}', '{"id":1,"b":2}', '{"id":1,"b":3}', True),
    ],
)
def test_documents_mean_the_same_or_not(key: str, one: str, other: str, same: bool) -> None:
    columns = ("id", "a")
    first, second = (values_of(key, each, columns) for each in (one, other))
    assert (first == second) is same
    assert len(first) == VALUE_BYTES * len(columns)


def test_a_state_larger_than_the_memory_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows differ in their bytes: what they say of 100 columns, 8 bytes each, is compared."""
    monkeypatch.setattr(engine, "PROCESS_BYTES", MEMORY_BYTES - 24 * 2**20)
    count, columns = 60_000, ("id", "x", *(f"c{n}" for n in range(98)))
    keys = [f'{{"id":{n}}}' for n in range(count)]
    sides = []
    for name, tail in (("a", '"x":null}'), ("b", '"y":1}')):
        file = RowFile(tmp_path, name)
        for first in range(0, count, 20_000):
            part = keys[first : first + 20_000]
            rows = [part, [f"{key[:-1]},{tail}" for key in part]]
            file.add(pa.table([pa.array(each) for each in rows], schema=ROW_SCHEMA))
        file.close()
        sides.append(file)
    with opened(tmp_path) as one:
        comparison = Comparison(one, *sides, columns=columns, keyed_by_row=False, folder=tmp_path)
        assert comparison.drift(examples_max=1) == Drift()


# Where a position lies ----------------------------------------------------------------------------

LANE = "postgres:app"


def change(seq: int, tx: str | None, **more: object) -> dict[str, object]:
    """A change of the lane."""
    usual = {"collection": "public.t", "key": f'{{"id":{seq}}}', "op": "create", "lane": LANE}
    numbers = dict.fromkeys(("at_us", "commit_us", "recorded_us", "position"), 0)
    return {"seq": seq, "tx": tx, **usual, **numbers, **more}


def tail_of(*changes: dict[str, object]) -> LaneChanges:
    table = pa.Table.from_pylist(list(changes), schema=CHANGE_SCHEMA)
    return LaneChanges(paths=(), tail=table, lane=LANE, seq_first=1)


def test_a_position_lies_before_the_first_transaction_that_was_committed_there() -> None:
    changes = tail_of(
        change(1, "7:0/10"),
        change(2, "9:0/F0", lane="http:x"),
        change(3, "8:0/1F"),
        change(4, "reconcile:ab"),
        change(5, "9:0/20"),
        change(6, "6:1/0"),
    )
    for lsn, seq_end in ((0x10, 1), (0x11, 3), (0x1F, 3), (0x20, 5), (0x21, 6), (1 << 33, 7)):
        assert boundary_of(changes, lsn=lsn, seq_next=7).seq_end == seq_end
    later = replace(changes, seq_first=6)
    assert boundary_of(later, lsn=0x10, seq_next=7).seq_end == 6


def test_tables_that_change_near_a_position_are_named() -> None:
    schema = {"collection": "pitr.schemas", "op": "update"}
    changes = tail_of(
        change(1, None, **{**schema, "key": '{"collection":"public.a"}'}),
        change(2, None, collection="public.b", key="", op="truncate"),
        change(3, "7:0/10", collection="public.c", key="", op="truncate"),
        change(4, "7:0/20"),
        change(5, None, **{**schema, "key": '{"collection":"public.d"}'}),
    )
    assert boundary_of(changes, lsn=0x20, seq_next=6).altered == {"public.a", "public.b"}


def test_what_is_newer_than_a_comparison_is_left_alone(tmp_path: Path) -> None:
    changes = tail_of(
        change(2, "7:0/10", key='{"id":2}', op="update"),
        change(3, "7:0/10", key='{"id":3}', op="patch"),
        change(4, "7:0/10", key='{"id":4}', op="patch"),
        change(5, "7:0/10", key='{"id":4}', op="delete"),
        change(6, "7:0/10", key='{"id":1}', collection="public.other"),
        change(7, "7:0/10", key='{"id":5}', lane="http:x"),
        change(8, "7:0/10", collection="public.emptied", key="", op="truncate"),
    )
    rows = row_file(tmp_path, "rows", [(f'{{"id":{n}}}', "{}") for n in (5, 4, 3, 2, 1)])
    newer = Newer(
        changes,
        collections=["public.x", "public.t"],
        folder=tmp_path,
        memory_bytes=MEMORY_BYTES,
        threads=1,
    )
    try:
        assert newer.renewed == {"public.emptied"}
        assert newer.counts("public.t", rows) == {"todo": 2, "superseded": 2, "left": 1}
        assert [n for part in newer.todo("public.t", rows) for n in part.tolist()] == [0, 4]
        assert newer.counts("public.x", rows) == {"todo": 5}
    finally:
        newer.close()


# What is said of it -------------------------------------------------------------------------------


def with_extra(extra: int, *, live: int, logged: int) -> Compared:
    return Compared(
        collection="t", rows_live=live, rows_log=logged, drift=Drift(missing=0, extra=extra)
    )


@pytest.mark.parametrize(
    ("extra", "live", "logged", "refused"),
    [
        (0, 0, 0, False),
        (100, 50, 150, False),
        (101, 50, 151, True),
        (1_000, 9_000, 10_000, False),
        (1_001, 8_999, 10_000, True),
        (1, 0, 1, True),
    ],
)
def test_a_repair_that_deletes_much_is_refused(
    extra: int, live: int, logged: int, refused: bool
) -> None:
    one = with_extra(extra, live=live, logged=logged)
    assert too_many_deletes(one) is refused
    if refused:
        with pytest.raises(Conflict) as error:
            check_deletes([with_extra(0, live=1, logged=1), one])
        assert error.value.facts["deletes"] == extra
        assert error.value.facts["collection"] == "t"
    else:
        check_deletes([one])


def test_what_is_not_known_is_never_said_to_be_well() -> None:
    fine = Compared(collection="a", rows_live=1, rows_log=1, drift=Drift())
    drifted = Compared(collection="b", rows_live=1, rows_log=0, drift=Drift(missing=1))
    unknown = Compared(collection="c", inconclusive="it is being read")
    result = Reconciled(
        log="main",
        source="app",
        lane=LANE,
        place=Place(lsn=1, seq_end=1, at_us=1),
        collections=(fine,),
    )
    assert result.verdict == "pass"
    assert replace(result, collections=()).verdict == "inconclusive"
    assert replace(result, collections=(fine, unknown)).verdict == "inconclusive"
    assert replace(result, collections=(unknown, drifted)).verdict == "fail"
    done, left = Repaired(collection="b", reads=1), Repaired(collection="b", left=1)
    for repair, verdict in (
        (Repair(dry_run=False, collections=(done,)), "pass"),
        (Repair(dry_run=False, collections=(left,)), "fail"),
        (Repair(dry_run=True, collections=(done,)), "fail"),
    ):
        mended = replace(result, collections=(fine, drifted), repair=repair)
        assert mended.verdict == verdict
    mended = replace(result, collections=(unknown, drifted), repair=Repair(dry_run=False))
    assert mended.verdict == "inconclusive"


def test_only_gaps_that_heal_after_the_position_are_in_the_way() -> None:
    gap = Gap(
        lane=LANE,
        position_first=1,
        position_end=None,
        at_min_us=None,
        at_max_us=None,
        seq_end=1,
        reason="r",
        recorded_us=1,
    )
    assert in_gap([gap], LANE, "a") == "a gap in the log: r"
    assert in_gap([replace(gap, collection="b")], LANE, "a") is None
    assert in_gap([gap], "postgres:other", "a") is None
    assert in_gap([replace(gap, at_max_us=5)], LANE, "a") is None
    assert in_gap([replace(gap, at_max_us=5, healed_seq_end=9)], LANE, "a") is not None


def test_a_table_that_is_not_read_whole_is_not_compared() -> None:
    copy = CopyState(
        tables=(TableCopy(collection="a", done=True), TableCopy(collection="b", rows=4))
    )
    notes = Notes(lsn=1, copy=copy)
    assert not_read(notes, "a") is None
    assert not_read(notes, "b") == "its rows are still being read"
    assert not_read(notes, "c") == "its rows were not read yet"
    assert not_read(replace(notes, lost="gone"), "a") is not None
