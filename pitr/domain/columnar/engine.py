"""A DuckDB of one task: bounded memory, its own spill folder, and views over changes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.errors import DataLoss, Unavailable

PROCESS_BYTES = 256 * 1024 * 1024
"""What Python, pyarrow and DuckDB take by themselves, with the batches in flight between them."""

MEMORY_BYTES_MIN = 512 * 1024 * 1024
"""Smallest budget of a whole process."""

BATCH_ROWS = 2_048
"""Rows of a batch that leaves the engine: its own vector size."""


class Engine:
    """An in-memory DuckDB whose tables and sorts spill to a folder that is deleted at the end.

    Args:
        memory_bytes: Budget of the whole process; DuckDB gets what is left of it.
        spill_folder: Where a folder for spilling may be made.
        threads: DuckDB threads.
    """

    def __init__(self, *, memory_bytes: int, spill_folder: Path, threads: int) -> None:
        assert memory_bytes >= MEMORY_BYTES_MIN, "the budget holds at least the process itself"
        self.folder = Path(tempfile.mkdtemp(prefix="replay-", dir=spill_folder))
        self.memory_bytes = memory_bytes - PROCESS_BYTES
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "threads": threads,
                "memory_limit": f"{self.memory_bytes // 1024}KiB",
                "temp_directory": str(self.folder / "duckdb"),
                "preserve_insertion_order": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "enable_external_file_cache": False,
            },
        )
        self._connection.execute("SET parquet_metadata_cache = true")

    def close(self) -> None:
        """Close DuckDB and delete what it spilled."""
        self._connection.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def interrupt(self) -> None:
        """End the statement that runs in another thread; it raises there."""
        self._connection.interrupt()

    def run(self, query: str, given: Sequence[object] = ()) -> None:
        """Execute a statement that returns nothing; ``given`` are the values of ``$1``, ``$2`` …"""
        with translated():
            self._connection.execute(query, list(given))

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """Execute a query with a small result."""
        with translated():
            return self._connection.execute(query).fetchall()

    def stream(self, query: str) -> Iterator[pa.RecordBatch]:
        """Execute a query and yield its rows in batches, beside other streams."""
        with translated():
            cursor = self._connection.cursor()
            try:
                yield from cursor.sql(query).to_arrow_reader(BATCH_ROWS)
            finally:
                cursor.close()

    def add_table(self, name: str, table: pa.Table) -> None:
        """Copy an Arrow table into the engine."""
        with translated():
            self._connection.register(f"{name}_arrow", table)
            self._connection.execute(f"CREATE TABLE {name} AS SELECT * FROM {name}_arrow")
            self._connection.unregister(f"{name}_arrow")


@contextmanager
def translated() -> Iterator[None]:
    """Turn DuckDB's exceptions into the families of ``domain.errors``."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise Unavailable(
            "the work does not fit its memory or spill space", reason=_first_line(error)
        ) from error
    except (duckdb.InvalidInputException, duckdb.IOException, pa.ArrowException, OSError) as error:
        raise DataLoss("a change file cannot be read", reason=_first_line(error)) from error


def literal(value: object) -> str:
    """Write a string or integer as an SQL literal."""
    return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"


def literals(values: Sequence[object]) -> str:
    """Write values as a parenthesised SQL list."""
    return "(" + ", ".join(literal(value) for value in values) + ")"


def parquet(paths: Sequence[Path]) -> str:
    """Write a table function over Parquet files; the columns are those of ``CHANGE_SCHEMA``."""
    names = "[" + ", ".join(literal(path) for path in paths) + "]"
    return f"read_parquet({names}, hive_partitioning = false, file_row_number = false)"


def change_columns() -> str:
    """Write the columns of ``CHANGE_SCHEMA`` as an SQL list."""
    return ", ".join(f'"{name}"' for name in CHANGE_SCHEMA.names)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
