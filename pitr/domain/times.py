"""Times as people write them and as the log keeps them: RFC 3339 outside, µs UTC inside."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from pitr.domain.errors import InvalidRequest

DURATION_US_MAX = 2**62
"""Longest duration, µs."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DURATION = re.compile(r"([0-9]{1,18})(us|ms|s|m|h|d|w)")
_UNIT_US = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}


def rfc3339(at_us: int | None) -> str | None:
    """Write µs since 1970 UTC as RFC 3339 with six decimals; None stays None.

    A time outside the years 1 to 9999 has no such form and is written as its number.
    """
    if at_us is None:
        return None
    try:
        moment = _EPOCH + timedelta(microseconds=at_us)
    except OverflowError:
        return f"{at_us}us"
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")


def time_us(text: str) -> int:
    """Read an RFC 3339 time with an offset.

    Raises:
        InvalidRequest: It is not one; for a time without a zone the hint shows both readings.
    """
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError as error:
        raise InvalidRequest(
            "the time cannot be read", hint="write it like 2026-03-01T09:30:00Z", time=text
        ) from error
    if moment.tzinfo is None:
        raise InvalidRequest("the time has no zone", hint=f"say {_readings(moment)}", time=text)
    return _us(moment)


def _readings(moment: datetime) -> str:
    """Both readings of a time without a zone; only one at the edges of the calendar."""
    as_utc = f"{rfc3339(_us(moment.replace(tzinfo=UTC)))} (UTC)"
    try:
        return f"{as_utc} or {moment.astimezone().isoformat()} (local)"
    except (ValueError, OverflowError):
        return as_utc


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def duration_us(text: str) -> int:
    """Read a duration like ``10m``, ``1h30m`` or ``250ms``.

    Raises:
        InvalidRequest: It is not one.
    """
    parts = _DURATION.findall(text)
    if not parts or "".join(count + unit for count, unit in parts) != text:
        raise InvalidRequest("the duration cannot be read", hint="write it like 10m", duration=text)
    duration = sum(int(count) * _UNIT_US[unit] for count, unit in parts)
    if duration > DURATION_US_MAX:
        raise InvalidRequest("the duration is too long", hint="say a time", duration=text)
    return duration
