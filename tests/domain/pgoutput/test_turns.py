"""One process follows a source; another takes over when that one is gone, and not before."""

from __future__ import annotations

from pitr.domain.log import LaneState
from pitr.domain.pgoutput.turns import SILENT_US, Turns

NOW_US = 1_700_000_000_000_000


def lane(owner: str | None, seen_us: int | None) -> LaneState:
    return LaneState(lane="postgres:app", position=0, at_us=0, owner=owner, seen_us=seen_us)


def turns(*gone: str) -> Turns:
    return Turns("me", gone.__contains__)


def test_a_lane_that_nobody_works_on_is_taken_at_once() -> None:
    for state in (None, lane(None, NOW_US), lane("me", NOW_US), lane("dead", NOW_US)):
        assert turns("dead").may_take(state, now_us=NOW_US, passed_us=0)


def test_an_owner_that_speaks_is_let_work_however_long() -> None:
    waiting = turns("dead")
    for passed_us in range(0, 10 * SILENT_US, 1_000_000):
        state = lane("other", NOW_US + passed_us - 900_000)
        assert not waiting.may_take(state, now_us=NOW_US + passed_us, passed_us=passed_us)


def test_an_owner_that_is_silent_is_followed_by_another() -> None:
    waiting, state = turns(), lane("other", NOW_US)
    assert not waiting.may_take(state, now_us=NOW_US + SILENT_US, passed_us=0)
    assert waiting.may_take(state, now_us=NOW_US + SILENT_US + 1, passed_us=1)
    assert turns().may_take(lane("other", None), now_us=NOW_US, passed_us=0)


def test_a_clock_that_goes_wrong_holds_nobody_up_for_long() -> None:
    """The owner said that it was an hour later than it is."""
    waiting, state = turns(), lane("other", NOW_US + 3_600_000_000)
    assert not waiting.may_take(state, now_us=NOW_US, passed_us=5)
    assert not waiting.may_take(state, now_us=NOW_US, passed_us=5 + SILENT_US)
    again = lane("other", NOW_US + 3_600_000_001)
    assert not waiting.may_take(again, now_us=NOW_US, passed_us=6 + SILENT_US)
    assert waiting.may_take(again, now_us=NOW_US, passed_us=7 + 2 * SILENT_US)
