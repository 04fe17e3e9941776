"""Merges sorted segments into one: every column, time and seq of every change is kept.

A k-way merge in steps. Each file has one small batch in memory; what sorts at or before the least
of the batches' last rows is complete in all of them, and is sorted and passed on.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pitr.domain.columnar.encoding import FAST, SORT_KEYS, check_format
from pitr.domain.columnar.engine import PROCESS_BYTES
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.columnar.segment import SegmentWriter, WrittenFile, write_files
from pitr.domain.errors import DataLoss

STEP_BYTES: Final = 1024 * 1024
"""About what a file's batch takes in memory; a single larger row makes a larger one."""

STEP_ROWS: Final = 8_192

READ_BYTES: Final = 64 * 1024
"""What is read of a column at once; not the whole column of a row group."""

FILE_BYTES: Final = 12 * 1024 * 1024
"""What a file that is being read takes in all: a batch, and buffers and pages of each column."""

Place = tuple[str, str, int]


def merge_segments(
    paths: Sequence[Path],
    writer: SegmentWriter,
    *,
    memory_bytes: int,
    spill_folder: Path,
) -> WrittenFile:
    """Merge segments that cover seqs without holes into one, in bounded memory.

    Args:
        paths: Local segment files.
        writer: A fresh writer of a segment.
        memory_bytes: Budget of the whole process. More files than it has room for are merged in
            several passes.
        spill_folder: Where these put their files.

    Raises:
        DataLoss: A file cannot be read, or the changes have a hole or a double.
    """
    files_max = max((memory_bytes - PROCESS_BYTES) // FILE_BYTES, 2)
    with TemporaryDirectory(prefix="merge-", dir=spill_folder) as folder:
        fewer = _merged_to_fewer(paths, files_max=files_max, folder=Path(folder))
        (written,) = write_files(writer, merged(fewer))
    facts = written.facts
    if facts.row_count != facts.seq_end - facts.seq_first:
        raise DataLoss(
            "segments to merge have a hole or overlap",
            seq_first=facts.seq_first,
            seq_end=facts.seq_end,
            row_count=facts.row_count,
        )
    return written


def _merged_to_fewer(paths: Sequence[Path], *, files_max: int, folder: Path) -> Sequence[Path]:
    """Merge files of neighbours until there are at most ``files_max``."""
    while len(paths) > files_max:
        groups = [paths[at : at + files_max] for at in range(0, len(paths), files_max)]
        folder = folder / "next"
        folder.mkdir()
        writer = SegmentWriter(folder, kind="segment", packing=FAST)
        paths = [file.path for group in groups for file in write_files(writer, merged(group))]
    return paths


def merged(paths: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """Yield the changes of sorted files in (collection, key, seq) order.

    Raises:
        DataLoss: A file cannot be read.
    """
    try:
        with ExitStack() as stack:
            cursors = [_Cursor(stack.enter_context(_opened(path))) for path in paths]
            while cursors := [cursor for cursor in cursors if cursor.batch is not None]:
                bound = min(cursor.last() for cursor in cursors)
                taken = [cursor.take(bound) for cursor in cursors]
                yield from _sorted(pa.Table.from_batches(taken, CHANGE_SCHEMA))
    except (pa.ArrowException, OSError) as error:
        raise DataLoss("a segment cannot be read", reason=str(error)) from error


class _Cursor:
    """The rows of one file that were not taken yet; ``batch`` is None after the last."""

    def __init__(self, file: pq.ParquetFile) -> None:
        self._batches = _batches(file)
        self.batch: pa.RecordBatch | None = next(self._batches, None)

    def last(self) -> Place:
        assert self.batch is not None
        return _place(self.batch, self.batch.num_rows - 1)

    def take(self, bound: Place) -> pa.RecordBatch:
        """Take the rows of the batch up to and with ``bound``."""
        batch = self.batch
        assert batch is not None
        count = bisect.bisect_right(range(batch.num_rows), bound, key=lambda at: _place(batch, at))
        rest = batch.slice(count)
        self.batch = rest if rest.num_rows else next(self._batches, None)
        return batch.slice(0, count)


def _opened(path: Path) -> pq.ParquetFile:
    file = pq.ParquetFile(
        path, pre_buffer=False, buffer_size=READ_BYTES, page_checksum_verification=True
    )
    check_format(file.metadata.metadata)
    return file


def _batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    # One row group at a time: a batch over several could hold many long documents.
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        fitting = STEP_BYTES * group.num_rows // max(group.total_byte_size, 1)
        rows = min(max(fitting, 1), STEP_ROWS)
        for batch in file.iter_batches(rows, row_groups=[number], use_threads=False):
            yield batch.cast(CHANGE_SCHEMA)


def _place(batch: pa.RecordBatch, at: int) -> Place:
    return batch["collection"][at].as_py(), batch["key"][at].as_py(), batch["seq"][at].as_py()


def _sorted(table: pa.Table) -> list[pa.RecordBatch]:
    table = table.combine_chunks()
    ordered: pa.Table = table.take(pc.sort_indices(table, sort_keys=list(SORT_KEYS)))
    return ordered.to_batches()  # type: ignore[no-any-return]
