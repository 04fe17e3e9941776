"""replay: the state at T from the log, over ``DISTINCT ON`` of the same changes in PostgreSQL."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from pitr.domain.columnar.replay import Replay
from pitr.domain.times import rfc3339
from scripts.benchmarks.bench import LOG, Bench, open_bench, rate
from scripts.benchmarks.data import START_US, STEP_US, Sample
from scripts.benchmarks.ingest import copy_bare

_DISTINCT_ON = """
SET work_mem = '1GB'; SET max_parallel_workers_per_gather = 2;
SELECT count(*), sum(length(after)) FROM (
    SELECT DISTINCT ON (collection, key) collection, key, op, after
    FROM changes WHERE at <= '{at}' ORDER BY collection, key, seq DESC) newest
WHERE op <> 'delete'
"""


async def pitr_state(bench: Bench, at: str) -> tuple[int, int]:
    """Replay and read every row; return rows and characters of documents."""
    app = bench.app
    view = await app.archive.view(LOG)
    resolution = await app.resolver.resolve(view, at)
    reads = app.archive.reads(view, resolution.cut, use_snapshots=False)
    async with app.archive.state(view, reads) as state:
        return await asyncio.to_thread(_drained, state)


def _drained(state: Replay) -> tuple[int, int]:
    rows = characters = 0
    for batch in state.all_rows():
        rows += batch.num_rows
        characters += pc.sum(pc.utf8_length(batch["after"])).as_py() or 0
    return rows, characters


async def run(changes: int) -> dict[str, Any]:
    """Measure both on the same changes; the answers must be equal."""
    sample = Sample(changes, max(changes // 10, 1))
    async with open_bench(memory_bytes=4 * 2**30) as bench:
        path: Path = await bench.log_of(sample)
        at = str(rfc3339(START_US + int(changes * 0.95) * STEP_US))
        seconds = []
        for _ in range(3):
            with bench.watch.step("replay"):
                found = await pitr_state(bench, at)
            seconds.append(bench.watch.seconds["replay"])
        await copy_bare(bench, path)
        url = await bench.database("yardstick")
        bench.psql(url, "VACUUM ANALYZE changes")
        with bench.watch.step("distinct on"):
            answer = bench.psql(url, _DISTINCT_ON.format(at=at))
        assert answer.split() == [f"{found[0]}|{found[1]}"], (answer, found)
        theirs = bench.watch.seconds["distinct on"]
        return {
            "bench": "replay",
            "ratio": round(theirs / min(seconds), 1),
            "must": 8,
            "aim": 20,
            "changes": changes,
            "rows": found[0],
            "pitr_s": min(seconds),
            "distinct_on_s": theirs,
            "pitr_changes_per_s": rate(changes, min(seconds)),
        }
