"""ingest: NDJSON to durable log, over PostgreSQL's COPY of the same changes.

The yardstick is the log that one would keep in PostgreSQL instead: asyncpg's binary COPY of records
that were decoded beforehand, in commits of the same size, into a table with the columns of a
change, its primary key, and the index that finds a row's history. The same without that index, and
``psql``'s \\copy of a prepared text file into a table without any key, are measured beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg
import msgspec

from scripts.benchmarks.bench import Bench, open_bench, rate
from scripts.benchmarks.data import Sample

ROUNDS = 3
COMMIT_ROWS = 80_000
"""Changes of one COPY, about what pitr stores at once."""

_BARE = """
CREATE TABLE changes (seq bigint, collection text, key text, op text, after text, at timestamptz,
                      tx text, actor text, reason text)
"""

_KEYED = """
CREATE TABLE keyed (seq bigint PRIMARY KEY, collection text, key text, op text, after text,
                    at_us bigint, commit_us bigint, recorded_us bigint, lane text, position bigint,
                    tx text, actor text, reason text)
"""


class Line(msgspec.Struct, gc=False):
    """A change of the sample; documents stay as they are."""

    collection: str
    key: msgspec.Raw
    op: str
    after: msgspec.Raw
    at: str
    tx: str
    actor: str
    reason: str


decode = msgspec.json.Decoder(Line).decode


def text(raw: msgspec.Raw) -> str:
    """The exact text of a document."""
    return str(raw, "utf-8")


def write_copy_file(source: Path, target: Path) -> None:
    """The same changes in COPY's text format, decoded beforehand."""
    with source.open("rb") as lines, target.open("w") as rows:
        for seq, line in enumerate(lines, 1):
            change = decode(line)
            head = (
                f"{seq}\t{change.collection}\t{text(change.key)}\t{change.op}\t{text(change.after)}"
            )
            rows.write(f"{head}\t{change.at}\t{change.tx}\t{change.actor}\t{change.reason}\n")


def records(source: Path) -> Iterator[tuple[Any, ...]]:
    """The same changes as records for the keyed table."""
    with source.open("rb") as lines:
        for seq, line in enumerate(lines, 1):
            change = decode(line)
            head = (seq, change.collection, text(change.key), change.op, text(change.after))
            yield *head, seq, seq, seq, "a", seq, change.tx, change.actor, change.reason


async def copy_bare(bench: Bench, source: Path) -> None:
    """Load the bare table with psql."""
    target = bench.folder / "changes.copy"
    write_copy_file(source, target)
    url = await bench.database("yardstick")
    bench.psql(url, "DROP TABLE IF EXISTS changes", _BARE)
    with bench.watch.step("copy into a bare table"):
        bench.psql(url, f"\\copy changes FROM '{target}'")


async def copy_log(bench: Bench, prepared: list[list[tuple[Any, ...]]], *, indexed: bool) -> None:
    """Load the log's table with asyncpg."""
    url = await bench.database("yardstick")
    bench.psql(url, "DROP TABLE IF EXISTS keyed", _KEYED)
    if indexed:
        bench.psql(url, "CREATE INDEX ON keyed (collection, key, seq)")
    connection = await asyncpg.connect(url)
    with bench.watch.step("copy" if indexed else "copy without index"):
        for part in prepared:
            await connection.copy_records_to_table("keyed", records=part)
    await connection.close()


def variant(path: Path, number: int) -> Path:
    """The same changes as a file of its own: with another first line."""
    other = path.with_name(f"changes-{number}.ndjson")
    with path.open("rb") as lines:
        first = lines.readline().replace(b'"EUR"', b'"EU%d"' % number)
        other.write_bytes(first + lines.read())
    return other


async def run(changes: int) -> dict[str, Any]:
    """Measure both, in turn; the best round of each counts."""
    sample = Sample(changes, max(changes // 10, 1))
    seconds: dict[str, list[float]] = {}
    async with open_bench() as bench:
        path = bench.folder / "changes.ndjson"
        size = sample.write(path)
        rows = records(path)
        prepared = list(iter(lambda: list(islice(rows, COMMIT_ROWS)), []))
        for number in range(ROUNDS):
            other = variant(path, number)
            with bench.watch.step("ingest"):
                stored = await bench.ingest(other)
            assert stored == changes, stored
            other.unlink()
            await copy_log(bench, prepared, indexed=True)
            await copy_log(bench, prepared, indexed=False)
            for name in ("ingest", "copy", "copy without index"):
                seconds.setdefault(name, []).append(bench.watch.seconds[name])
        await copy_bare(bench, path)
    best = {name: min(found) for name, found in seconds.items()}
    return {
        "bench": "ingest",
        "ratio": round(best["copy"] / best["ingest"], 2),
        "must": 0.6,
        "aim": 1.5,
        "changes": changes,
        "input_bytes": size,
        "pitr_changes_per_s": rate(changes, best["ingest"]),
        "copy_changes_per_s": rate(changes, best["copy"]),
        "copy_without_index_changes_per_s": rate(changes, best["copy without index"]),
        "psql_bare_changes_per_s": rate(changes, bench.watch.seconds["copy into a bare table"]),
    }
