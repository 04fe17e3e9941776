"""Cuts sorted output into ranges that each sort in memory.

An external sort of wide rows needs memory for a block of every run, and DuckDB's gives up at a few
times its limit. The files are sorted, so a range of keys is cheap to read by itself: rows
are sorted range by range, each well within the limit. Where to cut is read from a random sample;
documents in the engine are short (``large``), so the sample's error is small.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pitr.domain.columnar.engine import Engine, literal

SAMPLE_ROWS: Final = 20_000

ROW_BYTES: Final = 256
"""What a row takes in a sort beside its documents and its key."""

Place = tuple[str, str, int]
"""Collection, key and seq of a row: its place in the order of all rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """The rows from ``first`` up to before ``end``, or to the edges of all rows."""

    first: Place | None = None
    end: Place | None = None

    def exactly(self, rows: str) -> list[str]:
        """Write conditions that hold for just these rows."""
        conditions = [f"NOT ({_before(rows, self.first)})"] if self.first else []
        return conditions + ([f"({_before(rows, self.end)})"] if self.end else [])

    def roughly(self, rows: str) -> list[str]:
        """Write conditions on single columns that hold for these rows and prune row groups."""
        conditions = []
        if self.first:
            conditions.append(f"{rows}.collection >= {literal(self.first[0])}")
        if self.end:
            conditions.append(f"{rows}.collection <= {literal(self.end[0])}")
        if self.first and self.end and self.first[0] == self.end[0]:
            conditions.append(f"{rows}.key >= {literal(self.first[1])}")
            conditions.append(f"{rows}.key <= {literal(self.end[1])}")
        return conditions

    def touches(self, collection: str) -> bool:
        """Tell whether rows of the collection can be in the range."""
        after_first = self.first is None or self.first[0] <= collection
        return after_first and (self.end is None or collection <= self.end[0])


def sorting_ranges(
    engine: Engine, table: str, *, document_bytes_max: int, bytes_max: int
) -> list[Range]:
    """Cut the rows of ``table`` (collection, key, seq) so that each range sorts in ``bytes_max``.

    ``document_bytes_max`` bounds each of the two documents of a row in the view ``wide``.
    """
    counted: Any = engine.rows(f"SELECT count(*) FROM {table}")
    ((count,),) = counted
    if count * (ROW_BYTES + 2 * document_bytes_max) <= bytes_max:
        return [Range()]
    sample = _sample(engine, table)
    total = sum(size for *_, size in sample) * count // len(sample)
    if total <= bytes_max // 2:
        return [Range()]
    return _ranges(_cuts(sample, bytes_max // 2 * len(sample) // count))


def _sample(engine: Engine, table: str) -> list[tuple[str, str, int, int]]:
    engine.run(f"CREATE TABLE sampled AS {_SAMPLE.format(table=table)}")
    rows: Any = engine.rows(_SIZES)
    engine.run("DROP TABLE sampled")
    return sorted(rows)


_SAMPLE = (
    "SELECT collection, key, seq FROM {table}"
    f" USING SAMPLE reservoir({SAMPLE_ROWS} ROWS) REPEATABLE (1)"
)

_SIZES = f"""
SELECT s.collection, s.key, s.seq,
       {ROW_BYTES} + 2 * strlen(s.key) + 2 * strlen(s.collection)
       + coalesce(strlen(w.after), 0) + coalesce(strlen(w.meta), 0)
FROM wide w JOIN sampled s ON w.seq = s.seq
"""


def _cuts(sample: Sequence[tuple[str, str, int, int]], bytes_max: int) -> list[Place]:
    cuts: list[Place] = []
    size = 0
    for collection, key, seq, row_bytes in sample:
        if size + row_bytes > bytes_max and size:
            cuts.append((collection, key, seq))
            size = 0
        size += row_bytes
    return cuts


def _ranges(cuts: list[Place]) -> list[Range]:
    edges = [None, *cuts, None]
    pairs = itertools.pairwise(edges)
    return [Range(first=first, end=end) for first, end in pairs]


def _before(rows: str, place: Place) -> str:
    collection, key, seq = (literal(part) for part in place)
    in_key = f"{rows}.key = {key} AND {rows}.seq < {seq}"
    in_collection = f"{rows}.collection = {collection} AND ({rows}.key < {key} OR {in_key})"
    return f"{rows}.collection < {collection} OR {in_collection}"
