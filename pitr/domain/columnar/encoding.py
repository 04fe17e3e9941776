"""How pitr writes Parquet: one set of options, one way to cut row groups (docs/format.md)."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.errors import DataLoss

Kind = Literal["segment", "snapshot"]

FILE_FORMAT: Final = 1
"""Version of the file format, in the footer as ``pitr.format``."""

ROW_GROUP_ROWS_MAX: Final = 65_536
ROW_GROUP_BYTES_MAX: Final = 32 * 1024 * 1024
"""Documents and keys of a row group, uncompressed. A reader holds one row group at the most; only
a single row that is larger by itself makes a larger group."""

PAGE_ROWS_MIN: Final = 16
PAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""A page of many long documents ends here, whatever its number of rows."""

WRITE_BATCH_ROWS: Final = 256
SMALL_PAGE_BATCH_ROWS: Final = 32
"""How often a page is looked at whether it is full; more often if columns have small ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """How tightly a file is packed: zstd level and page size.

    Larger pages compress better and take longer to find one row in. A page has ``page_rows_max``
    rows, or as many as take ``page_bytes`` in the widest column; a column whose rows take more than
    ``column_page_bytes`` has pages of its own.
    """

    level: int
    page_rows_max: int
    page_bytes: int
    column_page_bytes: int = PAGE_BYTES_MAX


FAST: Final = Packing(level=1, page_rows_max=768, page_bytes=512 * 1024)
"""What capture waits for: 0.8 M changes/s."""

SMALL: Final = Packing(level=9, page_rows_max=768, page_bytes=2 * 1024 * 1024)
"""What is written once and kept: a tenth to a fifth smaller, 0.2 M changes/s."""

SNAPSHOT: Final = Packing(
    level=3, page_rows_max=4_096, page_bytes=2 * 1024 * 1024, column_page_bytes=8 * 1024
)
"""What is written often and kept for a while: 1 M rows/s. A rewind reads the documents of single
rows out of it, and to decompress their pages is half the time."""

SORT_KEYS: Final = (("collection", "ascending"), ("key", "ascending"), ("seq", "ascending"))
DOCUMENTS: Final = ("after", "before", "unchanged", "meta")

_DICTIONARY = ["collection", "op", "lane"]
_SEARCHED = ["seq", "collection", "key", "op", "at_us"]
_DELTA = ("seq", "at_us", "commit_us", "recorded_us", "position")


def open_writer(
    where: object, *, kind: Kind, packing: Packing, sample: pa.Table
) -> pq.ParquetWriter:
    """Open a Parquet writer with the options of the format, for rows like those of ``sample``."""
    page_rows = _page_rows(sample, packing)
    are_small = packing.column_page_bytes < PAGE_BYTES_MAX
    batch_rows = SMALL_PAGE_BATCH_ROWS if are_small else WRITE_BATCH_ROWS
    return pq.ParquetWriter(
        where,
        CHANGE_SCHEMA.with_metadata({"pitr.format": str(FILE_FORMAT), "pitr.kind": kind}),
        compression="zstd",
        compression_level=packing.level,
        use_dictionary=_DICTIONARY,
        column_encoding=dict.fromkeys(_DELTA, "DELTA_BINARY_PACKED"),
        data_page_size=packing.column_page_bytes,
        max_rows_per_page=page_rows,
        write_batch_size=min(page_rows, batch_rows),
        write_page_index=True,
        write_statistics=_with_statistics(sample),
        write_page_checksum=True,
        sorting_columns=pq.SortingColumn.from_ordering(CHANGE_SCHEMA, list(SORT_KEYS)),
    )


def check_format(metadata: Mapping[bytes, bytes] | None) -> None:
    """Check that a file's footer metadata is of a format version that this code knows.

    Raises:
        DataLoss: It is another one; a newer pitr may read it.
    """
    found = (metadata or {}).get(b"pitr.format", b"none").decode(errors="replace")
    if found != str(FILE_FORMAT):
        raise DataLoss("a change file has an unknown format", expected=FILE_FORMAT, found=found)


def finish(
    writer: pq.ParquetWriter, *, document_bytes_max: int, attempt: str | None = None
) -> None:
    """Add what is known only at the end, and close."""
    writer.add_key_value_metadata({"pitr.document_bytes_max": str(document_bytes_max)})
    if attempt is not None:
        writer.add_key_value_metadata({"pitr.attempt": attempt})
    writer.close()


def row_groups(table: pa.Table) -> Iterator[pa.Table]:
    """Cut a table into row groups within both limits."""
    ends = pc.cumulative_sum(_row_bytes(table))
    first, before = 0, 0
    while first < table.num_rows:
        last = min(first + ROW_GROUP_ROWS_MAX, table.num_rows)
        fitting = bisect.bisect_right(
            range(last), before + ROW_GROUP_BYTES_MAX, lo=first, key=lambda row: ends[row].as_py()
        )
        end = max(fitting, first + 1)
        yield table.slice(first, end - first)
        first, before = end, ends[end - 1].as_py()


def document_bytes_max(table: pa.Table) -> int:
    """Length of the longest document in the table, bytes."""
    return max(int(pc.max(pc.binary_length(table[name])).as_py() or 0) for name in DOCUMENTS)


def _with_statistics(sample: pa.Table) -> list[str]:
    """Choose the columns with bounds: those searched by, and empty ones, so that readers see it.

    Bounds of documents would be two whole documents a page.
    """
    empty = [name for name in sample.column_names if sample[name].null_count == len(sample)]
    return _SEARCHED + [name for name in empty if name not in _SEARCHED]


def _page_rows(sample: pa.Table, packing: Packing) -> int:
    widest = max(pc.sum(pc.binary_length(sample[name])).as_py() or 0 for name in DOCUMENTS)
    fitting = packing.page_bytes * int(sample.num_rows) // max(int(widest), 1)
    return min(max(fitting, PAGE_ROWS_MIN), packing.page_rows_max)


def _row_bytes(table: pa.Table) -> pa.Array:
    total = pc.binary_length(table["key"]).cast(pa.int64())
    for name in DOCUMENTS:
        total = pc.add(total, pc.fill_null(pc.binary_length(table[name]), 0).cast(pa.int64()))
    return total.combine_chunks() if isinstance(total, pa.ChunkedArray) else total
