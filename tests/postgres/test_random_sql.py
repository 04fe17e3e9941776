"""Random SQL under capture: at every commit the log has the rows that triggers copied.

The stories are the same each time; ``PITR_TEST_SQL_EXAMPLES=500`` tells as many new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import asyncpg
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from pitr.domain.change import Change
from pitr.domain.columnar.rows import changes_of
from pitr.domain.fold import State, apply
from pitr.domain.log import Gap, Source
from tests.postgres.following import App, app_of, attach, caught_up, following
from tests.postgres.random_sql import (
    COPIES,
    CUT,
    PAUSE,
    TABLES,
    Kept,
    Row,
    Story,
    making,
    multiset,
    row_of,
    stories,
)
from tests.services.world import World

GIVEN = os.environ.get("PITR_TEST_SQL_EXAMPLES")
EXAMPLES = int(GIVEN or "12")
STORY_S = 90
PAUSE_S = 0.1
CUT_S = 0.3
SETTLE_S = 20
LOCK_MS = 30
"""How long a statement waits for the other session, which will not let go before it is its turn."""

LIMITS: dict[str, Any] = {"capture_rows_max": 7, "segment_rows_min": 30}
"""Small, so that transactions come in pieces, and go by the tail as well as not."""


@pytest.mark.timeout(120 + 6 * EXAMPLES)
async def test_the_log_is_what_triggers_copied_at_every_commit(
    world: World, source_db: str
) -> None:
    async with app_of(source_db) as app, app_of(source_db) as first, app_of(source_db) as second:
        await app.run(*COPIES)
        for each in (first, second):
            await each.run(f"SET lock_timeout = '{LOCK_MS}ms'")
        source = await attach(app)
        capture = Capture(world, source)
        teller = Teller(world, app, (first, second), source, capture)
        loop = asyncio.get_running_loop()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=GIVEN is None,
            print_blob=True,
        )
        @given(stories())
        def told(story: Story) -> None:
            asyncio.run_coroutine_threadsafe(teller.tell(story), loop).result()

        async with asyncio.TaskGroup() as group:
            group.create_task(capture.keep())
            try:
                await asyncio.to_thread(told)
            finally:
                capture.ends = True
                capture.cut.set()
        print(teller.counts)
        assert teller.counts["compared"] > 5 * EXAMPLES


_COLUMNS = """
SELECT array_agg(attname::text ORDER BY attnum) FROM pg_attribute
WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped
"""


@dataclass
class Capture:
    """A follower at work, which can be cut off and begins again then."""

    world: World
    source: Source
    cut: asyncio.Event = field(default_factory=asyncio.Event)
    ends: bool = False

    async def cut_off_in_a_piece(self) -> None:
        """Cut it off when it has stored a part of a transaction, or everything soon."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CUT_S):
                while not await self._holds_a_piece():
                    await asyncio.sleep(0)
        self.cut.set()

    async def _holds_a_piece(self) -> bool:
        lanes = await self.world.catalog.lanes(self.world.log, prefix=self.source.lane)
        return any(lane.state.get("open") for lane in lanes)

    async def keep(self) -> None:
        while not self.ends:
            async with following(self.world, self.source, **LIMITS) as worker:
                await self.cut.wait()
                self.cut.clear()
                if not self.ends:
                    await worker.cut_off()


@dataclass(frozen=True)
class Commit:
    """What a transaction left behind; ``news`` are places with rows that it changed by DDL."""

    xid: int
    wrote: bool
    kept: Kept
    news: frozenset[str]


@dataclass
class Teller:
    """Tells stories to the database, and compares what became of them."""

    world: World
    app: App
    sessions: tuple[App, App]
    source: Source
    capture: Capture
    numbers: Iterator[int] = field(default_factory=count)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("stories", "commits", "compared", "unknown"), 0)
    )

    async def tell(self, story: Story) -> None:
        async with asyncio.timeout(STORY_S):
            await self._tell(story)

    async def _tell(self, story: Story) -> None:
        schema = f"s{next(self.numbers)}"
        places = [f"{schema}.{name}" for name in TABLES]
        seq_first = (await self.world.catalog.log(self.world.log)).seq_next
        async with self.app.connection.transaction():
            await self.app.run(*making(schema))
            if story.whole:
                await self.app.run(f"ALTER TABLE {schema}.big REPLICA IDENTITY FULL")
            await self.app.run("SELECT pg_logical_emit_message(true, 'pitr.ddl', '')")
        begun = await self._as_it_is(places)
        if story.read_first:
            await caught_up(self.world, self.app, self.source)
        try:
            xids = await self._act(story, schema)
            commits = await self._commits(begun, xids)
            await self._settled(commits[-1].kept if commits else begun)
            await self._compare(places, commits, seq_first)
        finally:
            for session in self.sessions:
                await session.run("ROLLBACK")
            await self.app.run("TRUNCATE copies.changes", f"DROP SCHEMA {schema} CASCADE")
        self.counts["stories"] += 1
        self.counts["commits"] += len(commits)

    # What happens ---------------------------------------------------------------------------------

    async def _act(self, story: Story, schema: str) -> list[int]:
        """Do all steps; return the transactions in the order of their commits."""
        xids: list[int] = []
        acting = [Acting(session, schema, tells=story.tells) for session in self.sessions]
        for step in story.steps:
            xids += await acting[step.session].act(step.sql, step.alters, step.kept)
            if step.sql == CUT:
                xids += await acting[step.session].act("COMMIT", None, "")
                await self.capture.cut_off_in_a_piece()
        for each in acting:
            xids += await each.act("COMMIT", None, "")
        return xids

    async def _as_it_is(self, places: Sequence[str]) -> Kept:
        rows: dict[str, list[Row]] = {}
        columns: dict[str, list[str]] = {}
        for place in places:
            columns[place] = await self.app.value(_COLUMNS, place)
            rows[place] = await self._rows(place, columns[place])
        return Kept(rows, columns)

    async def _rows(self, place: str, columns: Sequence[str]) -> list[Row]:
        found = await self.app.connection.fetch(f"SELECT t::text FROM {place} AS t")
        return [row_of(text, columns) for (text,) in found]

    async def _commits(self, begun: Kept, xids: Sequence[int]) -> list[Commit]:
        """What each transaction left behind, as the copies have it."""
        found = await self.app.connection.fetch(
            "SELECT xid, place, op, old, new FROM copies.changes ORDER BY n"
        )
        kept, commits = begun.copy(), []
        for xid in xids:
            mine = [row for row in found if row["xid"] == xid]
            news = set()
            for row in mine:
                if kept.apply(row["place"], row["op"], row["old"], row["new"]):
                    news.add(row["place"])
            wrote = any(row["op"] != "ALTER" for row in mine)
            commits.append(Commit(xid, wrote, kept.copy(), frozenset(news)))
        assert {row["xid"] for row in found} <= set(xids)
        for place, rows in kept.rows.items():
            assert await self.app.value(_COLUMNS, place) == kept.columns[place]
            now = await self._rows(place, kept.columns[place])
            assert multiset(now) == multiset(rows), "the copies are wrong themselves"
        return commits

    async def _settled(self, kept: Kept) -> None:
        """Wait until the log has it all, and no table is read any more."""
        await caught_up(self.world, self.app, self.source)
        end_s = time.monotonic() + SETTLE_S
        while True:
            state = await self._state("latest", list(kept.rows))
            wrong = {
                place: (shown, expected)
                for place, rows in kept.rows.items()
                if (shown := rows_of(state, place, kept)) != (expected := multiset(rows))
            }
            gaps = (await self.world.catalog.view(self.world.log, tail=False)).gaps
            still = [gap for gap in gaps if gap.healed_seq_end is None]
            if not wrong and not still:
                return
            assert time.monotonic() < end_s, f"it never becomes what the tables are: {wrong, still}"
            await asyncio.sleep(0.05)

    async def _state(self, target: str, places: Sequence[str]) -> State:
        """The rows of some tables at a target."""
        world = self.world
        view = await world.archive.view(world.log)
        resolution = await world.resolver.resolve(view, target)
        reads = world.archive.reads(view, resolution.cut, torn=resolution.torn)
        async with world.archive.state(view, reads, collections=frozenset(places)) as state:
            found = [
                change
                for place in places
                if place in state.counts
                for batch in state.rows(place)
                for change in changes_of(batch)
            ]
        return {(change.collection, change.key): change for change in found}

    # What has to hold -----------------------------------------------------------------------------

    async def _compare(
        self, places: Sequence[str], commits: Sequence[Commit], seq_first: int
    ) -> None:
        changes, gaps = await self._changes(places, seq_first)
        last = last_places(changes, {commit.xid for commit in commits})
        assert [xid for xid in last if xid in {commit.xid for commit in commits}] == [
            commit.xid for commit in commits if commit.wrote
        ], "other transactions, or another order of them"
        state: State = {}
        done, news = 0, dict[str, int]()
        for commit in commits:
            end = last.get(commit.xid, done - 1) + 1
            for change in changes[done:end]:
                apply(state, change)
            seq = changes[end - 1].seq if end else seq_first - 1
            for place in places:
                if place in commit.news:
                    news[place] = changes[done].seq if done < len(changes) else seq + 1
                if is_known(gaps, place, seq, news.get(place)):
                    expected = multiset(commit.kept.rows[place])
                    assert rows_of(state, place, commit.kept) == expected, (place, seq)
                    self.counts["compared"] += 1
                else:
                    self.counts["unknown"] += 1
            done = max(done, end)
        await self._ask_once(places, commits, changes, last)

    async def _ask_once(
        self,
        places: Sequence[str],
        commits: Sequence[Commit],
        changes: Sequence[Change],
        last: dict[int, int],
    ) -> None:
        """Have one moment told by what restores use."""
        ends = [last[commit.xid] for commit in commits if commit.xid in last]
        if not ends:
            return
        end = ends[len(ends) // 2]
        expected: State = {}
        for change in changes[: end + 1]:
            apply(expected, change)
        found = await self._state(f"seq:{changes[end].seq}", places)
        assert image(found) == image(expected)

    async def _changes(
        self, places: Sequence[str], seq_first: int
    ) -> tuple[list[Change], list[Gap]]:
        """What the log has of the story, in order, and what it does not know."""
        view = await self.world.catalog.view(self.world.log)
        tables = [view.tail]
        for ref in view.segments:
            if ref.seq_end > seq_first:
                tables.append(pq.read_table(await self.world.store.verified(ref)))
        found = [change for table in tables for change in changes_of(table)]
        mine = [change for change in found if change.collection in places]
        return (
            sorted(mine, key=lambda change: change.seq),
            [gap for gap in view.gaps if gap.collection in places],
        )


@dataclass
class Acting:
    """One session of a story."""

    session: App
    schema: str
    tells: bool
    is_open: bool = False
    has_savepoint: bool = False

    async def act(self, sql: str, alters: str | None, kept: str) -> list[int]:
        """Do a step; return the transaction that it committed. What fails is rolled back."""
        connection = self.session.connection
        if sql == "COMMIT":
            return await self._commit()
        if sql == PAUSE:
            await asyncio.sleep(PAUSE_S)
            return []
        if not self.is_open:
            await connection.execute("BEGIN")
            self.is_open = True
        try:
            if sql.startswith(("ROLLBACK TO", "RELEASE")) and not self.has_savepoint:
                return []
            await connection.execute(sql.replace("{s}", self.schema))
            self.has_savepoint |= sql.startswith("SAVEPOINT")
            self.has_savepoint &= not sql.startswith("RELEASE")
            if alters is not None:
                await connection.execute(kept.replace("$1", f"'{self.schema}.{alters}'"))
                if self.tells:
                    await connection.execute("SELECT pg_logical_emit_message(true, 'pitr.ddl', '')")
        except asyncpg.PostgresError as error:
            assert not isinstance(error, asyncpg.SyntaxOrAccessError) or alters, (sql, error)
            await self._undo()
        else:
            if sql == "ROLLBACK":
                self.is_open = self.has_savepoint = False
        return []

    async def _undo(self) -> None:
        if self.has_savepoint:
            await self.session.connection.execute("ROLLBACK TO p")
        else:
            await self.session.connection.execute("ROLLBACK")
            self.is_open = False

    async def _commit(self) -> list[int]:
        if not self.is_open:
            return []
        xid = await self.session.value("SELECT pg_current_xact_id_if_assigned()::text::bigint")
        await self.session.connection.execute("COMMIT")
        self.is_open = self.has_savepoint = False
        return [] if xid is None else [xid]


def last_places(changes: Sequence[Change], xids: set[int]) -> dict[int, int]:
    """The place of the last change of each transaction, in the order in which they end."""
    found: dict[int, int] = {}
    for place, change in enumerate(changes):
        xid = int(change.tx.partition(":")[0]) if change.tx else 0
        if xid in xids:
            assert xid not in found or list(found)[-1] == xid, "it was over already"
            found[xid] = place
    return found


def is_known(gaps: Sequence[Gap], place: str, seq: int, news_seq: int | None) -> bool:
    """Tell whether the log knows a table after ``seq``, by what it says itself of that.

    If DDL changed the table's rows at ``news_seq``, the log learns of it a little later: it knows
    once it has said so, with a gap that begins at that time, and has read the table again.
    """
    mine = [gap for gap in gaps if gap.collection == place]
    if not mine or any(gap.seq_end <= seq + 1 < _end(gap) for gap in mine):
        return False
    again = [gap for gap in mine if gap.at_min_us is not None]
    return all(_end(gap) <= seq + 1 for gap in mine if gap not in again) and (
        news_seq is None or any(news_seq <= gap.seq_end and _end(gap) <= seq + 1 for gap in again)
    )


def _end(gap: Gap) -> int:
    return gap.healed_seq_end if gap.healed_seq_end is not None else 2**62


def rows_of(state: State, place: str, kept: Kept) -> list[str]:
    """The rows of a table in the log, with the columns that it has, as texts."""
    rows = []
    for (collection, _), change in state.items():
        if collection == place:
            assert change.after is not None
            document = json.loads(change.after, parse_int=str, parse_float=str)
            assert document.keys() <= kept.ever[place], document
            rows.append({name: _text(document.get(name)) for name in kept.columns[place]})
    return multiset(rows)


def _text(value: Any) -> str | None:
    return {True: "t", False: "f"}[value] if isinstance(value, bool) else value


def image(state: State) -> dict[Any, Any]:
    return {row: (change.after, change.seq) for row, change in state.items()}
