"""Two states of the same rows, put side by side: only rows whose documents differ are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from pitr.domain.change import Op
from pitr.domain.columnar.engine import translated
from pitr.domain.documents import member_names
from pitr.domain.errors import Conflict
from pitr.domain.keys import column_names

Side = Literal["then", "now"]

STATE_SCHEMA: Final = pa.schema(
    [("collection", pa.string()), ("key", pa.string()), ("after", pa.string())]
)
PAIR_SCHEMA: Final = pa.schema([("key", pa.string()), ("now", pa.string()), ("then", pa.string())])

BATCH_ROWS: Final = 1_024
BATCH_BYTES: Final = 8 * 1024 * 1024

Row = tuple[str, str, str | None]

IsMeant = Callable[[str, str, str | None, str | None], bool]
"""Whether a row is meant, by its collection, its key, and its documents now and then."""


@dataclass(slots=True, kw_only=True)
class CollectionDifference:
    """The rows of one collection that differ, and how.

    ``inserts`` are there then and not now, ``deletes`` the other way round, ``updates`` on both
    sides with another document. ``unknown`` rows are there now, and of then it is not known: the
    first that the log has of them is that they were read. They are not among the pairs.
    ``members_then`` and ``members_now`` are what the documents of each side have.
    """

    collection: str
    key: tuple[str, ...] = ()
    inserts: int = 0
    updates: int = 0
    deletes: int = 0
    unknown: int = 0
    members_then: set[str] = field(default_factory=set)
    members_now: set[str] = field(default_factory=set)
    sha256: str = ""
    path: Path | None = None

    @property
    def count(self) -> int:
        """Rows that differ."""
        return self.inserts + self.updates + self.deletes

    def rows(self, side: Side) -> Iterator[pa.RecordBatch]:
        """Yield key and document (``after``) of the rows that there are on one side."""
        for batch in self.pairs():
            found = batch.filter(batch[side].is_valid())
            if found.num_rows:
                yield pa.record_batch([found["key"], found[side]], names=["key", "after"])

    def pairs(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in key order, in batches of ``PAIR_SCHEMA``."""
        if self.path is None:
            return
        with pa.OSFile(str(self.path)) as stream, ipc.open_file(stream) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)


def write_state(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Keep the rows of a state in a file, in their order."""
    options = ipc.IpcWriteOptions(compression="lz4")
    with translated(), ipc.new_file(str(path), STATE_SCHEMA, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch.select(STATE_SCHEMA.names).cast(STATE_SCHEMA))


def read_state(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield what ``write_state`` kept."""
    with pa.OSFile(str(path)) as stream, ipc.open_file(stream) as reader:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def differences(
    changed: Path,
    then: Iterable[pa.RecordBatch],
    now: Iterable[pa.RecordBatch],
    *,
    folder: Path,
    is_meant: IsMeant = lambda *_: True,
    says_nothing: Collection[str] = (Op.READ,),
) -> dict[str, CollectionDifference]:
    """Compare two states of the rows in ``changed``, byte by byte.

    Args:
        changed: Of ``CHANGED_SCHEMA``; both states have rows only of these.
        then: One state in (collection, key) order, with collection, key and ``after``.
        now: The other, likewise.
        folder: Where the rows that differ are written.
        is_meant: Which of those that differ are kept.
        says_nothing: Operations that, as the first on a row, do not say that it was not there.

    Raises:
        Conflict: The rows of a collection are not all keyed by the same columns.
    """
    found: dict[str, CollectionDifference] = {}
    writer: _Writer | None = None
    then_rows, now_rows = _Rows(then), _Rows(now)
    with ExitStack() as stack:
        for collection, key, first_op in _changed(changed):
            before, after = now_rows.take(collection, key), then_rows.take(collection, key)
            if before == after or not is_meant(collection, key, before, after):
                continue
            if writer is None or writer.difference.collection != collection:
                stack.close()
                path = folder / f"difference-{len(found)}.arrow"
                writer = _Writer(CollectionDifference(collection=collection), path)
                found[collection] = writer.difference
                stack.callback(writer.close)
            if after is None and first_op in says_nothing:
                writer.difference.unknown += 1
            else:
                writer.add(key, before, after)
    return found


def _changed(path: Path) -> Iterator[Row]:
    with translated(), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


class _Rows:
    """A state that is read along with the keys that are asked for, both in the same order."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._rows = _rows(batches)
        self._next = next(self._rows, None)

    def take(self, collection: str, key: str) -> str | None:
        """Return the row's document, None if there is no such row."""
        found = self._next
        if found is None or found[0] != collection or found[1] != key:
            return None
        self._next = next(self._rows, None)
        return found[2]


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[Row]:
    for batch in batches:
        columns = (batch[name].to_pylist() for name in STATE_SCHEMA.names)
        yield from zip(*columns, strict=True)


class _Writer:
    """Writes the rows of one collection that differ, and keeps count."""

    def __init__(self, difference: CollectionDifference, path: Path) -> None:
        self.difference = difference
        options = ipc.IpcWriteOptions(compression="lz4")
        self._file = ipc.new_file(str(path), PAIR_SCHEMA, options=options)
        difference.path = path
        self._waiting: list[tuple[str, str | None, str | None]] = []
        self._waiting_bytes = 0
        self._digest = hashlib.sha256()

    def add(self, key: str, now: str | None, then: str | None) -> None:
        difference = self.difference
        names = column_names(key)
        if not difference.key:
            difference.key = names
        elif difference.key != names:
            raise Conflict(
                "the rows of the table had another key at the target",
                hint="restore the table into an empty database instead",
                collection=difference.collection,
                key=list(difference.key),
                other=list(names),
            )
        difference.inserts += now is None
        difference.deletes += then is None
        difference.updates += now is not None and then is not None
        if now is not None:
            difference.members_now.update(member_names(now))
        if then is not None:
            difference.members_then.update(member_names(then))
        self._digest_parts((key, now, then))
        self._waiting.append((key, now, then))
        self._waiting_bytes += len(key) + len(now or "") + len(then or "")
        if len(self._waiting) >= BATCH_ROWS or self._waiting_bytes >= BATCH_BYTES:
            self._flush()

    def _digest_parts(self, parts: Sequence[str | None]) -> None:
        bodies = [b"-1:" if part is None else _digested(part.encode()) for part in parts]
        self._digest.update(b"".join(bodies))

    def _flush(self) -> None:
        if self._waiting:
            columns = zip(*self._waiting, strict=True)
            arrays = [pa.array(column, pa.string()) for column in columns]
            self._file.write_batch(pa.record_batch(arrays, schema=PAIR_SCHEMA))
            self._waiting, self._waiting_bytes = [], 0

    def close(self) -> None:
        self._flush()
        self._file.close()
        self.difference.sha256 = self._digest.hexdigest()


def _digested(body: bytes) -> bytes:
    return b"%d:%b" % (len(body), body)
