"""Sorted rows in one local Arrow file, read back by collection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc as ipc

from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.columnar.segment import collection_runs


class Spool:
    """Rows in (collection, key) order, written once, read by collection in any order."""

    def __init__(self, path: Path, batches: Iterable[pa.RecordBatch]) -> None:
        self._path = path
        self._ranges: dict[str, range] = {}
        options = ipc.IpcWriteOptions(compression="lz4")
        with ipc.new_file(str(path), CHANGE_SCHEMA, options=options) as writer:
            count = 0
            for batch in batches:
                for piece in collection_runs(batch):
                    writer.write_batch(piece)
                    collection = piece["collection"][0].as_py()
                    first = self._ranges.get(collection, range(count, count)).start
                    count += 1
                    self._ranges[collection] = range(first, count)

    def rows(self, collection: str) -> Iterator[pa.RecordBatch]:
        """Yield the collection's rows in key order."""
        with pa.OSFile(str(self._path)) as stream, ipc.open_file(stream) as reader:
            for number in self._ranges.get(collection, ()):
                yield reader.get_batch(number)
