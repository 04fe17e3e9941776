"""What tests of rewinds share: an app's database whose triggers tell a log of every change.

The oracle is the database itself: its rows as texts, read after each step.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from pitr.adapters.clock import new_uid
from pitr.adapters.sinks.postgres.rewind.database import PostgresRewind
from pitr.domain.rewind.plan import RewindPlan
from pitr.domain.rewind.sight import OnConflict
from pitr.services.append import Appender
from pitr.services.rewind.requests import Asked, RewindRequest, UndoRequest
from pitr.services.rewind.rewinder import Rewinder, RewindReport
from tests.changes import batch, draft
from tests.services.world import World

TELL = """
CREATE SCHEMA told;
CREATE TABLE told.changes (n bigserial PRIMARY KEY, tx text, collection text, key text, op text,
    before text, after text);
CREATE FUNCTION told.tell() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    old_row jsonb; new_row jsonb; old_key text; new_key text; name text := TG_ARGV[0];
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        INSERT INTO told.changes (tx, collection, key, op)
        VALUES (pg_current_xact_id()::text, name, '', 'truncate');
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        old_key := told.key(to_jsonb(OLD), TG_ARGV[1]);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        new_key := told.key(to_jsonb(NEW), TG_ARGV[1]);
    END IF;
    IF TG_OP = 'DELETE' OR old_key <> new_key THEN
        INSERT INTO told.changes (tx, collection, key, op, before)
        VALUES (pg_current_xact_id()::text, name, old_key, 'delete', row_to_json(OLD)::text);
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO told.changes (tx, collection, key, op, before, after)
        VALUES (pg_current_xact_id()::text, name, new_key,
            CASE WHEN TG_OP = 'INSERT' OR old_key <> new_key THEN 'create' ELSE 'update' END,
            CASE WHEN TG_OP = 'UPDATE' THEN row_to_json(OLD)::text END, row_to_json(NEW)::text);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION told.key(value jsonb, columns text) RETURNS text LANGUAGE sql AS $$
    SELECT '{' || string_agg(to_json(c)::text || ':' || (value -> c)::text, ',' ORDER BY c) || '}'
    FROM unnest(string_to_array(columns, ',')) AS c
$$;
"""


both_ways = pytest.mark.parametrize("shop", ["two steps", "one go"], indirect=True)
"""Plans and applies as one after the other, which checks everything again; and as one go."""


class AppDatabase:
    """A database whose every change is told to a log, and a rewinder for it."""

    def __init__(self, url: str, sql: asyncpg.Connection, world: World, appender: Appender) -> None:
        self.url, self.sql, self.world = url, sql, world
        self.tables: dict[str, str] = {}
        self._told = 0
        self.moments: list[tuple[str, dict[str, list[str]]]] = []

        async def given(_log: str) -> Appender:
            return appender

        self.rewinder = Rewinder(
            world.catalog,
            world.archive,
            world.resolver,
            world.clock,
            appender=given,
            leases=world.leases,
            new_id=new_uid,
            limits=world.limits,
        )
        self.sink = PostgresRewind(url)
        self.at_once = False

    async def watch(self, **keys: str) -> None:
        """Let the log be told of tables from now on; the values are the columns of their keys."""
        if not self.tables:
            await self.sql.execute(TELL)
        for table, key in keys.items():
            self.tables[table] = key
            await self.sql.execute(
                f"CREATE TRIGGER told AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW"
                f" EXECUTE FUNCTION told.tell('public.{table}', '{key}')"
            )
            await self.sql.execute(
                f"CREATE TRIGGER told_truncate AFTER TRUNCATE ON {table}"
                f" EXECUTE FUNCTION told.tell('public.{table}', '{key}')"
            )

    async def run(self, *statements: str) -> str:
        """Run statements as one transaction; return the target that means right after it."""
        async with self.sql.transaction():
            for statement in statements:
                await self.sql.execute(statement)
        return await self.told()

    async def told(self) -> str:
        """Bring what the triggers told into the log; return where it ends."""
        rows = await self.sql.fetch(
            "SELECT * FROM told.changes WHERE n > $1 ORDER BY n", self._told
        )
        if rows:
            self._told = rows[-1]["n"]
            drafts = [
                draft(0, row["after"], collection=row["collection"], op=row["op"])
                | {"key": row["key"], "before": row["before"], "tx": row["tx"]}
                for row in rows
            ]
            self.world.clock.advance(10)
            await self.world.append(batch(drafts, lane="app", position_first=None))
        seq_next = (await self.world.catalog.log(self.world.log)).seq_next
        return f"seq:{seq_next - 1}"

    async def step(self, *statements: str) -> str:
        """Run statements, and remember the moment after them."""
        target = await self.run(*statements)
        self.moments.append((target, await self.rows()))
        return target

    async def rows(self) -> dict[str, list[str]]:
        """Every watched table, generated columns too, as the database writes its rows."""
        return {
            table: [
                row[0]
                for row in await self.sql.fetch(f"SELECT t::text FROM {table} t ORDER BY t::text")
            ]
            for table in self.tables
        }

    async def plan(self, target: str, **options: Any) -> RewindPlan:
        request = RewindRequest(log=self.world.log, target=target, **options)
        return await self.rewinder.plan(request, self.sink)

    async def rewind(
        self, target: str, *, on_conflict: OnConflict = "refuse", **options: Any
    ) -> RewindReport:
        """Plan and apply, as one go or as two."""
        request = RewindRequest(log=self.world.log, target=target, **options)
        return await self._done(request, on_conflict=on_conflict, actor="ana")

    async def undo(self, operation_id: str, *, on_conflict: OnConflict = "refuse") -> RewindReport:
        request = UndoRequest(log=self.world.log, operation_id=operation_id)
        return await self._done(request, on_conflict=on_conflict)

    async def _done(self, request: Asked, **options: Any) -> RewindReport:
        planned = self.rewinder.planned(request, self.sink, at_once=self.at_once)
        async with planned as opened:
            again = RewindPlan.of_body(opened.plan.body())
            self.world.clock.advance(10)
            return await opened.apply(again, **options)

    async def log_rows(self, target: str = "latest") -> dict[str, set[str]]:
        """What the log says the rows are, by table, as the database would write them."""
        found: dict[str, set[str]] = {table: set() for table in self.tables}
        for (collection, _), (after, _) in (await self.world.state(target)).items():
            table = collection.removeprefix("public.")
            found[table].add(
                await self.sql.fetchval(
                    f"SELECT (json_populate_record(NULL::{table}, $1::json))::text", after.decode()
                )
            )
        return found


@contextlib.asynccontextmanager
async def app_database(
    world: World, url: str, setup: str = "", keys: dict[str, str] | None = None
) -> AsyncIterator[AppDatabase]:
    """An app's database with some tables."""
    sql = await asyncpg.connect(url, server_settings={"timezone": "UTC"})
    try:
        async with Appender(
            world.catalog,
            world.store,
            world.clock,
            log=world.log,
            limits=world.limits,
            new_id=new_uid,
        ) as appender:
            await sql.execute(setup)
            app = AppDatabase(url, sql, world, appender)
            await app.watch(**(keys or {}))
            yield app
    finally:
        await sql.close()


def counts(plan: RewindPlan) -> dict[str, tuple[int, int, int]]:
    """Rows to insert, update and delete by table."""
    return {
        each["table"].removeprefix("public."): (each["insert"], each["update"], each["delete"])
        for each in plan.does["collections"]
    }


def values(rows: Sequence[str]) -> list[Any]:
    """JSON texts, read."""
    return [json.loads(row) for row in rows]
