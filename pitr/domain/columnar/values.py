"""Decodes values of single Parquet pages: only the rows asked for, in plain Python.

For a few rows of a page this takes less time than to have a library decode the page. Only what
``encoding`` writes: flat columns, text and 64-bit integers, data pages of version 1.

Source: Apache Parquet format 2.12, ``Encodings.md`` (PLAIN, the RLE and bit-packing hybrid,
DELTA_BINARY_PACKED, dictionaries) and ``README.md`` (data pages).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

import numpy as np

from pitr.domain.columnar.thrift import Reader

PLAIN: Final = 0
PLAIN_DICTIONARY: Final = 2
DELTA_BINARY_PACKED: Final = 5
RLE_DICTIONARY: Final = 8

_LENGTH = struct.Struct("<I")
_INT64 = struct.Struct("<q")


def text_values(
    body: bytes, encoding: int, rows: Sequence[int], *, nullable: bool, dictionary: Sequence[bytes]
) -> Sequence[bytes | None]:
    """Decode the text of ``rows`` of a page, counted from its first row and in order.

    Raises:
        ValueError: It cannot be decoded; also IndexError, struct.error.
    """
    places: Sequence[int | None] = rows
    start = 0
    if nullable:
        start = _LENGTH.size + _LENGTH.unpack_from(body)[0]
        places = _places(body[_LENGTH.size : start], rows)
    wanted = rows if places is rows else [place for place in places if place is not None]
    if encoding == PLAIN:
        found = _plain(body, start, wanted)
    elif encoding in (PLAIN_DICTIONARY, RLE_DICTIONARY):
        codes = _coded(body, start + 1, body[start], wanted) if wanted else []
        found = [dictionary[code] for code in codes]
    else:
        raise ValueError(f"text in encoding {encoding}")
    if places is rows:
        return found
    values = iter(found)
    return [None if place is None else next(values) for place in places]


def integer_values(body: bytes, encoding: int, rows: Sequence[int]) -> list[int]:
    """Decode the integers of ``rows`` of a page, in order; none are null.

    Raises:
        ValueError: It cannot be decoded; also IndexError, struct.error.
    """
    if encoding == PLAIN:
        return [_INT64.unpack_from(body, 8 * row)[0] for row in rows]
    if encoding == DELTA_BINARY_PACKED:
        span = range(rows[0], rows[-1] + 1) if rows else range(0)
        found = _delta(body, span)
        return [found[row - span.start] for row in rows]
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


def rows_of_keys(
    body: bytes, count: int, keys: Sequence[bytes], *, are_objects: bool
) -> list[tuple[int, bytes]]:
    """Return the rows of a page of ``count`` ascending PLAIN texts that have one of ``keys``.

    Args:
        keys: In order.
        are_objects: Each text begins with a brace. Where there are as many braces as texts, these
            tell where texts begin, and how many do before a place: little has to be decoded.
    """
    octets = np.frombuffer(body, np.uint8)
    begins = octets == _BRACE
    if np.count_nonzero(begins) != count and len(body) < 1 << 24:  # some are inside of texts
        begins[1:] &= octets[:-1] == 0  # before a text is its length, whose last byte is zero
    if not are_objects or np.count_nonzero(begins) != count:
        wanted = frozenset(keys)
        return [(row, key) for row, key in enumerate(all_text(body, count)) if key in wanted]
    found = []
    marks, row, counted = begins.tobytes(), 0, 0
    for key in keys:
        needle = _LENGTH.pack(len(key)) + key
        place = body.find(needle, *_around(body, marks, key))
        if place < 0 or not marks.startswith(b"", place + 4):
            continue
        row += int(np.count_nonzero(begins[counted : place + 4]))
        while body.startswith(needle, place):
            found.append((row, key))
            row += 1
            place += len(needle)
        counted = place + 4
    return found


_BRACE: Final = ord("{")

_NEAR_BYTES: Final = 4_096
"""To look at that many bytes takes less time than to halve them."""


def _around(body: bytes, marks: bytes, key: bytes) -> tuple[int, int]:
    """Return where ``key`` and its length are, roughly, if they are in a page of ascending texts.

    Args:
        marks: One where a text begins, else zero.
    """
    low, high, end = 0, len(body), len(body)
    while high - low > _NEAR_BYTES:
        middle = (low + high) // 2
        start = marks.find(1, middle, high)
        if start >= 0 and body[start : start + _LENGTH.unpack_from(body, start - 4)[0]] < key:
            low = start
        else:
            high = middle
            end = end if start < 0 else start + len(key)
    return max(low - 4, 0), end


def all_text(body: bytes, count: int) -> list[bytes]:
    """Decode all PLAIN text of a page, for a dictionary."""
    return _plain(body, 0, range(count))


def _plain(body: bytes, place: int, wanted: Sequence[int]) -> list[bytes]:
    length_at = _LENGTH.unpack_from
    found, following = [], 0
    for row in wanted:
        for _ in range(following, row):
            place += 4 + length_at(body, place)[0]
        start, following = place + 4, row + 1
        place = start + length_at(body, place)[0]
        if place > len(body):
            raise ValueError("text ends too early")
        found.append(body[start:place])
    return found


def _places(levels: bytes, rows: Sequence[int]) -> Sequence[int | None]:
    """Return which value of the page is that of each row; None if the row has none.

    It is ``rows`` itself where all have one, which is told at once if all before them have, too.
    """
    found: list[int | None] = []
    first = before = at = 0
    for count, level, packed in _runs(levels, 0, 1):
        if level and first == 0 and rows and rows[-1] < count:
            return rows
        while at < len(rows) and rows[at] < first + count:
            skipped = rows[at] - first
            if packed is None:
                found.append(before + skipped if level else None)
            else:
                is_there = packed >> skipped & 1
                found.append(before + _low_bits(packed, skipped).bit_count() if is_there else None)
            at += 1
        if at == len(rows):
            return found
        before += count * level if packed is None else packed.bit_count()
        first += count
    raise ValueError("levels end too early")


def _low_bits(value: int, count: int) -> int:
    return value & ((1 << count) - 1)


def _coded(body: bytes, place: int, width: int, wanted: Sequence[int]) -> list[int]:
    found: list[int] = []
    mask, first, at = (1 << width) - 1, 0, 0
    for count, value, packed in _runs(body, place, width):
        while at < len(wanted) and wanted[at] < first + count:
            found.append(value if packed is None else packed >> (wanted[at] - first) * width & mask)
            at += 1
        if at == len(wanted):
            return found
        first += count
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
