"""Small questions to verified files: a few of their columns, whether a file is whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pitr.domain.errors import DataLoss
from pitr.domain.manifest import ObjectRef

BATCH_ROWS = 16_384
"""Rows in memory at a time."""


def columns_of(path: Path, names: list[str]) -> Iterator[pa.RecordBatch]:
    """Stream a few columns of a file, a batch in memory at a time."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=names, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise DataLoss("a change file cannot be read", file=path.name) from error


def object_problems(path: Path, ref: ObjectRef) -> str | None:
    """Read a whole object and tell what is not as the manifest says; None if all is.

    Checks row count, order, and that a segment has every seq of its range once.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            return _problems(file, ref)
    except (pa.ArrowException, OSError) as error:
        return f"the file cannot be read: {error}"


def _problems(file: pq.ParquetFile, ref: ObjectRef) -> str | None:
    seqs: list[pa.Array] = []
    last: tuple[str, str, int] | None = None
    for batch in _keys(file):
        rows = zip(*(batch[name].to_pylist() for name in ("collection", "key", "seq")), strict=True)
        for row in rows:
            if last is not None and row <= last:
                return f"the rows are not in order at seq {row[2]}"
            last = row
        seqs.append(batch["seq"])
    count = sum(len(part) for part in seqs)
    if count != ref.row_count:
        return f"it has {count} rows, the manifest says {ref.row_count}"
    if ref.kind == "segment" and count != ref.seq_end - ref.seq_first:
        return f"it has {count} changes for {ref.seq_end - ref.seq_first} seqs"
    return _range_problem(pa.chunked_array(seqs), ref) if seqs else None


def _keys(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    yield from file.iter_batches(batch_size=BATCH_ROWS, columns=["collection", "key", "seq"])


def _range_problem(seqs: pa.ChunkedArray, ref: ObjectRef) -> str | None:
    bounds = pc.min_max(seqs).as_py()
    if bounds["min"] < ref.seq_first or bounds["max"] >= ref.seq_end:
        return f"it has seq {bounds['min']} to {bounds['max']}, outside its range"
    if ref.kind == "segment" and pc.count_distinct(seqs).as_py() != len(seqs):
        return "it has a seq twice"
    return None
