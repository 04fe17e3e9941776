"""Reads single pages of the Parquet files that ``encoding`` writes, and decodes a few rows of them.

pyarrow reads whole column chunks: a thousand times what one row needs. Pages are decompressed with
one context for all, since to make a context takes longer than to decompress a page.

Source: Apache Parquet format 2.12, ``parquet.thrift`` (PageHeader) and ``README.md`` on checksums.
"""

from __future__ import annotations

import os
import re
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyarrow as pa
import zstandard

from pitr.domain.columnar import thrift, values
from pitr.domain.columnar.footers import COLLECTION, KEY, RowGroup, read_at
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.errors import DataLoss


class Page(NamedTuple):
    """A page, checked and decompressed. ``rows_count`` of a dictionary is its values'."""

    body: bytes
    rows_count: int
    encoding: int


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file and call whatever is wrong in it data loss."""
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    except (ValueError, IndexError, KeyError, struct.error, zstandard.ZstdError) as error:
        reason = str(error)
        raise DataLoss("a change file is damaged", path=path, reason=reason) from error
    finally:
        os.close(file)


def rows_of(file: int, group: RowGroup, *, collection: bytes, key: bytes) -> list[range]:
    """Return the runs of rows in a group that are of the row (collection, key).

    Raises:
        ValueError: A page is damaged; also IndexError, struct.error.
    """
    runs: list[range] = []
    for row in _rows_with(file, group, key):
        if runs and runs[-1].stop == row:
            runs[-1] = range(runs[-1].start, row + 1)
        else:
            runs.append(range(row, row + 1))
    return [part for run in runs if (part := _part_of(file, group, run, collection))]


def column_values(file: int, group: RowGroup, column: int, rows: range) -> list[Any]:
    """Decode some rows of a column: bytes, int or None.

    Raises:
        ValueError: A page is damaged; also IndexError, struct.error.
    """
    chunk = group.chunks[column]
    if chunk.is_null:
        return [None] * len(rows)
    pages = group.pages(file, column)
    found: list[Any] = []
    for number in pages.covering(rows):
        first, page = pages.rows_first[number], page_at(file, *pages.place(number))
        inside = range(max(rows.start - first, 0), min(rows.stop - first, page.rows_count))
        found += decoded(file, group, column, page, inside)
    return found


def decoded(
    file: int, group: RowGroup, column: int, page: Page, rows: Sequence[int]
) -> Sequence[Any]:
    """Decode some rows of a page, counted from its first and in order.

    Raises:
        ValueError: It cannot be decoded; also IndexError, struct.error.
    """
    if column in _INTEGERS:
        return values.integer_values(page.body, page.encoding, rows)
    return values.text_values(
        page.body,
        page.encoding,
        rows,
        nullable=column in _NULLABLE,
        dictionary=dictionary_of(file, group, column),
    )


_INTEGERS: Final = {at for at, field in enumerate(CHANGE_SCHEMA) if field.type == pa.int64()}
_NULLABLE: Final = {at for at, field in enumerate(CHANGE_SCHEMA) if field.nullable}
"""Columns; to ask the schema for each page takes too long."""


def _rows_with(file: int, group: RowGroup, key: bytes) -> Iterator[int]:
    pages, bounds = group.pages(file, KEY), group.page_bounds(file, KEY)
    for number in range(len(pages.rows_first)) if bounds is None else bounds.around(key):
        page = page_at(file, *pages.place(number))
        if page.encoding != values.PLAIN:
            raise ValueError(f"keys in encoding {page.encoding}")
        first = pages.rows_first[number]
        yield from (first + place for place in values.places_of(page.body, key))


def _part_of(file: int, group: RowGroup, rows: range, collection: bytes) -> range:
    """Return the part of ``rows`` in a collection; rows are sorted by it."""
    if group.chunks[COLLECTION].bounds == (collection, collection):
        return rows
    found = column_values(file, group, COLLECTION, rows)
    start = rows.start + (found.index(collection) if collection in found else 0)
    return range(start, start + found.count(collection))


def dictionary_of(file: int, group: RowGroup, column: int) -> list[bytes]:
    """Return the values that the pages of a column have codes for; none without a dictionary."""
    known = group.known_dictionaries.get(column)
    if known is None:
        place = group.chunks[column].dictionary
        page = page_at(file, *place) if place else Page(b"", 0, values.PLAIN)
        known = group.known_dictionaries[column] = values.all_text(page.body, page.rows_count)
    return known


_VARINT: Final = rb"([\x80-\xff]{0,9}[\x00-\x7f])"
_HEADER: Final = re.compile(
    rb"\x15.\x15%b\x15%b\x15%b[\x1c\x3c]\x15%b\x15([\x00-\x7f])" % ((_VARINT,) * 4), re.DOTALL
)
"""Sizes plain and packed, checksum, and of a data or dictionary page rows and encoding."""


def page_at(file: int, offset: int, length: int) -> Page:
    """Read a page, check it and decompress it.

    Raises:
        ValueError: It is damaged.
    """
    read = read_at(file, offset, length)
    header = _HEADER.match(read)
    if header is None:
        raise ValueError("the header of a page")
    *integers, encoding = header.groups()
    size, packed_size, checksum, count = map(thrift.integer, integers)
    packed = memoryview(read)[length - packed_size :]
    if zlib.crc32(packed) != checksum & 0xFFFFFFFF:
        raise ValueError("the checksum of a page")
    body = _context.zstd.decompress(packed, max_output_size=size)
    if len(body) != size:
        raise ValueError("the length of a page")
    return Page(body, count, encoding[0] >> 1)


class _Context(threading.local):
    """A decompressor for each thread: it cannot be shared."""

    def __init__(self) -> None:
        self.zstd = zstandard.ZstdDecompressor()


_context = _Context()
