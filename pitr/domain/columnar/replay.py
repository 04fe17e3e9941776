"""The state of a moment, computed with DuckDB from verified local files.

What it computes is ``domain.fold.fold``; how: the newest seq of each (collection, key) from four
narrow columns, then the documents of just those rows, joined by seq (late materialisation: Abadi
et al., "Materialization Strategies in a Column-Oriented DBMS", ICDE 2007). Rows whose
newest change is a patch are folded in Python, as both sides stream past in key order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa

from pitr.domain.change import Change
from pitr.domain.columnar import replay_sql as sql
from pitr.domain.columnar.encoding import document_bytes_max
from pitr.domain.columnar.engine import Engine, parquet
from pitr.domain.columnar.fill import filled, patched_rows
from pitr.domain.columnar.large import LARGE_BYTES, LargeDocuments, longest_document
from pitr.domain.columnar.ranges import Range, sorting_ranges
from pitr.domain.columnar.rows import empty_table
from pitr.domain.columnar.spool import Spool
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.pgoutput.sequence_log import SampledSequence
from pitr.domain.target import Cut

SORT_SHARE: Final = 4
"""A sort may take one part in so many of the engine's memory."""

DIRECT_COLLECTIONS_MAX: Final = 4
"""With more collections than this, all rows are sorted once into a spool and read from there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayInput:
    """What to replay.

    ``base`` is the parts of one snapshot, full images with seq below ``base_seq_end`` (1 without a
    base), all inside ``cut``. ``segments`` may hold rows below it, which do not count, and
    rows outside the cut. ``tail`` has ``CHANGE_SCHEMA``. ``keys`` are (collection, canonical key),
    or a Parquet file with these columns. The hints may be true in vain, never false in vain.
    """

    base: tuple[Path, ...] = ()
    base_seq_end: int = 1
    segments: tuple[Path, ...] = ()
    tail: pa.Table | None = None
    cut: Cut
    collections: frozenset[str] | None = None
    keys: frozenset[tuple[str, str]] | Path | None = None
    has_patches: bool = True
    has_truncates: bool = True


class Replay:
    """The rows of ``given.cut``; a ``RestorableState`` while it is entered.

    Args:
        given: What to replay.
        memory_bytes: Budget of the whole process, at least ``MEMORY_BYTES_MIN``; state beyond it
            spills.
        spill_folder: Where a folder for that may be made; it needs room for the state.
        threads: How many threads to work with.

    Raises:
        DataLoss: A file cannot be read.
        Unavailable: The spill folder is full.
    """

    counts: Mapping[str, int]

    def __init__(
        self, given: ReplayInput, *, memory_bytes: int, spill_folder: Path, threads: int
    ) -> None:
        self.schemas: Mapping[str, TableSchema] = {}
        self.sequences: Sequence[SampledSequence] = ()
        self.whole = False
        self._given = given
        self._engine = Engine(memory_bytes=memory_bytes, spill_folder=spill_folder, threads=threads)
        self._large: LargeDocuments | None = None
        self._spool: Spool | None = None
        self._has_patches = given.has_patches

    def __enter__(self) -> Self:
        try:
            self._create_views()
            self._find_newest()
            self._find_large()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget everything and delete what was spilled."""
        if self._large is not None:
            self._large.close()
        self._engine.close()

    def interrupt(self) -> None:
        """End what runs in another thread; it raises there."""
        self._engine.interrupt()

    def all_rows(self) -> Iterator[pa.RecordBatch]:
        """Yield every row in (collection, key) order; batches have ``CHANGE_SCHEMA``."""
        return self._rows(None)

    def rows(self, collection: str, *, documents_only: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield the collection's rows in key order; batches have ``CHANGE_SCHEMA``.

        With ``documents_only`` the order is any and only collection, key, op and ``after`` count.
        """
        if not self.counts.get(collection):
            return iter(())
        if len(self.counts) <= DIRECT_COLLECTIONS_MAX:
            return self._rows(collection, documents_only=documents_only and self._large is None)
        if self._spool is None:
            self._spool = Spool(self._engine.folder / "spool", self.all_rows())
        return self._spool.rows(collection)

    def _create_views(self) -> None:
        given, engine = self._given, self._engine
        engine.add_table("empty", empty_table())
        if given.cut.without_tx:
            names = pa.array(sorted(given.cut.without_tx), pa.string())
            engine.add_table("torn", pa.table({"tx": names}))
        if given.tail is not None:
            engine.add_table("tail", given.tail)
        sources: dict[str, Any] = {
            "base": given.base,
            "segments": given.segments,
            "has_tail": given.tail is not None,
            "base_seq_end": given.base_seq_end,
        }
        engine.run(sql.narrow_view(**sources, cut=given.cut, collections=given.collections))
        engine.run(sql.wide_view(**sources))
        if given.base:
            query = sql.base_outside(given.base, base_seq_end=given.base_seq_end, cut=given.cut)
            assert engine.rows(query) == [(0,)], "a base is inside the cut as a whole"

    def _find_newest(self) -> None:
        given, engine = self._given, self._engine
        if isinstance(given.keys, Path):
            source = parquet([given.keys])
            engine.run(f"CREATE TABLE wanted AS SELECT collection, key FROM {source}")
        elif given.keys is not None:
            wanted = sorted(given.keys)
            names = {"collection": [name for name, _ in wanted], "key": [key for _, key in wanted]}
            schema = pa.schema([("collection", pa.string()), ("key", pa.string())])
            engine.add_table("wanted", pa.table(names, schema=schema))
        engine.run(
            sql.newest_table(
                has_patches=given.has_patches,
                has_truncates=given.has_truncates,
                has_keys=given.keys is not None,
            )
        )
        engine.run(sql.truncates_table(has_truncates=given.has_truncates))
        engine.run(sql.LIVING_VIEW)
        found: Any = engine.rows(sql.COUNTS)
        self.counts = dict(sorted(found))
        if self._has_patches:
            engine.run(sql.CHAIN_TABLE)
            self._has_patches = engine.rows("SELECT count(*) FROM chain") != [(0,)]

    def _find_large(self) -> None:
        given = self._given
        longest = {path: longest_document(path) for path in given.base + given.segments}
        base = [path for path in given.base if longest[path] > LARGE_BYTES]
        segments = [path for path in given.segments if longest[path] > LARGE_BYTES]
        tail = given.tail if given.tail is not None else empty_table()
        longest_of_all = max([document_bytes_max(tail), *longest.values()])
        self._document_bytes_max = min(longest_of_all, LARGE_BYTES)
        if longest_of_all <= LARGE_BYTES:
            return
        self._engine.run(sql.needed_table(has_patches=self._has_patches))
        self._large = LargeDocuments(self._engine)
        self._large.add_files(base, seq_first=1)
        self._large.add_files(segments, seq_first=given.base_seq_end)
        self._large.add_table(tail, seq_first=given.base_seq_end)
        self._engine.run("DROP TABLE needed")

    @cached_property
    def _state_ranges(self) -> list[Range]:
        return self._ranges("living")

    @cached_property
    def _chain_ranges(self) -> list[Range]:
        return self._ranges("chain") if self._has_patches else []

    def _ranges(self, table: str) -> list[Range]:
        return sorting_ranges(
            self._engine,
            table,
            document_bytes_max=self._document_bytes_max,
            bytes_max=self._engine.memory_bytes // (SORT_SHARE * (2 if self._has_patches else 1)),
        )

    def _stream(
        self, query: Callable[..., str], ranges: list[Range], collection: str | None
    ) -> Iterator[pa.RecordBatch]:
        for part in ranges:
            if collection is None or part.touches(collection):
                yield from self._engine.stream(query(collection=collection, part=part))

    def _rows(
        self, collection: str | None, *, documents_only: bool = False
    ) -> Iterator[pa.RecordBatch]:
        has_large = self._large is not None
        unsorted = documents_only and not self._has_patches
        chains = self._chains(collection)
        query = partial(
            sql.state_rows,
            has_patches=self._has_patches,
            has_large=has_large,
            documents_only=documents_only,
        )
        ranges = [Range()] if unsorted else self._state_ranges
        for batch in self._stream(query, ranges, collection):
            yield from filled(batch, chains, self._large)

    def _chains(self, collection: str | None) -> Iterator[Change]:
        """Yield the patched rows in (collection, key) order."""
        query = partial(sql.chain_rows, has_large=self._large is not None)
        return patched_rows(self._stream(query, self._chain_ranges, collection), self._large)
