"""Rules for pulled lanes: gaps, sources made again, warnings before retention."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.admission import AT_US_MIN
from pitr.domain.log import LaneState
from pitr.domain.pulled import (
    Source,
    gap_of,
    next_lane,
    replacement,
    retention_problem,
    source_problem,
)
from pitr.domain.records import Peeked
from tests.conftest import START_US

HOUR_US = 3_600_000_000


def lane(position: int, *, last: int | None = None, at_us: int = START_US) -> LaneState:
    state = {} if last is None else {"last": {"position": last, "digest": "same"}}
    return LaneState(lane="kafka:t:0", position=position, at_us=at_us, state=state)


def peeked(position: int, digest: str = "same", time_us: int | None = START_US) -> Peeked:
    return Peeked(position=position, digest=digest, time_us=time_us)


@pytest.mark.parametrize(
    ("state", "source", "found", "said"),
    [
        (lane(5, last=4), Source(first=0, end=5), peeked(4), None),
        (lane(5, last=4), Source(first=0, end=9), peeked(4), None),
        (lane(5, last=4), Source(first=0, end=4), None, "ends at 4, before position 5"),
        (lane(5, last=4), Source(first=0, end=0), None, "ends at 0, before position 5"),
        (lane(5, last=4), Source(first=0, end=9), peeked(4, "other"), "at position 4 is another"),
        # Compaction took the record away, or nothing is known of it: nobody can tell.
        (lane(5, last=4), Source(first=0, end=9), peeked(6, "other"), None),
        (lane(5, last=4), Source(first=7, end=9), None, None),
        (lane(5), Source(first=0, end=9), peeked(4, "other"), None),
        (lane(0), Source(first=0, end=0), None, None),
    ],
)
def test_a_source_that_was_made_again_is_told_from_the_old_one(
    state: LaneState, source: Source, found: Peeked | None, said: str | None
) -> None:
    problem = source_problem(state, source, found)
    assert (problem is None) if said is None else (said in str(problem))


def test_a_gap_has_the_positions_and_times_around_it() -> None:
    gap = gap_of(lane(5), Source(first=9, end=20), peeked(11, time_us=START_US + 7), recorded_us=1)
    assert (gap.lane, gap.position_first, gap.position_end) == ("kafka:t:0", 5, 9)
    assert (gap.at_min_us, gap.at_max_us, gap.recorded_us) == (START_US, START_US + 7, 1)
    nothing = gap_of(lane(5, at_us=AT_US_MIN), Source(first=9, end=9), None, recorded_us=1)
    assert (nothing.at_min_us, nothing.at_max_us) == (None, None)


def test_lanes_follow_each_other() -> None:
    assert replacement("kafka:t:0") == "kafka:t:0~2"
    assert replacement("kafka:t:0~2") == "kafka:t:0~3"
    assert replacement("kafka:a~b:0~9") == "kafka:a~b:0~10"
    assert replacement("kafka:a~b") == "kafka:a~b~2"
    assert next_lane(lane(1)) is None
    assert next_lane(LaneState(lane="a", position=1, at_us=1, state={"replaced_by": "b"})) == "b"


@given(st.integers(1, 50))
def test_no_two_lanes_of_a_topic_have_one_name(count: int) -> None:
    names = ["kafka:t:0"]
    for _ in range(count):
        names.append(replacement(names[-1]))
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("position", "source", "oldest_us", "kept_us", "said"),
    [
        (9, Source(first=8, end=9), START_US, 1, None),  # nothing waits
        (5, Source(first=0, end=9), START_US - HOUR_US, 2 * HOUR_US, None),
        (
            5,
            Source(first=0, end=9),
            START_US - HOUR_US,
            HOUR_US,
            "deletes them at 2026-03-01T09:30",
        ),
        (5, Source(first=0, end=9), None, None, None),  # it never deleted anything
        (11, Source(first=10, end=100), None, None, "deletes from position 10 on"),
        (50, Source(first=10, end=100), None, None, None),
        (11, Source(first=10, end=100), None, HOUR_US, "deletes from position 10 on"),
    ],
)
def test_retention_is_said_before_it_comes(
    position: int, source: Source, oldest_us: int | None, kept_us: int | None, said: str | None
) -> None:
    problem = retention_problem(
        position, source, oldest_us=oldest_us, kept_us=kept_us, now_us=START_US
    )
    assert (problem is None) if said is None else (said in str(problem))


@given(
    position=st.integers(0, 2**62),
    first=st.integers(0, 2**62),
    length=st.integers(0, 2**62),
    oldest_us=st.none() | st.integers(-(2**62), 2**62),
    kept_us=st.none() | st.integers(0, 2**63 - 1),
)
def test_retention_never_fails(
    position: int, first: int, length: int, oldest_us: int | None, kept_us: int | None
) -> None:
    """Retention can be set to 2**63 ms, and records can have any time."""
    retention_problem(
        position,
        Source(first=first, end=first + length),
        oldest_us=oldest_us,
        kept_us=None if kept_us is None else kept_us * 1000,
        now_us=START_US,
    )
