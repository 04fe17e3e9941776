"""Which rows changed between two cuts, from narrow columns alone: no document is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from pitr.domain.columnar.engine import Engine, literal, literals, parquet
from pitr.domain.columnar.rows import empty_table
from pitr.domain.plan import OWN_PREFIX
from pitr.domain.target import Cut

CHANGED_SCHEMA: Final = pa.schema(
    [("collection", pa.string()), ("key", pa.string()), ("first_op", pa.string())]
)
"""``first_op`` is what happened first to the row between the cuts; null if its collection was
emptied, and nothing else is known of it."""

TORN_SHOWN: Final = 20
"""How many transactions are named that a part of them would be taken back of."""

_NARROW: Final = "seq, collection, key, op, at_us, tx, reason"


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """The changes that one of two cuts holds and the other does not.

    Args:
        paths: The segments that may hold such changes.
        all_paths: All segments, for the keys of collections that were emptied.
        tail: With ``CHANGE_SCHEMA``.
        collections: Only these; None is all but the log's own.
        keys: Only these rows, (collection, canonical key).
        brought: These rows besides.
        reason: Only changes that give this reason, or one that begins with it and a colon.
    """

    paths: Sequence[Path]
    all_paths: Sequence[Path]
    tail: pa.Table
    then: Cut
    now: Cut
    collections: frozenset[str] | None = None
    keys: frozenset[tuple[str, str]] | None = None
    brought: frozenset[tuple[str, str]] = frozenset()
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Rows that changed, in a file of ``CHANGED_SCHEMA`` in (collection, key) order.

    ``seq_first`` is the first change that one cut has and the other has not. ``torn`` are some of
    the ``torn_count`` transactions that changed these rows and others too. ``rows`` are those of
    the file, if they are few.
    """

    path: Path
    counts: dict[str, int] = field(default_factory=dict)
    emptied: frozenset[str] = frozenset()
    seq_first: int = 0
    torn_count: int = 0
    torn: tuple[str, ...] = ()
    rows: tuple[tuple[str, str], ...] | None = None


def changed_rows(
    between: Between, path: Path, *, memory_bytes: int, spill_folder: Path, threads: int
) -> Changed:
    """Find the rows that may differ between two cuts, and write their keys to ``path``.

    Raises:
        DataLoss: A file cannot be read.
        Unavailable: The spill folder is full.
    """
    engine = Engine(memory_bytes=memory_bytes, spill_folder=spill_folder, threads=threads)
    try:
        _create_views(engine, between)
        names: Any = engine.rows(
            "SELECT DISTINCT collection FROM chosen WHERE op = 'truncate' ORDER BY collection"
        )
        emptied = [name for (name,) in names]
        counts = _write(engine, _query(between, emptied), path)
        first: Any = engine.rows("SELECT min(seq) FROM chosen")
        torn_count, torn = _torn(engine, between)
    finally:
        engine.close()
    return Changed(
        path=path,
        counts=counts,
        emptied=frozenset(emptied),
        seq_first=first[0][0] or 0,
        torn_count=torn_count,
        torn=torn,
    )


def _create_views(engine: Engine, between: Between) -> None:
    engine.add_table("tail", between.tail if len(between.tail) else empty_table())
    for name, cut in (("then", between.then), ("now", between.now)):
        torn = pa.array(sorted(cut.without_tx), pa.string())
        engine.add_table(f"torn_{name}", pa.table({"tx": torn}))
    differs = f"({_inside(between.then, 'then')}) <> ({_inside(between.now, 'now')})"
    union = _union(between.paths)
    engine.run(
        f"CREATE VIEW changed AS SELECT * FROM ({union})"
        f" WHERE {differs} AND NOT starts_with(collection, {literal(OWN_PREFIX)})"
    )
    for table, keys in (("asked", between.keys or ()), ("brought", between.brought)):
        rows = sorted(keys)
        wanted = {"collection": [name for name, _ in rows], "key": [key for _, key in rows]}
        schema = pa.schema([("collection", pa.string()), ("key", pa.string())])
        engine.add_table(table, pa.table(wanted, schema=schema))
    engine.run(f"CREATE VIEW chosen AS SELECT * FROM changed WHERE {_chosen(between)}")


def _union(paths: Sequence[Path]) -> str:
    sources = ["tail", parquet(paths)] if paths else ["tail"]
    return " UNION ALL ".join(f"SELECT {_NARROW} FROM {source}" for source in sources)


def _inside(cut: Cut, name: str) -> str:
    conditions = [f"seq < {cut.seq_end}"]
    if cut.at_us is not None:
        conditions.append(f"at_us <= {cut.at_us}")
    if cut.without_tx:
        conditions.append(f"(tx IS NULL OR tx NOT IN (SELECT tx FROM torn_{name}))")
    return " AND ".join(conditions)


def _chosen(between: Between) -> str:
    """The condition for changes of what was asked for; a truncate is of every row."""
    brought = (
        "((collection, key) IN (SELECT (collection, key) FROM brought) OR op = 'truncate'"
        " AND collection IN (SELECT collection FROM brought))"
    )
    conditions = ["true"]
    if between.collections is not None:
        names = literals(sorted(between.collections) or [""])
        conditions.append(f"collection IN {names}")
    if between.keys is not None:
        conditions.append(
            "((collection, key) IN (SELECT (collection, key) FROM asked) OR op = 'truncate'"
            " AND collection IN (SELECT collection FROM asked))"
        )
    if between.reason is not None:
        reason = literal(between.reason)
        conditions.append(f"(reason = {reason} OR starts_with(reason, {reason} || ':'))")
    chosen = " AND ".join(conditions)
    return f"({chosen} OR {brought})" if between.brought else chosen


def _asked(between: Between) -> str:
    """The condition for rows of an emptied collection, whether or not they changed."""
    brought = "(collection, key) IN (SELECT (collection, key) FROM brought)"
    if between.keys is not None:
        return f"(collection, key) IN (SELECT (collection, key) FROM asked) OR {brought}"
    if between.collections is not None:
        return f"collection IN {literals(sorted(between.collections) or [''])} OR {brought}"
    return "true"


def _query(between: Between, emptied: Sequence[str]) -> str:
    """The rows in order. Of an emptied collection these are all that there ever were."""
    query = (
        "SELECT collection, key, arg_min(op, seq) AS first_op FROM chosen"
        " WHERE op <> 'truncate' GROUP BY collection, key"
    )
    if emptied:
        asked = f" AND ({_asked(between)})"
        query = (
            f"SELECT collection, key, max(first_op) AS first_op FROM ({query} UNION ALL"
            f" SELECT collection, key, NULL FROM ({_union(between.all_paths)})"
            f" WHERE collection IN {literals(emptied)} AND op <> 'truncate'{asked})"
            " GROUP BY collection, key"
        )
    return f"{query} ORDER BY collection, key"


def _write(engine: Engine, query: str, path: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    with pq.ParquetWriter(path, CHANGED_SCHEMA, compression="zstd") as writer:
        for batch in engine.stream(query):
            writer.write_batch(batch.cast(CHANGED_SCHEMA))
            for found in batch["collection"].value_counts().to_pylist():
                name = found["values"]
                counts[name] = counts.get(name, 0) + found["counts"]
    return counts


def _torn(engine: Engine, between: Between) -> tuple[int, tuple[str, ...]]:
    """Find the transactions that changed chosen rows and others; only a part can have them."""
    if between.reason is not None or (between.collections is None and between.keys is None):
        return 0, ()
    engine.run(
        f"CREATE TABLE torn AS SELECT tx FROM changed WHERE tx IS NOT NULL GROUP BY tx"
        f" HAVING bool_or({_chosen(between)}) AND NOT bool_and({_chosen(between)})"
    )
    counted: Any = engine.rows("SELECT count(*) FROM torn")
    named: Any = engine.rows(f"SELECT tx FROM torn ORDER BY tx LIMIT {TORN_SHOWN}")
    return counted[0][0], tuple(tx for (tx,) in named)
