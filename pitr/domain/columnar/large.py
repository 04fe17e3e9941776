"""Documents too long to sort beside others: kept in one spill file, found again by offset.

An engine's batch has a number of rows, not of bytes: 2,048 documents of 10 MB would be one batch.
So documents past ``LARGE_BYTES`` go around the engine, which sees only where they lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pitr.domain.columnar.encoding import check_format
from pitr.domain.columnar.engine import Engine, translated
from pitr.domain.errors import DataLoss

LARGE_BYTES: Final = 8 * 1024
"""Documents above this many bytes go around the engine."""

LARGE_COLUMNS: Final = ("after", "meta")

_FLUSH_ROWS: Final = 16_384
_SCHEMA = pa.schema(
    [
        ("seq", pa.int64()),
        ("after_offset", pa.int64()),
        ("after_bytes", pa.int64()),
        ("meta_offset", pa.int64()),
        ("meta_bytes", pa.int64()),
    ]
)


def longest_document(path: Path) -> int:
    """Return the length of a file's longest document, bytes, from its footer.

    Raises:
        DataLoss: It is no file of this format.
    """
    try:
        metadata = pq.read_metadata(path).metadata
        check_format(metadata)
        return int(metadata[b"pitr.document_bytes_max"])
    except (pa.ArrowException, OSError, KeyError, TypeError) as error:
        raise DataLoss("a footer cannot be read", path=path, reason=str(error)) from error


class LargeDocuments:
    """The large documents of the rows in the engine's table ``needed``.

    Afterwards the engine has a table ``large``: seq, and offset and length of ``after`` and
    ``meta``, null where the document is small.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._file = (engine.folder / "large").open("xb+")
        self._index: list[tuple[int | None, ...]] = []
        engine.add_table("large", _SCHEMA.empty_table())

    def add_files(self, paths: Sequence[Path], *, seq_first: int) -> None:
        """Take the documents of rows from ``seq_first`` on."""
        for path in paths:
            with translated():
                for table in _groups_with_large(path):
                    self._add(table, seq_first=seq_first)
        self._flush()

    def add_table(self, table: pa.Table, *, seq_first: int) -> None:
        """Take the documents of rows from ``seq_first`` on."""
        for first in range(0, table.num_rows, _FLUSH_ROWS):
            part = table.slice(first, _FLUSH_ROWS).select(["seq", *LARGE_COLUMNS])
            self._add(part, seq_first=seq_first)
        self._flush()

    def read(self, *, offset: int, length: int) -> bytes:
        """Return a document."""
        self._file.seek(offset)
        return self._file.read(length)

    def close(self) -> None:
        """Forget all documents; the engine's folder goes with the engine."""
        self._file.close()

    def _add(self, table: pa.Table, *, seq_first: int) -> None:
        table = table.filter(pc.and_(_is_large(table), pc.greater_equal(table["seq"], seq_first)))
        if not table.num_rows:
            return
        wanted = self._needed(table.column("seq"))
        for row in range(table.num_rows):
            seq = table["seq"][row].as_py()
            if seq in wanted:
                places = [self._put(table[name][row]) for name in LARGE_COLUMNS]
                self._index.append((seq, *places[0], *places[1]))
        if len(self._index) >= _FLUSH_ROWS:
            self._flush()

    def _needed(self, seqs: pa.ChunkedArray) -> set[object]:
        self._engine.add_table("candidates", pa.table({"seq": seqs}))
        rows = self._engine.rows("SELECT seq FROM candidates SEMI JOIN needed USING (seq)")
        self._engine.run("DROP TABLE candidates")
        return {seq for (seq,) in rows}

    def _put(self, document: pa.StringScalar) -> tuple[int, int] | tuple[None, None]:
        body = document.as_buffer()
        if body is None or body.size <= LARGE_BYTES:
            return None, None
        offset = self._file.seek(0, 2)
        self._file.write(body)
        return offset, body.size

    def _flush(self) -> None:
        if self._index:
            columns = zip(*self._index, strict=True)
            arrays = [pa.array(column, pa.int64()) for column in columns]
            self._engine.add_table("more", pa.table(arrays, schema=_SCHEMA))
            self._engine.run("INSERT INTO large SELECT * FROM more; DROP TABLE more")
            self._index = []


def _groups_with_large(path: Path) -> Iterator[pa.Table]:
    file = pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
    with file:
        columns = [file.schema_arrow.get_field_index(name) for name in LARGE_COLUMNS]
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            if any(group.column(at).total_uncompressed_size > LARGE_BYTES for at in columns):
                wanted = ["seq", *LARGE_COLUMNS]
                yield file.read_row_group(number, columns=wanted, use_threads=False)


def _is_large(table: pa.Table) -> pa.ChunkedArray:
    after, meta = (
        pc.fill_null(pc.greater(pc.binary_length(table[name]), LARGE_BYTES), False)
        for name in LARGE_COLUMNS
    )
    return pc.or_(after, meta)
