"""The native format: one JSON object a change; ``docs/formats.md`` is its specification.

``draft_of`` reads one change and says exactly what is wrong with it. ``table_of_lines`` reads
thousands at once, several times faster, and either gives what ``draft_of`` would have given for
each of them or gives up as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import itemgetter
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.change import COLLECTION_BYTES_MAX, DOCUMENT_BYTES_MAX, KEY_BYTES_MAX, Op
from pitr.domain.duplicates import DEPTH_MAX, distinct_names, first_duplicate, names_bound
from pitr.domain.formats.draft import Draft, table_of_columns
from pitr.domain.formats.fields import (
    TEXT_BYTES_MAX,
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
from pitr.domain.formats.times import commit_us, commit_us_column
from pitr.domain.keys import CANONICAL_SIMPLE

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


# ------------------------------------------------------------------------------ many at once

_ABSENT_RAW = msgspec.Raw(b"")
_ABSENT = "\0"
"""Stands for an absent text field. A text with a NUL is refused, so no change can hold it."""


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    collection: str
    key: msgspec.Raw = _ABSENT_RAW
    op: str | None = _ABSENT
    after: msgspec.Raw = _ABSENT_RAW
    before: msgspec.Raw = _ABSENT_RAW
    at: str | int | None = _ABSENT
    tx: str | None = _ABSENT
    actor: str | None = _ABSENT
    reason: str | None = _ABSENT
    meta: msgspec.Raw = _ABSENT_RAW


_lines = msgspec.json.Decoder(_Line)
_row_members = msgspec.json.Decoder(dict[str, msgspec.Raw])

_OP_OF: Final = {
    (op, first): actual
    for ops, firsts, actual in (
        (["create"], [b"{"], "create"),
        (["update", None, _ABSENT], [b"{"], "update"),
        (["patch"], [b"{"], "patch"),
        (["read"], [b"{"], "read"),
        (["delete"], [b"", b"n"], "delete"),
        ([None, _ABSENT], [b"n"], "delete"),
    )
    for op in ops
    for first in firsts
}
"""The op by what ``op`` says and how ``after`` begins. What is not here goes one by one."""


class Unsure(Exception):
    """Some of these changes need to be read one by one."""


def table_of_lines(items: Sequence[bytes], positions: Sequence[int]) -> pa.Table:
    """Read many changes at once, all of them good.

    Raises:
        Unsure: At least one is flawed, or unusual.
    """
    blob = b"\n".join(items)
    lines = _decoded(blob, items)
    raw = {name: [bytes(getattr(line, name)) for line in lines] for name in _RAW}
    text = {name: [getattr(line, name) for line in lines] for name in _TEXT}
    _require_distinct_names(blob, items, raw, text)
    return table_of_columns(
        [
            _collection_column(text["collection"]),
            _key_column(raw["key"]),
            _op_column(text["op"], raw["after"]),
            _document_column(raw["after"]),
            _document_column(raw["before"]),
            pa.nulls(len(lines), pa.string()),
            _time_column(text["at"]),
            pa.array(positions, pa.int64()),
            _text_column(text["tx"]),
            _text_column(text["actor"]),
            _text_column(text["reason"]),
            _document_column(raw["meta"]),
        ]
    )


_RAW: Final = ("key", "after", "before", "meta")
_TEXT: Final = ("collection", "op", "at", "tx", "actor", "reason")


def _decoded(blob: bytes, items: Sequence[bytes]) -> list[_Line]:
    """Decode one change per item, sure that each item holds exactly its own.

    The decoder skips any white space between values and within them, so it would also read two
    values in one item and one value in two. But no item holds a line feed, each begins with ``{``
    and ends with ``}``, and JSON never has ``}`` before ``{`` within a value: so a value ends at
    every item's end, and as many values as items means one in each.
    """
    if blob.count(b"\n") != len(items) - 1 or max(map(len, items)) > 2 * DEPTH_MAX:
        _require_plain(items)
    if not (all(items) and _FIRST_BYTES(items) and _LAST_BYTES(items)):
        raise Unsure
    try:
        if not blob.isascii():
            blob.decode()
        lines = _lines.decode_lines(blob)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unsure from error
    if len(lines) != len(items):
        raise Unsure
    return lines


def _require_plain(items: Sequence[bytes]) -> None:
    for item in items:
        if b"\n" in item or len(item) > DOCUMENT_BYTES_MAX:
            raise Unsure
        if len(item) > 2 * DEPTH_MAX and item.count(b"{") + item.count(b"[") > DEPTH_MAX:
            raise Unsure


def _FIRST_BYTES(items: Sequence[bytes]) -> bool:
    return set(map(itemgetter(0), items)) == {ord("{")}


def _LAST_BYTES(items: Sequence[bytes]) -> bool:
    return set(map(itemgetter(-1), items)) == {ord("}")}


def _require_distinct_names(
    blob: bytes,
    items: Sequence[bytes],
    raw: dict[str, list[bytes]],
    text: dict[str, list[str | None]],
) -> None:
    """Make sure that no object in any item repeats a name.

    ``known`` counts names that are distinct within their objects: the fields that the struct
    found, and the names of the four documents. It never counts too many. See ``names_bound``.
    """
    known = sum(len(items) - column.count(_ABSENT) for column in text.values())
    for column in raw.values():
        known += len(items) - column.count(b"")
        known += _names(column)
    if names_bound(blob) == known:
        return
    if any(first_duplicate(item) is not None for item in items):
        raise Unsure


def _names(documents: list[bytes]) -> int:
    objects = [document for document in documents if document[:1] == b"{"]
    return sum(map(len, _row_members.decode_lines(b"\n".join(objects))))


def _collection_column(values: list[str | None]) -> pa.Array:
    for value in set(values):
        assert value is not None, "the struct takes no null"
        if not value or "\0" in value or len(value.encode()) > COLLECTION_BYTES_MAX:
            raise Unsure
    return pa.array(values, pa.string())


def _key_column(values: list[bytes]) -> pa.Array:
    if b"" in values or b"null" in values:
        raise Unsure
    keys = pa.array(values, pa.string())
    if not pc.all(pc.match_substring_regex(keys, CANONICAL_SIMPLE)).as_py():
        try:
            return pa.array([key_of(value) for value in values], pa.string())
        except Flaw as flaw:
            raise Unsure from flaw
    if max(map(len, values)) > KEY_BYTES_MAX:
        raise Unsure
    return keys


def _op_column(ops: list[str | None], after: list[bytes]) -> pa.Array:
    try:
        actual = [_OP_OF[op, document[:1]] for op, document in zip(ops, after, strict=True)]
    except KeyError as error:
        raise Unsure from error
    return pa.array(actual, pa.string())


def _document_column(values: list[bytes]) -> pa.Array:
    if not any(values):
        return pa.nulls(len(values), pa.string())
    if not {value[:1] for value in values} <= {b"", b"n", b"{"}:
        raise Unsure
    return pa.array([value if value[:1] == b"{" else None for value in values], pa.string())


def _time_column(values: list[str | None]) -> pa.Array:
    try:
        return commit_us_column([None if value is _ABSENT else value for value in values])
    except Flaw as flaw:
        raise Unsure from flaw


def _text_column(values: list[str | None]) -> pa.Array:
    present = [None if value is _ABSENT else value for value in values]
    texts = pa.array(present, pa.string())
    if texts.null_count == len(texts):
        return texts
    if pc.any(pc.match_substring(texts, "\0")).as_py():
        raise Unsure
    if pc.max(pc.binary_length(texts)).as_py() > TEXT_BYTES_MAX:
        raise Unsure
    return texts
