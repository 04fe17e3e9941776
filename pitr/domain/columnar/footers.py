"""Parses footers and page indexes of the Parquet files that ``encoding`` writes, and keeps them.

Source: Apache Parquet format 2.12, ``parquet.thrift`` (FileMetaData, OffsetIndex, ColumnIndex) and
``PageIndex.md``. pyarrow writes page indexes and does not show them.
"""

from __future__ import annotations

import bisect
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pitr.domain.columnar import thrift
from pitr.domain.columnar.encoding import check_format
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.errors import DataLoss

MAGIC = b"PAR1"
FOOTER_GUESS_BYTES = 64 * 1024

Bounds = tuple[bytes, bytes]
"""Smallest and largest value."""

ZSTD = 6
"""Of CompressionCodec."""

INT64, BYTE_ARRAY = 2, 6
"""Of Type."""

PAST_TEXT = b"\xff"
"""Greater than any UTF-8: the upper bound of a column that does not say."""

COLLECTION = CHANGE_SCHEMA.get_field_index("collection")
KEY = CHANGE_SCHEMA.get_field_index("key")


class Pages:
    """The data pages of one column in one row group: first row of each, and where it is.

    Args:
        offset_index: As it is encoded.
        known_rows: First rows, by themselves; pages of most columns begin with the same.

    Raises:
        ValueError: The bytes are not an OffsetIndex.
    """

    __slots__ = ("_offsets", "_sizes", "rows_first")

    def __init__(self, offset_index: bytes, known_rows: dict[bytes, list[int]]) -> None:
        offsets, sizes, rows_first = _locations(offset_index)
        self._offsets, self._sizes = memoryview(offsets), memoryview(sizes)
        same = rows_first.tobytes()
        if same not in known_rows:
            known_rows[same] = rows_first.tolist()
        self.rows_first = known_rows[same]

    def place(self, page: int) -> tuple[int, int]:
        """Return (offset, length) of a page in the file, bytes."""
        return self._offsets[page], self._sizes[page]

    def covering(self, rows: range) -> range:
        """Return the pages that hold ``rows``."""
        first = bisect.bisect_right(self.rows_first, rows.start) - 1
        return range(first, bisect.bisect_left(self.rows_first, rows.stop))


@dataclass(frozen=True, slots=True)
class PageBounds:
    """Smallest and largest values of pages."""

    least: list[bytes]
    most: list[bytes]

    def around(self, value: bytes) -> list[int]:
        """Return the pages that may hold a value."""
        both = enumerate(zip(self.least, self.most, strict=True))
        return [page for page, (least, most) in both if least <= value <= most]


@dataclass(frozen=True, slots=True)
class Chunk:
    """One column of one row group; places in the file are (offset, length)."""

    dictionary: tuple[int, int] | None
    offset_index: tuple[int, int]
    column_index: tuple[int, int] | None
    bounds: Bounds
    is_null: bool


@dataclass(slots=True)
class RowGroup:
    """One row group; page indexes are read when they are first asked for."""

    rows_count: int
    chunks: list[Chunk]
    known_rows: dict[bytes, list[int]] = field(default_factory=dict)
    known_pages: dict[int, Pages] = field(default_factory=dict)
    known_bounds: dict[int, PageBounds | None] = field(default_factory=dict)
    known_dictionaries: dict[int, list[bytes]] = field(default_factory=dict)

    def pages(self, file: int, column: int) -> Pages:
        """Return where the pages of a column are."""
        known = self.known_pages.get(column)
        if known is None:
            body = read_at(file, *self.chunks[column].offset_index)
            known = Pages(body, self.known_rows)
            self.known_pages[column] = known
        return known

    def page_bounds(self, file: int, column: int) -> PageBounds | None:
        """Return the bounds of each page of a column, None where the file does not say."""
        if column not in self.known_bounds:
            place = self.chunks[column].column_index
            found = thrift.Reader(read_at(file, *place)).struct() if place else None
            self.known_bounds[column] = PageBounds(found[2], found[3]) if found else None
        return self.known_bounds[column]


class Footer:
    """The parsed footer of one file.

    Raises:
        DataLoss: The file does not end with the footer of a segment.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_whole = False
        body = _footer_bytes(path)
        try:
            self.groups = [_row_group(group) for group in _parsed(body)]
            self._bounds = [
                (*group.chunks[COLLECTION].bounds, *group.chunks[KEY].bounds, group)
                for group in self.groups
            ]
        except (ValueError, IndexError, KeyError, TypeError) as error:
            raise DataLoss("a footer cannot be read", path=path, reason=str(error)) from error
        index_bytes = sum(
            place[1]
            for group in self.groups
            for chunk in group.chunks
            for place in (chunk.offset_index, chunk.column_index)
            if place
        )
        self.cost_bytes = 20 * (len(body) + index_bytes)  # as Python keeps them

    def read_indexes(self) -> None:
        """Read the page indexes of all row groups that no lookup has asked for yet."""
        if self._is_whole:
            return
        with self._path.open("rb") as file:
            for group in self.groups:
                group.page_bounds(file.fileno(), KEY)
                for column in range(len(group.chunks)):
                    group.pages(file.fileno(), column)
        self._is_whole = True

    def groups_with(self, collection: bytes, key: bytes) -> list[RowGroup]:
        """Return the row groups that may hold the row, by their statistics."""
        return [
            group
            for collection_min, collection_max, key_min, key_max, group in self._bounds
            if collection_min <= collection <= collection_max and key_min <= key <= key_max
        ]


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
                self._forget(next(iter(self._known)))
        return found

    def read_indexes(self) -> None:
        """Read all page indexes of the files known so far, so that no lookup has to.

        Raises:
            DataLoss: One is damaged.
        """
        with self._lock:
            known = list(self._known.items())
        for path, footer in known:
            try:
                footer.read_indexes()
            except FileNotFoundError:
                with self._lock:
                    self._forget(path)
            except (ValueError, IndexError, KeyError) as error:
                raise DataLoss("a change file is damaged", path=path, reason=str(error)) from error

    def _forget(self, path: Path) -> None:
        footer = self._known.pop(path, None)
        self._bytes -= footer.cost_bytes if footer else 0


def read_at(file: int, offset: int, length: int) -> bytes:
    """Read bytes of an open file."""
    body = os.pread(file, length, offset)
    if len(body) != length:
        raise DataLoss("a file ends too early", offset=offset, length=length)
    return body


def _locations(offset_index: bytes) -> npt.NDArray[np.int64]:
    """Return offsets, sizes and first rows of all pages.

    There are thousands, so they are decoded all at once: a location is seven varints, which are
    the values of its fields, the header of each, and the end.
    """
    reader = thrift.Reader(offset_index)
    count = reader.list_header(field=1, kind=thrift.STRUCT)
    found = thrift.varints(offset_index, reader.place, 7 * count).reshape(count, 7).T
    if (found[::2] != _LOCATION_HEADERS).any():
        raise ValueError("not an OffsetIndex")
    values = found[1::2]
    return np.ascontiguousarray((values >> 1) ^ -(values & 1))


_LOCATION_HEADERS = np.array([[0x16], [0x15], [0x16], [0]])
"""The headers of an i64, an i32 and an i64 that follow each other, and the end of a struct."""


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


def _parsed(body: bytes) -> list[thrift.Struct]:
    """Check format and schema; return the row groups."""
    metadata = thrift.Reader(body).struct()
    check_format({pair[1]: pair.get(2, b"") for pair in metadata.get(5, [])})
    columns = [(element[4], element[1], element[3]) for element in metadata[2][1:]]
    if columns != _COLUMNS:
        raise ValueError("other columns than a change has")
    groups: list[thrift.Struct] = metadata[4]
    return groups


def _row_group(group: thrift.Struct) -> RowGroup:
    chunks = [_chunk(column) for column in group[1]]
    if len(chunks) != len(_COLUMNS):
        raise ValueError("a row group has other columns than the file")
    return RowGroup(group[3], chunks)


def _chunk(column: thrift.Struct) -> Chunk:
    metadata = column[3]
    if metadata[4] != ZSTD:
        raise ValueError(f"compressed with codec {metadata[4]}, not zstd")
    dictionary = metadata.get(11)
    statistics = metadata.get(12, {})
    return Chunk(
        dictionary=(dictionary, metadata[9] - dictionary) if dictionary else None,
        offset_index=(column[4], column[5]),
        column_index=(column[6], column[7]) if 6 in column else None,
        bounds=(statistics.get(6, b""), statistics.get(5, PAST_TEXT)),
        is_null=statistics.get(3) == metadata[5],
    )


_COLUMNS = [
    (field.name.encode(), INT64 if field.type == pa.int64() else BYTE_ARRAY, int(field.nullable))
    for field in CHANGE_SCHEMA
]
"""Name, physical type and repetition (required or optional)."""
