"""Finds changes by transaction, log time or seq, with DuckDB over local segments and the tail.

Two steps each: seqs from narrow columns, then those rows. Results are lists in memory, so the
callers say how many they take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from pitr.domain.change import Change
from pitr.domain.columnar.engine import literal, literals, parquet, translated
from pitr.domain.columnar.rows import changes_of, empty_table
from pitr.domain.target import TRANSACTION_WINDOW

CHANGES_MAX: Final = 100_000
"""How many changes a list holds unless the caller says otherwise."""

MEMORY_LIMIT: Final = "512MiB"
THREADS: Final = 2


def transaction_start(paths: Sequence[Path], tail: pa.Table | None, tx: str) -> int | None:
    """Return the seq of a transaction's first change; None if there is no such transaction."""
    with _scanner(paths, tail) as scan:
        return scan.least_seq("tx = $1", [tx])


def neighbours(
    paths: Sequence[Path], tail: pa.Table | None, at_us: int
) -> tuple[Change | None, Change | None]:
    """Return the last change with log time up to ``at_us``, and the first one after it.

    Of equal times the higher seq is later.
    """
    with _scanner(paths, tail) as scan:
        before = scan.rows("at_us <= $1", [at_us], order="at_us DESC, seq DESC", limit=1)
        after = scan.rows("at_us > $1", [at_us], order="at_us, seq", limit=1)
    return next(iter(before), None), next(iter(after), None)


def changes_between(
    paths: Sequence[Path],
    tail: pa.Table | None,
    *,
    seq_first: int,
    seq_end: int,
    limit: int = CHANGES_MAX,
) -> list[Change]:
    """Return the first ``limit`` changes of ``[seq_first, seq_end)``, in seq order."""
    with _scanner(paths, tail) as scan:
        given = [seq_first, seq_end]
        return scan.rows("seq >= $1 AND seq < $2", given, order="seq", limit=limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Changes of one lane that give the same transaction, ``count`` of ``[seq_first, seq_end)``."""

    lane: str
    seq_first: int
    seq_end: int
    count: int
    at_max_us: int


def transaction_spans(paths: Sequence[Path], tail: pa.Table | None, tx: str) -> list[Span]:
    """Return where the changes lie that give this transaction, in seq order.

    What is further apart than ``TRANSACTION_WINDOW`` is not of one transaction: ids recur.
    """
    with _scanner(paths, tail) as scan:
        return [
            Span(lane=lane, seq_first=first, seq_end=last + 1, count=count, at_max_us=at_max_us)
            for lane, first, last, count, at_max_us in scan.fetched(
                _SPANS.format(window=TRANSACTION_WINDOW), [tx]
            )
        ]


_SPANS: Final = """
SELECT lane, min(seq), max(seq), count(*), max(at_us) FROM (
    SELECT *, sum(far) OVER (PARTITION BY lane ORDER BY seq) AS part FROM (
        SELECT lane, seq, at_us, coalesce(seq - lag(seq) OVER (
            PARTITION BY lane ORDER BY seq) > {window}, false)::INTEGER AS far
        FROM changes WHERE tx = $1))
GROUP BY lane, part ORDER BY 2
"""


def overtaken(
    paths: Sequence[Path],
    tail: pa.Table | None,
    tx: str,
    *,
    seq_first: int,
    seq_end: int,
    limit: int,
) -> list[tuple[str, str, str | None]]:
    """Return the first rows of a transaction that another changed before its last change.

    Returns:
        Collection, key, and the transaction that did it.
    """
    with _scanner(paths, tail) as scan:
        return scan.fetched(_OVERTAKEN.format(limit=limit), [tx, seq_first, seq_end])


_OVERTAKEN: Final = """
WITH own AS (
    SELECT collection, key, min(seq) AS seq FROM changes
    WHERE tx = $1 AND seq >= $2 AND seq < $3 GROUP BY collection, key)
SELECT c.collection, c.key, arg_min(c.tx, c.seq) FROM changes c JOIN own o
ON c.collection = o.collection AND (c.key = o.key OR o.key = '' OR c.op = 'truncate')
WHERE c.seq > o.seq AND c.seq < $3 AND c.tx IS DISTINCT FROM $1
GROUP BY c.collection, c.key ORDER BY c.collection, c.key LIMIT {limit}
"""


def newest_changes(
    paths: Sequence[Path],
    tail: pa.Table | None,
    rows: Sequence[tuple[str, str]],
    *,
    seq_first: int,
) -> list[Change]:
    """Return the newest change from ``seq_first`` on of each of some rows, if it has one."""
    if not rows:
        return []
    named = ", ".join(f"({literal(collection)}, {literal(key)})" for collection, key in rows)
    chosen = f"seq >= $1 AND (collection, key) IN (VALUES {named})"
    newest = f"SELECT max(seq) FROM changes WHERE {chosen} GROUP BY collection, key"
    with _scanner(paths, tail) as scan:
        return scan.rows(f"seq IN ({newest})", [seq_first], order="seq", limit=len(rows))


class _Scanner:
    """A DuckDB with a view ``changes``."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def least_seq(self, where: str, given: list[Any]) -> int | None:
        query = f"SELECT min(seq) FROM changes WHERE {where}"
        ((seq,),) = self._connection.execute(query, given).fetchall()
        return None if seq is None else int(seq)

    def fetched(self, query: str, given: list[Any]) -> list[Any]:
        """Return the rows of a query with a small result."""
        return self._connection.execute(query, given).fetchall()

    def rows(self, where: str, given: list[Any], *, order: str, limit: int) -> list[Change]:
        query = f"SELECT seq FROM changes WHERE {where} ORDER BY {order} LIMIT {limit:d}"
        seqs = [seq for (seq,) in self._connection.execute(query, given).fetchall()]
        if not seqs:
            return []
        chosen = f"seq >= {min(seqs)} AND seq <= {max(seqs)}"
        if max(seqs) - min(seqs) >= len(seqs):
            chosen += f" AND seq IN {literals(seqs)}"
        table = self._connection.sql(f"SELECT * FROM changes WHERE {chosen}").to_arrow_table()
        return sorted(changes_of(table), key=lambda change: change.seq)


@contextmanager
def _scanner(paths: Sequence[Path], tail: pa.Table | None) -> Iterator[_Scanner]:
    with translated():
        connection = _database().cursor()
        try:
            connection.register("tail", tail if tail is not None else empty_table())
            sources = ["tail", parquet(paths)] if paths else ["tail"]
            union = " UNION ALL ".join(f"SELECT * FROM {source}" for source in sources)
            connection.execute(f"CREATE TEMP VIEW changes AS {union}")
            yield _Scanner(connection)
        finally:
            connection.close()


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """One for the process: to make one takes longer than most questions. Its tables are temporary
    and belong to the cursor of one question."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_LIMIT,
        "threads": THREADS,
        "temp_directory": "",
    }
    return duckdb.connect(":memory:", config=config)
