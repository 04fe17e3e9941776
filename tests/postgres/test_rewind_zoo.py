"""Random SQL under capture, rewound to random moments; a second database replays it as the oracle.

The stories are the same each time; ``PITR_TEST_SQL_EXAMPLES=500`` tells as many new ones.
"""

from __future__ import annotations

import asyncio
import json
import os
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from pitr.domain.change import Change
from pitr.domain.columnar.rows import changes_of
from pitr.domain.errors import Conflict
from pitr.domain.log import Source as Attached
from pitr.domain.rewind.plan import RewindPlan
from pitr.domain.times import rfc3339
from pitr.services.rewind.requests import RevertRequest, RewindRequest
from pitr.services.rewind.rewinder import RewindReport
from tests.postgres.following import app_of, attach, caught_up, following
from tests.postgres.restoring import twin_of
from tests.postgres.rewind_zoo import (
    KEYS,
    KNOWN,
    NUMBERED,
    SEED,
    Animals,
    Back,
    Key,
    Oracle,
    Revert,
    Rows,
    Step,
    Transaction,
    Undo,
    Way,
    keys_that_differ,
    mixed,
    stories,
)
from tests.postgres.servers import Source
from tests.postgres.test_rewind import Rewinding
from tests.services.world import World

GIVEN = os.environ.get("PITR_TEST_SQL_EXAMPLES")
EXAMPLES = int(GIVEN or "1")
STORY_S = 120
TEXTS = ("kind", "slug")
"""Columns of keys that are no numbers."""

ALL = frozenset(f"zoo.{table}" for table in KEYS)


def examples(known: Any, strategy: Any, tell: Callable[[Any], Awaitable[None]], count: int) -> Any:
    """A function for another thread, which tells a known story and others to this loop."""
    loop = asyncio.get_running_loop()

    async def bounded(story: Any) -> None:
        async with asyncio.timeout(STORY_S):
            await tell(story)

    @settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=GIVEN is None,
        print_blob=True,
        phases=(Phase.explicit, Phase.generate),  # to shrink a story takes minutes
    )
    @example(known)
    @given(strategy)
    def told(story: Any) -> None:
        asyncio.run_coroutine_threadsafe(bounded(story), loop).result()

    return told


@pytest.mark.timeout(120 + 10 * EXAMPLES)
async def test_any_moment_comes_back_as_another_database_replays_it(
    world: World, source: Source, source_db: str
) -> None:
    async with twin_of(source) as twin, app_of(source_db) as app, app_of(twin) as other:
        live, oracle = Animals(app), Oracle(other)
        for each in (live, oracle):
            await each.make(virtual=source.major >= 18)
        attached = await attach(app)
        await world.catalog.add_source(world.log, attached)
        async with following(world, attached):
            await caught_up(world, app, attached)
            teller = Teller(world, live, oracle, attached, Rewinding(world, app))
            await asyncio.to_thread(examples(KNOWN, stories, teller.tell, EXAMPLES))
        print(teller.counts)
        assert teller.counts["back"] > EXAMPLES and teller.counts["undo"] > EXAMPLES / 4


@dataclass(frozen=True)
class Moment:
    """What the database was, how the oracle gets there, and by which transaction it came.

    ``xid`` is None where nothing was written.
    """

    rows: Rows
    way: Way
    xid: str | None
    by_app: bool = False


@dataclass(frozen=True)
class Done:
    """An operation with the rows before it and after it."""

    operation_id: str
    before: Rows
    after: Rows


@dataclass
class Teller:
    """Tells stories to the database, and compares what became of them with the oracle."""

    world: World
    live: Animals
    oracle: Oracle
    attached: Attached
    rewinding: Rewinding
    moments: list[Moment] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    seq_first: int = 1
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("stories", "commits", "diverged", "back", "part", "undo", "revert", "refused", "rows"),
            0,
        )
    )

    async def tell(self, story: Sequence[Step]) -> None:
        self.counts["stories"] += 1
        self.seq_first = (await self.world.catalog.log(self.world.log)).seq_next
        self.done = []
        await self.live.empty()
        await self.oracle.begin()
        await caught_up(self.world, self.live.app, self.attached)
        self.moments = [Moment(await self.live.rows(), (), None)]
        for step in (SEED, *story):
            match step:
                case Back():
                    await self._back(step)
                case Undo():
                    await self._undo(step)
                case Revert():
                    await self._revert(step)
                case _:
                    await self._commit(step)

    @property
    def now(self) -> Rows:
        """What the rows are."""
        return self.moments[-1].rows

    # What the app does ----------------------------------------------------------------------------

    async def _commit(self, units: Transaction) -> None:
        xid, done = await self.live.act(units)
        _, there = await self.oracle.act(done)
        assert done == there
        rows = await self.live.rows()
        if rows == await self.oracle.rows():
            self.oracle.way = (*self.oracle.way, done)
        else:  # numbers of rows that another order of a table's rows gave another way
            self.counts["diverged"] += 1
            assert await self.oracle.take(rows) is None
        self.counts["commits"] += 1
        self.moments.append(Moment(rows, self.oracle.way, xid, by_app=True))

    # What we do -----------------------------------------------------------------------------------

    async def _back(self, back: Back) -> None:
        place = (len(self.moments) - 2 - back.moment) % len(self.moments)
        changes = await self._changes()
        target, moment = self._target(changes, place, back.way), self.moments[place]
        if target is None:
            return
        if not back.tables:
            report = await self._tried(lambda: self._plan(target, collections=ALL))
            assert isinstance(report, RewindReport), report
            await self.oracle.go_to(moment.way)
            assert await self.oracle.rows() == moment.rows
            await self._went(report, moment.rows, "back")
            return
        keys = [
            (table, key)
            for table, key in keys_that_differ(self.now, moment.rows)
            if table in back.tables and (not back.quarters or _dice(table, key) % 4 < back.quarters)
        ]
        if not keys:
            return
        chosen: dict[str, Any] = {"keys": frozenset(map(_named, keys))}
        if not back.quarters:
            chosen = {"collections": frozenset(f"zoo.{table}" for table in back.tables)}
        plans: list[RewindPlan] = []

        async def plan() -> RewindPlan:
            plans.append(await self._plan(target, with_references=back.with_references, **chosen))
            return plans[-1]

        result = await self._tried(plan)
        keys += [_key_of(*each) for plan in plans for each in plan.scope.brought]
        await self._either(result, mixed(self.now, moment.rows, keys), "part")

    async def _undo(self, undo: Undo) -> None:
        if undo.operation >= len(self.done):
            return
        done = self.done[-1 - undo.operation]
        await self._changes()
        result = await self._tried(
            lambda: self.rewinding.rewinder.plan_undo(
                self.world.log, done.operation_id, self.rewinding.sink
            )
        )
        await self._taken_back(result, done.before, done.after, "undo")

    async def _revert(self, revert: Revert) -> None:
        transactions = [place for place, moment in enumerate(self.moments) if moment.by_app]
        changes = await self._changes()
        if revert.transaction >= len(transactions):
            return
        place = transactions[-1 - revert.transaction]
        before, after = self.moments[place - 1].rows, self.moments[place].rows
        texts = [each.tx for each in changes if _xid(each) == self.moments[place].xid]
        if not texts or before == after:
            return
        request = RevertRequest(log=self.world.log, tx=texts[0] or "")
        result = await self._tried(
            lambda: self.rewinding.rewinder.plan_revert(
                request.log, request.tx, self.rewinding.sink
            )
        )
        await self._taken_back(result, before, after, "revert")

    async def _taken_back(
        self, result: RewindReport | Conflict, before: Rows, after: Rows, what: str
    ) -> None:
        """Compare with what it is to take the step from ``before`` to ``after`` back now."""
        keys = list(keys_that_differ(before, after))
        differing = [
            (table, key)
            for table, key in keys
            if self.now[table].get(key) not in (before[table].get(key), after[table].get(key))
        ]
        if differing:
            assert isinstance(result, Conflict), f"rows that others changed: {differing}"
            await self._refused()
        else:
            await self._either(result, mixed(self.now, before, keys), what)

    # What has to hold -----------------------------------------------------------------------------

    async def _plan(self, target: str, **options: Any) -> RewindPlan:
        request = RewindRequest(log=self.world.log, target=target, **options)
        plan = await self.rewinding.rewinder.plan(request, self.rewinding.sink)
        assert not plan.seen["conflicts"]["counts"], plan.seen["conflicts"]
        return plan

    async def _tried(self, plan: Callable[[], Awaitable[RewindPlan]]) -> RewindReport | Conflict:
        try:
            made = RewindPlan.of_body((await plan()).body())
            return await self.rewinding.rewinder.apply(made, self.rewinding.sink)
        except Conflict as error:
            return error

    async def _either(self, result: RewindReport | Conflict, wanted: Rows, what: str) -> None:
        """It was done if PostgreSQL finds no fault with these rows; otherwise refused."""
        fault = await self.oracle.take(wanted)
        if fault is not None:
            assert isinstance(result, Conflict), f"{what} was done, but: {fault}"
            await self._refused()
        else:
            assert isinstance(result, RewindReport), result
            await self._went(result, wanted, what)

    async def _refused(self) -> None:
        self.counts["refused"] += 1
        assert await self.live.rows() == self.now

    async def _went(self, report: RewindReport, wanted: Rows, what: str) -> None:
        """The rows are those that are wanted, no other was written, and it all is whole."""
        rows, before = await self.live.rows(), self.now
        assert rows == wanted
        differing = list(keys_that_differ(before, wanted))
        assert report.row_count == len(differing)
        await self.live.check_whole()
        following = await self.live.next_numbers()
        for table, key in differing:
            if table in NUMBERED and key in wanted[table]:
                assert following[table] > int(key[KEYS[table].index(NUMBERED[table][0])])
        self.counts[what] += 1
        self.counts["rows"] += len(differing)
        xid = None
        if differing:
            self.done.append(Done(report.operation_id, before, wanted))
            xid = await self._xid_of(report)
        self.moments.append(Moment(wanted, self.oracle.way, xid))

    # The log --------------------------------------------------------------------------------------

    async def _changes(self) -> list[Change]:
        """What the log has of the story, in order."""
        await caught_up(self.world, self.live.app, self.attached)
        view = await self.world.catalog.view(self.world.log)
        tables = [view.tail]
        for ref in view.segments:
            if ref.seq_end > self.seq_first:
                tables.append(pq.read_table(await self.world.store.verified(ref)))
        found = [change for table in tables for change in changes_of(table)]
        mine = [each for each in found if each.collection in ALL and each.seq >= self.seq_first]
        return sorted(mine, key=lambda change: change.seq)

    async def _xid_of(self, report: RewindReport) -> str | None:
        reason = f"rewind:{report.operation_id}"
        found = {_xid(each) for each in await self._changes() if each.reason == reason}
        assert len(found) == 1, "it is one transaction, and the log knows it"
        return found.pop()

    def _target(self, changes: Sequence[Change], place: int, way: str) -> str | None:
        """Say a moment; None if it cannot be said that way."""
        last = {_xid(each): each for each in changes}
        first = {_xid(each): each for each in reversed(changes)}
        upto = [last[each.xid] for each in self.moments[: place + 1] if each.xid in last]
        after = [first[each.xid] for each in self.moments[place + 1 :] if each.xid in first]
        if way == "before-tx":
            return f"before-tx:{after[0].tx}" if after else None
        if not upto:
            return f"before-seq:{after[0].seq}" if after else None
        if way == "time" and after:
            return rfc3339(upto[-1].at_us)
        return f"seq:{upto[-1].seq}"


def _xid(change: Change) -> str | None:
    return change.tx.partition(":")[0] if change.tx else None


def _dice(table: str, key: Key) -> int:
    return zlib.crc32(repr((table, key)).encode())


def _named(row: tuple[str, Key]) -> tuple[str, str]:
    """A row as a rewind is told of it."""
    table, values = row
    named = {
        name: value if name in TEXTS else int(value)
        for name, value in sorted(zip(KEYS[table], values, strict=True))
    }
    return f"zoo.{table}", json.dumps(named, separators=(",", ":"))


def _key_of(collection: str, key: str) -> tuple[str, Key]:
    table, named = collection.removeprefix("zoo."), json.loads(key)
    return table, tuple(str(named[name]) for name in KEYS[table])
