"""What a replay reads, and when to seal, merge and snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.compaction import (
    TIER_BYTES_MIN,
    adjacent_runs,
    latest_snapshot,
    seal_due,
    segments_to_merge,
    snapshot_due,
    snapshots_to_retire,
    tier,
)
from pitr.domain.errors import DataLoss
from pitr.domain.limits import Limits
from pitr.domain.log import LogState, LogView, TailStats
from pitr.domain.manifest import ObjectRef
from pitr.domain.plan import check_coverage, chosen, plan_reads
from pitr.domain.target import Cut


def segment(
    seq_first: int,
    seq_end: int,
    *,
    at: tuple[int, int] | None = None,
    size_bytes: int = 1_000,
    ops: dict[str, dict[str, int]] | None = None,
) -> ObjectRef:
    at_min_us, at_max_us = at if at is not None else (seq_first, seq_end - 1)
    return ObjectRef(
        kind="segment",
        name=f"segments/{seq_first}-{seq_end}",
        seq_first=seq_first,
        seq_end=seq_end,
        at_min_us=at_min_us,
        at_max_us=at_max_us,
        row_count=seq_end - seq_first,
        size_bytes=size_bytes,
        sha256="",
        ops=ops if ops is not None else {"c": {"update": seq_end - seq_first}},
    )


def snapshot(seq_end: int, *, at_max_us: int | None = None, collection: str = "c") -> ObjectRef:
    return ObjectRef(
        kind="snapshot",
        name=f"snapshots/{seq_end}/{collection}",
        seq_first=1,
        seq_end=seq_end,
        at_min_us=1,
        at_max_us=seq_end - 1 if at_max_us is None else at_max_us,
        row_count=1,
        size_bytes=100,
        sha256="",
        ops={collection: {"update": 1}},
        collection=collection,
    )


def view_of(*objects: ObjectRef, tail: Sequence[int] = (), seq_next: int | None = None) -> LogView:
    ends = [ref.seq_end for ref in objects if ref.kind == "segment"]
    last = tail[-1] + 1 if tail else max(ends, default=1)
    state = LogState(
        log_id=1,
        name="main",
        uid="",
        created_us=0,
        seq_next=last if seq_next is None else seq_next,
        manifest_version=0,
        manifest_hash="",
        published_version=0,
        clamped_count=0,
    )
    rows = [
        {name: seq if pa.types.is_integer(kind) else "c" for name, kind in _kinds()} | {"seq": seq}
        for seq in tail
    ]
    return LogView(
        state=state, objects=objects, tail=pa.Table.from_pylist(rows, schema=CHANGE_SCHEMA)
    )


def _kinds() -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in CHANGE_SCHEMA]


# Coverage


@pytest.mark.parametrize(
    "view",
    [
        view_of(),
        view_of(segment(1, 5)),
        view_of(segment(1, 5), segment(5, 9), tail=[9, 10]),
        view_of(tail=[1, 2, 3]),
        view_of(segment(3, 5), tail=[1, 2, 5, 6]),
        view_of(segment(1, 3), segment(4, 6), tail=[3, 6]),
    ],
)
def test_a_log_is_whole_when_segments_and_tail_meet_without_a_hole(view: LogView) -> None:
    check_coverage(view)


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (view_of(segment(2, 5)), "missing"),
        (view_of(segment(1, 5), segment(6, 9)), "missing"),
        (view_of(segment(1, 5), tail=[6]), "missing"),
        (view_of(segment(1, 5), seq_next=6), "missing"),
        (view_of(seq_next=2), "missing"),
        (view_of(tail=[1, 3]), "missing"),
        (view_of(segment(1, 5), segment(4, 9)), "twice"),
        (view_of(segment(1, 5), tail=[4, 5]), "twice"),
        (view_of(segment(1, 9), segment(3, 5)), "twice"),
    ],
)
def test_a_hole_or_an_overlap_is_data_loss(view: LogView, message: str) -> None:
    with pytest.raises(DataLoss, match=message):
        check_coverage(view)
    with pytest.raises(DataLoss, match=message):
        plan_reads(view, Cut(seq_end=view.state.seq_next))


def test_more_changes_than_the_log_ever_gave_out_are_no_whole_log() -> None:
    with pytest.raises(DataLoss):
        check_coverage(view_of(segment(1, 5), seq_next=3))


# Reads


def reads(view: LogView, cut: Cut, **options: object) -> tuple[list[str], int, list[str]]:
    found = plan_reads(view, cut, **options)  # type: ignore[arg-type]
    return [r.name for r in found.base], found.base_seq_end, [r.name for r in found.segments]


def test_the_newest_snapshot_below_the_cut_saves_the_segments_before_it() -> None:
    view = view_of(segment(1, 5), segment(5, 9), segment(9, 13), snapshot(5), snapshot(9))
    assert reads(view, Cut(seq_end=13)) == (["snapshots/9/c"], 9, ["segments/9-13"])
    assert reads(view, Cut(seq_end=9)) == (["snapshots/9/c"], 9, [])
    assert reads(view, Cut(seq_end=8)) == (["snapshots/5/c"], 5, ["segments/5-9"])
    assert reads(view, Cut(seq_end=4)) == ([], 1, ["segments/1-5"])


def test_a_snapshot_in_the_middle_of_a_segment_reads_that_segment() -> None:
    view = view_of(segment(1, 9), snapshot(5))
    assert reads(view, Cut(seq_end=9)) == (["snapshots/5/c"], 5, ["segments/1-9"])


def test_a_snapshot_with_a_change_after_the_time_is_no_base() -> None:
    view = view_of(
        segment(1, 5, at=(0, 100)), segment(5, 9, at=(0, 50)), snapshot(5, at_max_us=100)
    )
    assert reads(view, Cut(seq_end=9, at_us=100)) == (["snapshots/5/c"], 5, ["segments/5-9"])
    assert reads(view, Cut(seq_end=9, at_us=99))[0] == []


def test_a_snapshot_that_holds_the_start_of_a_torn_transaction_is_no_base() -> None:
    view = view_of(segment(1, 5), segment(5, 9), snapshot(5), snapshot(9))
    cut = Cut(seq_end=9, without_tx=frozenset({"t"}))
    assert reads(view, cut, torn={"t": 6})[:2] == (["snapshots/5/c"], 5)
    assert reads(view, cut, torn={"t": 5})[:2] == (["snapshots/5/c"], 5)
    assert reads(view, cut, torn={"t": 4})[:2] == ([], 1)


def test_segments_that_begin_after_the_time_are_left_out() -> None:
    view = view_of(segment(1, 5, at=(10, 20)), segment(5, 9, at=(20, 30)))
    assert reads(view, Cut(seq_end=9, at_us=20))[2] == ["segments/1-5", "segments/5-9"]
    assert reads(view, Cut(seq_end=9, at_us=19))[2] == ["segments/1-5"]
    assert reads(view, Cut(seq_end=9, at_us=9))[2] == []


def test_only_what_holds_a_wanted_collection_is_read() -> None:
    view = view_of(
        segment(1, 5, ops={"a": {"update": 4}}),
        segment(5, 9, ops={"b": {"update": 4}}),
        segment(9, 13, ops={"a": {"patch": 2}, "b": {"truncate": 2}}),
        snapshot(5, collection="a"),
    )
    assert reads(view, Cut(seq_end=13), collections=frozenset({"b"})) == (
        *([], 5),
        ["segments/5-9", "segments/9-13"],
    )
    assert reads(view, Cut(seq_end=13), collections=frozenset({"a"})) == (
        *(["snapshots/5/a"], 5),
        ["segments/9-13"],
    )


def test_patches_and_truncates_are_known_before_reading() -> None:
    view = view_of(segment(1, 5, ops={"a": {"patch": 1}, "b": {"truncate": 3}}), tail=[5])
    found = plan_reads(view, Cut(seq_end=6))
    assert (found.has_patches, found.has_truncates, found.tail) == (True, True, True)
    assert found.size_bytes == 1_000


def test_snapshots_are_only_a_short_cut() -> None:
    view = view_of(segment(1, 5), snapshot(5))
    assert reads(view, Cut(seq_end=5), use_snapshots=False) == ([], 1, ["segments/1-5"])


def test_the_state_before_the_first_change_reads_nothing() -> None:
    view = view_of(segment(1, 5), snapshot(5))
    assert reads(view, Cut(seq_end=1)) == ([], 1, [])
    assert reads(view, Cut(seq_end=0)) == ([], 1, [])


# Sealing

LIMITS = Limits(seal_rows=10, seal_bytes=100, seal_age_us=1_000, compact_count_min=4)


@pytest.mark.parametrize(
    ("stats", "due"),
    [
        (TailStats(row_count=0, size_bytes=0, oldest_us=None), False),
        (TailStats(row_count=9, size_bytes=99, oldest_us=1), False),
        (TailStats(row_count=10, size_bytes=0, oldest_us=1_000), True),
        (TailStats(row_count=1, size_bytes=100, oldest_us=1_000), True),
        (TailStats(row_count=1, size_bytes=0, oldest_us=0), True),
    ],
)
def test_the_tail_is_sealed_when_it_is_long_large_or_old(stats: TailStats, due: bool) -> None:
    assert seal_due(stats, now_us=1_000, limits=LIMITS) is due


# Merging


def test_runs_break_where_seqs_are_missing() -> None:
    segments = [segment(9, 12), segment(1, 3), segment(3, 5), segment(6, 9)]
    runs = [[(ref.seq_first, ref.seq_end) for ref in run] for run in adjacent_runs(segments)]
    assert runs == [[(1, 3), (3, 5)], [(6, 9), (9, 12)]]


@pytest.mark.parametrize(
    ("size_bytes", "size_class"),
    [
        *((0, 0), (TIER_BYTES_MIN, 0), (TIER_BYTES_MIN + 1, 1)),
        *((TIER_BYTES_MIN * 8, 1), (TIER_BYTES_MIN * 8 + 1, 2), (TIER_BYTES_MIN * 64, 2)),
    ],
)
def test_size_classes_grow_by_eight(size_bytes: int, size_class: int) -> None:
    assert tier(size_bytes) == size_class


def run_of(*sizes: int) -> list[ObjectRef]:
    return [segment(n, n + 1, size_bytes=size) for n, size in enumerate(sizes, start=1)]


@given(
    st.lists(st.sampled_from([1, TIER_BYTES_MIN, TIER_BYTES_MIN * 3, TIER_BYTES_MIN * 20])),
    st.booleans(),
    st.sampled_from([TIER_BYTES_MIN * 4, TIER_BYTES_MIN * 50]),
)
def test_what_is_merged_are_neighbours_that_fit_into_one_segment(
    sizes: list[int], everything: bool, bytes_max: int
) -> None:
    limits = replace(LIMITS, compact_bytes_max=bytes_max)
    chosen = segments_to_merge(run_of(*sizes), limits, everything=everything)
    if chosen:
        assert len(chosen) >= (2 if everything else LIMITS.compact_count_min)
        assert len(adjacent_runs(chosen)) == 1
        assert sum(ref.size_bytes for ref in chosen) <= bytes_max


def test_too_few_of_a_size_are_left_alone() -> None:
    assert segments_to_merge(run_of(1, 1, 1), LIMITS) == ()
    assert segments_to_merge(run_of(TIER_BYTES_MIN * 9, 1, 1, 1), LIMITS) == ()
    assert len(segments_to_merge(run_of(1, 1, 1, 1), LIMITS)) == 4


def test_everything_merges_any_two_neighbours() -> None:
    assert len(segments_to_merge(run_of(TIER_BYTES_MIN * 9, 1), LIMITS, everything=True)) == 2
    assert segments_to_merge(run_of(1), LIMITS, everything=True) == ()


def compacted(sizes: list[int], limits: Limits, *, everything: bool = False) -> tuple[int, int]:
    """Append segments one by one and merge all that is worth it: bytes written, segments left."""
    live: list[ObjectRef] = []
    written = 0
    for added in run_of(*sizes):
        live.append(added)
        while chosen := segments_to_merge(live, limits, everything=everything):
            size_bytes = sum(ref.size_bytes for ref in chosen)
            merged = segment(chosen[0].seq_first, chosen[-1].seq_end, size_bytes=size_bytes)
            live = sorted(
                [merged, *(ref for ref in live if ref not in chosen)], key=lambda ref: ref.seq_first
            )
            written += size_bytes
    return written, len(live)


@pytest.mark.parametrize("size_bytes", [1_000, TIER_BYTES_MIN // 2, TIER_BYTES_MIN * 2])
def test_a_change_is_rewritten_about_as_often_as_the_log_has_digits_in_base_eight(
    size_bytes: int,
) -> None:
    written, left = compacted([size_bytes] * 1_000, Limits())
    assert written <= 6 * 1_000 * size_bytes
    assert left <= 40


# Snapshots


def test_the_newest_snapshot_is_all_its_parts() -> None:
    parts = [snapshot(5), snapshot(9, collection="a"), snapshot(9, collection="b")]
    assert latest_snapshot(parts) == tuple(parts[1:])
    assert latest_snapshot([]) == ()


@pytest.mark.parametrize(
    ("changes", "base", "rows", "waited_us", "due"),
    [
        (9, None, 0, 999, False),
        (10, None, 0, 0, True),
        (1, None, 0, 1_000, True),
        (0, None, 0, 1_000, False),
        (13, 5, 1, 999, False),
        (14, 5, 1, 999, True),
        (203, 5, 200, 999, False),
        (204, 5, 200, 999, True),
        (5, 5, 1, 1_000, True),
        (4, 5, 1, 1_000, False),
        (6, 5, 200, 1_000, False),
        (7, 5, 200, 1_000, True),
    ],
)
def test_a_snapshot_is_due_after_enough_changes_and_after_fewer_once_it_is_old(
    changes: int, base: int | None, rows: int, waited_us: int, due: bool
) -> None:
    limits = replace(LIMITS, snapshot_changes_min=10, snapshot_age_us=1_000)
    objects = [segment(1, changes + 1)] if changes else []
    if base is not None:
        objects.append(replace(snapshot(base), row_count=rows))
    assert snapshot_due(view_of(*objects), waited_us=waited_us, limits=limits) is due


def test_all_but_the_newest_snapshots_are_retired() -> None:
    parts = [snapshot(5), snapshot(9, collection="a"), snapshot(9, collection="b"), snapshot(12)]
    assert snapshots_to_retire(parts, kept=2) == (parts[0],)
    assert snapshots_to_retire(parts, kept=1) == tuple(parts[:3])
    assert snapshots_to_retire(parts, kept=9) == ()


def test_what_is_the_logs_own_is_chosen_only_by_name() -> None:
    known = {"pitr.schemas", "pitrs.rows", "shop.orders"}
    assert chosen(known, None) == {"pitrs.rows", "shop.orders"}
    assert chosen(known - {"pitr.schemas"}, None) is None
    assert chosen({"pitr.schemas"}, None) == frozenset()
    assert chosen(known, frozenset({"pitr.schemas"})) == {"pitr.schemas"}
