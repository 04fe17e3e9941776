"""Columns of PostgreSQL's text as JSON documents, thousands of rows at once.

A document is put together of slices: a literal (``,"name":"``), a value, a literal, and so on.
Values are taken as they stand in the source; only those that JSON writes otherwise are made anew.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.pgoutput.arrays import NUMBER, NUMBERS, array_as_json, numbers_as_json
from pitr.domain.pgoutput.model import Form
from pitr.domain.pgoutput.tuples import Block, Mask, Slices, Slots, some

Lengths: TypeAlias = npt.NDArray[np.int32]

# What stands before a member depends on what came before it: nothing yet, or a member that ended
# without or with a quote; and on whether its own value is in quotes.
_STATES: Final = 3
_VARIANTS: Final = _STATES * 2
_BEFORE: Final = ("{", ",", '",')
_AFTER: Final = ("{}", "}", '"}')

_QUOTE, _BACKSLASH, _SPACE, _MINUS, _ZERO = b'"\\ -0'
_ASCII_END: Final = 128

_GROWTH: Final = np.zeros(256, np.uint8)
"""How many bytes more a byte takes within a JSON string."""
_GROWTH[:_SPACE] = len(r"\u0000") - 1
_GROWTH[list(b'"\\\b\t\n\f\r')] = 1

_encode: Final = msgspec.json.encode

_WORDS: Final = Block(b"nulltruefalse", np.array([0, 4, 4, 5], np.int32))
"""Nothing, and what JSON has besides strings and numbers."""


@lru_cache(maxsize=1024)
def _frame(names: tuple[str, ...]) -> Block:
    """Make the literals of documents with these members, in this order."""
    literals = [
        f"{before}{_encode(name).decode()}:{quote}".encode()
        for name in names
        for before in _BEFORE
        for quote in ("", '"')
    ]
    literals += [after.encode() for after in _AFTER]
    return Block(b"".join(literals), np.array([len(each) for each in literals], np.int32))


class Literals:
    """The literals that documents are made of, as slices.

    Args:
        first: The number of the first of them.
        documents: The members of each kind of document, in order.
    """

    def __init__(self, first: int, documents: Iterable[tuple[str, ...]]) -> None:
        self.empty, self.null, self.true, self.false = range(first, first + len(_WORDS.lengths))
        frames = {names: _frame(names) for names in documents}
        blocks = [_WORDS, *frames.values()]
        firsts = accumulate((len(block.lengths) for block in blocks), initial=first)
        self._firsts = dict(zip(frames, list(firsts)[1:], strict=False))
        self.block = Block(
            b"".join(block.data for block in blocks),
            np.concatenate([block.lengths for block in blocks]),
        )

    def of(self, names: tuple[str, ...]) -> int:
        """Give the number of the first literal of documents with these members."""
        return self._firsts[names]


@dataclass(slots=True, eq=False)
class Column:
    """One column of some rows: which slice is the value of each.

    ``absent`` are rows whose documents leave the member out. ``quoted`` says whether a value is
    written as a string; it is known once the column is rendered.
    """

    name: str
    form: Form
    element: Form | None
    values: Slots
    null: Mask | None = None
    absent: Mask | None = None
    quoted: bool | Mask = True

    def of(self, rows: Mask) -> Column:
        """Give some of the rows."""
        return replace(
            self,
            values=self.values[rows],
            null=None if self.null is None else self.null[rows],
            absent=some(self.absent[rows]) if self.absent is not None else None,
            quoted=self.quoted if isinstance(self.quoted, bool) else self.quoted[rows],
        )

    def without_value(self) -> Mask | None:
        """Tell which rows have no value: null, or absent."""
        if self.null is None or self.absent is None:
            return self.absent if self.null is None else self.null
        return self.null | self.absent


class NotUtf8(Exception):
    """Values are not UTF-8: pairs of a column's index and a row's."""

    def __init__(self, places: list[tuple[int, int]]) -> None:
        super().__init__("values are not UTF-8")
        self.places = places


def render(columns: Sequence[Column], slices: Slices, literals: Literals) -> Slices:
    """Write the values of all columns as JSON, each without the quotes around it.

    Returns:
        The slices with those that were made; the columns' values are changed to their numbers.

    Raises:
        NotUtf8: Some values cannot be written.
    """
    integers = [column for column in columns if column.form == "integer"]
    numbers = [column for column in columns if column.form == "number"]
    others = [column for column in columns if column.form in ("string", "array")]
    booleans: list[tuple[Column, Mask, Mask]] = []
    for column in columns:
        if column.form == "boolean":
            true, false, fits = _booleans(column, slices)
            if not fits:
                others.append(column)
            booleans.append((column, true, false))
    blocks = [literals.block]
    if texts := integers + numbers + others:
        rendering = _Texts(texts, slices, blocks)
        rendering.check_utf8(columns)
        rendering.match_integers(0, len(integers))
        rendering.match_numbers(len(integers), len(integers) + len(numbers))
        rendering.escape()
        rendering.write_arrays()
        rendering.finish()
    for column, true, false in booleans:
        column.values = np.where(true, np.int32(literals.true), column.values)
        column.values = np.where(false, np.int32(literals.false), column.values)
        column.quoted = _unless_none(~(true | false))
    for column in columns:
        if column.null is not None:
            column.values = np.where(column.null, np.int32(literals.null), column.values)
            if column.quoted is not False:
                column.quoted = ~column.null & column.quoted
    return slices.with_blocks(blocks)


def _booleans(column: Column, slices: Slices) -> tuple[Mask, Mask, bool]:
    """Tell which values are ``t``, which are ``f``, and whether there are no others."""
    begins, ends = slices.bounds[column.values], slices.bounds[column.values + 1]
    firsts = np.frombuffer(slices.data, np.uint8)[begins]
    single = ends - begins == 1
    true, false = single & (firsts == ord("t")), single & (firsts == ord("f"))
    fits = true | false
    if (nothing := column.without_value()) is not None:
        fits |= nothing
    return true, false, bool(fits.all())


def _unless_none(quoted: Mask) -> Mask | bool:
    return quoted if quoted.any() else False


class _Texts:
    """The values of some columns, copied column by column."""

    def __init__(self, columns: list[Column], slices: Slices, blocks: list[Block]) -> None:
        self._columns = columns
        self._blocks = blocks
        self._slices = slices
        self._values = np.concatenate([column.values for column in columns])
        self._taken = slices.taken(self._values)
        self._ends = np.cumsum([len(column.values) for column in columns]).tolist()
        self._remade: list[Slots] = []

    def _spans(self) -> Sequence[tuple[Column, int, int]]:
        """Give the columns, and the first and the end of their values."""
        return list(zip(self._columns, [0, *self._ends], self._ends, strict=False))

    def check_utf8(self, columns: Sequence[Column]) -> None:
        """Make sure that each value is UTF-8.

        If all of them together are, and none begins within a character, then each is.
        """
        taken = self._taken
        if taken.raw.isascii():
            return
        begins, ends = taken.offsets[:-1], taken.offsets[1:]
        firsts = taken.bytes[begins[ends > begins]]
        if _is_utf8(taken.buffer, int(taken.offsets[-1])) and not (firsts & 0xC0 == 0x80).any():
            return
        place_of = {id(column): place for place, column in enumerate(columns)}
        wrong = self._not_utf8()
        raise NotUtf8(
            [
                (place_of[id(column)], number - first)
                for column, first, end in self._spans()
                for number in wrong[bisect_left(wrong, first) : bisect_left(wrong, end)]
            ]
        )

    def _not_utf8(self) -> list[int]:
        """Find the values that are not UTF-8."""
        taken = self._taken
        beyond_ascii = np.flatnonzero(taken.bytes >= _ASCII_END)
        numbers = np.unique(np.searchsorted(taken.offsets, beyond_ascii, "right") - 1).tolist()
        return [number for number in numbers if not _decodes(taken.values(number, number + 1)[0])]

    def match_integers(self, first: int, end: int) -> None:
        """See which values of some columns are integers; others are written as strings."""
        spans = self._spans()[first:end]
        if all(self._are_integers(*span) for span in spans):
            for column, *_ in spans:
                column.quoted = False
        else:
            self.match_numbers(first, end)

    def _are_integers(self, column: Column, first: int, end: int) -> bool:
        """Tell quickly whether a column holds only integers; False is not certain."""
        data = self._taken.bytes
        begins, ends = self._taken.offsets[first:end], self._taken.offsets[first + 1 : end + 1]
        lengths = ends - begins
        if not lengths.all():
            nothing = column.without_value()
            if nothing is None or (lengths[~nothing] == 0).any():
                return False
            begins, lengths = begins[~nothing], lengths[~nothing]
            if not len(begins):
                return True
        span = data[begins[0] : ends[-1]]
        minuses = span == _MINUS
        if not ((span - _ZERO <= 9) | minuses).all():
            return False
        firsts = data[begins]
        negative = firsts == _MINUS
        if minuses.any():
            if (
                np.count_nonzero(minuses) != np.count_nonzero(negative)
                or lengths[negative].min() < 2
            ):
                return False
            firsts = data[begins + negative]
        # No leading zeros; -0 is none of PostgreSQL's integers.
        return not ((firsts == _ZERO) & (lengths > 1)).any()

    def match_numbers(self, first: int, end: int) -> None:
        """See which values of some columns are numbers; others are written as strings."""
        spans = self._spans()[first:end]
        if not spans:
            return
        begin = spans[0][1]
        matched = _matches(self._taken.array[begin : spans[-1][2]], rf"^{NUMBER}$")
        for column, first_value, end_value in spans:
            column.quoted = _unless_none(~matched[first_value - begin : end_value - begin])

    def escape(self) -> None:
        """Make the values anew that hold what a JSON string writes otherwise."""
        offsets = self._taken.offsets
        hits: list[Slots] = []
        growths: list[Lengths] = []
        for column, first, end in self._spans():
            if column.form == "array" or column.quoted is False:
                continue
            grows = self._growth(slice(offsets[first], offsets[end]))
            if grows is None:
                continue
            begins = offsets[first:end]
            filled = np.flatnonzero(offsets[first + 1 : end + 1] > begins)
            growth = np.add.reduceat(grows, begins[filled] - begins[0], dtype=np.int32)
            grown = growth > 0
            hits.append((first + filled[grown]).astype(np.int32))
            growths.append(growth[grown])
        if hits:
            hit = np.concatenate(hits)
            taken = self._slices.taken(self._values[hit])
            written = _encode(taken.text())
            self._remake(hit, written, np.diff(taken.offsets) + np.concatenate(growths), skipped=1)

    def _growth(self, span: slice) -> npt.NDArray[np.uint8] | None:
        """Tell how much longer each byte becomes; None if none does."""
        data = self._taken.bytes[span]
        if not len(data):
            return None
        if data.min() < _SPACE:
            growth: npt.NDArray[np.uint8] = _GROWTH[data]
            return growth
        raw = self._taken.raw
        if raw.find(b'"', span.start, span.stop) < 0 > raw.find(b"\\", span.start, span.stop):
            return None
        # Without control characters, which are rare, each byte that is escaped takes one more.
        escaped: npt.NDArray[np.uint8] = ((data == _QUOTE) | (data == _BACKSLASH)).view(np.uint8)
        return escaped

    def write_arrays(self) -> None:
        """Make the values of array columns anew."""
        for column, first, end in self._spans():
            if column.form != "array":
                continue
            column.quoted = False
            rows = np.arange(first, end, dtype=np.int32)
            if (nothing := column.without_value()) is not None:
                rows = rows[~nothing]
            if len(rows):
                self._write_array(rows, column.element or "string")

    def _write_array(self, rows: Slots, element: Form) -> None:
        taken = self._slices.taken(self._values[rows])
        if element in ("integer", "number") and _matches(taken.array, NUMBERS).all():
            written = numbers_as_json(taken.text().encode())
            self._remake(rows, written, np.diff(taken.offsets))
            return
        values = taken.values(0, len(rows))
        texts = [array_as_json(value.decode(), element) for value in values]
        self._remake(rows, b"".join(texts), np.array([len(text) for text in texts], np.int32))

    def _remake(self, rows: Slots, data: bytes, lengths: Lengths, *, skipped: int = 0) -> None:
        self._blocks.append(Block(data, lengths, skipped))
        self._remade.append(rows)

    def finish(self) -> None:
        """Tell the columns where their values are now."""
        firsts = self._slices.first_numbers(self._blocks)
        for rows, first in zip(
            self._remade, firsts[len(firsts) - len(self._remade) :], strict=True
        ):
            self._values[rows] = np.arange(first, first + len(rows), dtype=np.int32)
        for column, first, end in self._spans():
            column.values = self._values[first:end]


def _matches(values: pa.Array, pattern: str) -> Mask:
    found = pc.match_substring_regex(values, pattern)
    mask: Mask = found.to_numpy(zero_copy_only=False)
    return mask


def _is_utf8(buffer: pa.Buffer, length: int) -> bool:
    bounds = pa.py_buffer(np.array([0, length], np.int32))
    try:
        pa.Array.from_buffers(pa.string(), 1, [None, bounds, buffer]).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def lay_out(columns: Sequence[Column], literals: Literals, out: npt.NDArray[np.int32]) -> None:
    """Put the numbers of the slices of documents into ``out``, a row for each document."""
    first = literals.of(tuple(column.name for column in columns))
    state: Any = 0
    for place, column in enumerate(columns):
        literal = first + _VARIANTS * place + 2 * state + column.quoted
        if column.absent is None:
            out[:, 2 * place] = literal
            out[:, 2 * place + 1] = column.values
            state = 1 + column.quoted
        else:
            out[:, 2 * place] = np.where(column.absent, literals.empty, literal)
            out[:, 2 * place + 1] = np.where(column.absent, literals.empty, column.values)
            state = np.where(column.absent, state, 1 + np.asarray(column.quoted))
    out[:, 2 * len(columns)] = first + _VARIANTS * len(columns) + state
