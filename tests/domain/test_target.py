"""Targets: which changes a target takes in, and where it lies between its neighbours."""

from __future__ import annotations

import contextlib
import re
import time

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.change import Change, Op
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.errors import InvalidRequest
from pitr.domain.log import Gap, LogState, LogView
from pitr.domain.manifest import ObjectRef
from pitr.domain.target import (
    Cut,
    Target,
    gaps_touched,
    inside_gap,
    neighbour_objects,
    parse_moment,
    parse_target,
    position_of,
    torn_by_seq,
)

NOW_US = 1_772_357_400_000_000  # 2026-03-01T09:30:00Z


def change(seq: int, at_us: int, *, tx: str | None = None) -> Change:
    return Change(
        seq=seq,
        collection="c",
        key='{"id":1}',
        op=Op.UPDATE,
        after=b"{}",
        at_us=at_us,
        commit_us=at_us,
        recorded_us=at_us,
        lane="l",
        position=seq,
        tx=tx,
    )


# What people write


def test_latest_is_the_newest_change() -> None:
    assert parse_target("latest", now_us=NOW_US) == Target(text="latest", kind="latest")


@pytest.mark.parametrize(
    ("text", "at_us"),
    [
        ("now", NOW_US),
        ("now-10m", NOW_US - 600_000_000),
        ("now-1h30m", NOW_US - 5_400_000_000),
        ("now-2d", NOW_US - 172_800_000_000),
        ("now-1w2d3h4m5s6ms7us", NOW_US - 788_645_006_007),
        ("now-0s", NOW_US),
        ("2026-03-01T09:30:00Z", NOW_US),
        ("2026-03-01T10:30:00+01:00", NOW_US),
        ("2026-03-01T09:30:00.000001Z", NOW_US + 1),
    ],
)
def test_a_time_is_read(text: str, at_us: int) -> None:
    assert parse_target(text, now_us=NOW_US) == Target(text=text, kind="time", at_us=at_us)


@pytest.mark.parametrize("text", ["2026-03-01T09:30:00", "2026-03-01 09:30", "2026-03-01"])
def test_a_time_without_a_zone_is_refused_with_both_readings(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        with pytest.raises(InvalidRequest, match="no zone") as refused:
            parse_target(text, now_us=NOW_US)
    finally:
        monkeypatch.undo()
        time.tzset()
    readings = re.findall(r"(\S+) \((UTC|local)\)", refused.value.hint or "")
    assert [zone for _, zone in readings] == ["UTC", "local"]
    utc, local = (parse_target(reading, now_us=NOW_US).at_us for reading, _ in readings)
    assert utc is not None
    assert local == utc - 19_800_000_000


def test_a_moment_is_a_time_and_nothing_else() -> None:
    assert parse_moment("now-1s", now_us=NOW_US, name="since") == NOW_US - 1_000_000
    for text in ("latest", "seq:1", "mark:x", "before-tx:1", "10m", "2026-03-01T09:30:00"):
        with pytest.raises(InvalidRequest) as refused:
            parse_moment(text, now_us=NOW_US, name="since")
        assert refused.value.hint
        assert refused.value.facts == {"since": text}


@pytest.mark.parametrize(
    ("text", "seq"), [("seq:42", 42), ("before-seq:42", 41), ("seq:0", 0), ("before-seq:1", 0)]
)
def test_a_seq_target_means_after_that_change(text: str, seq: int) -> None:
    assert parse_target(text, now_us=NOW_US).seq == seq


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        ("mark:before-deploy-42", "mark", "before-deploy-42"),
        ("mark:a:b c", "mark", "a:b c"),
        ("before-tx:9f2c", "before_tx", "9f2c"),
        ("before-tx:1234:0/16B3748", "before_tx", "1234:0/16B3748"),
    ],
)
def test_marks_and_transactions_keep_their_names(text: str, kind: str, name: str) -> None:
    target = parse_target(text, now_us=NOW_US)
    assert (target.kind, target.name) == (kind, name)


@pytest.mark.parametrize(
    "text",
    [
        *("", "42", "LATEST", "latest ", "now+1h", "now-", "now-10", "mark:", "before-tx:", "tx:1"),
        *("before-seq:0", "now-1h-5m", "now-1.5h", "now-1h 5m", "now - 1h", "-10m", "now-10M"),
        *("seq:", "seq:x", "seq:-1", "seq: 5", "seq:1.0", "seq:9223372036854775807"),
        *("2026-03-01", "2026-03-01T09:30:00"),
    ],
)
def test_what_is_no_target_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_target(text, now_us=NOW_US)
    assert refused.value.hint


@pytest.mark.parametrize("text", ["seq:²", "seq:٣", "seq:" + "9" * 5_000, "before-seq:" + "9" * 99])
def test_digits_that_are_no_seq_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_target(text, now_us=NOW_US)


@pytest.mark.parametrize(
    "text", ["now-999999w", "now-99999999999999999w", "now-" + "9" * 5_000 + "m"]
)
def test_a_time_that_the_log_cannot_hold_is_refused_or_fits(text: str) -> None:
    try:
        target = parse_target(text, now_us=NOW_US)
    except InvalidRequest:
        return
    assert target.at_us is not None
    assert -(2**63) <= target.at_us < 2**63


@given(
    st.sampled_from(["", "seq:", "before-seq:", "now-", "mark:", "before-tx:", "2026-03-01"]),
    st.text(max_size=30),
)
def test_no_text_makes_the_reader_fail_in_another_way(word: str, rest: str) -> None:
    with contextlib.suppress(InvalidRequest):
        parse_target(word + rest, now_us=NOW_US)


# Cuts


@pytest.mark.parametrize(
    ("cut", "inside"),
    [
        (Cut(seq_end=6), True),
        (Cut(seq_end=5), False),
        (Cut(seq_end=6, at_us=100), True),
        (Cut(seq_end=6, at_us=99), False),
        (Cut(seq_end=5, at_us=100), False),
        (Cut(seq_end=6, without_tx=frozenset({"t"})), False),
        (Cut(seq_end=6, without_tx=frozenset({"u"})), True),
    ],
)
def test_a_cut_takes_in_what_is_below_its_seq_within_its_time_and_not_torn(
    cut: Cut, inside: bool
) -> None:
    assert cut.holds(seq=5, at_us=100, tx="t") is inside


def test_a_change_without_a_transaction_is_never_torn() -> None:
    assert Cut(seq_end=2, without_tx=frozenset({"", "None"})).holds(seq=1, at_us=0, tx=None)


# Positions

TIME = Target(text="", kind="time", at_us=100)
SEQ = Target(text="", kind="seq", seq=5)


@pytest.mark.parametrize(
    ("target", "previous", "position"),
    [
        (TIME, None, "past"),
        (TIME, 100, "exact"),
        (TIME, 99, "between"),
        (SEQ, None, "past"),
        (SEQ, 100, "exact"),
    ],
)
def test_a_target_is_named_by_the_last_change_that_it_takes_in(
    target: Target, previous: int | None, position: str
) -> None:
    assert position_of(target, None if previous is None else change(4, previous)) == position


# Gaps


def gap(at_min_us: int | None, at_max_us: int | None, *, seq_end: int = 10) -> Gap:
    return Gap(
        lane="l",
        position_first=None,
        position_end=None,
        at_min_us=at_min_us,
        at_max_us=at_max_us,
        seq_end=seq_end,
        reason="",
        recorded_us=0,
    )


@pytest.mark.parametrize(
    ("hole", "cut", "touched"),
    [
        (gap(50, 60), Cut(seq_end=10), True),
        (gap(50, 60), Cut(seq_end=9), False),
        (gap(50, 60), Cut(seq_end=99, at_us=49), False),
        (gap(50, 60), Cut(seq_end=99, at_us=50), True),
        (gap(None, None), Cut(seq_end=99, at_us=0), True),
        (gap(None, 60), Cut(seq_end=99, at_us=0), True),
    ],
)
def test_a_gap_touches_every_cut_that_may_take_in_what_is_lost(
    hole: Gap, cut: Cut, touched: bool
) -> None:
    assert bool(gaps_touched([hole], cut)) is touched


@pytest.mark.parametrize("at_min_us", [None, 50])
def test_right_after_the_last_change_before_a_gap_nothing_is_lost(at_min_us: int | None) -> None:
    hole = gap(at_min_us, None, seq_end=10)
    ends = {end: gaps_touched([hole], Cut(seq_end=end), after_change=True) for end in (9, 10, 11)}
    assert ends == {9: (), 10: (), 11: (hole,)}
    assert gaps_touched([hole], Cut(seq_end=10)) == (hole,)


def test_a_time_is_inside_a_gap_from_its_first_to_its_last_microsecond() -> None:
    assert [at for at in range(48, 63) if inside_gap([gap(50, 60)], at)] == list(range(50, 61))
    assert not inside_gap([gap(None, 60), gap(50, None)], 55)


# Torn transactions


def naive_torn(near: list[tuple[int, str | None]], seq_end: int) -> dict[str, int]:
    names = {tx for _, tx in near if tx is not None}
    seqs = {tx: [seq for seq, other in near if other == tx] for tx in names}
    return {tx: min(s) for tx, s in seqs.items() if min(s) < seq_end <= max(s)}


@given(st.lists(st.sampled_from([None, "a", "b", "c"]), max_size=8), st.integers(-1, 10))
def test_a_transaction_on_both_sides_of_a_seq_is_torn(txs: list[str | None], seq_end: int) -> None:
    near = list(enumerate(txs, start=1))
    assert torn_by_seq(near, seq_end) == naive_torn(near, seq_end)


# Neighbours


def segment(seq_first: int, times: list[int]) -> ObjectRef:
    return ObjectRef(
        kind="segment",
        name=f"{seq_first}",
        seq_first=seq_first,
        seq_end=seq_first + len(times),
        at_min_us=min(times),
        at_max_us=max(times),
        row_count=len(times),
        size_bytes=1,
        sha256="",
    )


def view_of(segments: list[ObjectRef]) -> LogView:
    state = LogState(
        log_id=1,
        name="main",
        uid="",
        created_us=0,
        seq_next=segments[-1].seq_end if segments else 1,
        manifest_version=0,
        manifest_hash="",
        published_version=0,
        clamped_count=0,
    )
    tail = pa.Table.from_pylist([], schema=CHANGE_SCHEMA)
    return LogView(state=state, objects=tuple(segments), tail=tail)


@given(
    st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=3), max_size=5), st.integers(-1, 7)
)
def test_the_neighbours_of_a_time_are_in_the_segments_that_are_read(
    times: list[list[int]], at_us: int
) -> None:
    """Lanes interleave, so that the times of neighbouring segments overlap in every way."""
    segments, changes, seq = [], [], 1
    for some in times:
        segments.append(segment(seq, some))
        changes += [(at, seq + place) for place, at in enumerate(some)]
        seq += len(some)
    chosen = neighbour_objects(view_of(segments), at_us)
    before = max((c for c in changes if c[0] <= at_us), default=None)
    after = min((c for c in changes if c[0] > at_us), default=None)
    for wanted in (before, after):
        if wanted is not None:
            assert any(ref.seq_first <= wanted[1] < ref.seq_end for ref in chosen)
