"""What the fast ways share: many JSON objects decoded at once, and columns of documents.

A fast way gives exactly what reading one by one gives, or gives up as a whole with ``Unsure``: it
never decides what is wrong with an input.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import accumulate, chain, pairwise
from operator import itemgetter
from typing import Any, Final

import msgspec
import pyarrow as pa

from pitr.domain.change import DOCUMENT_BYTES_MAX
from pitr.domain.duplicates import DEPTH_MAX, first_duplicate, names_bound

BYTES_MAX: Final = 512 * 1024 * 1024
"""Most input at once, bytes; Arrow counts the bytes of one column in 32 bits."""

ABSENT_JSON: Final = msgspec.Raw(b"")
"""The default of a field that holds any JSON; no JSON text is empty."""

ALIKE_NAMES_MAX: Final = 256
"""Objects with more names are read as dicts; a struct for them would be large to keep."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode_lines = msgspec.json.Encoder().encode_lines


class Unsure(Exception):
    """Some of these inputs need to be read one by one."""


def decoded(blob: bytes, items: Sequence[bytes], decoder: msgspec.json.Decoder[Any]) -> list[Any]:
    """Decode one object per item, sure that each item holds exactly its own.

    The decoder skips white space between values and within them, so it would also read two values
    in one item and one value in two. But each item begins with ``{`` and ends with ``}``, and JSON
    never has ``}`` and then ``{`` within a value, nor a line feed within a string: so a value ends
    at every item's end, each item holds one at least, and as many values as items means one each.

    Args:
        blob: The items with a line feed between each two.
        items: At least one.
        decoder: Of one item, not of a list of them.

    Raises:
        Unsure: At least one item is not such an object, not UTF-8, nests deep or is very large.
    """
    if not all(items) or len(blob) > BYTES_MAX:
        raise Unsure
    edges = set(map(itemgetter(0), items)), set(map(itemgetter(-1), items))
    if edges != ({ord("{")}, {ord("}")}):
        raise Unsure
    if max(map(len, items)) > 2 * DEPTH_MAX:
        _require_shallow(items)
    try:
        if not blob.isascii():
            blob.decode()
        values = decoder.decode_lines(blob)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Unsure from error
    if len(values) != len(items):
        raise Unsure
    return values


def _require_shallow(items: Sequence[bytes]) -> None:
    """Give up on an item that may nest too deep (``duplicates.is_too_deep``) or is very large."""
    for item in items:
        if len(item) > 2 * DEPTH_MAX and (
            len(item) > DOCUMENT_BYTES_MAX or item.count(b"{") + item.count(b"[") > DEPTH_MAX
        ):
            raise Unsure


def is_shortest(values: Sequence[Any], bytes_count: int) -> bool:
    """Tell whether objects were written in as few bytes as possible; then none repeats a name.

    The encoder writes the members that the decoder kept: no white space, each name and string in
    its shortest spelling, each integer in its only one (but for -0, which is longer than 0), each
    ``Raw`` as it came. So no text of these members is shorter. Where a name stands twice the
    decoder kept one member of the two, and the text is longer by the other at least. As no text is
    shorter than what is written for it, the sums are equal only where all of them are.

    Args:
        values: What was decoded: dicts of ``Raw``, or structs without other fields than these,
            of strings, integers and ``Raw``, that omit their defaults. Inside of a ``Raw`` a name
            may still be repeated.
        bytes_count: How long their texts are together, without what is between them.
    """
    try:
        return len(_encode_lines(values)) - len(values) == bytes_count
    except (msgspec.MsgspecError, ValueError, OverflowError):
        return False  # An integer may be too long to be written.


def require_distinct_names(blob: bytes, items: Sequence[bytes], names_count: int) -> None:
    """Make sure that no object in any item repeats a name.

    ``names_count`` is of names that are distinct within their objects: the fields that the decoder
    found, and the names of the documents. It counts some of them or all of them, never one twice;
    where ``names_bound`` equals it, there are no others.

    Raises:
        Unsure: One does.
    """
    # A line feed between two items has "{" after it.
    line_feeds = blob.count(b"\n") != len(items) - 1
    if names_bound(blob, line_feeds=line_feeds) == names_count:
        return
    if any(first_duplicate(item) is not None for item in items):
        raise Unsure


def positions_column(positions: Sequence[int]) -> pa.Array:
    """Give the positions; those of lines that follow each other are never made one by one."""
    if isinstance(positions, range):
        return pa.arange(positions.start, positions.stop, positions.step)
    return pa.array(positions, pa.int64())


@lru_cache(maxsize=256)
def _decoder_of(names: tuple[str, ...]) -> msgspec.json.Decoder[Any] | None:
    """Make a decoder of objects with exactly these names; it is faster than that of dicts.

    Only where its input holds each of them once, which it does not check, ``is_shortest`` is true
    of what it makes. None where a struct cannot have such names.
    """
    fields = [f"field_{place}" for place in range(len(names))]
    try:
        row = msgspec.defstruct(
            "Row",
            [(field, msgspec.Raw) for field in fields],
            rename=dict(zip(fields, names, strict=True)),
            forbid_unknown_fields=True,
            gc=False,
        )
        return msgspec.json.Decoder(row)
    except (TypeError, ValueError):
        return None


def columns_of(rows: Sequence[Any]) -> list[list[Any]]:
    """Give the values of structs of one kind, field by field."""
    # One list that is sliced needs no thousands of iterators, as zip(*…) would.
    flat = list(chain.from_iterable(map(msgspec.structs.astuple, rows)))
    width = len(rows[0].__struct_fields__)
    return [flat[field::width] for field in range(width)]


def _repeats_inside(values: Sequence[msgspec.Raw]) -> bool:
    """Tell whether any of these valid JSON values repeats a name."""
    if b"{" not in b"".join(values):
        return False
    nested = [text for text in map(bytes, values) if text[0] in b"{[" and b"{" in text]
    return first_duplicate(b"[" + b",".join(nested) + b"]") is not None


class Documents:
    """One column of JSON values, byte for byte, one after the other; absent ones are empty."""

    def __init__(self, raws: Sequence[msgspec.Raw]) -> None:
        self.present_count = len(raws) - raws.count(ABSENT_JSON)
        if self.present_count:
            self.joined = b"".join(raws)
            self.ends = list(accumulate(map(len, raws), initial=0))
        else:
            self.joined = b""
            self.ends = [0] * (len(raws) + 1)

    @cached_property
    def objects_only(self) -> bool:
        """Whether each value is there, and an object."""
        if self.present_count < len(self.ends) - 1:
            return False
        return set(map(self.joined.__getitem__, self.ends[:-1])) == {ord("{")}

    def values(self) -> list[bytes]:
        """Give each value; of an absent one, nothing."""
        return [self.joined[first:end] for first, end in pairwise(self.ends)]

    def firsts(self) -> list[bytes]:
        """Give the first byte of each value; of an absent one, nothing."""
        if self.objects_only or not self.present_count:
            return [self.joined[:1]] * (len(self.ends) - 1)
        return [self.joined[first:end][:1] for first, end in pairwise(self.ends)]

    @cached_property
    def object_texts(self) -> bytes:
        """Those values that are objects, one after the other."""
        if self.objects_only or not self.present_count:
            return self.joined
        return b"".join(value for value in self.values() if value[:1] == b"{")

    @cached_property
    def objects(self) -> list[dict[str, msgspec.Raw]]:
        """The members of those values that are objects."""
        return _members.decode_lines(self.object_texts) if self.object_texts else []

    def names_count(self) -> int:
        """Count the distinct names of each object, and each value's own name in its change."""
        return self.present_count + sum(map(len, self.objects))

    def repeat_no_name(self) -> bool:
        """Tell quickly whether no object repeats a name, at any level; False is not certain."""
        if not self.object_texts:
            return True
        rows = self._alike() or self.objects
        return is_shortest(rows, len(self.object_texts)) and not self._inner_repeat(rows)

    def _alike(self) -> list[Any]:
        """Give the objects as structs, if all have the names that the first one has; else none."""
        first = _members.decode(self.joined[: self.ends[1]]) if self.objects_only else {}
        decoder = _decoder_of(tuple(first)) if 0 < len(first) <= ALIKE_NAMES_MAX else None
        if decoder is None:
            return []
        try:
            return decoder.decode_lines(self.joined)
        except msgspec.ValidationError:
            return []

    def _inner_repeat(self, rows: list[Any]) -> bool:
        # Every object within an object has its own brace, and names stand only in objects.
        if self.object_texts.count(b"{") == len(rows):
            return False
        if type(rows[0]) is dict:
            return _repeats_inside(list(chain.from_iterable(map(dict.values, rows))))
        return any(map(_repeats_inside, columns_of(rows)))

    def texts(self) -> pa.Array:
        """Give the values as they are; the whole input is known to be UTF-8."""
        buffers = [None, pa.py_buffer(array("i", self.ends)), pa.py_buffer(self.joined)]
        return pa.Array.from_buffers(pa.string(), len(self.ends) - 1, buffers)

    def column(self) -> pa.Array:
        """Give the objects; what is absent or null is null.

        Raises:
            Unsure: There are other values.
        """
        if self.objects_only:
            return self.texts()
        if not self.joined:
            return pa.nulls(len(self.ends) - 1, pa.string())
        if not set(self.firsts()) <= {b"", b"n", b"{"}:
            raise Unsure
        return pa.array(
            [value if value[:1] == b"{" else None for value in self.values()], pa.string()
        )
