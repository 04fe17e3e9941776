"""What people are told of the first reading of tables, and that estimates never contradict it."""

from __future__ import annotations

import pytest

from pitr.domain.log import LaneState
from pitr.domain.pgoutput.copying import CopyState, TableCopy
from pitr.domain.pgoutput.progress import copy_progress, progress_of
from pitr.faces.render.copies import progress_text

DONE = TableCopy(collection="public.done", rows=1_000, estimate=900, done=True)
HALF = TableCopy(collection="public.half", rows=400, estimate=2_000)
OVER = TableCopy(collection="public.over", rows=70, estimate=50)
NEW = TableCopy(collection="public.new")


def state(*tables: TableCopy) -> CopyState:
    return CopyState(tables=tables, looked=True)


def test_estimates_count_for_what_is_left_only() -> None:
    progress = copy_progress(state(DONE, HALF, OVER), rate=100.0)
    assert (progress.tables_done, progress.tables_left, progress.tables_count) == (1, 2, 3)
    assert (progress.rows_read, progress.rows_expected) == (1_470, 3_070)
    assert progress.rows_left == 1_600
    assert progress.seconds_left == 16.0
    assert not progress.complete


def test_one_table_of_which_nothing_is_known_leaves_the_sum_open() -> None:
    progress = copy_progress(state(DONE, HALF, NEW), rate=100.0)
    assert (progress.rows_expected, progress.rows_left, progress.seconds_left) == (None, None, None)
    assert copy_progress(state(HALF)).seconds_left is None
    assert copy_progress(state(HALF), rate=0.0).seconds_left is None


def test_it_is_complete_when_all_tables_are_known_and_read() -> None:
    assert copy_progress(state(DONE)).complete
    assert copy_progress(state()).complete  # a database without tables
    assert not copy_progress(CopyState(tables=(DONE,))).complete  # there may be more
    assert not progress_of(None).complete
    lane = LaneState(
        lane="postgres:a", position=0, at_us=0, state={"copy": state(DONE, HALF).as_json()}
    )
    assert progress_of(lane).rows_read == 1_400
    assert copy_progress(state(DONE), rate=100.0).rate is None


def test_an_estimate_is_noted_once_and_never_for_what_is_read() -> None:
    copy = state(DONE, HALF, NEW).estimated({"public.done": 5, "public.half": 5, "public.new": 7})
    assert [table.estimate for table in copy.tables] == [900, 2_000, 7]
    assert copy.estimated({"public.new": 9}) is copy
    assert copy.estimated({}) is copy


@pytest.mark.parametrize(
    ("copy", "rate", "told"),
    [
        (CopyState(), None, "not read yet"),
        (state(DONE), None, "1 of 1 table read, 1,000 rows"),
        (state(DONE, NEW), None, "1 of 2 tables read, 1,000 rows"),
        (
            state(DONE, HALF),
            25.0,
            "1 of 2 tables read, 1,400 of about 3,000 rows, 25 rows/s, about 1 min 4 s left",
        ),
        (
            state(HALF),
            0.25,
            "0 of 1 table read, 400 of about 2,000 rows, 0 rows/s, about 1 h 46 min left",
        ),
    ],
)
def test_it_is_told_in_words(copy: CopyState, rate: float | None, told: str) -> None:
    assert progress_text(copy_progress(copy, rate=rate)) == told
