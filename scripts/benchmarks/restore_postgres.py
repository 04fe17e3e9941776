"""restore-postgres: rows per second from log to table, over psql's \\copy of the same rows."""

from __future__ import annotations

from typing import Any

from pitr.adapters.sinks import sink_for
from pitr.services.restore import RestoreRequest
from scripts.benchmarks.bench import LOG, open_bench, rate
from scripts.benchmarks.data import Sample

_TABLE = """
CREATE SCHEMA IF NOT EXISTS shop;
CREATE TABLE shop.orders (
    id bigint PRIMARY KEY, customer_id bigint NOT NULL, status text NOT NULL,
    total numeric NOT NULL, currency text NOT NULL, ship_to text NOT NULL, note text,
    updated_at timestamptz NOT NULL, paid boolean NOT NULL, items integer NOT NULL)
"""


async def run(changes: int) -> dict[str, Any]:
    """Restore into an empty table like the shop's, then load the same rows with \\copy."""
    rows = max(changes // 2, 1)
    async with open_bench() as bench:
        await bench.log_of(Sample(changes, rows))
        restored, copied = [], []
        export = bench.folder / "orders.csv"
        for number in range(3):
            url = await bench.database(f"restored{number}")
            bench.psql(url, _TABLE)
            plan = await bench.app.restorer.plan(RestoreRequest(log=LOG, target="latest"))
            bench.psql(url, "CHECKPOINT")
            with bench.watch.step("restore"):
                report = await bench.app.restorer.restore(plan, sink_for(url))
            assert report.row_count == rows
            restored.append(bench.watch.seconds["restore"])
            bench.psql(url, f"\\copy (TABLE shop.orders) TO '{export}' (FORMAT csv)")
            other = await bench.database(f"copied{number}")
            bench.psql(other, _TABLE)
            bench.psql(other, "CHECKPOINT")
            with bench.watch.step("copy"):
                bench.psql(other, f"\\copy shop.orders FROM '{export}' (FORMAT csv)")
            copied.append(bench.watch.seconds["copy"])
    return {
        "bench": "restore-postgres",
        "ratio": round(min(copied) / min(restored), 2),
        "must": 0.6,
        "aim": 1.0,
        "changes": changes,
        "rows": rows,
        "pitr_rows_per_s": rate(rows, min(restored)),
        "copy_rows_per_s": rate(rows, min(copied)),
    }
