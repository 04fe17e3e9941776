"""ingest: NDJSON to durable log, over PostgreSQL's COPY of the same changes into a bare table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from scripts.benchmarks.bench import Bench, open_bench, rate
from scripts.benchmarks.data import Sample

_TABLE = """
CREATE TABLE changes (collection text, key text, op text, after text, at timestamptz,
                      tx text, actor text, reason text)
"""


def write_copy_file(source: Path, target: Path) -> None:
    """The same changes in COPY's text format, decoded beforehand: the yardstick only loads."""
    with source.open("rb") as lines, target.open("w") as rows:
        for line in lines:
            change = orjson.loads(line)
            key = orjson.dumps(change["key"]).decode()
            after = orjson.dumps(change["after"]).decode()
            head = f"{change['collection']}\t{key}\t{change['op']}\t{after}\t{change['at']}"
            rows.write(f"{head}\t{change['tx']}\t{change['actor']}\t{change['reason']}\n")


async def copy_seconds(bench: Bench, source: Path) -> None:
    """Load the yardstick's table."""
    target = bench.folder / "changes.copy"
    write_copy_file(source, target)
    url = await bench.database("yardstick")
    bench.psql(url, _TABLE)
    with bench.watch.step("copy"):
        bench.psql(url, f"\\copy changes FROM '{target}'")


async def run(changes: int) -> dict[str, Any]:
    """Measure both; three files each, the best of each counts."""
    sample = Sample(changes, max(changes // 10, 1))
    best: dict[str, float] = {}
    async with open_bench() as bench:
        path = bench.folder / "changes.ndjson"
        size = sample.write(path)
        for number in range(3):
            varied = path
            if number:
                varied = bench.folder / f"changes-{number}.ndjson"
                first = path.open("rb").readline().replace(b'"op":"create"', b'"op":"update"')
                extra = first.replace(b'"EUR"', b'"EU%d"' % number)
                varied.write_bytes(extra + path.read_bytes())
            with bench.watch.step("ingest"):
                stored = await bench.ingest(varied)
            assert stored == changes + (1 if number else 0)
            best["ingest"] = min(best.get("ingest", 1e9), bench.watch.seconds["ingest"])
            varied.unlink() if number else None
        for _ in range(3):
            url = await bench.database("yardstick")
            bench.psql(url, "DROP TABLE IF EXISTS changes")
            await copy_seconds(bench, path)
            best["copy"] = min(best.get("copy", 1e9), bench.watch.seconds["copy"])
    return {
        "bench": "ingest",
        "ratio": round(best["copy"] / best["ingest"], 2),
        "must": 0.6,
        "aim": 1.5,
        "changes": changes,
        "input_bytes": size,
        "pitr_changes_per_s": rate(changes, best["ingest"]),
        "copy_changes_per_s": rate(changes, best["copy"]),
    }
