"""The checks that every format shares: a whole JSON text, a text field, a document, a key."""

from __future__ import annotations

import json
import re

import msgspec

from pitr.domain.change import COLLECTION_BYTES_MAX, DOCUMENT_BYTES_MAX
from pitr.domain.duplicates import DEPTH_MAX, first_duplicate, is_too_deep
from pitr.domain.formats.flaw import Flaw
from pitr.domain.keys import BadKey, canonical_key

TEXT_BYTES_MAX = 64 * 1024
"""Longest ``tx``, ``actor`` or ``reason``, in UTF-8 bytes."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(str)
_surrogate = re.compile(rb"\\u[dD][89a-fA-F]")

_SPACE = b" \t\r\n"
_KINDS = {
    b"{": "an object",
    b"[": "an array",
    b'"': "a string",
    b"t": "a boolean",
    b"f": "a boolean",
    b"n": "null",
}


def kind(value: bytes) -> str:
    """Name the JSON type of a valid value, with its article."""
    return _KINDS.get(value[:1], "a number")


def is_null(value: bytes | None) -> bool:
    """Tell whether a member is absent or null."""
    return value is None or value == b"null"


def members(value: bytes) -> dict[str, bytes]:
    """Split a valid object into its members, values byte for byte."""
    return {name: bytes(raw) for name, raw in _members.decode(value).items()}


def object_members(text: bytes, *, name: str) -> dict[str, bytes]:
    """Check a whole input that must be one JSON object, and split it into its members.

    Args:
        text: What came in, not yet known to be anything.
        name: What people call it, for the reason.

    Raises:
        Flaw: It is not one valid JSON object, nests too deep, or repeats a name.
    """
    try:
        text.decode()
        found = members(text)
    except UnicodeDecodeError as error:
        raise Flaw("not_utf8", f"{name}: byte {error.start} is not UTF-8") from error
    except RecursionError as error:
        raise _too_deep(name) from error
    except msgspec.ValidationError as error:
        raise Flaw("not_an_object", f"{name}: is {kind(text.strip(_SPACE))}") from error
    except msgspec.DecodeError as error:
        raise _not_json(text, name, error) from error
    if is_too_deep(text):
        raise _too_deep(name)
    if (repeated := first_duplicate(text)) is not None:
        raise Flaw("duplicate_name", f"{name}: {repeated!r} stands twice in one object")
    return found


def _too_deep(name: str) -> Flaw:
    return Flaw("too_deep", f"{name}: nests deeper than {DEPTH_MAX} levels")


def _not_json(text: bytes, name: str, error: msgspec.DecodeError) -> Flaw:
    if _surrogate.search(text) and _is_json_for_python(text):
        return Flaw(
            "bad_unicode",
            f"{name}: half of a surrogate pair, such as \\ud800, without the other half",
        )
    return Flaw("not_json", f"{name}: {error}")


def _is_json_for_python(text: bytes) -> bool:
    """Tell whether a decoder that lets lone surrogates pass can read ``text``."""
    try:
        json.loads(text.decode(), parse_int=float, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_constant(constant: str) -> None:
    raise ValueError(constant)


def checked_text(value: str, *, name: str, bytes_max: int = TEXT_BYTES_MAX) -> str:
    """Check a text that will be a column of the log.

    Raises:
        Flaw: It holds a NUL character, which PostgreSQL text cannot, or is too long.
    """
    if "\0" in value:
        raise Flaw("bad_text", f"{name}: holds a NUL character (\\u0000)")
    # A character takes at most four bytes, so that most texts are not encoded to be measured.
    if 4 * len(value) > bytes_max and len(value.encode()) > bytes_max:
        raise Flaw("text_too_long", f"{name}: is longer than {bytes_max} bytes")
    return value


def checked_collection(value: str) -> str:
    """Check a collection name: not empty, no NUL, at most ``COLLECTION_BYTES_MAX`` bytes."""
    if not value:
        raise Flaw("bad_text", "collection: is empty")
    if len(value.encode()) > COLLECTION_BYTES_MAX:
        raise Flaw("collection_too_long", f"collection: is over {COLLECTION_BYTES_MAX} bytes")
    return checked_text(value, name="collection")


def text_of(value: bytes, *, name: str) -> str:
    """Decode a valid JSON value that must be a string."""
    if value[:1] != b'"':
        raise Flaw("wrong_type", f"{name}: must be a string, is {kind(value)}")
    return _text.decode(value)


def document(value: bytes | None, *, name: str) -> bytes | None:
    """Take an object byte for byte; absent and null are None."""
    if value is None or value == b"null":
        return None
    if value[:1] != b"{":
        raise Flaw("wrong_type", f"{name}: must be an object, is {kind(value)}")
    if len(value) > DOCUMENT_BYTES_MAX:
        raise Flaw("document_too_large", f"{name}: is over {DOCUMENT_BYTES_MAX} bytes")
    return value


def key_of(value: bytes, *, name: str = "key") -> str:
    """Write a key in its canonical form."""
    try:
        return canonical_key(value)
    except BadKey as error:
        raise Flaw(error.flaw, f"{name}: {error}") from error
