"""Decodes values of single Parquet pages: only the rows asked for, in plain Python.

For a few rows of a page this takes less time than to have a library decode the page. Only what
``encoding`` writes: flat columns, text and 64-bit integers, data pages of version 1.

Source: Apache Parquet format 2.12, ``Encodings.md`` (PLAIN, the RLE and bit-packing hybrid,
DELTA_BINARY_PACKED, dictionaries) and ``README.md`` (data pages).
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pitr.domain.columnar.thrift import Reader

PLAIN: Final = 0
PLAIN_DICTIONARY: Final = 2
DELTA_BINARY_PACKED: Final = 5
RLE_DICTIONARY: Final = 8

_LENGTH = struct.Struct("<I")
_INT64 = struct.Struct("<q")


def text_values(
    body: bytes, encoding: int, rows: range, *, nullable: bool, dictionary: Sequence[bytes]
) -> list[bytes | None]:
    """Decode the text of ``rows`` of a page, counted from its first row.

    Raises:
        ValueError: It cannot be decoded; also IndexError, struct.error.
    """
    present, before, start = [True] * len(rows), rows.start, 0
    if nullable:
        start = _LENGTH.size + _LENGTH.unpack_from(body)[0]
        present, before = _present(body[_LENGTH.size : start], rows)
    wanted = range(before, before + sum(present))
    if encoding == PLAIN:
        values = iter(_plain(body, start, wanted))
    elif encoding in (PLAIN_DICTIONARY, RLE_DICTIONARY):
        codes = _coded(body, start + 1, body[start], wanted) if wanted else []
        values = iter([dictionary[code] for code in codes])
    else:
        raise ValueError(f"text in encoding {encoding}")
    return [next(values) if there else None for there in present]


def integer_values(body: bytes, encoding: int, rows: range) -> list[int]:
    """Decode the integers of ``rows`` of a page; none are null.

    Raises:
        ValueError: It cannot be decoded; also IndexError, struct.error.
    """
    if encoding == PLAIN:
        return [_INT64.unpack_from(body, 8 * row)[0] for row in rows]
    if encoding == DELTA_BINARY_PACKED:
        return _delta(body, rows)
    raise ValueError(f"integers in encoding {encoding}")


def places_of(body: bytes, value: bytes) -> list[int]:
    """Return the rows of a page of PLAIN text without nulls that have this value."""
    needle = _LENGTH.pack(len(value)) + value
    found, place, row = [], 0, 0
    length_at = _LENGTH.unpack_from
    while (match := body.find(needle, place)) >= 0:
        while place < match:
            place += 4 + length_at(body, place)[0]
            row += 1
        if place == match:
            found.append(row)
            place += len(needle)
            row += 1
    return found


def rows_of_keys(body: bytes, count: int, keys: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Return the rows of a page of ``count`` canonical keys in order that have one of ``keys``.

    A key is behind its length, whose last byte is zero, and begins with a brace. Where that does
    not tell where each begins, the page is decoded.
    """
    octets = np.frombuffer(body, np.uint8)
    braces = np.flatnonzero(octets == _BRACE)
    starts = braces[octets[braces - 1] == 0]
    is_known = len(starts) == count and _follow(octets, starts)
    every: Sequence[bytes] = _Texts(body, starts) if is_known else all_text(body, count)
    found = []
    for key in keys:
        row = bisect_left(every, key)
        while row < count and every[row] == key:
            found.append((row, key))
            row += 1
    return found


_BRACE: Final = ord("{")


def _follow(octets: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64]) -> bool:
    """Tell whether each text of a page begins where the one before it ends."""
    lengths = octets[starts - 4].astype(np.int64)
    for place in (1, 2, 3):
        lengths += octets[starts - 4 + place].astype(np.int64) << 8 * place
    ends = starts + lengths
    return bool(starts[0] == 4 and ends[-1] == len(octets) and (starts[1:] == ends[:-1] + 4).all())


class _Texts(Sequence[bytes]):
    """PLAIN text of which it is known where each begins."""

    def __init__(self, body: bytes, starts: npt.NDArray[np.int64]) -> None:
        self._body = body
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, row: Any) -> Any:
        start = int(self._starts[row])
        return self._body[start : start + _LENGTH.unpack_from(self._body, start - 4)[0]]


def all_text(body: bytes, count: int) -> list[bytes]:
    """Decode all PLAIN text of a page, for a dictionary."""
    return _plain(body, 0, range(count))


def _plain(body: bytes, place: int, wanted: range) -> list[bytes]:
    length_at = _LENGTH.unpack_from
    for _ in range(wanted.start):
        place += 4 + length_at(body, place)[0]
    found = []
    for _ in wanted:
        start = place + 4
        place = start + length_at(body, place)[0]
        if place > len(body):
            raise ValueError("text ends too early")
        found.append(body[start:place])
    return found


def _present(levels: bytes, rows: range) -> tuple[list[bool], int]:
    """Return for each of ``rows`` whether it has a value, and how many rows before them do."""
    before = first = 0
    for count, level, packed in _runs(levels, 0, 1):
        skipped = min(count, rows.start - first)
        if skipped <= 0:
            break
        before += skipped * level if packed is None else _low_bits(packed, skipped).bit_count()
        first += count
    return [level == 1 for level in _coded(levels, 0, 1, rows)], before


def _low_bits(value: int, count: int) -> int:
    return value & ((1 << count) - 1)


def _coded(body: bytes, place: int, width: int, wanted: range) -> list[int]:
    found: list[int] = []
    mask, first = (1 << width) - 1, 0
    for count, value, packed in _runs(body, place, width):
        last = first + count
        for row in range(max(first, wanted.start), min(last, wanted.stop)):
            found.append(value if packed is None else packed >> (row - first) * width & mask)
        first = last
        if first >= wanted.stop:
            return found
    raise ValueError("codes end too early")


def _runs(body: bytes, place: int, width: int) -> Iterator[tuple[int, int, int | None]]:
    """Yield (count, value, None) of runs and (count, 0, bits) of packed values."""
    reader = Reader(body, place)
    while reader.place < len(body):
        header = reader.varint()
        count = header >> 1
        length = count * width if header & 1 else (width + 7) // 8
        value = int.from_bytes(body[reader.place : reader.place + length], "little")
        reader.place += length
        yield (count * 8, 0, value) if header & 1 else (count, value, None)


def _delta(body: bytes, rows: range) -> list[int]:
    reader = Reader(body)
    block, parts, count, value = (
        reader.varint(),
        reader.varint(),
        reader.varint(),
        reader.integer(),
    )
    if rows.stop > count:
        raise ValueError("integers end too early")
    size = block // parts
    found = [value] if rows.start == 0 else []
    row = 1
    while row < rows.stop:
        least = reader.integer()
        widths = body[reader.place : reader.place + parts]
        reader.place += parts
        for width in widths:
            length = size * width // 8
            bits = int.from_bytes(body[reader.place : reader.place + length], "little")
            reader.place += length
            if row + size <= rows.start:
                value += least * size + _sum(bits, size, width)
            else:
                mask = (1 << width) - 1
                for place in range(min(size, rows.stop - row)):
                    value += least + (bits >> place * width & mask)
                    if row + place >= rows.start:
                        found.append(value)
            row += size
            if row >= rows.stop:
                break
    return [(each + _SIGN) % _WRAP - _SIGN for each in found]


_SIGN, _WRAP = 1 << 63, 1 << 64


def _sum(bits: int, count: int, width: int) -> int:
    """Add ``count`` packed numbers."""
    if width == 0:
        return 0
    enough = width + count.bit_length()
    while width < enough:  # add every second field to its neighbour: half as many, twice as wide
        mask = _every_second(count, width)
        bits = (bits & mask) + (bits >> width & mask)
        count, width = (count + 1) // 2, width * 2
    return bits % ((1 << width) - 1)  # casting out nines: digits add up, and the sum fits one


@cache
def _every_second(count: int, width: int) -> int:
    """Ones in every second of ``count`` fields of ``width`` bits."""
    field = (1 << width) - 1
    return sum(field << place * width for place in range(0, count, 2))
