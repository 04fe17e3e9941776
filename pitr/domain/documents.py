"""JSON documents as exact bytes: merged and compared member by member, no value ever re-encoded.

Source: RFC 7396 (JSON Merge Patch); member values stay as ``msgspec.Raw``, so that ``1.10`` and
40-digit numbers keep their text (invariant 10).
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_names = msgspec.json.Decoder(list[str])


def members(document: bytes) -> dict[str, bytes]:
    """Split an object into its top-level members, values byte for byte, in order."""
    return {name: bytes(value) for name, value in _members.decode(document).items()}


def member_names(document: str) -> Collection[str]:
    """Return what the top-level members of an object are called; nothing of another document."""
    if document[:1] != "{" and not is_object(document.encode()):
        return ()
    return _members.decode(document).keys()


def joined(parts: dict[str, bytes]) -> bytes:
    """Write members as an object, without spaces between them."""
    encode = msgspec.json.encode
    return b"{" + b",".join(encode(name) + b":" + value for name, value in parts.items()) + b"}"


def is_object(document: bytes) -> bool:
    """Tell whether a valid JSON text is an object."""
    return document.lstrip(b" \t\r\n")[:1] == b"{"


def merge_patch(target: bytes | None, patch: bytes) -> bytes:
    """Apply an RFC 7396 merge patch; ``target`` None is a row that does not exist."""
    if not is_object(patch):
        return patch
    merged = members(target) if target is not None and is_object(target) else {}
    for name, value in members(patch).items():
        if value == b"null":
            merged.pop(name, None)
        elif is_object(value):
            merged[name] = merge_patch(merged.get(name), value)
        else:
            merged[name] = value
    return joined(merged)


def fill_unchanged(target: bytes | None, after: bytes, unchanged: bytes) -> bytes:
    """Complete ``after`` with the members that the source left out as unchanged.

    Members keep the order of ``target``; those it lacks follow in the order of ``after``. A member
    that ``target`` does not have either stays absent: its value was never captured.
    """
    previous = members(target) if target is not None and is_object(target) else {}
    given, kept = members(after), set(_names.decode(unchanged))
    filled = {
        name: value if name in kept and name not in given else given[name]
        for name, value in previous.items()
        if name in kept or name in given
    }
    return joined(filled | {name: value for name, value in given.items() if name not in filled})
