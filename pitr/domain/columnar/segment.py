"""Segments and snapshot parts as Parquet bytes; it knows the format and no store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pitr.domain.columnar.encoding import (
    FAST,
    ROW_GROUP_BYTES_MAX,
    ROW_GROUP_ROWS_MAX,
    SMALL,
    SNAPSHOT,
    SORT_KEYS,
    Kind,
    Packing,
    finish,
    open_writer,
    row_groups,
)
from pitr.domain.columnar.facts import Facts, facts_of, joined_facts
from pitr.domain.columnar.names import segment_name, snapshot_name
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.manifest import ObjectRef

INT32_STRINGS_MAX = 1 << 30
"""Tables with more bytes than this are sorted with 64-bit string offsets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedSegment:
    """A segment in memory."""

    body: bytes
    sha256: str
    facts: Facts

    def ref(self, log: str) -> ObjectRef:
        """Describe the segment for the manifest of ``log``."""
        return _segment_ref(log, self.facts, sha256=self.sha256, size_bytes=len(self.body))


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenFile:
    """A segment or snapshot part in a local file; ``collection`` and ``part`` are a snapshot's."""

    path: Path
    sha256: str
    size_bytes: int
    facts: Facts
    collection: str | None = None
    part: int = 0

    def segment_ref(self, log: str) -> ObjectRef:
        """Describe the file as a segment for the manifest of ``log``."""
        return _segment_ref(log, self.facts, sha256=self.sha256, size_bytes=self.size_bytes)

    def snapshot_ref(self, log: str, *, seq_end: int, at_min_us: int, at_max_us: int) -> ObjectRef:
        """Describe the file as a part of the snapshot before ``seq_end``.

        ``at_min_us`` and ``at_max_us`` bound every change before ``seq_end``, not only these rows.
        """
        assert self.collection is not None, "a snapshot part is of one collection"
        name = snapshot_name(
            log, seq_end=seq_end, collection=self.collection, part=self.part, sha256=self.sha256
        )
        return ObjectRef(
            kind="snapshot",
            name=name,
            seq_first=1,
            seq_end=seq_end,
            at_min_us=at_min_us,
            at_max_us=at_max_us,
            row_count=self.facts.row_count,
            size_bytes=self.size_bytes,
            sha256=self.sha256,
            ops=self.facts.ops,
            collection=self.collection,
        )


def encode_segment(
    table: pa.Table, *, packing: Packing = FAST, attempt: str | None = None
) -> EncodedSegment:
    """Sort changes and encode them as a segment. The table must not be empty.

    ``attempt`` makes the bytes, and with them the name, this writer's alone: whoever may delete
    what it wrote must give one. The result is in memory: the caller bounds it. Larger outputs go
    through ``SegmentWriter``.
    """
    assert table.num_rows, "a segment holds at least one change"
    sink = pa.BufferOutputStream()
    writer = open_writer(sink, kind="segment", packing=packing, sample=table)
    for group in row_groups(sorted_changes(table)):
        writer.write_table(group.cast(CHANGE_SCHEMA), row_group_size=ROW_GROUP_ROWS_MAX)
    facts = facts_of(table)
    finish(writer, document_bytes_max=facts.document_bytes_max, attempt=attempt)
    body = sink.getvalue().to_pybytes()
    return EncodedSegment(body=body, sha256=hashlib.sha256(body).hexdigest(), facts=facts)


def sorted_changes(table: pa.Table) -> pa.Table:
    """Sort by collection, key (both by UTF-8 bytes) and seq."""
    if table.nbytes > INT32_STRINGS_MAX:
        table = table.cast(_LARGE_SCHEMA)
    table = table.combine_chunks()
    return table.take(pc.sort_indices(table, sort_keys=list(SORT_KEYS)))


class SegmentWriter:
    """Write sorted changes to local files, one row group in memory at a time.

    ``write`` returns the files that it completed, ``finish`` the last one; each exists only once
    returned and belongs to the caller. With ``kind`` ``snapshot`` a new file starts at every
    collection, and once a file has reached ``part_bytes_max``; a segment is one file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        kind: Kind,
        packing: Packing | None = None,
        part_bytes_max: int | None = None,
    ) -> None:
        assert kind == "snapshot" or part_bytes_max is None, "a segment is one file"
        self._folder = folder
        self._kind = kind
        self._packing = packing or (SMALL if kind == "segment" else SNAPSHOT)
        self._part_bytes_max = part_bytes_max
        self._file: _OpenFile | None = None
        self._files_count = 0
        self._collection: str | None = None
        self._part = 0

    def write(self, batch: pa.RecordBatch) -> list[WrittenFile]:
        """Take the next changes in (collection, key, seq) order; return the files now complete."""
        done: list[WrittenFile] = []
        for piece in self._pieces(batch):
            if self._is_full(piece):
                done += self.finish()
            self._open_file(piece).add(piece)
        return done

    def finish(self) -> list[WrittenFile]:
        """Complete the open file, if there is one."""
        if self._file is None:
            return []
        written = self._file.close(collection=self._collection, part=self._part)
        self._file = None
        return [written]

    def abandon(self) -> None:
        """Close and delete the file that is not complete."""
        if self._file is not None:
            self._file.abandon()
            self._file = None

    def _pieces(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        return collection_runs(batch) if self._kind == "snapshot" else iter([batch])

    def _is_full(self, piece: pa.RecordBatch) -> bool:
        if self._file is None or self._kind == "segment" or not piece.num_rows:
            return False
        if piece["collection"][0].as_py() != self._collection:
            return True
        limit = self._part_bytes_max
        return limit is not None and self._file.size_bytes() >= limit

    def _open_file(self, piece: pa.RecordBatch) -> _OpenFile:
        if self._file is None:
            path = self._folder / f"{self._kind}-{self._files_count:06}.parquet.part"
            self._file = _OpenFile(path, kind=self._kind, packing=self._packing)
            self._files_count += 1
            if self._kind == "snapshot":
                collection = piece["collection"][0].as_py()
                self._part = self._part + 1 if collection == self._collection else 0
                self._collection = collection
        return self._file


class _OpenFile:
    """One Parquet file being written; rows wait until they fill a row group."""

    def __init__(self, path: Path, *, kind: Kind, packing: Packing) -> None:
        self._path = path
        self._stream = path.open("xb")
        self._kind = kind
        self._packing = packing
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = 0
        self._waiting_bytes = 0
        self._facts: Facts | None = None

    def size_bytes(self) -> int:
        return self._stream.tell()

    def add(self, batch: pa.RecordBatch) -> None:
        too_many = self._waiting_rows + batch.num_rows > ROW_GROUP_ROWS_MAX
        if too_many or self._waiting_bytes + batch.nbytes > ROW_GROUP_BYTES_MAX:
            self._flush()
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += batch.nbytes

    def close(self, *, collection: str | None, part: int) -> WrittenFile:
        self._flush()
        assert self._facts is not None, "a file holds at least one change"
        assert self._writer is not None
        finish(self._writer, document_bytes_max=self._facts.document_bytes_max)
        self._stream.close()
        final = self._path.with_suffix("")
        self._path.rename(final)
        with final.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return WrittenFile(
            path=final,
            sha256=digest,
            size_bytes=final.stat().st_size,
            facts=self._facts,
            collection=collection,
            part=part,
        )

    def abandon(self) -> None:
        self._stream.close()
        self._path.unlink(missing_ok=True)

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting, CHANGE_SCHEMA)
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0
        for group in row_groups(table):
            if self._writer is None:
                kind, packing = self._kind, self._packing
                self._writer = open_writer(self._stream, kind=kind, packing=packing, sample=group)
            self._writer.write_table(group, row_group_size=ROW_GROUP_ROWS_MAX)
            self._facts = joined_facts(self._facts, facts_of(group))


def write_files(writer: SegmentWriter, batches: Iterable[pa.RecordBatch]) -> Iterator[WrittenFile]:
    """Pass sorted batches through a writer and yield every file as it is complete."""
    try:
        for batch in batches:
            yield from writer.write(batch)
        yield from writer.finish()
    finally:
        writer.abandon()


def collection_runs(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a sorted batch where the collection changes."""
    runs = pc.run_end_encode(batch["collection"])
    first = 0
    for end in runs.run_ends.to_pylist():
        yield batch.slice(first, end - first)
        first = end


def _segment_ref(log: str, facts: Facts, *, sha256: str, size_bytes: int) -> ObjectRef:
    return ObjectRef(
        kind="segment",
        name=segment_name(log, seq_first=facts.seq_first, seq_end=facts.seq_end, sha256=sha256),
        seq_first=facts.seq_first,
        seq_end=facts.seq_end,
        at_min_us=facts.at_min_us,
        at_max_us=facts.at_max_us,
        row_count=facts.row_count,
        size_bytes=size_bytes,
        sha256=sha256,
        ops=facts.ops,
    )


_LARGE_SCHEMA = pa.schema(
    [
        pa.field(field.name, pa.large_string(), nullable=field.nullable)
        if field.type == pa.string()
        else field
        for field in CHANGE_SCHEMA
    ]
)
