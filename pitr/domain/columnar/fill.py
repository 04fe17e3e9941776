"""Puts documents back into batches that left the engine without them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.change import Change, Op
from pitr.domain.columnar.large import LargeDocuments
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.fold import patched

BATCH_BYTES: Final = 16 * 1024 * 1024
"""A batch ends with the document that takes its long and patched documents past this."""

_FILLED_FROM: Final = [
    "seq",
    "patched",
    "after",
    "after_offset",
    "after_bytes",
    "meta",
    "meta_offset",
    "meta_bytes",
]

Row = dict[str, Any]


def patched_rows(
    batches: Iterable[pa.RecordBatch], large: LargeDocuments | None
) -> Iterator[Change]:
    """Fold ``chain_rows`` into patched rows, in their order, one at a time.

    Only seq, collection, key and ``after`` of the rows mean anything.
    """
    row: Change | None = None
    for batch in batches:
        for found in batch.to_pylist():
            change = _chain_change(found, large)
            if row is not None and (row.collection, row.key) != (change.collection, change.key):
                yield row
                row = None
            row = patched(row, change) if change.op == Op.PATCH else change
    if row is not None:
        yield row


def filled(
    batch: pa.RecordBatch, chains: Iterator[Change], large: LargeDocuments | None
) -> Iterator[pa.RecordBatch]:
    """Fill in long and patched documents of ``state_rows``; cut where they grow too many.

    The results have ``CHANGE_SCHEMA``.
    """
    special = batch["patched"]
    for name in ("after_offset", "meta_offset"):
        special = pc.or_(special, pc.is_valid(batch[name]))
    first, given, size = 0, _Given(), 0
    numbers = pc.indices_nonzero(special)
    rows = batch.select(_FILLED_FROM).take(numbers).to_pylist()
    for number, row in zip(numbers.to_pylist(), rows, strict=True):
        after = _after(row, chains, large)
        meta = _document(row, "meta", large)
        given.add(number, after, meta)
        size += len(after or b"") + len(meta or b"")
        if size >= BATCH_BYTES:
            yield given.applied(batch, first=first, end=number + 1)
            first, given, size = number + 1, _Given(), 0
    if first < batch.num_rows:
        yield given.applied(batch, first=first, end=batch.num_rows)


def _after(row: Row, chains: Iterator[Change], large: LargeDocuments | None) -> bytes | None:
    if not row["patched"]:
        return _document(row, "after", large)
    change = next(chains)
    assert change.seq == row["seq"], "both streams are in the same order"
    return change.after


def _document(row: Row, name: str, large: LargeDocuments | None) -> bytes | None:
    if row[f"{name}_offset"] is not None:
        assert large is not None, "only large documents have an offset"
        return large.read(offset=row[f"{name}_offset"], length=row[f"{name}_bytes"])
    return row[name].encode() if row[name] is not None else None


def _chain_change(row: Row, large: LargeDocuments | None) -> Change:
    return Change(
        seq=row["seq"],
        collection=row["collection"],
        key=row["key"],
        op=Op(row["op"]),
        after=_document(row, "after", large),
        unchanged=row["unchanged"].encode() if row["unchanged"] is not None else None,
        at_us=0,
        commit_us=0,
        recorded_us=0,
        lane="",
        position=0,
    )


class _Given:
    """Documents that replace those of a batch, by row."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.after: list[bytes | None] = []
        self.meta: list[bytes | None] = []

    def add(self, number: int, after: bytes | None, meta: bytes | None) -> None:
        self.numbers.append(number)
        self.after.append(after)
        self.meta.append(meta)

    def applied(self, batch: pa.RecordBatch, *, first: int, end: int) -> pa.RecordBatch:
        """Return rows ``[first, end)`` with ``CHANGE_SCHEMA``."""
        piece = batch.slice(first, end - first)
        columns = {name: piece[name] for name in piece.schema.names if name in CHANGE_SCHEMA.names}
        if self.numbers:
            places = pa.array([number - first for number in self.numbers], pa.int64())
            mask = pc.is_in(pa.array(range(end - first), pa.int64()), places)
            for name, values in (("after", self.after), ("meta", self.meta)):
                documents = pa.array(values, pa.binary()).cast(pa.string())
                columns[name] = pc.replace_with_mask(columns[name], mask, documents)
        absent = pa.nulls(end - first, pa.string())
        arrays = [columns.get(name, absent) for name in CHANGE_SCHEMA.names]
        return pa.record_batch(arrays, schema=CHANGE_SCHEMA)
