"""What a document says of a table's columns, whatever way it is written."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

import msgspec

VALUE_BYTES: Final = 8
"""Bytes that stand for the value of one column; zeros are null."""

DEPTH_MAX: Final = 100
"""Values that nest deeper are taken as they are written."""

_NULL: Final = bytes(VALUE_BYTES)

_text: Final = msgspec.json.Decoder(str)
_array: Final = msgspec.json.Decoder(list[msgspec.Raw])
_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode: Final = msgspec.json.encode


def values_of(key: str, document: str, columns: Sequence[str]) -> bytes:
    """Return ``VALUE_BYTES`` for the value of each column.

    A column that the document lacks is null, unless the key has it: the row is older than the
    column, and one that was added with values would have been read again. Members that are no
    columns do not count: the row is older than their end. Restores do the same.
    """
    said = _members(document)
    if not said.keys() >= {*columns}:
        said = _members(key) | said
    values = [said.get(name) for name in columns]
    return b"".join([_NULL if value is None else _digest(bytes(value)) for value in values])


def _members(document: str) -> dict[str, msgspec.Raw]:
    try:
        return _object.decode(document)
    except msgspec.ValidationError:  # no object has no columns
        return {}


def _digest(value: bytes) -> bytes:
    if value == b"null":
        return _NULL
    return blake2b(_meaning(value, 0), digest_size=VALUE_BYTES).digest()


def _meaning(value: bytes, depth: int) -> bytes:
    """Write a value in one spelling; numbers keep their text (invariant 10)."""
    match value[:1]:
        case b'"' if b"\\" in value:
            return _encode(_text.decode(value))
        case b"[" if depth < DEPTH_MAX:
            inner = [_meaning(bytes(each), depth + 1) for each in _array.decode(value)]
            return b"[" + b",".join(inner) + b"]"
        case b"{" if depth < DEPTH_MAX:
            pairs = sorted(_object.decode(value).items())
            inner = [_encode(n) + b":" + _meaning(bytes(v), depth + 1) for n, v in pairs]
            return b"{" + b",".join(inner) + b"}"
    return value
