"""Whole states for a database to compare its tables with, and what it found different.

A state is kept as pairs of which only ``then`` is there, so that it is loaded like any difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc

from pitr.domain.columnar.difference import PAIR_SCHEMA, CollectionDifference
from pitr.domain.columnar.engine import translated
from pitr.domain.documents import is_object, members
from pitr.domain.errors import Conflict
from pitr.domain.keys import column_names

FOUND_SCHEMA: Final = pa.schema([("key", pa.string()), ("live", pa.string())])
"""A row that was written, and what it was before, as JSON; null if it was not there."""

BATCH_ROWS: Final = 1_024

_LZ4: Final = ipc.IpcWriteOptions(compression="lz4")


def keep_states(batches: Iterable[pa.RecordBatch], folder: Path) -> dict[str, CollectionDifference]:
    """Keep the rows of a state, a file for each collection; ``inserts`` counts them.

    Args:
        batches: With collection, key and ``after``, in (collection, key) order.
        folder: Where the files are written.

    Raises:
        Conflict: The rows of a collection are not all keyed by the same columns.
    """
    found: dict[str, CollectionDifference] = {}
    with translated(), ExitStack() as stack:
        writer: ipc.RecordBatchFileWriter | None = None
        for batch in batches:
            for name in batch["collection"].unique().to_pylist():
                if name not in found:
                    stack.close()
                    path = folder / f"state-{len(found)}.arrow"
                    found[name] = CollectionDifference(collection=name, path=path)
                    writer = stack.enter_context(ipc.new_file(str(path), PAIR_SCHEMA, options=_LZ4))
                assert writer is not None, "there is one for each collection"
                part = batch.filter(pc.equal(batch["collection"], name))
                _note(found[name], part)
                nothing = pa.nulls(part.num_rows, pa.string())
                columns = [part["key"].cast(pa.string()), nothing, part["after"].cast(pa.string())]
                writer.write_batch(pa.record_batch(columns, schema=PAIR_SCHEMA))
    return found


def _note(state: CollectionDifference, rows: pa.RecordBatch) -> None:
    state.inserts += rows.num_rows
    for key, document in zip(rows["key"].to_pylist(), rows["after"].to_pylist(), strict=True):
        names = column_names(key)
        if names != (state.key or names):
            raise Conflict(
                "the rows of the table are keyed in more than one way",
                hint="restore the table into an empty database instead",
                collection=state.collection,
                key=list(state.key),
                other=list(names),
            )
        state.key = names
        body = document.encode()
        if is_object(body):
            state.members_then.update(members(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """What a scan changed: rows as they were found (``now``), and as they were to be (``then``).

    ``found`` has ``FOUND_SCHEMA`` in key order; ``state`` has every row of the moment, ``logged``
    those that differ by the log.
    """

    state: CollectionDifference
    logged: CollectionDifference
    found: Path

    @property
    def collection(self) -> str:
        """The collection of the rows."""
        return self.state.collection

    def pairs(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in key order, in batches of ``PAIR_SCHEMA``."""
        waiting: list[tuple[str, str | None, str | None]] = []
        then = _then(self.state)
        row = next(then, None)
        for key, live in self._found():
            while row is not None and row[0] < key:
                row = next(then, None)
            waiting.append((key, live, row[1] if row is not None and row[0] == key else None))
            if len(waiting) == BATCH_ROWS:
                yield _batch(waiting)
                waiting = []
        if waiting:
            yield _batch(waiting)

    def settled(self) -> Iterator[tuple[str, str | None]]:
        """Yield the rows that differ by the log and were as they were to be, with what that is."""
        found = self._found()
        row = next(found, None)
        for batch in self.logged.pairs():
            for key, then in zip(batch["key"].to_pylist(), batch["then"].to_pylist(), strict=True):
                while row is not None and row[0] < key:
                    row = next(found, None)
                if row is None or row[0] != key:
                    yield key, then

    def _found(self) -> Iterator[tuple[str, str | None]]:
        with pa.OSFile(str(self.found)) as stream, ipc.open_file(stream) as reader:
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                yield from zip(batch["key"].to_pylist(), batch["live"].to_pylist(), strict=True)


def _then(state: CollectionDifference) -> Iterator[tuple[str, str]]:
    for batch in state.rows("then"):
        yield from zip(batch["key"].to_pylist(), batch["after"].to_pylist(), strict=True)


def _batch(rows: list[tuple[str, str | None, str | None]]) -> pa.RecordBatch:
    arrays = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    return pa.record_batch(arrays, schema=PAIR_SCHEMA)
