"""Debezium's stand-in for a value that the source did not send, in every form it takes.

PostgreSQL leaves a large value that did not change out of the change (TOAST). Debezium then writes
``__debezium_unavailable_value``, converted to the column's type: as text, as bytes (base64 or hex),
as an array of either, as an array of its character codes, as an hstore, as a UUID made from it, or
as a geometry that cannot be. Source: Debezium, ``UnchangedToastedPlaceholder``.
"""

from __future__ import annotations

import hashlib
import uuid
from base64 import b64encode
from typing import Final

import msgspec

from pitr.domain.documents import joined
from pitr.domain.formats.fields import members

PLACEHOLDER: Final = "__debezium_unavailable_value"

_bytes = PLACEHOLDER.encode()
_base64 = b64encode(_bytes).decode()
_uuid = str(uuid.UUID(bytes=hashlib.md5(_bytes, usedforsecurity=False).digest(), version=3))
_codes = list(_bytes)
_TEXTS = frozenset(
    {
        PLACEHOLDER,
        _base64,
        _base64.rstrip("="),
        _bytes.hex(),
        _bytes.hex().upper(),
        _uuid,
        f'{{"{PLACEHOLDER}":"{PLACEHOLDER}"}}',
    }
)
_GEOMETRIES = frozenset(
    b64encode(bytes.fromhex(wkb)).decode()
    for wkb in (
        "0101000020E6100000000000FC83D797C1000000FC83D797C1",
        "0101000020E61000000C21E7FDFF7F66401842CEFBFF7F5640",
        "0101000000000000FC83D797C1000000FC83D797C1",
    )
)
# One of these is in every stand-in. Codes come with a space after each comma or without.
_MARKERS = tuple(
    text.encode()
    for text in (
        PLACEHOLDER,
        _base64.rstrip("="),
        _bytes.hex(),
        _bytes.hex().upper(),
        _uuid,
        *_GEOMETRIES,
        ",".join(map(str, _codes)),
        ", ".join(map(str, _codes)),
    )
)
_any = msgspec.json.Decoder()


def may_hold_unavailable(row: bytes) -> bool:
    """Tell quickly whether a row has a stand-in; False is certain, True is not."""
    return any(marker in row for marker in _MARKERS)


def without_unavailable(row: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Take the stand-ins out of a row; the values of the others stay byte for byte.

    Returns:
        The row, and the names of the members whose whole value was a stand-in.
    """
    if not may_hold_unavailable(row):
        return row, ()
    values = members(row)
    names = tuple(name for name, value in values.items() if is_unavailable(value))
    if not names:
        return row, ()
    return joined({name: value for name, value in values.items() if name not in names}), names


def is_unavailable(value: bytes) -> bool:
    """Tell whether a whole JSON value is a stand-in."""
    if not may_hold_unavailable(value):
        return False
    try:
        return _is_stand_in(_any.decode(value))
    except ValueError:
        return False  # A number too long for an int, so no stand-in.


def _is_stand_in(value: object) -> bool:
    match value:
        case str(text):
            return text in _TEXTS
        case list(array):
            return array == _codes or all(isinstance(e, str) and e in _TEXTS for e in array)
        case {"wkb": str(wkb)}:
            return wkb in _GEOMETRIES
        case dict(mapping):
            return all({name, str(text)} <= _TEXTS for name, text in mapping.items())
        case _:
            return False
