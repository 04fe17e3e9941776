"""rewind: seconds to restore a whole table, over seconds to rewind 1,000 changed rows in it.

Both as the commands do it, in one process: ``pitr restore --yes`` into an empty database, and
``pitr restore --mode rewind --yes``. Either plans, applies, and is recorded.

The table is of an attached database with the default replica identity: its changes have no
``before``. An accident changes rows all over the table, or a range of its keys; nine in ten are
updated, one is deleted. By then its changes are sealed, and the table's creation is compacted and
in a snapshot, as upkeep leaves it.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from pitr.app import App
from pitr.domain.log import Source
from pitr.domain.restore_plan import Into, Mode
from pitr.domain.times import rfc3339
from pitr.faces.event_log import configure_logging
from pitr.services.plan_record import Who
from pitr.services.plans import PlanRequest, Report
from scripts.benchmarks.bench import LOG, Stopwatch, say
from scripts.benchmarks.capture_postgres import (
    TABLES,
    Database,
    copied,
    database,
    followed,
    fresh_app,
    reached,
)

CHANGED = 1_000
ROUNDS = 5
NAME = "shop.orders"

_FILL = """
INSERT INTO shop.orders
SELECT made.* FROM generate_series(1, $1::int, 1000) first,
    LATERAL sample.rows(ARRAY(SELECT generate_series(first, first + 999)::bigint), 0) made
"""

_PLACES = {"scattered": "id % $1 = $2", "clustered": "id BETWEEN $1 AND $2"}
"""Which rows an accident changes."""


async def run(rows: int) -> dict[str, Any]:
    """Measure both, on a table of so many rows."""
    rows = max(rows // CHANGED, 4) * CHANGED
    configure_logging("critical")
    watch = Stopwatch()
    async with AsyncExitStack() as stack:
        source_db = await stack.enter_async_context(database())
        app = await stack.enter_async_context(fresh_app())
        with watch.step("fill the table"):
            await source_db.run(_FILL, rows, timeout=600)
            await source_db.run("ANALYZE shop.orders")
        await source_db.publish("shop", f"TABLE {NAME}")
        source = await source_db.source("shop", "shop")
        await app.catalog.add_source(LOG, source)
        with watch.step("attach, seal, compact, snapshot"):
            await stack.enter_async_context(followed(app, LOG, source))
            await copied(app, LOG, source, 1)
            await _upkeep(app)
        figures = {where: await _rewinds(source_db, app, source, where, rows) for where in _PLACES}
        restored = await _restores(source_db, app, rows)
    return {
        "bench": "rewind",
        "ratio": _ratio(restored, figures["scattered"]),
        "must": 50,
        "aim": 500,
        "ratio_clustered": _ratio(restored, figures["clustered"]),
        "rows": rows,
        "changed": CHANGED,
        "ratio_first": round(min(restored) / figures["scattered"]["together"][0], 1),
        "restore_s": restored,
        **{f"{where}_s": found for where, found in figures.items()},
    }


async def _upkeep(app: App) -> None:
    await app.sealer.seal(LOG, force=True)
    await app.compactor.compact(LOG)
    await app.snapshotter.snapshot(LOG)


async def _rewinds(
    source_db: Database, app: App, source: Source, where: str, rows: int
) -> dict[str, list[float]]:
    """Seconds of plan and apply, round by round; in the first one no page index is in memory."""
    found: dict[str, list[float]] = {"plan": [], "apply": [], "together": []}
    for number in range(ROUNDS):
        before = await _digest(source_db)
        target = rfc3339(app.clock.now_us())
        await asyncio.sleep(0.01)
        first = rows // 2 + number * CHANGED
        bounds = (
            (rows // CHANGED, 7 * number) if where == "scattered" else (first, first + CHANGED - 1)
        )
        await _accident(source_db, app, source, _PLACES[where], bounds)
        report, planned, applied = await _restored(app, target, source_db.url, mode="rewind")
        assert report.row_count == CHANGED
        assert await _digest(source_db) == before
        await reached(app, LOG, source, await source_db.end())
        for name, seconds in (
            ("plan", planned),
            ("apply", applied),
            ("together", planned + applied),
        ):
            found[name].append(round(seconds, 4))
        say(f"{where}: plan {planned:.3f} s, apply {applied:.3f} s")
    return found


async def _restored(app: App, target: str, url: str, *, mode: Mode) -> tuple[Report, float, float]:
    """Restore as ``--yes`` does; the report, and seconds of plan and apply."""
    start = time.perf_counter()
    request, into = PlanRequest(log=LOG, target=target), Into(place=url, mode=mode)
    async with app.plans.planned(request, into, Who(), at_once=True) as opened:
        planned = time.perf_counter()
        report = await opened.apply()
    return report, planned - start, time.perf_counter() - planned


async def _accident(
    source_db: Database, app: App, source: Source, where: str, bounds: tuple[int, int]
) -> None:
    await source_db.run("BEGIN")
    await source_db.run(f"DELETE FROM {NAME} WHERE {where} AND hashint8(id) % 10 = 3", *bounds)
    await source_db.run(
        f"UPDATE {NAME} SET status = 'lost', total = 0, updated_at = now() WHERE {where}", *bounds
    )
    await source_db.run("COMMIT")
    await reached(app, LOG, source, await source_db.end())
    await app.sealer.seal(LOG, force=True)


async def _restores(source_db: Database, app: App, rows: int) -> list[float]:
    """Seconds to restore the whole table into one that is there and empty."""
    seconds = []
    for _ in range(3):
        url = await _empty(source_db)
        report, planned, applied = await _restored(app, "latest", url, mode="fresh")
        seconds.append(round(planned + applied, 3))
        assert report.row_count == rows
        say(f"restore: {seconds[-1]:.2f} s")
    return seconds


async def _empty(source_db: Database) -> str:
    """A database on the same server, with the table and no rows; nothing is left to be written."""
    await source_db.run("DROP DATABASE IF EXISTS restored WITH (FORCE)")
    await source_db.run("CREATE DATABASE restored")
    url = urlsplit(source_db.url)._replace(path="/restored").geturl()
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(TABLES)
    finally:
        await connection.close()
    await source_db.run("CHECKPOINT")
    return url


async def _digest(source_db: Database) -> str:
    query = f"SELECT sum(hashtextextended(o::text, 0)::numeric)::text FROM {NAME} o"
    found: str = await source_db.value(query)
    return found


def _ratio(restored: list[float], found: dict[str, list[float]]) -> float:
    return round(min(restored) / min(found["together"]), 1)
