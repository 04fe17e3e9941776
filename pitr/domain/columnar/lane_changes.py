"""The changes of one lane from a seq on: where a position of its source lies among them, and which
rows they are of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pitr.domain.change import Op
from pitr.domain.columnar.engine import Engine, parquet
from pitr.domain.columnar.probe import columns_of
from pitr.domain.columnar.rowfile import Numbers, RowFile, digests
from pitr.domain.pgoutput.model import lsn_of
from pitr.domain.pgoutput.schema_log import SCHEMAS

_TX: Final = re.compile(r"[0-9]+:([0-9A-F]+/[0-9A-F]+)")
"""How transactions of a source are named; those of repairs are named otherwise."""

_COLUMNS: Final = ["seq", "collection", "key", "op", "lane", "tx"]
_BATCH_ROWS: Final = 16_384

_NEWER_SCHEMA: Final = pa.schema(
    [
        ("collection", pa.int64()),
        ("k1", pa.int64()),
        ("k2", pa.int64()),
        ("whole", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneChanges:
    """The changes of ``lane`` from ``seq_first`` on, in segments and a tail."""

    paths: Sequence[Path]
    tail: pa.Table
    lane: str
    seq_first: int

    def batches(self) -> Iterator[pa.Table]:
        """Yield them without their documents, in no order.

        Raises:
            DataLoss: A file cannot be read.
        """
        inside = (pc.field("lane") == self.lane) & (pc.field("seq") >= self.seq_first)
        for path in self.paths:
            for batch in columns_of(path, _COLUMNS):
                yield pa.table(batch).filter(inside)
        tail = self.tail.select(_COLUMNS).filter(inside)
        for first in range(0, tail.num_rows, _BATCH_ROWS):
            yield tail.slice(first, _BATCH_ROWS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """Where a position of the source lies in the log.

    The changes of the lane below ``seq_end`` are those of transactions before the position.
    ``altered`` are collections of tables that changed, or ended, not long before or after: where
    exactly is not in the log.
    """

    seq_end: int
    altered: frozenset[str]


def boundary_of(changes: LaneChanges, *, lsn: int, seq_next: int) -> Boundary:
    """Find where a position lies, in a lane that has every transaction before it.

    Args:
        changes: From a seq on that is before the position.
        lsn: The position: transactions whose commit record is there, or further, are beyond it.
        seq_next: Where the log ends.
    """
    seq_end = seq_next
    steps: list[tuple[int, str]] = []
    for batch in changes.batches():
        beyond = batch["seq"].to_numpy()[_lsns(batch["tx"]) >= lsn]
        seq_end = int(beyond.min(initial=seq_end))
        steps += _steps(batch)
    return Boundary(
        seq_end=seq_end,
        altered=frozenset(collection for seq, collection in steps if seq < seq_end),
    )


def _lsns(txs: pa.ChunkedArray) -> Numbers:
    """Return where each transaction was committed, -1 for those that the source does not know."""
    encoded = _flat(txs).dictionary_encode()
    found = (_TX.fullmatch(tx) for tx in encoded.dictionary.to_pylist())
    known = np.array([-1 if each is None else lsn_of(each[1]) for each in found] + [-1], np.int64)
    places = encoded.indices.fill_null(len(known) - 1).to_numpy(zero_copy_only=False)
    lsns: Numbers = known[places]
    return lsns


def _steps(batch: pa.Table) -> list[tuple[int, str]]:
    """Return what became of tables: seq and collection."""
    of_tables = pc.or_(
        pc.equal(batch["collection"], SCHEMAS), pc.equal(batch["op"], Op.TRUNCATE.value)
    )
    rows = batch.filter(pc.and_(of_tables, pc.is_null(batch["tx"]))).to_pylist()
    return [(row["seq"], _table_of(row["collection"], row["key"])) for row in rows]


def _table_of(collection: str, key: str) -> str:
    if collection != SCHEMAS:
        return collection
    name: str = msgspec.json.decode(key, type=dict[str, str])["collection"]
    return name


class Newer:
    """Which rows have changes that are newer than what was compared. Close it at the end.

    ``renewed`` are the collections that were emptied since, or whose tables changed: none of what
    was found holds for them any more.

    Args:
        changes: Those that are newer.
        collections: Only these count.
        folder: For a file of its own.
        memory_bytes: Budget of the whole process.
    """

    def __init__(
        self,
        changes: LaneChanges,
        *,
        collections: Sequence[str],
        folder: Path,
        memory_bytes: int,
        threads: int,
    ) -> None:
        self._path = folder / "newer.parquet"
        self._numbers = {name: number for number, name in enumerate(collections)}
        self.renewed = self._write(changes)
        self._engine = Engine(memory_bytes=memory_bytes, spill_folder=folder, threads=threads)

    def close(self) -> None:
        """Forget everything."""
        self._engine.close()
        self._path.unlink(missing_ok=True)

    def _write(self, changes: LaneChanges) -> frozenset[str]:
        renewed: set[str] = set()
        with pq.ParquetWriter(self._path, _NEWER_SCHEMA) as writer:
            for batch in changes.batches():
                truncated = batch.filter(pc.equal(batch["op"], Op.TRUNCATE.value))
                renewed |= {*truncated["collection"].to_pylist()}
                renewed |= {collection for _, collection in _steps(batch)}
                writer.write_table(self._index(batch))
        return frozenset(renewed)

    def _index(self, batch: pa.Table) -> pa.Table:
        wanted = pa.array(list(self._numbers), pa.string())
        rows = batch.filter(pc.is_in(batch["collection"], wanted)).combine_chunks()
        keys = digests(_flat(rows["key"]))
        columns = [
            pc.index_in(_flat(rows["collection"]), wanted).cast(pa.int64()),
            pa.array(np.ascontiguousarray(keys[:, 0])),
            pa.array(np.ascontiguousarray(keys[:, 1])),
            pc.not_equal(_flat(rows["op"]), Op.PATCH.value),
        ]
        return pa.table(columns, schema=_NEWER_SCHEMA)

    def counts(self, collection: str, rows: RowFile) -> Mapping[str, int]:
        """Count what becomes of rows: ``todo``, ``superseded``, or ``left`` with a patch alone."""
        joined = self._joined(collection, rows)
        found = self._engine.rows(f"SELECT state, count(*) FROM {joined} GROUP BY state")
        return {str(state): int(str(count)) for state, count in found}

    def todo(self, collection: str, rows: RowFile) -> Iterator[Numbers]:
        """Yield the numbers of the rows that nothing newer is known of, in order."""
        joined = self._joined(collection, rows)
        query = f"SELECT row FROM {joined} WHERE state = 'todo' ORDER BY row"
        for batch in self._engine.stream(query):
            yield batch["row"].to_numpy(zero_copy_only=False)

    def _joined(self, collection: str, rows: RowFile) -> str:
        number = self._numbers[collection]
        return f"""(
            SELECT r.row, CASE WHEN n.whole THEN 'superseded' WHEN NOT n.whole THEN 'left'
                          ELSE 'todo' END AS state
            FROM {parquet([rows.index])} r LEFT JOIN (
                SELECT k1, k2, bool_or(whole) AS whole FROM {parquet([self._path])}
                WHERE collection = {number} GROUP BY k1, k2
            ) n ON n.k1 = r.k1 AND n.k2 = r.k2
        )"""


def _flat(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)
