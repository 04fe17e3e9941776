"""storage: bytes in the store, all of them, over bytes of the NDJSON that went in."""

from __future__ import annotations

from typing import Any

from scripts.benchmarks.bench import LOG, open_bench
from scripts.benchmarks.data import Sample


async def run(changes: int) -> dict[str, Any]:
    """Take the sample in, let the upkeep do its work, count what is there."""
    async with open_bench(retired_kept_s=0) as bench:
        path = await bench.log_of(Sample(changes, max(changes // 10, 1)))
        app = bench.app
        await app.sealer.seal(LOG, force=True)
        await app.compactor.compact(LOG, everything=True)
        await app.compactor.expire(LOG)
        await app.publisher.publish(LOG)
        objects = await app.store.list(LOG)
        stored = sum(size for _, size in objects)
        return {
            "bench": "storage",
            "ratio": round(stored / path.stat().st_size, 4),
            "must": 0.12,
            "aim": 0.08,
            "less_is_better": True,
            "changes": changes,
            "input_bytes": path.stat().st_size,
            "store_bytes": stored,
            "objects": len(objects),
            "bytes_per_change": round(stored / changes, 1),
        }
