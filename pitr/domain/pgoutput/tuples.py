"""Rows of many messages at once: where in the bytes each value stands, column by column.

Source: PostgreSQL documentation, "Logical Replication Message Formats", TupleData.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Places: TypeAlias = npt.NDArray[np.int64]
"""Places in bytes, or indices."""

Slots: TypeAlias = npt.NDArray[np.int32]
"""Numbers of slices."""

Mask: TypeAlias = npt.NDArray[np.bool_]
Words: TypeAlias = npt.NDArray[np.uint64]

PADDING: Final = bytes(8)
"""Stands behind the messages, so that eight bytes can be read at every place in them."""

VALUE, NULL, UNCHANGED = b"tnu"
"""How TupleData marks a value as text, a null, and a large value that was not sent."""

_HEAD: Final = 5
"""The mark of a value and its length."""

_LOW_32: Final = np.uint64(0xFFFF_FFFF)


class Source:
    """The joined bytes of messages, to be read at many places at once."""

    def __init__(self, data: bytes) -> None:
        """Take bytes that end with ``PADDING``."""
        self.data = data
        self._last = len(data) - len(PADDING)
        # Every eight bytes that follow each other, as a number: they overlap, nothing is copied.
        self._words = np.ndarray((self._last + 1,), ">u8", data, strides=(1,))

    def words(self, at: Places) -> Words:
        """Give the eight bytes from each place on; past the end, those at the end."""
        return self._words[np.minimum(at, self._last)].astype(np.uint64)


@dataclass(slots=True)
class Cells:
    """One column of some rows: ``starts`` and ``ends`` are the same where there is no value."""

    starts: Places
    ends: Places
    null: Mask | None = None
    absent: Mask | None = None


def some(mask: Mask) -> Mask | None:
    """Give a mask that holds for anything; None otherwise, which is most often so."""
    return mask if mask.any() else None


def read_tuples(source: Source, at: Places, width: int) -> tuple[list[Cells], Places, Mask]:
    """Read one tuple a row, of ``width`` columns each; ``at`` is behind the count of columns.

    Returns:
        The columns, where each row's tuple ends, and which rows have a mark that is none. No place
        is past the end of its row where the end of its tuple is not.
    """
    columns = []
    wrong = np.zeros(len(at), np.bool_)
    for _ in range(width):
        words = source.words(at)
        marks = (words >> np.uint64(56)).astype(np.uint8)
        lengths = ((words >> np.uint64(24)) & _LOW_32).view(np.int64)
        has_value = marks == VALUE
        if has_value.all():
            starts = at + _HEAD
            cells = Cells(starts, starts + lengths)
        else:
            null, absent = marks == NULL, marks == UNCHANGED
            wrong |= ~(has_value | null | absent)
            starts = at + np.where(has_value, _HEAD, 1)
            ends = starts + np.where(has_value, lengths, 0)
            cells = Cells(starts, ends, some(null), some(absent))
        columns.append(cells)
        at = cells.ends
    return columns, at, wrong


class Slices:
    """Slices of bytes by their numbers, in Arrow's form: each begins where the last one ended.

    What lies between two slices that are meant is a slice too, of which nobody has the number.
    """

    def __init__(self, data: bytes, bounds: npt.NDArray[np.int32]) -> None:
        self.data = data
        self.bounds = bounds
        buffers = [None, pa.py_buffer(bounds), pa.py_buffer(data)]
        self._array = pa.Array.from_buffers(pa.binary(), len(bounds) - 1, buffers)

    def taken(self, numbers: Slots) -> Taken:
        """Copy slices one behind the other."""
        return Taken(self._array.take(pa.array(numbers)))

    def with_blocks(self, blocks: Sequence[Block]) -> Slices:
        """Add slices; the first number of each block is as ``first_numbers`` said."""
        begins = np.cumsum([len(self.data), *(len(block.data) for block in blocks)])
        bounds = [
            np.cumsum(np.concatenate([[begin + block.skipped], block.lengths]), dtype=np.int32)
            for begin, block in zip(begins, blocks, strict=False)
        ]
        data = b"".join([self.data, *(block.data for block in blocks)])
        return Slices(data, np.concatenate([self.bounds, *bounds]))

    def first_numbers(self, blocks: Sequence[Block]) -> list[int]:
        """Tell which number the first slice of each block will have."""
        counts = [len(self.bounds), *(len(block.lengths) + 1 for block in blocks)]
        return list(np.cumsum(counts)[:-1])


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes to be sliced: after the first ``skipped`` of them by ``lengths``; a rest may stay."""

    data: bytes
    lengths: npt.NDArray[np.int32]
    skipped: int = 0


class Taken:
    """Slices that were copied one behind the other."""

    def __init__(self, array: pa.Array) -> None:
        self.array = array
        _, offsets, data = array.buffers()
        self.offsets = np.zeros(1, np.int32)
        if len(array):
            self.offsets = np.frombuffer(offsets, np.int32, len(array) + 1)
        self.buffer = data if data is not None else pa.py_buffer(b"")
        self.bytes = np.frombuffer(self.buffer, np.uint8)

    @cached_property
    def raw(self) -> bytes:
        """The bytes once more, in the form in which some are found most quickly."""
        return self.buffer.to_pybytes()  # type: ignore[no-any-return]

    def text(self, first: int = 0, end: int | None = None) -> str:
        """Give some of them as one text; they are known to be UTF-8."""
        span = self.offsets[first], self.offsets[len(self.array) if end is None else end]
        return str(memoryview(self.buffer)[span[0] : span[1]], "utf-8")

    def values(self, first: int, end: int) -> list[bytes]:
        """Give some of them one by one."""
        data = memoryview(self.buffer)
        return [bytes(data[a:b]) for a, b in pairwise(self.offsets[first : end + 1].tolist())]
