"""The native format, one change at a time; ``docs/formats.md`` is its specification.

This module says what a change means and exactly what is wrong with a bad one. ``native_lines``
reads thousands at once and gives the same.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from pitr.domain.change import Op
from pitr.domain.formats.draft import Draft
from pitr.domain.formats.fields import (
    checked_collection,
    checked_text,
    document,
    is_null,
    key_of,
    kind,
    object_members,
    text_of,
)
from pitr.domain.formats.flaw import Flaw
from pitr.domain.formats.times import commit_us

FIELDS: Final = (
    "collection",
    "key",
    "op",
    "after",
    "before",
    "at",
    "tx",
    "actor",
    "reason",
    "meta",
)
"""Every field a change may have."""

_time = msgspec.json.Decoder(str | int)
_integer = re.compile(rb"-?[0-9]+")


def draft_of(item: bytes, *, position: int, collection: str | None = None) -> Draft:
    """Read one change.

    Args:
        item: One JSON object, white space around it allowed.
        position: Where it stands in its lane.
        collection: Used where the change names none.

    Raises:
        Flaw: It cannot be read.
    """
    fields = object_members(item, name="change")
    for name in fields:
        if name not in FIELDS:
            raise Flaw("unknown_field", f"{name}: not a field; there are {', '.join(FIELDS)}")
    op = _op(fields)
    return Draft(
        collection=_collection(fields, collection),
        key=_key(fields, op),
        op=op,
        after=_after(fields, op),
        before=_before(fields, op),
        unchanged=None,
        commit_us=_commit_us(fields),
        position=position,
        tx=_tx(fields),
        actor=_text(fields, "actor"),
        reason=_text(fields, "reason"),
        meta=document(fields.get("meta"), name="meta"),
    )


def _op(fields: dict[str, bytes]) -> str:
    if is_null(fields.get("op")):
        if "after" not in fields:
            raise Flaw("missing_field", "op: absent, and there is no after to tell it from")
        return Op.DELETE if is_null(fields["after"]) else Op.UPDATE
    op = text_of(fields["op"], name="op")
    if op not in _OPS:
        raise Flaw("unknown_op", f"op: {op[:40]!r} is not one of {', '.join(_OPS)}")
    return op


_OPS: Final = tuple(str(op) for op in Op)


def _collection(fields: dict[str, bytes], default: str | None) -> str:
    value = fields.get("collection")
    if value is not None and value != b"null":
        return checked_collection(text_of(value, name="collection"))
    if default is None:
        raise Flaw("missing_field", "collection: absent")
    return default


def _key(fields: dict[str, bytes], op: str) -> str:
    value = fields.get("key")
    if op == Op.TRUNCATE:
        if not is_null(value):
            raise Flaw("unexpected_field", "key: a truncate is of the whole collection")
        return ""
    if value is None or value == b"null":
        raise Flaw("missing_field", "key: absent; without it nobody knows which row changed")
    return key_of(value)


def _after(fields: dict[str, bytes], op: str) -> bytes | None:
    after = document(fields.get("after"), name="after")
    if op in (Op.DELETE, Op.TRUNCATE):
        if after is not None:
            raise Flaw("unexpected_field", f"after: a {op} leaves no row")
    elif after is None:
        raise Flaw("missing_field", f"after: absent or null; {op} needs the row")
    return after


def _before(fields: dict[str, bytes], op: str) -> bytes | None:
    before = document(fields.get("before"), name="before")
    if before is not None and op == Op.TRUNCATE:
        raise Flaw("unexpected_field", "before: a truncate is of the whole collection")
    return before


def _commit_us(fields: dict[str, bytes]) -> int | None:
    value = fields.get("at")
    if value is None or value == b"null":
        return None
    if value[:1] != b'"' and not _integer.fullmatch(value):
        wanted = "an RFC 3339 string, or µs as an integer"
        raise Flaw("wrong_type", f"at: must be {wanted}, is {kind(value)} {value[:40].decode()}")
    if len(value) > 100:
        raise Flaw("bad_time", "at: is longer than any time")
    return commit_us(_time.decode(value))


def _tx(fields: dict[str, bytes]) -> str | None:
    value = fields.get("tx")
    if value is None or value == b"null":
        return None
    if _integer.fullmatch(value):
        return checked_text(value.decode(), name="tx")
    return _text(fields, "tx")


def _text(fields: dict[str, bytes], name: str) -> str | None:
    value = fields.get(name)
    if value is None or value == b"null":
        return None
    return checked_text(text_of(value, name=name), name=name)
