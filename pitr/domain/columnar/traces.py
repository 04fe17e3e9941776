"""Finds the changes that give a reason: where they lie, and how many rows they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.columnar.probe import columns_of

_COLUMNS = ["seq", "collection", "key", "op", "reason"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """Changes that lie in ``[seq_first, seq_end)``; ``rows`` counts theirs by collection."""

    seq_first: int
    seq_end: int
    rows: Mapping[str, int]


def traces(paths: Sequence[Path], tail: pa.Table, reason: str) -> Traces:
    """Find the changes whose reason is ``reason``, or begins with it and a colon.

    Raises:
        DataLoss: A file cannot be read.
    """
    seq_first, seq_end = 0, 0
    rows: dict[str, set[str]] = {}
    tables = [tail.select(_COLUMNS)]
    for path in paths:
        tables += [_matching(pa.table(batch), reason) for batch in columns_of(path, _COLUMNS)]
    for table in tables:
        found = _matching(table, reason)
        if not found.num_rows:
            continue
        bounds = pc.min_max(found["seq"]).as_py()
        seq_first = min(seq_first or bounds["min"], bounds["min"])
        seq_end = max(seq_end, bounds["max"] + 1)
        names, keys = found["collection"].to_pylist(), found["key"].to_pylist()
        for name, key in zip(names, keys, strict=True):
            rows.setdefault(name, set()).add(key)
    return Traces(
        seq_first=seq_first,
        seq_end=seq_end,
        rows={name: len(keys) for name, keys in rows.items()},
    )


def _matching(table: pa.Table, reason: str) -> pa.Table:
    column = table["reason"]
    same = pc.or_(pc.equal(column, reason), pc.starts_with(column, f"{reason}:"))
    return table.filter(pc.fill_null(same, False))
