"""Stamping keeps invariants 4 and 5 and nothing more."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.columnar.schema import CHANGE_SCHEMA, DRAFT_SCHEMA
from pitr.domain.columnar.stamp import Stamped, stamp

RECORDED_US = 10
SKEW_US = 3


def drafts(rows: list[tuple[int | None, str | None]]) -> pa.Table:
    """Return drafts with (commit_us, tx); position is the place in the list."""
    plain: dict[str, Any] = {"collection": "c", "key": '{"id":1}', "op": "update", "after": "{}"}
    return pa.Table.from_pylist(
        [
            plain | {"commit_us": commit, "tx": tx, "position": place}
            for place, (commit, tx) in enumerate(rows)
        ],
        schema=DRAFT_SCHEMA,
    )


def stamped(rows: list[tuple[int | None, str | None]], **given: Any) -> Stamped:
    settings = {
        "seq_first": 5,
        "lane": "l",
        "position_first": None,
        "lane_at_us": 0,
        "recorded_us": RECORDED_US,
        "skew_us": SKEW_US,
    }
    return stamp(drafts(rows), **(settings | given))


def slow_log_times(rows: list[tuple[int | None, str | None]], lane_at_us: int) -> list[int]:
    """Raise to the running maximum and to each transaction's maximum until nothing moves."""
    at = [min(RECORDED_US if us is None else us, RECORDED_US + SKEW_US) for us, _ in rows]
    while True:
        before, highest = list(at), lane_at_us
        for place, us in enumerate(at):
            at[place] = highest = max(highest, us)
        for place, (_, tx) in enumerate(rows):
            same = [us for us, (_, other) in zip(at, rows, strict=True) if tx and other == tx]
            at[place] = max([at[place], *same])
        if at == before:
            return at


@given(
    st.lists(
        st.tuples(st.none() | st.integers(-2, 16), st.sampled_from([None, "a", "b", "c"])),
        max_size=12,
    ),
    st.integers(0, 16),
)
def test_log_times_are_the_least_that_keep_both_invariants(
    rows: list[tuple[int | None, str | None]], lane_at_us: int
) -> None:
    found = stamped(rows, lane_at_us=lane_at_us)
    at = found.table["at_us"].to_pylist()
    assert at == slow_log_times(rows, lane_at_us)
    assert found.at_us_last == ([lane_at_us, *at])[-1]
    assert found.clamped_count == sum((us or 0) > RECORDED_US + SKEW_US for us, _ in rows)


def test_commit_times_stay_what_the_source_said() -> None:
    table = stamped([(99, None), (None, None), (2, None)]).table
    assert table["commit_us"].to_pylist() == [99, RECORDED_US, 2]
    assert table["at_us"].to_pylist() == [13, 13, 13]


def test_seqs_lane_and_positions_are_given() -> None:
    relative = stamped([(1, None), (2, None)], position_first=100).table
    assert relative.schema == CHANGE_SCHEMA
    assert relative["seq"].to_pylist() == [5, 6]
    assert relative["position"].to_pylist() == [100, 101]
    assert relative["lane"].to_pylist() == ["l", "l"]
    assert stamped([(1, None), (2, None)]).table["position"].to_pylist() == [0, 1]


def test_drafts_in_several_chunks() -> None:
    whole = pa.concat_tables([drafts([(3, "t")]), drafts([(1, None), (5, "t")])])
    found = stamp(
        whole,
        seq_first=1,
        lane="l",
        position_first=0,
        lane_at_us=0,
        recorded_us=RECORDED_US,
        skew_us=SKEW_US,
    )
    assert found.table["at_us"].to_pylist() == [5, 5, 5]
