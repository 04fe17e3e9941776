"""From a JSON value to the text that PostgreSQL's own input function reads, column by column.

This is the one definition of what a value becomes; ``rows`` has a faster way to the same text for
the common types. Every rule is in ``docs/restore-postgres.md``. It refuses what the database
would alter in silence.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final

import msgspec

from pitr.adapters.sinks.postgres.tables import Column

_elements: Final = msgspec.json.Decoder(list[msgspec.Raw])
_string: Final = msgspec.json.Decoder(str)
_json: Final = msgspec.json.Decoder()

_OFFSET: Final = re.compile(r"(?:Z|[+-]\d\d(?::?\d\d(?::?\d\d)?)?)(?: BC)?$", re.I)
_ZERO_OFFSET: Final = re.compile(r"(?:Z|[+-]00(?::?00(?::?00)?)?)(?: BC)?$", re.I)
_CLOCK: Final = re.compile(r"\d\d:\d\d")
_MIDNIGHT: Final = re.compile(r"00:00(?::00(?:\.0+)?)?(?:Z|[+-]00(?::?00)?)?(?: BC)?$", re.I)
_ENDLESS: Final = frozenset(("infinity", "-infinity"))

NUMERIC_SCALE_MAX: Final = 16_383
"""Digits after the point that PostgreSQL's numeric can have."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ENDLESS_US: Final = 9_223_372_036_825_200_000
_ENDLESS_PAST_US: Final = -9_223_372_036_832_400_000


class Unfit(Exception):
    """The value cannot be held by its column; the text says why."""


def text_of(column: Column, raw: bytes) -> str | None:
    """Return a value's text for the column's input function, None for null.

    Raises:
        Unfit: The column cannot hold the value, or only altered.
    """
    if raw == b"null":
        return None
    text = _RULES.get(column.base, _plain)(column, raw)
    if "\0" in text:
        raise Unfit("PostgreSQL's text cannot hold the character U+0000")
    return text


def is_string(raw: bytes) -> bool:
    """Tell whether a JSON value is a string."""
    return raw.startswith(b'"')


def check_scale(text: str, column: Column) -> None:
    """Refuse digits that ``numeric(p, s)`` would round away.

    Raises:
        Unfit: There are some.
    """
    scale = numeric_scale(column.typmod)
    if len(text.partition(".")[2]) <= scale and "e" not in text and "E" not in text:
        return
    try:
        _, digits, exponent = Decimal(text).as_tuple()
    except ArithmeticError:
        return  # no number: the server says so
    zeros = len(digits) - len(bytes(digits).rstrip(b"\0"))
    if isinstance(exponent, int) and any(digits) and exponent + zeros < -scale:
        raise Unfit(f"{column.type} would round the number")


def numeric_scale(typmod: int) -> int:
    """Digits after the point of ``numeric(p, s)``; since PostgreSQL 15 it may be negative."""
    return (((typmod - 4) & 0x7FF) ^ 1024) - 1024


def check_length(text: str, column: Column) -> None:
    """Refuse what ``varchar(n)`` would cut: it drops spaces at the end in silence.

    Raises:
        Unfit: The text is longer than the column.
    """
    if column.base == "varchar" and 4 <= column.typmod < len(text) + 4:
        raise Unfit(f"the text is too long for {column.type}")


def check_moment(text: str, column: Column) -> None:
    """Refuse a text whose zone or time of day the column would drop, or would have to guess.

    Raises:
        Unfit: ``timestamptz`` without an offset, ``timestamp`` or ``time`` with one that is not
            zero, ``date`` with a time of day that is not midnight.
    """
    clock = _CLOCK.search(text)
    if column.base in ("timestamptz", "timetz"):
        if text not in _ENDLESS and (clock is None or not _OFFSET.search(text)):
            raise Unfit(f"{column.type} needs a time with an offset from UTC")
    elif clock is None:
        return
    elif column.base == "date" and not _MIDNIGHT.match(text, clock.start()):
        raise Unfit("date would drop the time of day")
    elif _OFFSET.search(text) and not _ZERO_OFFSET.search(text):
        raise Unfit(f"{column.type} holds no zone, and the time has an offset from UTC")


def moment_text(number: int, column: Column) -> str:
    """The text of an integer in a time column, read as Debezium's adaptive mode writes it.

    ``date`` is days since 1970; ``timestamp`` and ``time`` are milliseconds where the column has
    at most 3 digits of fraction, microseconds otherwise (Debezium's PostgreSQL connector,
    "Temporal types").

    Raises:
        Unfit: The moment is outside the years 1 to 9999, or the type takes no integer.
    """
    try:
        if column.base == "date":
            return (date(1970, 1, 1) + timedelta(days=number)).isoformat()
        number_us = number * 1000 if 0 <= column.typmod <= 3 else number
        if column.base == "time":
            return _time_text(number_us)
        if number_us >= _ENDLESS_US or number_us <= _ENDLESS_PAST_US:
            return "infinity" if number_us > 0 else "-infinity"
        moment = _EPOCH + timedelta(microseconds=number_us)
        return moment.replace(tzinfo=None).isoformat(" ")
    except OverflowError as error:
        raise Unfit("the moment is outside the years 1 to 9999") from error


def _time_text(number_us: int) -> str:
    seconds, fraction = divmod(number_us, 1_000_000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{fraction:06}"


def bytes_text(text: str) -> str:
    """``bytea`` from ``\\x`` and hexadecimal digits, or from base64.

    Raises:
        Unfit: It is neither.
    """
    if text.startswith("\\x"):
        return text
    try:
        return "\\x" + base64.b64decode(text, validate=True).hex()
    except (binascii.Error, ValueError) as error:
        raise Unfit("bytea takes \\x and hexadecimal digits, or base64") from error


def json_text(raw: str, column: Column) -> str:
    """What goes into ``json`` and ``jsonb``: the exact text, but for strings that hold JSON.

    Debezium sends JSON columns as strings. With ``auto`` a string that holds an object or an
    array is taken for that, with ``text`` every string is, with ``value`` none.
    """
    if column.json_strings == "value" or not raw.startswith('"'):
        return raw
    inner = _string.decode(raw)
    if column.json_strings == "text":
        return inner
    if inner.lstrip(" \t\r\n")[:1] not in ("{", "["):
        return raw
    try:
        _json.decode(inner)
    except msgspec.DecodeError:
        return raw
    return inner


def _plain(column: Column, raw: bytes) -> str:
    """Strings decoded, everything else as its JSON text."""
    text = _string.decode(raw) if is_string(raw) else raw.decode()
    check_length(text, column)
    return text


def _numeric(column: Column, raw: bytes) -> str:
    if raw.startswith(b"{"):
        return _debezium_decimal(column, raw)
    text = _plain(column, raw)
    if column.typmod >= 0:
        check_scale(text, column)
    return text


def _debezium_decimal(column: Column, raw: bytes) -> str:
    """Debezium's ``VariableScaleDecimal``: a scale, and the digits as a big-endian integer."""
    try:
        parts = msgspec.json.decode(raw, type=_VariableScaleDecimal)
    except msgspec.ValidationError:
        return raw.decode()
    if abs(parts.scale) > NUMERIC_SCALE_MAX:
        raise Unfit("the number has too many digits")
    unscaled = Decimal(int.from_bytes(parts.value, "big", signed=True)).as_tuple()
    text = format(Decimal((unscaled.sign, unscaled.digits, -parts.scale)), "f")
    if column.typmod >= 0:
        check_scale(text, column)
    return text


class _VariableScaleDecimal(msgspec.Struct):
    scale: int
    value: bytes


def _moment(column: Column, raw: bytes) -> str:
    if is_string(raw):
        text = _string.decode(raw)
        check_moment(text, column)
        return text
    try:
        number = int(raw)
    except ValueError:
        return raw.decode()
    if column.base in ("timestamptz", "timetz"):
        raise Unfit(f"an integer does not say its unit; {column.type} takes RFC 3339 text")
    return moment_text(number, column)


def _bytes(_column: Column, raw: bytes) -> str:
    return bytes_text(_string.decode(raw)) if is_string(raw) else raw.decode()


def _bits(_column: Column, raw: bytes) -> str:
    return {b"true": "1", b"false": "0"}.get(raw) or _plain(_column, raw)


def _interval(_column: Column, raw: bytes) -> str:
    """Debezium's numeric mode is microseconds."""
    return _plain(_column, raw) if is_string(raw) else f"{raw.decode()} microseconds"


def _json_value(column: Column, raw: bytes) -> str:
    return json_text(raw.decode(), column)


def _array(column: Column, raw: bytes) -> str:
    """An array literal, of any depth; a string is one already."""
    if not raw.startswith(b"["):
        return _plain(column, raw)
    element = Column(
        name=column.name,
        type=column.type,
        base=column.element or "",
        typmod=column.typmod,
        json_strings=column.json_strings,
    )
    return _array_literal(element, raw)


def _array_literal(element: Column, raw: bytes) -> str:
    parts = []
    for item in map(bytes, _elements.decode(raw)):
        if item.startswith(b"[") and element.base not in ("json", "jsonb"):
            parts.append(_array_literal(element, item))
            continue
        text = text_of(element, item)
        parts.append("NULL" if text is None else _quoted_element(text))
    return "{" + ",".join(parts) + "}"


def _quoted_element(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_RULES: Final[dict[str, Callable[[Column, bytes], str]]] = {
    "numeric": _numeric,
    "timestamptz": _moment,
    "timetz": _moment,
    "timestamp": _moment,
    "date": _moment,
    "time": _moment,
    "json": _json_value,
    "jsonb": _json_value,
    "bytea": _bytes,
    "bit": _bits,
    "varbit": _bits,
    "interval": _interval,
    "array": _array,
}
