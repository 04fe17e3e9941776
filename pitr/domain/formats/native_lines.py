"""The native format, thousands of changes at once, several times faster than one by one.

``table_of_items`` gives exactly what ``native.draft_of`` gives for each of its items, or gives up
as a whole: it never decides what is wrong with an input.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Final, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.change import COLLECTION_BYTES_MAX, DOCUMENT_BYTES_MAX, KEY_BYTES_MAX
from pitr.domain.duplicates import DEPTH_MAX, first_duplicate, names_bound
from pitr.domain.formats.draft import table_of_columns
from pitr.domain.formats.fields import TEXT_BYTES_MAX, key_of
from pitr.domain.formats.flaw import Flaw
from pitr.domain.formats.times import commit_us_column
from pitr.domain.keys import CANONICAL_SIMPLE

Text = TypeVar("Text", str | None, str | int | None)


class Unsure(Exception):
    """Some of these changes need to be read one by one."""


_ABSENT: Final = "\0"
"""Stands for an absent text. A text with a NUL is refused, so no change can hold it."""

_BYTES_MAX: Final = 512 * 1024 * 1024
"""Most input at once, bytes; Arrow counts the bytes of one column in 32 bits."""

_ABSENT_JSON: Final = msgspec.Raw(b"")


class _Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    collection: str
    key: msgspec.Raw
    op: str | None = _ABSENT
    after: msgspec.Raw = _ABSENT_JSON
    before: msgspec.Raw = _ABSENT_JSON
    at: str | int | None = _ABSENT
    tx: str | None = _ABSENT
    actor: str | None = _ABSENT
    reason: str | None = _ABSENT
    meta: msgspec.Raw = _ABSENT_JSON


_lines = msgspec.json.Decoder(_Line)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])

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
"""The op, by what ``op`` says and how ``after`` begins. What is not here is read one by one."""


def table_of_items(items: Sequence[bytes], positions: Sequence[int]) -> pa.Table:
    """Read many changes at once, all of them good.

    Args:
        items: At least one.
        positions: Where each stands in its lane.

    Raises:
        Unsure: At least one is flawed, or unusual.
    """
    blob = b"\n".join(items)
    lines = _decoded(blob, items)
    collection, key, op, after, before, at, tx, actor, reason, meta = zip(
        *map(msgspec.structs.astuple, lines), strict=True
    )
    keys, names_count = _key_column(_Documents(key))
    documents = [_Documents(after), _Documents(before), _Documents(meta)]
    names_count += sum(column.names_count() for column in documents)
    names_count += sum(len(lines) - texts.count(_ABSENT) for texts in (op, at, tx, actor, reason))
    names_count += len(lines)  # Each has its collection.
    _require_distinct_names(blob, items, names_count)
    return table_of_columns(
        [
            _collection_column(collection),
            keys,
            _op_column(op, documents[0]),
            documents[0].column(),
            documents[1].column(),
            pa.nulls(len(lines), pa.string()),
            _time_column(at),
            pa.array(positions, pa.int64()),
            _text_column(tx),
            _text_column(actor),
            _text_column(reason),
            documents[2].column(),
        ]
    )


def _decoded(blob: bytes, items: Sequence[bytes]) -> list[_Line]:
    """Decode one change per item, sure that each item holds exactly its own.

    The decoder skips white space between values and within them, so it would also read two values
    in one item and one value in two. But no item holds a line feed, each begins with ``{`` and
    ends with ``}``, and JSON never has ``}`` before ``{`` within a value: so a value ends at every
    item's end, and as many values as items means one in each.
    """
    if blob.count(b"\n") != len(items) - 1 or not all(items) or len(blob) > _BYTES_MAX:
        raise Unsure
    if set(map(itemgetter(0), items)) != {ord("{")} or set(map(itemgetter(-1), items)) != {
        ord("}")
    }:
        raise Unsure
    if max(map(len, items)) > 2 * DEPTH_MAX:
        _require_shallow(items)
    try:
        if not blob.isascii():
            blob.decode()
        lines = _lines.decode_lines(blob)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Unsure from error
    if len(lines) != len(items):
        raise Unsure
    return lines


def _require_shallow(items: Sequence[bytes]) -> None:
    """Give up on an item that may nest too deep (``duplicates.is_too_deep``) or is very large."""
    for item in items:
        if len(item) > 2 * DEPTH_MAX and (
            len(item) > DOCUMENT_BYTES_MAX or item.count(b"{") + item.count(b"[") > DEPTH_MAX
        ):
            raise Unsure


class _Documents:
    """One column of JSON values, byte for byte, one after the other; absent ones are empty."""

    def __init__(self, raws: Sequence[msgspec.Raw]) -> None:
        self.joined = b"".join(raws)
        self.ends = list(accumulate(map(len, raws), initial=0))
        self.present_count = len(raws) - raws.count(_ABSENT_JSON)
        self.objects_only = self.present_count == len(raws) and self._begin_with_brace()

    def _begin_with_brace(self) -> bool:
        return set(map(self.joined.__getitem__, self.ends[:-1])) == {ord("{")}

    def values(self) -> list[bytes]:
        return [self.joined[first:end] for first, end in pairwise(self.ends)]

    def firsts(self) -> list[bytes]:
        """Give the first byte of each value; of an absent one, nothing."""
        if self.objects_only or not self.present_count:
            return [self.joined[:1]] * (len(self.ends) - 1)
        return [self.joined[first:end][:1] for first, end in pairwise(self.ends)]

    def names_count(self) -> int:
        """Count the distinct names of each object, and each value's own name in its change."""
        if not self.present_count:
            return 0
        objects = self.joined
        if not self.objects_only:
            objects = b"".join(value for value in self.values() if value[:1] == b"{")
        return self.present_count + sum(map(len, _members.decode_lines(objects)))

    def texts(self) -> pa.Array:
        """Give the values as they are; the whole input is known to be UTF-8."""
        buffers = [None, pa.py_buffer(array("i", self.ends)), pa.py_buffer(self.joined)]
        return pa.Array.from_buffers(pa.string(), len(self.ends) - 1, buffers)

    def column(self) -> pa.Array:
        """Give the objects; what is absent or null is null."""
        if self.objects_only:
            return self.texts()
        if not self.joined:
            return pa.nulls(len(self.ends) - 1, pa.string())
        if not set(self.firsts()) <= {b"", b"n", b"{"}:
            raise Unsure
        return pa.array(
            [value if value[:1] == b"{" else None for value in self.values()], pa.string()
        )


def _require_distinct_names(blob: bytes, items: Sequence[bytes], names_count: int) -> None:
    """Make sure that no object in any item repeats a name.

    ``names_count`` is of names that are distinct within their objects: the fields that the decoder
    found, and the names of the documents. It counts some of them or all of them, never one twice;
    where ``names_bound`` equals it, there are no others.
    """
    # A line feed stands only between items, where "{" follows it.
    if names_bound(blob, line_feeds=False) == names_count:
        return
    if any(first_duplicate(item) is not None for item in items):
        raise Unsure


def _collection_column(values: Sequence[str]) -> pa.Array:
    for value in set(values):
        if not value or "\0" in value or len(value.encode()) > COLLECTION_BYTES_MAX:
            raise Unsure
    return pa.array(values, pa.string())


def _key_column(documents: _Documents) -> tuple[pa.Array, int]:
    """Give the canonical keys, and how many names they and the fields that hold them have."""
    keys = documents.texts()
    try:
        if not pc.all(pc.match_substring_regex(keys, CANONICAL_SIMPLE)).as_py():
            canonical = pa.array(map(key_of, documents.values()), pa.string())
            return canonical, documents.names_count()
    except Flaw as flaw:
        raise Unsure from flaw
    if pc.max(pc.binary_length(keys)).as_py() > KEY_BYTES_MAX:
        raise Unsure
    return keys, 2 * len(keys)


def _op_column(ops: Sequence[str | None], after: _Documents) -> pa.Array:
    try:
        actual = [_OP_OF[each] for each in zip(ops, after.firsts(), strict=True)]
    except KeyError as error:
        raise Unsure from error
    return pa.array(actual, pa.string())


def _time_column(values: Sequence[str | int | None]) -> pa.Array:
    try:
        return commit_us_column(_present(values))
    except Flaw as flaw:
        raise Unsure from flaw


def _text_column(values: Sequence[str | None]) -> pa.Array:
    texts = pa.array(_present(values), pa.string())
    if texts.null_count == len(texts):
        return texts
    if b"\0" in texts.buffers()[2].to_pybytes():
        raise Unsure
    if pc.max(pc.binary_length(texts)).as_py() > TEXT_BYTES_MAX:
        raise Unsure
    return texts


def _present(values: Sequence[Text]) -> list[Text | None]:
    """Turn what is absent into None, and nothing else: a text may well be a NUL."""
    if _ABSENT not in values:
        return list(values)
    return [None if value is _ABSENT else value for value in values]
