"""Two states of a collection compared, the live one and the log's, in bounded memory.

First by 128 bits each of key and document, in DuckDB, which spills. Documents that differ are then
looked at by what they say of each column, in one pass over each side's file in its order; what they
say is written to files, eight bytes a value, where both sides of a pair are at one place. No step
holds more than a batch of documents, however many rows differ.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pitr.domain.columnar.engine import Engine, parquet
from pitr.domain.columnar.meaning import VALUE_BYTES, values_of
from pitr.domain.columnar.rowfile import ROW_SCHEMA, Numbers, RowFile
from pitr.domain.reconcile import Drift, Example, Kind

Shown = dict[int, tuple[str, ...]]
"""Columns, by the number of a live row."""

SAID_BYTES: Final = 4 * 1024 * 1024
"""Bytes that stand for values, of those in hand at a time."""

SAID_ROWS: Final = 256
"""Rows whose documents are looked into at a time."""

_PAIR_SCHEMA: Final = pa.schema([("live", pa.int64()), ("logged", pa.int64())])

_PLACE_SCHEMA: Final = pa.schema([("place", pa.int64()), *_PAIR_SCHEMA])

_BOTH: Final = "live IS NOT NULL AND logged IS NOT NULL"
_MISSING: Final = "logged IS NULL"
_EXTRA: Final = "live IS NULL"

_ONCE: Final = """(
SELECT min(row) AS row, k1, k2, any_value(d1) AS d1, any_value(d2) AS d2 FROM {} GROUP BY k1, k2
)"""

_PAIR: Final = """
CREATE OR REPLACE TABLE pairs AS SELECT a.row AS live, b.row AS logged
FROM {} a FULL JOIN {} b ON a.k1 = b.k1 AND a.k2 = b.k2
WHERE a.row IS NULL OR b.row IS NULL OR a.d1 <> b.d1 OR a.d2 <> b.d2
"""

_BOTH_BY_LIVE: Final = f"SELECT live, logged FROM pairs WHERE {_BOTH} ORDER BY live"
_BOTH_BY_LOGGED: Final = "SELECT place, logged FROM {} ORDER BY logged"

_SETTLE: Final = f"""
DELETE FROM pairs WHERE {_BOTH}; INSERT INTO pairs SELECT live, logged FROM {{}}
"""

_COUNTS: Final = f"""
SELECT count(*) FILTER ({_MISSING}), count(*) FILTER ({_EXTRA}), count(*) FILTER ({_BOTH})
FROM pairs
"""


class Comparison:
    """The rows in which two sides differ.

    Args:
        engine: What works on it; one comparison after the other has it for itself.
        live: The rows that there are.
        logged: The rows that the log has.
        columns: The names of the table's columns: only they count.
        keyed_by_row: Rows without a key: equal ones are one row of the log.
        folder: For files of its own; they take room for some bytes of each row that differs.
    """

    def __init__(
        self,
        engine: Engine,
        live: RowFile,
        logged: RowFile,
        *,
        columns: Sequence[str],
        keyed_by_row: bool,
        folder: Path,
    ) -> None:
        self._engine = engine
        self._live, self._logged = live, logged
        self._names = tuple(columns)
        self._width = VALUE_BYTES * len(columns)
        self._rows_max = max(1, SAID_BYTES // max(1, self._width))
        self._keyed_by_row = keyed_by_row
        # Names of files are used once: the engine remembers what it has read of one.
        self._folder = folder / f"compare-{live.index.stem}"
        self._folder.mkdir()

    def drift(self, *, examples_max: int) -> Drift:
        """Find and count the rows that differ, with some examples of each kind."""
        live = parquet([self._live.index])
        if self._keyed_by_row:
            live = _ONCE.format(live)
        self._engine.run(_PAIR.format(live, parquet([self._logged.index])))
        columns, shown = self._look_closely(examples_max)
        counts: Any = self._engine.rows(_COUNTS)
        ((missing, extra, different),) = counts
        return Drift(
            missing=missing,
            extra=extra,
            different=different,
            columns=columns,
            examples=tuple(self._examples(examples_max, shown)),
        )

    def _look_closely(self, examples_max: int) -> tuple[Mapping[str, int], Shown]:
        """Forget the pairs that say the same; count the columns in which the others differ.

        Returns:
            The counts, and which columns it is in some rows, those with the least live numbers.
        """
        counts = np.zeros(len(self._names), np.int64)
        shown: Shown = {}
        both, different = self._folder / "both.parquet", self._folder / "different.parquet"
        ours, theirs = self._said_live(both), self._said_logged(both)
        with (
            pq.ParquetFile(both) as pairs,
            pq.ParquetWriter(different, _PAIR_SCHEMA) as writer,
            ours.open("rb") as live,
            theirs.open("rb") as logged,
        ):
            for batch in pairs.iter_batches(batch_size=self._rows_max):
                sides = (each.read(batch.num_rows * self._width) for each in (live, logged))
                left, right = (self._matrix(said, batch.num_rows) for said in sides)
                differs = left != right
                rows = np.flatnonzero(differs.any(axis=1))
                writer.write_batch(batch.select(_PAIR_SCHEMA.names).take(pa.array(rows)))
                counts += differs.sum(axis=0)
                for row in rows[: max(0, examples_max - len(shown))].tolist():
                    shown[batch["live"][row].as_py()] = self._named(differs[row])
        self._engine.run(_SETTLE.format(parquet([different])))
        for path in (both, different, ours, theirs):
            path.unlink()
        named = zip(self._names, counts.tolist(), strict=True)
        return {name: count for name, count in named if count}, shown

    def _said_live(self, both: Path) -> Path:
        """Write the pairs that differ in their bytes, and what their live rows say, as they lie."""
        path = self._folder / "live"

        def numbers() -> Iterator[Numbers]:
            place = 0
            for batch in self._engine.stream(_BOTH_BY_LIVE):
                places = pa.array(np.arange(place, place + batch.num_rows))
                writer.write_batch(pa.record_batch([places, *batch.columns], schema=_PLACE_SCHEMA))
                place += batch.num_rows
                yield batch["live"].to_numpy()

        with pq.ParquetWriter(both, _PLACE_SCHEMA) as writer, path.open("wb") as file:
            for _, rows in self._live.picked(numbers()):
                for said in self._said(rows):
                    file.write(said)
        return path

    def _said_logged(self, both: Path) -> Path:
        """Write what the log's rows say, each at the place of its pair."""
        path = self._folder / "logged"
        places: deque[int] = deque()

        def numbers() -> Iterator[Numbers]:
            for batch in self._engine.stream(_BOTH_BY_LOGGED.format(parquet([both]))):
                places.extend(batch["place"].to_pylist())
                yield batch["logged"].to_numpy()

        with path.open("wb") as file:
            for _, rows in self._logged.picked(numbers()):
                for said in self._said(rows):
                    file.seek(places.popleft() * self._width)
                    file.write(said)
        return path

    def _said(self, rows: pa.RecordBatch) -> Iterator[bytes]:
        for first in range(0, rows.num_rows, SAID_ROWS):
            keys, documents = _lists(rows.slice(first, SAID_ROWS), ("key", "after"))
            for key, document in zip(keys, documents, strict=True):
                yield values_of(key, document or "null", self._names)

    def _matrix(self, said: bytes, rows: int) -> Numbers:
        """Return what rows say as numbers, one a column."""
        return np.frombuffer(said, np.int64).reshape(rows, len(self._names))

    def _named(self, differs: npt.NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(self._names[place] for place in np.flatnonzero(differs).tolist())

    def _numbers(self, side: str, where: str, *, rows_max: int | None = None) -> Iterator[Numbers]:
        limit = "" if rows_max is None else f" LIMIT {rows_max}"
        query = f"SELECT {side} FROM pairs WHERE {where} ORDER BY {side}{limit}"
        for batch in self._engine.stream(query):
            yield batch[side].to_numpy()

    def _examples(self, examples_max: int, shown: Shown) -> Iterator[Example]:
        kinds: tuple[tuple[Kind, RowFile, str, str], ...] = (
            ("missing", self._live, "live", _MISSING),
            ("extra", self._logged, "logged", _EXTRA),
            ("different", self._live, "live", _BOTH),
        )
        for kind, side, name, where in kinds:
            numbers = self._numbers(name, where, rows_max=examples_max)
            for found, rows in side.picked(numbers):
                for number, key in zip(found.tolist(), rows["key"].to_pylist(), strict=True):
                    columns = shown[number] if kind == "different" else ()
                    yield Example(kind=kind, key=key, columns=columns)

    def to_repair(self, reads: RowFile, deletes: RowFile) -> None:
        """Write the rows that the log should have, and those that it should not."""
        for _, rows in self._live.picked(self._numbers("live", "live IS NOT NULL")):
            reads.add(rows)
        for _, rows in self._logged.picked(self._numbers("logged", _EXTRA)):
            absent = pa.nulls(rows.num_rows, pa.string())
            deletes.add(pa.table([rows["key"], absent], schema=ROW_SCHEMA))


def _lists(batch: pa.RecordBatch, names: Iterable[str]) -> list[list[Any]]:
    return [batch[name].to_pylist() for name in names]
