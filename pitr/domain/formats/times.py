"""The field ``at``: RFC 3339 with an offset, or integer µs since 1970, as int64 µs UTC.

A time without an offset is refused: nobody can know which moment it means. Digits past the
microsecond are cut off, never rounded, so that a time is never later than what was written.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.formats.flaw import Flaw

AT_US_MIN = -62_135_596_800_000_000
"""0001-01-01T00:00:00Z, µs."""

AT_US_END = 253_402_300_800_000_000
"""10000-01-01T00:00:00Z, µs; times end before it."""

_RFC3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]{1,9}))?([Zz]|[+-][0-9]{2}:[0-9]{2})?"
)
# What Arrow casts to the same µs as commit_us does. The rest goes one by one.
_COMMON = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?"
    r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_FORM = "2026-03-01T09:30:00.250001Z"


def commit_us(value: str | int, *, name: str = "at") -> int:
    """Read one time.

    Raises:
        Flaw: ``naive_time`` without an offset; ``bad_time`` where it is no time at all, or not in
            the years 0001 to 9999.
    """
    at_us = value if isinstance(value, int) else _from_text(value, name)
    if not AT_US_MIN <= at_us < AT_US_END:
        raise Flaw("bad_time", f"{name}: {str(value)[:40]} is not in the years 0001 to 9999 UTC")
    return at_us


def _from_text(text: str, name: str) -> int:
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise Flaw("bad_time", f"{name}: {text[:40]!r} is not RFC 3339, such as {_FORM}")
    *digits, fraction, zone = match.groups()
    year, month, day, hour, minute, second = map(int, digits)
    try:
        day_s = (date(year, month, day).toordinal() - _EPOCH_DAY) * 86_400
    except ValueError as error:
        raise Flaw("bad_time", f"{name}: {text[:40]!r}: {error}") from error
    if hour > 23 or minute > 59 or second > 59:
        raise Flaw("bad_time", f"{name}: {text[:40]!r} has no such time of day")
    if zone is None:
        raise Flaw("naive_time", _naive_reason(text, name))
    second_utc = day_s + hour * 3600 + minute * 60 + second - _offset_s(zone, name)
    return second_utc * 1_000_000 + int((fraction or "0")[:6].ljust(6, "0"))


def _offset_s(zone: str, name: str) -> int:
    if zone in "Zz":
        return 0
    hour, minute = int(zone[1:3]), int(zone[4:6])
    if hour > 23 or minute > 59:
        raise Flaw("bad_time", f"{name}: {zone} is not an offset")
    return (hour * 3600 + minute * 60) * (-1 if zone[0] == "-" else 1)


def _naive_reason(text: str, name: str) -> str:
    return (
        f"{name}: {text!r} has no offset and could be any moment of a day; write {text + 'Z'!r} "
        f"if it is UTC, or give the offset, such as {text + '+01:00'!r}"
    )


def commit_us_column(values: Sequence[str | int | None]) -> pa.Array:
    """Read many times at once, as ``commit_us`` reads each; None stays null.

    Raises:
        Flaw: One of the values is not a time.
    """
    try:
        return _column_of_common(pa.array(values, pa.string()))
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if v is None else commit_us(v) for v in values], pa.int64())


def _column_of_common(texts: pa.Array) -> pa.Array:
    if texts.null_count == len(texts):
        return pa.nulls(len(texts), pa.int64())
    if not pc.all(pc.match_substring_regex(texts, _COMMON)).as_py():
        raise pa.ArrowInvalid("not all of them are in the common form")
    at_us = texts.cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    bounds = pc.min_max(at_us)
    if bounds["min"].as_py() < AT_US_MIN or bounds["max"].as_py() >= AT_US_END:
        raise pa.ArrowInvalid("out of range")
    return at_us
