"""Reads single pages of the Parquet files that ``encoding`` writes.

pyarrow reads whole column chunks. Here the pages that hold the wanted rows are copied into small
Parquet files in memory with footers of their own, and pyarrow decodes those, checksums included.
Pages of many files that need no dictionary follow each other in one column chunk; with a dictionary
each has a row group to itself. That makes two small files, one for each kind of column.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from pitr.domain.columnar import thrift
from pitr.domain.columnar.footers import MAGIC, RowGroup, read_at
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.errors import DataLoss

COLLECTION: Final = CHANGE_SCHEMA.get_field_index("collection")
KEY: Final = CHANGE_SCHEMA.get_field_index("key")

_COLUMNS = range(len(CHANGE_SCHEMA))
_ZSTD = pa.Codec("zstd")


def rows_with(file: int, group: RowGroup, *, collection: bytes, key: bytes) -> list[range]:
    """Return ranges of rows, whole pages, outside of which the row (collection, key) is not.

    Raises:
        DataLoss: A page's checksum does not match.
    """
    pages = group.pages(file, KEY)
    keys = group.page_bounds(file, KEY)
    collections = group.page_bounds(file, COLLECTION)
    if not group.is_aligned(file):
        collections = None
    found = []
    for page in range(len(pages.offsets)):
        if keys is not None and not keys[page][0] <= key <= keys[page][1]:
            continue
        if collections and not collections[page][0] <= collection <= collections[page][1]:
            continue
        if _holds(read_at(file, pages.offsets[page], pages.sizes[page]), key):
            found.append(pages.rows(range(page, page + 1), rows_count=group.rows_count))
    return found


def _holds(page: bytes, value: bytes) -> bool:
    """Tell whether a page of PLAIN text may hold ``value``; True may be in vain."""
    reader = thrift.Reader(page)
    header = reader.struct()
    body = memoryview(page)[reader.place :]
    if len(body) != header[3] or zlib.crc32(body) != header[4] & 0xFFFFFFFF:
        raise DataLoss("a page is damaged: its checksum does not match")
    plain = _ZSTD.decompress(body, header[2], asbytes=True)
    return len(value).to_bytes(4, "little") + value in plain


@dataclass(frozen=True, slots=True)
class _Piece:
    """Pages of one column that were copied: ``head`` and ``element`` are of its metadata."""

    element: bytes
    head: bytes
    dictionary: bytes
    body: bytes
    rows_count: int
    is_null: bool


class PageReader:
    """Gathers pages of many files, to decode them together."""

    def __init__(self) -> None:
        self._pieces: list[list[_Piece]] = []

    def add(
        self, elements: Sequence[bytes], file: int, group: RowGroup, rows: Sequence[range]
    ) -> None:
        """Add rows of one row group; whole pages, so others come with them, each once.

        ``elements`` is the schema of the file.
        """
        for extent in _extents(file, group, rows):
            self._pieces.append([_piece(elements[at], file, group, at, extent) for at in _COLUMNS])

    def table(self) -> pa.Table:
        """Decode everything that was added, with ``CHANGE_SCHEMA``.

        Raises:
            DataLoss: A page is damaged.
        """
        if not self._pieces:
            return CHANGE_SCHEMA.empty_table()
        columns = list(zip(*self._pieces, strict=True))
        filled = [at for at in _COLUMNS if not all(piece.is_null for piece in columns[at])]
        joined = [at for at in filled if _can_join(columns[at])]
        apart = [at for at in filled if at not in joined]
        tables = [
            _decoded([[_joined(columns[at]) for at in joined]]),
            _decoded([[pieces[at] for at in apart] for pieces in self._pieces]),
        ]
        given = {name: table[name] for table in tables for name in table.column_names}
        absent = pa.nulls(sum(piece.rows_count for piece in columns[0]), pa.string())
        arrays = [given.get(name, absent) for name in CHANGE_SCHEMA.names]
        return pa.table(arrays, schema=CHANGE_SCHEMA)


def _piece(element: bytes, file: int, group: RowGroup, column: int, rows: range) -> _Piece:
    chunk, pages = group.chunks[column], group.pages(file, column)
    wanted = pages.covering(rows)
    first, last = wanted.start, wanted.stop - 1
    length = pages.offsets[last] + pages.sizes[last] - pages.offsets[first]
    return _Piece(
        element,
        chunk.head,
        read_at(file, *chunk.dictionary) if chunk.dictionary else b"",
        read_at(file, pages.offsets[first], length),
        len(rows),
        chunk.is_null,
    )


def _can_join(pieces: Sequence[_Piece]) -> bool:
    """Tell whether the pages of all pieces can follow each other in one column chunk."""
    first = pieces[0]
    return all(
        piece.dictionary == first.dictionary and piece.head == first.head for piece in pieces
    )


def _joined(pieces: Sequence[_Piece]) -> _Piece:
    first = pieces[0]
    return _Piece(
        first.element,
        first.head,
        first.dictionary,
        b"".join([piece.body for piece in pieces]),
        sum(piece.rows_count for piece in pieces),
        first.is_null,
    )


def _decoded(groups: Sequence[Sequence[_Piece]]) -> pa.Table:
    """Decode row groups of the same columns, by way of a Parquet file in memory."""
    if not groups or not groups[0]:
        return pa.table({})
    try:
        file = pq.ParquetFile(
            pa.BufferReader(_parquet(groups)), pre_buffer=False, page_checksum_verification=True
        )
        return file.read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataLoss("a page is damaged", reason=str(error)) from error


def _parquet(groups: Sequence[Sequence[_Piece]]) -> bytes:
    body = bytearray(MAGIC)
    encoded = [_group(body, pieces) for pieces in groups]
    root = [(4, thrift.BINARY, b"\x06schema"), (5, thrift.I32, thrift.integer(len(groups[0])))]
    elements = [thrift.struct_of(root), *(piece.element for piece in groups[0])]
    rows_count = sum(pieces[0].rows_count for pieces in groups)
    footer = thrift.struct_of(
        [
            (1, thrift.I32, thrift.integer(2)),
            (2, thrift.LIST, thrift.list_of(thrift.STRUCT, elements)),
            (3, thrift.I64, thrift.integer(rows_count)),
            (4, thrift.LIST, thrift.list_of(thrift.STRUCT, encoded)),
        ]
    )
    return bytes(body + footer + len(footer).to_bytes(4, "little") + MAGIC)


def _group(body: bytearray, pieces: Sequence[_Piece]) -> bytes:
    """Append the pages of a row group; return its Thrift struct."""
    columns = [_chunk(body, piece) for piece in pieces]
    return thrift.struct_of(
        [
            (1, thrift.LIST, thrift.list_of(thrift.STRUCT, columns)),
            (2, thrift.I64, thrift.integer(len(body))),
            (3, thrift.I64, thrift.integer(pieces[0].rows_count)),
        ]
    )


def _chunk(body: bytearray, piece: _Piece) -> bytes:
    start = thrift.integer(len(body))
    body += piece.dictionary
    data_start = thrift.integer(len(body))
    body += piece.body
    size = thrift.integer(len(piece.dictionary) + len(piece.body))
    fields = [
        (5, thrift.I64, thrift.integer(piece.rows_count)),
        (6, thrift.I64, size),
        (7, thrift.I64, size),
        (9, thrift.I64, data_start),
    ]
    if piece.dictionary:
        fields.append((11, thrift.I64, start))
    metadata = thrift.struct_of(fields, head=piece.head, last=4)
    return thrift.struct_of([(2, thrift.I64, start), (3, thrift.STRUCT, metadata)])


def _extents(file: int, group: RowGroup, rows: Sequence[range]) -> list[range]:
    """Widen rows until every column's pages begin and end with them; join what then overlaps."""
    extents: list[range] = []
    for wanted in sorted(rows, key=lambda one: one.start):
        extent = wanted if group.is_aligned(file) else _extent(file, group, wanted)
        if extents and extent.start < extents[-1].stop:
            last = extents.pop()
            extent = range(min(extent.start, last.start), max(extent.stop, last.stop))
        extents.append(extent)
    return extents


def _extent(file: int, group: RowGroup, rows: range) -> range:
    while True:
        widened = rows
        for column in _COLUMNS:
            pages = group.pages(file, column)
            held = pages.rows(pages.covering(widened), rows_count=group.rows_count)
            widened = range(min(widened.start, held.start), max(widened.stop, held.stop))
        if widened == rows:
            return rows
        rows = widened
