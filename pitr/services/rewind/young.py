"""What a rewind reads where little changed: small objects whole, and single pages of large ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pitr.domain.change import Change
from pitr.domain.columnar import few
from pitr.domain.columnar.changed import Changed
from pitr.domain.columnar.engine import translated
from pitr.domain.fold import fold
from pitr.domain.log import LogView
from pitr.domain.manifest import ObjectRef
from pitr.domain.plan import Reads
from pitr.services.archive import Archive


class YoungChanges:
    """The tail of a view, and its small segments, each read once."""

    def __init__(self, archive: Archive, view: LogView) -> None:
        self._archive = archive
        self._view = view
        self._tables: dict[str, pa.Table] = {}
        self._tail: pa.Table | None = None

    async def of(self, refs: Sequence[ObjectRef]) -> pa.Table | None:
        """Return the changes in the tail and in these objects; None if they are too many.

        Raises:
            DataLoss: An object is missing, damaged or another one.
        """
        if self._view.tail.num_rows > few.CHANGES_MAX:
            return None
        tables = await self._read(refs)
        if tables is None:
            return None
        if self._tail is None:
            self._tail = few.young_changes(self._view.tail)
        return pa.concat_tables([self._tail, *tables])

    async def _read(self, refs: Sequence[ObjectRef]) -> list[pa.Table] | None:
        if sum(ref.row_count for ref in refs) > few.CHANGES_MAX:
            return None
        names = [ref.name for ref in refs]
        new = [ref for ref in refs if ref.name not in self._tables]
        if new:
            paths = await self._archive.verified(new)
            tables = await asyncio.to_thread(self._tables_of, paths)
            if tables is None:
                return None
            self._tables |= zip([ref.name for ref in new], tables, strict=True)
        return [self._tables[name] for name in names]

    def _tables_of(self, paths: Sequence[Path]) -> list[pa.Table] | None:
        return (
            [self._archive.young_files.changes(path) for path in paths] if few.fit(paths) else None
        )

    async def few_states(self, reads: Reads, changed: Changed) -> Iterator[pa.RecordBatch] | None:
        """Return the rows that changed as they are at the moment of ``reads``; None if too many.

        Raises:
            DataLoss: An object is missing, damaged or another one.
        """
        if sum(changed.counts.values()) > few.ROWS_MAX:
            return None
        changes = await self.of(reads.segments)
        if changes is None:
            return None
        base = few.Base(paths=await self._archive.verified(reads.base), seq_end=reads.base_seq_end)
        return await asyncio.to_thread(
            few.few_states,
            _keys_of(changed),
            base,
            changes,
            reads.cut,
            picks=self._archive.picks,
        )

    async def small_state(self, reads: Reads, collection: str) -> list[Change] | None:
        """Return all rows of a small collection; None if it is in large objects, too.

        Raises:
            DataLoss: An object is missing, damaged or another one.
        """
        base = [ref for ref in reads.base if ref.collection == collection]
        before, changes = await self._read(base), await self.of(reads.segments)
        if before is None or changes is None:
            return None
        changes = changes.filter(pc.greater_equal(changes["seq"], reads.base_seq_end))
        every = pa.concat_tables([*before, changes])
        own = every.filter(pc.equal(every["collection"], collection))
        return list(fold(few.young_ones(own), reads.cut).values())


def _keys_of(changed: Changed) -> Sequence[tuple[str, str]]:
    if changed.rows is not None:
        return changed.rows
    with translated():
        table = pq.ParquetFile(changed.path).read(["collection", "key"])
    return list(zip(table["collection"].to_pylist(), table["key"].to_pylist(), strict=True))
