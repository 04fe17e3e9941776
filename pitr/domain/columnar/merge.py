"""Merges sorted segments into one: every column, time and seq of every change is kept.

A k-way merge in steps. Each file has one small batch in memory; what sorts at or before the least
of the batches' last rows is complete in all of them, and is sorted and passed on.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pitr.domain.columnar.encoding import SORT_KEYS
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.columnar.segment import SegmentWriter, WrittenFile, write_files
from pitr.domain.errors import DataLoss

STEP_BYTES_MAX: Final = 2 * 1024 * 1024
"""About what a file's batch takes in memory; a single larger row makes a larger one."""

MEMORY_BYTES: Final = 512 * 1024 * 1024

STEP_ROWS: Final = 8_192

Place = tuple[str, str, int]


def merge_segments(
    paths: Sequence[Path],
    writer: SegmentWriter,
    *,
    memory_bytes: int = MEMORY_BYTES,
    spill_folder: Path | None = None,
    threads: int = 1,
) -> WrittenFile:
    """Merge segments that cover seqs without holes into one, in bounded memory.

    Args:
        paths: Local segment files.
        writer: A fresh writer of a segment.
        memory_bytes: Budget of the whole process; the batches of all files share an eighth of it.
        spill_folder: Not used: a merge of sorted files needs no room.
        threads: Not used: one file is written, by one thread.

    Raises:
        DataLoss: A file cannot be read, or the changes have a hole or a double.
    """
    del spill_folder, threads
    step_bytes = min(memory_bytes // 8 // len(paths), STEP_BYTES_MAX)
    (written,) = write_files(writer, merged(paths, step_bytes=step_bytes))
    facts = written.facts
    if facts.row_count != facts.seq_end - facts.seq_first:
        raise DataLoss(
            "segments to merge have a hole or overlap",
            seq_first=facts.seq_first,
            seq_end=facts.seq_end,
            row_count=facts.row_count,
        )
    return written


def merged(paths: Sequence[Path], *, step_bytes: int = STEP_BYTES_MAX) -> Iterator[pa.RecordBatch]:
    """Yield the changes of sorted files in (collection, key, seq) order.

    Raises:
        DataLoss: A file cannot be read.
    """
    try:
        with ExitStack() as stack:
            cursors = [_Cursor(stack.enter_context(_opened(path)), step_bytes) for path in paths]
            while cursors := [cursor for cursor in cursors if cursor.batch is not None]:
                bound = min(cursor.last() for cursor in cursors)
                taken = [cursor.take(bound) for cursor in cursors]
                yield from _sorted(pa.Table.from_batches(taken, CHANGE_SCHEMA))
    except (pa.ArrowException, OSError) as error:
        raise DataLoss("a segment cannot be read", reason=str(error)) from error


class _Cursor:
    """The rows of one file that were not taken yet; ``batch`` is None after the last."""

    def __init__(self, file: pq.ParquetFile, step_bytes: int) -> None:
        self._batches = _batches(file, step_bytes)
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
    return pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)


def _batches(file: pq.ParquetFile, step_bytes: int) -> Iterator[pa.RecordBatch]:
    # One row group at a time: a batch over several could hold many long documents.
    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        fitting = step_bytes * group.num_rows // max(group.total_byte_size, 1)
        rows = min(max(fitting, 1), STEP_ROWS)
        for batch in file.iter_batches(rows, row_groups=[number], use_threads=False):
            yield batch.cast(CHANGE_SCHEMA)


def _place(batch: pa.RecordBatch, at: int) -> Place:
    return batch["collection"][at].as_py(), batch["key"][at].as_py(), batch["seq"][at].as_py()


def _sorted(table: pa.Table) -> list[pa.RecordBatch]:
    table = table.combine_chunks()
    ordered: pa.Table = table.take(pc.sort_indices(table, sort_keys=list(SORT_KEYS)))
    return ordered.to_batches()  # type: ignore[no-any-return]
