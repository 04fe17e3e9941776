"""Times: what is written can be read back, and what is not exact is refused with a way out."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.errors import InvalidRequest
from pitr.domain.times import duration_us, rfc3339, time_us

YEAR_1_US = -62_135_596_800_000_000
YEAR_9999_END_US = 253_402_300_799_999_999


@given(st.integers(YEAR_1_US, YEAR_9999_END_US))
def test_every_microsecond_of_the_years_1_to_9999_survives_a_round_trip(at_us: int) -> None:
    text = rfc3339(at_us)
    assert text is not None
    assert len(text) == 27
    assert time_us(text) == at_us


@pytest.mark.parametrize("at_us", [YEAR_9999_END_US + 1, YEAR_1_US - 1, 2**63 - 1, -(2**63)])
def test_a_time_outside_the_calendar_is_written_as_its_number(at_us: int) -> None:
    assert rfc3339(at_us) == f"{at_us}us"


def test_no_time_stays_no_time() -> None:
    assert rfc3339(None) is None


@given(st.integers(YEAR_1_US, YEAR_9999_END_US), st.integers(YEAR_1_US, YEAR_9999_END_US))
def test_written_times_sort_like_the_times(one: int, other: int) -> None:
    assert (str(rfc3339(one)) < str(rfc3339(other))) == (one < other)


@pytest.mark.parametrize(
    ("text", "at_us"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("2026-03-01T09:30:00.250001Z", 1_772_357_400_250_001),
        ("2026-03-01T10:30:00.250001+01:00", 1_772_357_400_250_001),
        ("2026-03-01T04:00:00.250001-05:30", 1_772_357_400_250_001),
        ("0001-01-01T00:00:00+14:00", YEAR_1_US - 14 * 3_600_000_000),
        ("9999-12-31T23:59:59.999999-14:00", YEAR_9999_END_US + 14 * 3_600_000_000),
    ],
)
def test_an_rfc_3339_time_with_an_offset_is_read(text: str, at_us: int) -> None:
    assert time_us(text) == at_us


def test_letters_of_either_case_are_read() -> None:
    """RFC 3339, section 5.6: "T" and "Z" may alternatively be lower case."""
    assert time_us("2026-03-01t09:30:00z") == time_us("2026-03-01T09:30:00Z")


def test_what_is_finer_than_a_microsecond_is_cut_towards_the_past() -> None:
    """So that a target never takes in a change that lies after it."""
    assert time_us("1970-01-01T00:00:00.0000019Z") == 1
    assert time_us("1969-12-31T23:59:59.9999999Z") == -1


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-02-29T00:00:00Z", "2026-03-01T25:00:00Z", "\0", "12:00:00Z"]
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        time_us(text)


@pytest.fixture
def five_hours_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Etc/GMT+5")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("five_hours_behind")
def test_a_time_without_a_zone_is_refused_with_both_readings() -> None:
    with pytest.raises(InvalidRequest) as refused:
        time_us("2026-03-01T09:30:00")
    assert refused.value.hint is not None
    assert "2026-03-01T09:30:00.000000Z (UTC)" in refused.value.hint
    assert "2026-03-01T09:30:00-05:00 (local)" in refused.value.hint


@pytest.mark.usefixtures("five_hours_behind")
@pytest.mark.parametrize(
    "text", ["0001-01-01", "0001-01-01T00:00:00", "9999-12-31T23:59:59.999999", "2026-03-01"]
)
def test_a_time_without_a_zone_is_refused_at_the_ends_of_the_calendar_too(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no zone"):
        time_us(text)


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("250ms", 250_000),
        ("7us", 7),
        ("0s", 0),
        ("10m", 600_000_000),
        ("1h30m", 5_400_000_000),
        ("2d", 172_800_000_000),
        ("1w1d1h1m1s1ms1us", 694_861_001_001),
    ],
)
def test_a_duration_is_read(text: str, us: int) -> None:
    assert duration_us(text) == us


@pytest.mark.parametrize("text", ["", "10", "m", "-5m", "10 m", "1.5h", "1M", "10m ", "٣m", "²m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="duration"):
        duration_us(text)


@pytest.mark.parametrize("text", ["9" * 5_000 + "m", "9" * 30 + "w"])
def test_a_duration_longer_than_the_log_can_hold_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        duration_us(text)
