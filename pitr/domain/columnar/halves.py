"""Finds the transactions of which only a part would be taken back, if only some collections are."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pitr.domain.columnar.engine import Engine, literal, literals, parquet
from pitr.domain.columnar.rows import empty_table
from pitr.domain.plan import OWN_PREFIX
from pitr.domain.target import Cut

HALVES_SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """How many transactions, and some of them."""

    count: int = 0
    examples: tuple[str, ...] = ()


def half_transactions(
    paths: Sequence[Path],
    tail: pa.Table,
    cut: Cut,
    collections: Collection[str],
    *,
    memory_bytes: int,
    spill_folder: Path,
    threads: int,
) -> Halves:
    """Find the transactions outside of ``cut`` that changed ``collections`` and others, too.

    Raises:
        DataLoss: A file cannot be read.
        Unavailable: The spill folder is full.
    """
    engine = Engine(memory_bytes=memory_bytes, spill_folder=spill_folder, threads=threads)
    try:
        engine.add_table("tail", tail if len(tail) else empty_table())
        left_out = pa.array(sorted(cut.without_tx), pa.string())
        engine.add_table("left_out", pa.table({"tx": left_out}))
        outside = f"(seq >= {cut.seq_end} OR tx IN (SELECT tx FROM left_out)"
        outside += f" OR at_us > {cut.at_us})" if cut.at_us is not None else ")"
        chosen = f"collection IN {literals(sorted(collections) or [''])}"
        sources = ["tail", parquet(paths)] if paths else ["tail"]
        union = " UNION ALL ".join(
            f"SELECT tx, {chosen} AS chosen FROM {source} WHERE tx IS NOT NULL AND {outside}"
            f" AND NOT starts_with(collection, {literal(OWN_PREFIX)})"
            for source in sources
        )
        engine.run(
            f"CREATE TABLE halves AS SELECT tx FROM ({union}) GROUP BY tx"
            " HAVING bool_or(chosen) AND NOT bool_and(chosen)"
        )
        counted: Any = engine.rows("SELECT count(*) FROM halves")
        named: Any = engine.rows(f"SELECT tx FROM halves ORDER BY tx LIMIT {HALVES_SHOWN}")
    finally:
        engine.close()
    return Halves(count=counted[0][0], examples=tuple(tx for (tx,) in named))
