"""Rows of one collection in local files: key and document, and 32 bytes that stand for them.

The rows lie in an Arrow file in the order they came; a narrow Parquet file beside it has for each
row its number and 128 bits each of key and document, so that states of any size are compared
without their documents. Source of the digest: BLAKE2b (RFC 7693), 16 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

Numbers = npt.NDArray[np.int64]

ROW_SCHEMA: Final = pa.schema([("key", pa.string()), ("after", pa.string())])
DIGEST_COLUMNS: Final = ("k1", "k2", "d1", "d2")
INDEX_SCHEMA: Final = pa.schema([(name, pa.int64()) for name in ("row", *DIGEST_COLUMNS)])

_DIGEST_BYTES: Final = 16
_FLUSH_ROWS: Final = 65_536


def digests(texts: pa.Array) -> Numbers:
    """Return the digest of each text as two numbers, (n, 2); a null is as an empty text."""
    offsets_buffer, data = texts.buffers()[1:]
    if not len(texts):
        return np.empty((0, 2), np.int64)
    offsets = np.frombuffer(offsets_buffer, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    view = memoryview(data if data is not None else b"")
    joined = b"".join(
        [
            blake2b(view[first:end], digest_size=_DIGEST_BYTES).digest()
            for first, end in pairwise(offsets.tolist())
        ]
    )
    return np.frombuffer(joined, "<i8").reshape(-1, 2)


class RowFile:
    """Rows that are added batch by batch, then read by number, in order."""

    def __init__(self, folder: Path, name: str) -> None:
        self.index = folder / f"{name}.parquet"
        self.count = 0
        self._path = folder / f"{name}.arrow"
        self._ends: list[int] = []
        options = ipc.IpcWriteOptions(compression="lz4")
        self._rows = ipc.new_file(str(self._path), ROW_SCHEMA, options=options)
        self._index = pq.ParquetWriter(self.index, INDEX_SCHEMA, compression="zstd")
        self._waiting: list[Numbers] = []
        self._waiting_rows = 0

    def add(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Add the columns ``key`` and ``after`` of some rows."""
        for batch in pa.table(rows.select(["key", "after"])).cast(ROW_SCHEMA).to_batches():
            if batch.num_rows:
                self._add(batch)

    def _add(self, batch: pa.RecordBatch) -> None:
        self._rows.write_batch(batch)
        numbers = np.arange(self.count, self.count + batch.num_rows).reshape(-1, 1)
        self._waiting.append(
            np.hstack([numbers, digests(batch["key"]), digests(batch["after"])]).astype(np.int64)
        )
        self.count += batch.num_rows
        self._ends.append(self.count)
        self._waiting_rows += batch.num_rows
        if self._waiting_rows >= _FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            columns = np.vstack(self._waiting).T
            arrays = [pa.array(np.ascontiguousarray(column)) for column in columns]
            self._index.write_table(pa.table(arrays, schema=INDEX_SCHEMA))
            self._waiting, self._waiting_rows = [], 0

    def close(self) -> None:
        """End writing."""
        self._flush()
        self._index.close()
        self._rows.close()

    def delete(self) -> None:
        """Remove the files."""
        self._path.unlink(missing_ok=True)
        self.index.unlink(missing_ok=True)

    def all_rows(self) -> Iterator[pa.RecordBatch]:
        """Yield all rows in order."""
        with pa.OSFile(str(self._path)) as stream, ipc.open_file(stream) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)

    def picked(self, numbers: Iterable[Numbers]) -> Iterator[tuple[Numbers, pa.RecordBatch]]:
        """Yield rows by their numbers, which ascend; only what they lie in is read."""
        ends = np.array(self._ends, np.int64)
        held, batch = -1, pa.record_batch([], names=[])
        with pa.OSFile(str(self._path)) as stream, ipc.open_file(stream) as reader:
            for wanted in numbers:
                places = np.searchsorted(ends, wanted, side="right")
                for place in np.unique(places).tolist():
                    here = wanted[places == place]
                    first = int(ends[place - 1]) if place else 0
                    if place != held:
                        held, batch = place, reader.get_batch(place)
                    yield here, batch.take(pa.array(here - first))
