"""Finds changes by transaction, log time or seq, with DuckDB over local segments and the tail.

Two steps each: seqs from narrow columns, then those rows. Results are lists in memory, so the
callers say how many they take.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from pitr.domain.change import Change
from pitr.domain.columnar.engine import literals, parquet, translated
from pitr.domain.columnar.rows import changes_of, empty_table

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


class _Scanner:
    """A DuckDB with a view ``changes``."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def least_seq(self, where: str, given: list[Any]) -> int | None:
        query = f"SELECT min(seq) FROM changes WHERE {where}"
        ((seq,),) = self._connection.execute(query, given).fetchall()
        return None if seq is None else int(seq)

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
