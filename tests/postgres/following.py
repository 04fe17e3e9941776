"""A follower at work on a real database, and what its log says of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar

import asyncpg

from pitr.adapters.clock import SystemClock, new_uid
from pitr.adapters.postgres.attached import AttachedDatabase
from pitr.domain.log import Source
from pitr.domain.pgoutput.model import lsn_of
from pitr.domain.pgoutput.ports import Database
from pitr.services.append import Appender
from pitr.services.follow import Follower
from tests.services.world import World

LIMITS_FAST = {
    "capture_linger_us": 5_000,
    "capture_behind_linger_us": 5_000,
    "capture_busy_linger_us": 5_000,
    "lateness_us": 0,
}


class App:
    """The app's database: plain SQL."""

    def __init__(self, url: str, connection: asyncpg.Connection[Any]) -> None:
        self.url = url
        self.connection = connection

    async def run(self, *statements: str) -> None:
        for statement in statements:
            await self.connection.execute(statement)

    async def value(self, query: str, *values: object) -> Any:
        return await self.connection.fetchval(query, *values)

    async def rows(self, table: str) -> dict[str, dict[str, str | None]]:
        """A table's rows as texts, by the text of ``id``: as the database itself writes them."""
        names = await self.connection.fetch(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = $1::text::regclass"
            " AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
            table,
        )
        columns = ", ".join(f'"{name}"::text AS "{name}"' for (name,) in names)
        found = await self.connection.fetch(f"SELECT {columns} FROM {table}")
        return {row["id"]: dict(row) for row in found}


@asynccontextmanager
async def app_of(url: str) -> AsyncIterator[App]:
    connection = await asyncpg.connect(url, server_settings={"timezone": "UTC"})
    try:
        yield App(url, connection)
    finally:
        await connection.close()


async def attach(app: App, name: str = "app", *, what: str = "FOR ALL TABLES") -> Source:
    """Make publication and slot by hand."""
    slot = f"pitr_{new_uid()[:8]}"
    await app.run(
        f"CREATE PUBLICATION {slot} {what} WITH (publish_via_partition_root = true)",
        f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')",
    )
    return Source(name=name, url=app.url, slot=slot, publication=slot, created_us=1)


class Worker:
    """A follower that runs, until the block ends or it is cut off."""

    gone: ClassVar[set[str]] = set()
    """Owners that were cut off: what the process table says of real ones."""

    def __init__(
        self, follower: Follower, owner: str, task: asyncio.Task[None], stop: asyncio.Event
    ) -> None:
        self.follower, self.owner, self._task, self._stop = follower, owner, task, stop

    async def stop(self) -> None:
        self._stop.set()
        await self._task

    async def cut_off(self) -> None:
        """End it as ``kill -9`` would, wherever it is."""
        self._task.cancel()
        await asyncio.wait([self._task])
        self.gone.add(self.owner)


@asynccontextmanager
async def following(
    world: World, source: Source, *, database: Database | None = None, **limits: Any
) -> AsyncIterator[Worker]:
    """Follow meanwhile."""
    given = replace(world.limits, **{**LIMITS_FAST, **limits})
    stop = asyncio.Event()
    clock, owner = SystemClock(), new_uid()
    async with Appender(
        world.catalog, world.store, clock, log=world.log, limits=given, new_id=new_uid
    ) as appender:
        follower = Follower(
            world.catalog,
            appender,
            world.archive,
            database or AttachedDatabase(source, url=source.url),
            clock,
            log=world.log,
            source=source,
            owner=owner,
            limits=given,
            is_gone=Worker.gone.__contains__,
        )
        task = asyncio.ensure_future(follower.run(stop))
        worker = Worker(follower, owner, task, stop)
        try:
            yield worker
        finally:
            stop.set()
            if not task.done():
                async with asyncio.timeout(20):
                    await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error


async def caught_up(world: World, app: App, source: Source, *, seconds: float = 60) -> None:
    """Wait until all that is committed by now is in the log, and no table is copied.

    The gap of a table ends right after the last of its rows is stored: that is waited for, too.
    """
    await app.run("CREATE TABLE IF NOT EXISTS beats (id int PRIMARY KEY)")
    end = lsn_of(await app.value("SELECT pg_current_wal_lsn()::text"))
    await app.run("INSERT INTO beats VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 1")
    await app.run("SELECT pg_logical_emit_message(true, 'pitr.ddl', '')")
    published = await app.connection.fetch(
        "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = $1"
        " AND NOT starts_with(schemaname, 'pitr_old_')",
        source.publication,
    )
    expected = {name for (name,) in published}
    async with asyncio.timeout(seconds):
        while True:
            lanes = await world.catalog.lanes(world.log, prefix=source.lane)
            if lanes and lanes[0].state.get("lsn") and lsn_of(lanes[0].state["lsn"]) >= end:
                tables = lanes[0].state["copy"]["tables"]
                done = {name for name, table in tables.items() if table.get("done")}
                if done >= expected and not await gaps_to_end(world, source, done):
                    return
            await asyncio.sleep(0.02)


async def gaps_to_end(world: World, source: Source, done: set[str]) -> bool:
    """Whether there are gaps yet of tables that were read."""
    return any(
        gap.lane == source.lane
        and gap.healed_seq_end is None
        and (gap.collection is None or gap.collection in done)
        for gap in (await world.catalog.view(world.log)).gaps
    )


async def state_of(world: World, table: str, target: str = "latest") -> dict[str, Any]:
    """The rows that the log has, as texts, by the text of ``id``."""
    rows = {}
    for (collection, _), (after, _) in (await world.state(target)).items():
        if collection == table:
            row = json.loads(after, parse_int=str, parse_float=str)
            texts = {name: _text(value) for name, value in row.items()}
            rows[texts["id"]] = texts
    return rows


def _text(value: Any) -> str | None:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else value
