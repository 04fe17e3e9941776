"""history: a plain DuckDB query for one key over all segments, over pitr's p99 for one row."""

from __future__ import annotations

import gc
import random
import statistics
import time
from typing import Any

import duckdb

from scripts.benchmarks.bench import LOG, Bench, open_bench
from scripts.benchmarks.data import Sample

COLLECTION = "shop.orders"


async def pitr_seconds(bench: Bench, keys: list[str]) -> list[float]:
    """Seconds of each row's history, as the HTTP API answers it; the first few warm up.

    As in ``pitr serve`` after a minute: the files are known, upkeep has read their page indexes,
    and the modules are not walked for garbage.
    """
    gc.freeze()
    for key in keys[:20]:
        await bench.app.history.history(LOG, COLLECTION, key)
    await bench.app.history.prepare()
    seconds = []
    for key in keys[20:]:
        start = time.perf_counter()
        changes = await bench.app.history.history(LOG, COLLECTION, key)
        seconds.append(time.perf_counter() - start)
        assert changes
    gc.unfreeze()
    return seconds


async def duckdb_seconds(bench: Bench, keys: list[str]) -> list[float]:
    """Seconds of the same question to DuckDB, connection warm."""
    view = await bench.app.archive.view(LOG)
    paths = [str(path) for path in await bench.app.archive.verified(view.segments)]
    connection = duckdb.connect(config={"threads": 2})
    query = "SELECT * FROM read_parquet(?) WHERE collection = ? AND key = ? ORDER BY seq DESC"
    seconds = []
    for key in keys:
        start = time.perf_counter()
        connection.execute(query, [paths, COLLECTION, key]).fetchall()
        seconds.append(time.perf_counter() - start)
    return seconds[3:]


async def run(changes: int) -> dict[str, Any]:
    """Measure both on the same segments."""
    rows = max(changes // 10, 1)
    random_ = random.Random(3)
    keys = [f'{{"id":{random_.randrange(rows)}}}' for _ in range(520)]
    async with open_bench() as bench:
        await bench.log_of(Sample(changes, rows))
        ours = await pitr_seconds(bench, keys)
        theirs = await duckdb_seconds(bench, keys[:33])
        p99 = statistics.quantiles(ours, n=100)[98]
        segments = len((await bench.app.archive.view(LOG)).segments)
    median = statistics.median(theirs)
    return {
        "bench": "history",
        "ratio": round(median / p99, 1),
        "must": 3,
        "aim": 15,
        "changes": changes,
        "segments": segments,
        "pitr_p50_ms": round(statistics.median(ours) * 1e3, 2),
        "pitr_p99_ms": round(p99 * 1e3, 2),
        "duckdb_median_ms": round(median * 1e3, 2),
    }
