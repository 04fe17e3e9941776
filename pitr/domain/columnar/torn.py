"""Finds the transactions that a cut would tear, wherever their parts are (invariant 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pitr.domain.columnar.engine import Engine, parquet
from pitr.domain.columnar.rows import empty_table
from pitr.domain.target import Cut


def torn_transactions(
    paths: Sequence[Path],
    tail: pa.Table,
    cut: Cut,
    *,
    memory_bytes: int,
    spill_folder: Path,
    threads: int,
) -> dict[str, int]:
    """Return the transactions with changes on both sides of a cut, with their first seq.

    Three narrow columns of every change are read: changes of one transaction that came through
    several lanes may be millions of changes apart.

    Raises:
        DataLoss: A file cannot be read.
        Unavailable: The spill folder is full.
    """
    inside = f"seq < {cut.seq_end}"
    if cut.at_us is not None:
        inside += f" AND at_us <= {cut.at_us}"
    engine = Engine(memory_bytes=memory_bytes, spill_folder=spill_folder, threads=threads)
    try:
        engine.add_table("tail", tail if len(tail) else empty_table())
        sources = ["tail", parquet(paths)] if paths else ["tail"]
        union = " UNION ALL ".join(
            f"SELECT tx, seq, {inside} AS inside FROM {source} WHERE tx IS NOT NULL"
            for source in sources
        )
        found = engine.rows(
            f"SELECT tx, min(seq) FROM ({union}) GROUP BY tx"
            " HAVING bool_or(inside) AND NOT bool_and(inside)"
        )
    finally:
        engine.close()
    return {str(tx): int(str(seq)) for tx, seq in found}
