"""The canonical key: one text for one row, whoever wrote it; numbers keep their text.

A key is a JSON object with its column names sorted, no white space, and each string in one
spelling, so that equal keys are equal bytes. Numbers are never calculated with: ``1``, ``1.0`` and
``"1"`` are three keys.
"""

from __future__ import annotations

import re

import msgspec

from pitr.domain.change import KEY_BYTES_MAX
from pitr.domain.duplicates import first_duplicate
from pitr.domain.errors import InvalidRequest

KEY_DEPTH_MAX = 8
"""Deepest nesting inside a key. Most columns are scalars; an exact decimal may be an object."""

_NAME = r'"[A-Za-z0-9_]+"'
_SCALAR = (
    r"(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
    r'|"[A-Za-z0-9_./@ -]*"|true|false)'
)

# These are read by Python and by RE2.
CANONICAL_SIMPLE = rf"^\{{{_NAME}:{_SCALAR}\}}$"
"""A text that matches this is its own canonical key."""

SIMPLIFICATIONS = (
    (rf"^\{{ ?({_NAME}) ?: ?({_SCALAR}) ?\}}$", r"{\1:\2}"),
    (rf"^({_SCALAR})$", r'{"id":\1}'),
)
"""Patterns and what to put in their place: common spellings of simple keys, made canonical."""

_simple = re.compile(CANONICAL_SIMPLE[:-1].encode() + rb"\Z")
_raw_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_raw_array = msgspec.json.Decoder(list[msgspec.Raw])
_text = msgspec.json.Decoder(str)
_encode = msgspec.json.encode


class BadKey(InvalidRequest):
    """The key names no row. ``flaw`` is the quarantine code that says why."""

    code = "bad_key"

    def __init__(self, message: str, *, flaw: str, **facts: object) -> None:
        super().__init__(message, hint=None, **facts)
        self.flaw = flaw


def canonical_key(text: bytes) -> str:
    """Write the key in JSON text ``text`` in its one canonical form.

    A scalar is the value of the column ``id``. An object has at least one column; no value in it
    is null, at any level.

    Raises:
        BadKey: It is not JSON, not a key, repeats a name, or is longer than ``KEY_BYTES_MAX``.
    """
    raw = text.strip(b" \t\r\n")
    if _simple.match(raw):
        return _within_limit(raw)
    _require_json(raw)
    match raw[:1]:
        case b"{":
            canonical = _canonical_object(raw)
        case b"[":
            raise BadKey("must be an object or a scalar, not an array", flaw="wrong_type")
        case b"n":
            raise BadKey("must not be null", flaw="wrong_type")
        case _:
            canonical = b'{"id":' + _canonical_value(raw, path="", depth=0) + b"}"
    return _within_limit(canonical)


def is_canonical(text: bytes) -> bool:
    """Tell quickly whether a text is its own canonical key; False is not certain."""
    return len(text) <= KEY_BYTES_MAX and _simple.match(text) is not None


def column_names(key: str) -> tuple[str, ...]:
    """Name the columns of a canonical key."""
    return tuple(_raw_object.decode(key))


def key_from_members(values: dict[str, bytes]) -> str:
    """Write the canonical key made of columns and their JSON values.

    Raises:
        BadKey: As ``canonical_key``.
    """
    return canonical_key(b"{" + b",".join(_encode(n) + b":" + v for n, v in values.items()) + b"}")


def _require_json(raw: bytes) -> None:
    try:
        raw.decode()
        # The brackets let the decoder check a value that it is told to leave as it is.
        if len(_raw_array.decode(b"[" + raw + b"]")) == 1:
            return
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadKey("is not valid JSON", flaw="not_json", error=error) from error
    except RecursionError as error:
        raise BadKey("nests too deep", flaw="too_deep", depth_max=KEY_DEPTH_MAX) from error
    raise BadKey("is not one JSON value", flaw="not_json")


def _canonical_object(raw: bytes) -> bytes:
    if _raw_object.decode(raw) == {}:
        raise BadKey("must have at least one column", flaw="wrong_type")
    canonical = _canonical_value(raw, path="", depth=0)
    # Only now: the nesting is known to be shallow.
    if (name := first_duplicate(raw)) is not None:
        raise BadKey("repeats a name", flaw="duplicate_name", name=name)
    return canonical


def _canonical_value(raw: bytes, *, path: str, depth: int) -> bytes:
    if depth > KEY_DEPTH_MAX:
        raise BadKey("nests too deep", flaw="too_deep", depth_max=KEY_DEPTH_MAX)
    match raw[:1]:
        case b'"':
            return _encode(_text.decode(raw))
        case b"{":
            return _canonical_members(raw, path=path, depth=depth)
        case b"[":
            values = [
                _canonical_value(bytes(value), path=f"{path}[{place}]", depth=depth + 1)
                for place, value in enumerate(_raw_array.decode(raw))
            ]
            return b"[" + b",".join(values) + b"]"
        case b"n":
            raise BadKey("must not hold null", flaw="wrong_type", at=path)
        case _:
            return raw


def _canonical_members(raw: bytes, *, path: str, depth: int) -> bytes:
    members = sorted(_raw_object.decode(raw).items())
    return (
        b"{"
        + b",".join(
            _encode(name)
            + b":"
            + _canonical_value(
                bytes(value), path=f"{path}.{name}" if path else name, depth=depth + 1
            )
            for name, value in members
        )
        + b"}"
    )


def _within_limit(canonical: bytes) -> str:
    if len(canonical) > KEY_BYTES_MAX:
        raise BadKey(
            "is too long", flaw="key_too_long", bytes=len(canonical), bytes_max=KEY_BYTES_MAX
        )
    return canonical.decode()
