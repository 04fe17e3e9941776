"""Estimates: by this machine's own speed where that is known, and never without what is fixed."""

from __future__ import annotations

from typing import Any

import pytest

from pitr.domain.estimate import (
    LEARNT_ROWS_MIN,
    ROWS_PER_S,
    START_S,
    Done,
    Writing,
    done_of,
    estimate,
)

WRITING = Writing(work="postgres", mode="fresh", row_count=1_000_000)


def done(rows: int, seconds: float, **more: Any) -> Done:
    given = {"work": "postgres", "mode": "fresh"} | more
    return Done(row_count=rows, write_s=seconds, **given)


def test_what_was_read_is_read_again() -> None:
    found = estimate(WRITING, read_s=3.0)
    assert found.read_s == 3.0
    assert found.seconds == found.read_s + found.write_s
    assert found.by == "figures"
    expected = START_S["postgres"] + WRITING.row_count / ROWS_PER_S["postgres"]
    assert found.write_s == pytest.approx(expected)


@pytest.mark.parametrize("rows", [10_000, 1_000_000, 50_000_000])
@pytest.mark.parametrize("rows_per_s", [20_000, 250_000])
@pytest.mark.parametrize("seen", [5_000, 300_000])
def test_it_learns_from_the_newest_of_its_kind(rows: int, rows_per_s: float, seen: int) -> None:
    """Within a factor of two, if the machine goes on as it did."""

    def real(count: int) -> float:
        return START_S["postgres"] + count / rows_per_s

    earlier = [
        done(9_000, 0.001, mode="swap"),
        done(LEARNT_ROWS_MIN - 1, 60.0),
        done(seen, real(seen)),
        done(seen, 1000.0),
    ]
    found = estimate(
        Writing(work="postgres", mode="fresh", row_count=rows), read_s=0.0, done=earlier
    )
    assert found.by == "operations"
    assert real(rows) / 2 <= found.seconds <= real(rows) * 2


def test_a_quick_operation_does_not_make_it_boundless() -> None:
    found = estimate(WRITING, read_s=0.0, done=[done(1_000, START_S["postgres"])])
    assert 1 < found.seconds < 1_000


def test_tables_cost_something_each() -> None:
    many = Writing(work="postgres", mode="fresh", row_count=0, table_count=100)
    assert estimate(many, read_s=0.0).seconds > 1
    assert estimate(many, read_s=0.0).document()["by"] == "figures"


def test_what_operations_say_of_their_speed() -> None:
    told = {"work": "files", "mode": "fresh", "row_count": 5, "write_s": 0.5}
    operations = [
        {"outcome": "failed", "detail": told},
        {"outcome": "done", "detail": {"rows": {}}},
        {"outcome": "done", "detail": told | {"rows": {"a": 3, "b": 2}}},
    ]
    (found,) = done_of(operations)
    assert found == Done(work="files", mode="fresh", row_count=5, write_s=0.5, table_count=2)
