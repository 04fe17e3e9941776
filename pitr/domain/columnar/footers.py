"""Parses footers and page indexes of the Parquet files that ``encoding`` writes, and keeps them.

Source: Apache Parquet format 2.12, ``parquet.thrift`` (FileMetaData, OffsetIndex, ColumnIndex) and
``PageIndex.md``. pyarrow writes page indexes and does not show them.
"""

from __future__ import annotations

import bisect
import os
import threading
from array import array
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pitr.domain.columnar import thrift
from pitr.domain.columnar.encoding import check_format
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.errors import DataLoss

MAGIC = b"PAR1"
FOOTER_GUESS_BYTES = 64 * 1024

Bounds = tuple[bytes, bytes]
"""Smallest and largest value."""


@dataclass(frozen=True, slots=True)
class Pages:
    """The data pages of one column in one row group."""

    offsets: array[int]
    sizes: array[int]
    rows_first: array[int]

    def covering(self, rows: range) -> range:
        """Return the pages that hold ``rows``."""
        first = bisect.bisect_right(self.rows_first, rows.start) - 1
        return range(first, bisect.bisect_left(self.rows_first, rows.stop))

    def rows(self, pages: range, *, rows_count: int) -> range:
        """Return the rows of a range of pages."""
        at_end = pages.stop == len(self.rows_first)
        return range(
            self.rows_first[pages.start], rows_count if at_end else self.rows_first[pages.stop]
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """One column of one row group; places in the file are (offset, length).

    ``head`` is the first four fields of its ColumnMetaData: what does not depend on the rows.
    """

    head: bytes
    dictionary: tuple[int, int] | None
    offset_index: tuple[int, int]
    column_index: tuple[int, int] | None
    bounds: Bounds | None
    is_null: bool


@dataclass(slots=True)
class RowGroup:
    """One row group; page indexes are read when they are first asked for."""

    rows_count: int
    chunks: list[Chunk]
    known_pages: dict[int, Pages] = field(default_factory=dict)
    known_bounds: dict[int, list[Bounds] | None] = field(default_factory=dict)
    known_aligned: bool | None = None

    def may_hold(self, values: Mapping[int, bytes]) -> bool:
        """Tell whether the statistics allow each column its value."""
        return all(_within(value, self.chunks[column].bounds) for column, value in values.items())

    def pages(self, file: int, column: int) -> Pages:
        """Return where the pages of a column are."""
        known = self.known_pages.get(column)
        if known is None:
            found = thrift.Reader(read_at(file, *self.chunks[column].offset_index)).struct()[1]
            known = Pages(*(array("q", [page[part] for page in found]) for part in (1, 2, 3)))
            self.known_pages[column] = known
        return known

    def is_aligned(self, file: int) -> bool:
        """Tell whether the pages of all columns begin with the same rows."""
        if self.known_aligned is None:
            first = self.pages(file, 0).rows_first
            columns = range(1, len(self.chunks))
            self.known_aligned = all(self.pages(file, at).rows_first == first for at in columns)
        return self.known_aligned

    def page_bounds(self, file: int, column: int) -> list[Bounds] | None:
        """Return the bounds of each page of a column, None where the file does not say."""
        if column not in self.known_bounds:
            place = self.chunks[column].column_index
            found = thrift.Reader(read_at(file, *place)).struct() if place else None
            bounds = list(zip(found[2], found[3], strict=True)) if found else None
            self.known_bounds[column] = bounds
        return self.known_bounds[column]


class Footer:
    """The parsed footer of one file.

    Raises:
        DataLoss: The file does not end with the footer of a segment.
    """

    def __init__(self, path: Path) -> None:
        body = _footer_bytes(path)
        try:
            self.schema_elements, groups = _parsed(body)
            self.groups = [_row_group(group) for group in groups]
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise DataLoss("a footer cannot be read", path=path, reason=str(error)) from error
        index_bytes = sum(
            place[1]
            for group in self.groups
            for chunk in group.chunks
            for place in (chunk.offset_index, chunk.column_index)
            if place
        )
        self.cost_bytes = 8 * (len(body) + index_bytes)


class FooterCache:
    """Footers of immutable files: the most recently used ones, within a bound of memory."""

    def __init__(self, *, bytes_max: int = 256 * 1024 * 1024) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._known: OrderedDict[Path, Footer] = OrderedDict()
        self._lock = threading.Lock()

    def footer(self, path: Path) -> Footer:
        """Return the footer of a file, parsed now or before."""
        with self._lock:
            known = self._known.get(path)
            if known is not None:
                self._known.move_to_end(path)
                return known
        found = Footer(path)
        with self._lock:
            if path not in self._known:
                self._known[path] = found
                self._bytes += found.cost_bytes
            while len(self._known) > 1 and self._bytes > self._bytes_max:
                self._bytes -= self._known.popitem(last=False)[1].cost_bytes
        return found


def read_at(file: int, offset: int, length: int) -> bytes:
    """Read bytes of an open file."""
    body = os.pread(file, length, offset)
    if len(body) != length:
        raise DataLoss("a file ends too early", offset=offset, length=length)
    return body


def _footer_bytes(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as file:
        guess = min(size, FOOTER_GUESS_BYTES)
        ending = read_at(file.fileno(), size - guess, guess)
        length = int.from_bytes(ending[-8:-4], "little")
        if ending[-4:] != MAGIC or length + 8 > size:
            raise DataLoss("a file is not Parquet", path=path)
        if length + 8 > guess:
            ending = read_at(file.fileno(), size - length - 8, length + 8)
    return ending[-length - 8 : -8]


def _parsed(body: bytes) -> tuple[list[bytes], list[thrift.Struct]]:
    """Return the columns' schema elements as they are encoded, and the row groups."""
    reader = thrift.Reader(body)
    elements: list[bytes] = []
    groups: list[thrift.Struct] = []
    for number, kind in reader.fields():
        if number == 2:
            elements = reader.encoded_structs()
        elif number == 4:
            groups = reader.values()
        elif number == 5:
            check_format({pair[1]: pair.get(2, b"") for pair in reader.values()})
        else:
            reader.value(kind)
    return elements[1:], groups


def _row_group(group: thrift.Struct) -> RowGroup:
    chunks = [_chunk(column) for column in group[1]]
    if [column[3][3] for column in group[1]] != _PATHS:
        raise ValueError("other columns than a change has")
    return RowGroup(group[3], chunks)


def _chunk(column: thrift.Struct) -> Chunk:
    metadata = column[3]
    dictionary = metadata.get(11)
    statistics = metadata.get(12, {})
    return Chunk(
        head=_head(metadata),
        dictionary=(dictionary, metadata[9] - dictionary) if dictionary else None,
        offset_index=(column[4], column[5]),
        column_index=(column[6], column[7]) if 6 in column else None,
        bounds=(statistics[6], statistics[5]) if 5 in statistics and 6 in statistics else None,
        is_null=statistics.get(3) == metadata[5],
    )


def _head(metadata: thrift.Struct) -> bytes:
    encodings = [thrift.integer(encoding) for encoding in metadata[2]]
    names = [thrift.varint(len(name)) + name for name in metadata[3]]
    fields = [
        (1, thrift.I32, thrift.integer(metadata[1])),
        (2, thrift.LIST, thrift.list_of(thrift.I32, encodings)),
        (3, thrift.LIST, thrift.list_of(thrift.BINARY, names)),
        (4, thrift.I32, thrift.integer(metadata[4])),
    ]
    return thrift.struct_of(fields)[:-1]


def _within(value: bytes, bounds: Bounds | None) -> bool:
    return bounds is None or bounds[0] <= value <= bounds[1]


_PATHS: list[Any] = [[name.encode()] for name in CHANGE_SCHEMA.names]
