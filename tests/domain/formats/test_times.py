"""``at`` is one exact moment or it is refused; reading many gives what reading each gives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.formats.flaw import Flaw
from pitr.domain.formats.times import AT_US_END, AT_US_MIN, commit_us, commit_us_column


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:00z", 0),
        ("1970-01-01 00:00:00Z", 0),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("1970-01-01T00:00:00.1Z", 100_000),
        ("1970-01-01T00:00:00.000001999Z", 1),
        ("1969-12-31T23:59:59.9999999Z", -1),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T18:30:00-05:30", 0),
        ("1970-01-01T00:00:00-00:00", 0),
        ("0001-01-01T00:00:00Z", AT_US_MIN),
        ("9999-12-31T23:59:59.999999Z", AT_US_END - 1),
        ("2024-02-29T12:00:00Z", 1_709_208_000_000_000),
        (0, 0),
        (1_772_357_400_250_001, 1_772_357_400_250_001),
        (-1, -1),
    ],
)
def test_a_time_is_read_to_the_microsecond(text: str | int, us: int) -> None:
    assert commit_us(text) == us
    assert commit_us_column([text]).to_pylist() == [us]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("2026-03-01T09:30:00", "naive_time"),
        ("2026-03-01 09:30:00.123", "naive_time"),
        ("2026-03-01", "bad_time"),
        ("2026-03-01T09:30Z", "bad_time"),
        ("2026-03-01T09:30:00+0100", "bad_time"),
        ("2026-03-01T09:30:00+01", "bad_time"),
        ("2026-03-01T09:30:00+24:00", "bad_time"),
        ("2026-03-01T09:30:00+01:60", "bad_time"),
        ("2026-03-01T09:30:00.Z", "bad_time"),
        ("2026-03-01T09:30:00.1234567890Z", "bad_time"),
        ("2026-02-30T00:00:00Z", "bad_time"),
        ("2025-02-29T00:00:00Z", "bad_time"),
        ("2026-13-01T00:00:00Z", "bad_time"),
        ("2026-03-01T24:00:00Z", "bad_time"),
        ("2026-03-01T23:59:60Z", "bad_time"),
        ("0000-01-01T00:00:00Z", "bad_time"),
        ("0001-01-01T00:00:00+01:00", "bad_time"),
        ("9999-12-31T23:59:59-01:00", "bad_time"),
        ("+2026-03-01T09:30:00Z", "bad_time"),
        ("2026-03-01T09:30:00Z\n", "bad_time"),
        (" 2026-03-01T09:30:00Z", "bad_time"),
        ("٢٠٢٦-03-01T09:30:00Z", "bad_time"),
        ("", "bad_time"),
        ("yesterday", "bad_time"),
        (AT_US_MIN - 1, "bad_time"),
        (AT_US_END, "bad_time"),
        (2**63, "bad_time"),
    ],
)
def test_what_is_no_single_moment_is_refused(text: str | int, code: str) -> None:
    for read in (
        commit_us,
        lambda one: commit_us_column([one]),
        lambda one: commit_us_column([one, None]),
    ):
        with pytest.raises(Flaw) as flaw:
            read(text)
        assert flaw.value.code == code


def test_a_time_without_offset_is_refused_with_both_ways_to_fix_it() -> None:
    with pytest.raises(Flaw) as flaw:
        commit_us("2026-03-01T09:30:00")
    assert "'2026-03-01T09:30:00Z'" in flaw.value.reason
    assert "'2026-03-01T09:30:00+01:00'" in flaw.value.reason


offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda m: timezone(timedelta(minutes=m)))
moments = st.datetimes(
    datetime(2, 1, 1), datetime(9998, 12, 31), timezones=st.one_of(st.just(UTC), offsets)
)


@given(moments)
def test_times_agree_with_the_standard_library(moment: datetime) -> None:
    expected = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert commit_us(moment.isoformat()) == expected


pieces = st.lists(st.sampled_from([*"0123456789-:.TtZz +", "2026-03-01T", "09:30:00"]))
texts = st.one_of(
    moments.map(datetime.isoformat),
    moments.map(lambda moment: moment.isoformat().replace("+00:00", "Z")),
    moments.map(lambda moment: moment.isoformat(" ")),
    pieces.map("".join),
    st.builds("{:04d}-{:02d}-{:02d}T{:02d}:{:02d}:{:02d}Z".format, *[st.integers(0, 99)] * 6),
)


@given(st.lists(st.one_of(st.none(), texts, st.integers(-(2**64), 2**64)), max_size=4))
def test_many_at_once_give_what_each_gives(values: list[str | int | None]) -> None:
    try:
        expected = [None if value is None else commit_us(value) for value in values]
    except Flaw:
        with pytest.raises(Flaw):
            commit_us_column(values)
    else:
        assert commit_us_column(values).to_pylist() == expected
