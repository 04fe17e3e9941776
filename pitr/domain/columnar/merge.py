"""Merges segments of neighbouring ranges into one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pitr.domain.columnar.engine import Engine, change_columns, parquet
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.columnar.segment import SegmentWriter, WrittenFile, write_files


def merge_segments(
    paths: Sequence[Path],
    writer: SegmentWriter,
    *,
    memory_bytes: int,
    spill_folder: Path,
    threads: int,
) -> WrittenFile:
    """Merge sorted segments into one sorted segment, every column kept."""
    engine = Engine(memory_bytes=memory_bytes, spill_folder=spill_folder, threads=threads)
    query = f"SELECT {change_columns()} FROM {parquet(paths)} ORDER BY collection, key, seq"
    try:
        batches = (
            pa.record_batch(batch.columns, schema=CHANGE_SCHEMA) for batch in engine.stream(query)
        )
        (written,) = write_files(writer, batches)
    finally:
        engine.close()
    return written
