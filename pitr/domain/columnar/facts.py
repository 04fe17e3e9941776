"""What a manifest says about a set of changes, computed from the changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.columnar.encoding import document_bytes_max

Ops = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a manifest says about rows; ``[seq_first, seq_end)`` encloses the seqs there are.

    ``ops`` counts rows by collection and op; ``document_bytes_max`` is the longest document.
    """

    seq_first: int
    seq_end: int
    at_min_us: int
    at_max_us: int
    row_count: int
    ops: Ops
    document_bytes_max: int


def facts_of(table: pa.Table) -> Facts:
    """Compute the facts of a table that is not empty, in any order."""
    seq, at = pc.min_max(table["seq"]).as_py(), pc.min_max(table["at_us"]).as_py()
    return Facts(
        seq_first=seq["min"],
        seq_end=seq["max"] + 1,
        at_min_us=at["min"],
        at_max_us=at["max"],
        row_count=table.num_rows,
        ops=_ops(table),
        document_bytes_max=document_bytes_max(table),
    )


def joined_facts(one: Facts | None, other: Facts) -> Facts:
    """Join the facts of two sets of rows."""
    if one is None:
        return other
    ops = {collection: dict(counts) for collection, counts in one.ops.items()}
    for collection, counts in other.ops.items():
        mine = ops.setdefault(collection, {})
        for op, count in counts.items():
            mine[op] = mine.get(op, 0) + count
    return Facts(
        seq_first=min(one.seq_first, other.seq_first),
        seq_end=max(one.seq_end, other.seq_end),
        at_min_us=min(one.at_min_us, other.at_min_us),
        at_max_us=max(one.at_max_us, other.at_max_us),
        row_count=one.row_count + other.row_count,
        ops=ops,
        document_bytes_max=max(one.document_bytes_max, other.document_bytes_max),
    )


def _ops(table: pa.Table) -> dict[str, dict[str, int]]:
    counted = table.group_by(["collection", "op"]).aggregate([([], "count_all")])
    ops: dict[str, dict[str, int]] = {}
    for row in counted.sort_by([("collection", "ascending"), ("op", "ascending")]).to_pylist():
        ops.setdefault(row["collection"], {})[row["op"]] = row["count_all"]
    return ops
