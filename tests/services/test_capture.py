"""Capture over a source in memory: zombies, skips, rebalances at every moment; all is in once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from pitr.adapters.clock import new_uid
from pitr.domain.batch import Decoded
from pitr.domain.columnar.rows import changes_of
from pitr.domain.errors import Unavailable
from pitr.domain.ports import FeedListener, FeedPoll
from pitr.domain.records import Peeked, Reading, Records, decode_records, digest_of
from pitr.services import capture as module
from pitr.services import capture_work, tasks
from pitr.services.append import Appender
from pitr.services.capture import Capture
from tests.services.world import LIMITS, World

LANE = "kafka:t:0"
FAST = replace(LIMITS, capture_linger_us=1_000, capture_behind_linger_us=1_000, lateness_us=0)


class Source:
    """The records of lanes, for any number of feeds."""

    def __init__(self) -> None:
        self.lanes: dict[str, list[bytes]] = {LANE: []}
        self.first: dict[str, int] = {LANE: 0}

    def add(self, count: int, lane: str = LANE) -> None:
        found = self.lanes.setdefault(lane, [])
        self.first.setdefault(lane, 0)
        for number in range(len(found), len(found) + count):
            found.append(
                b'{"collection":"c","key":%d,"op":"update","after":{"n":%d},"at":%d}'
                % (number % 3, number, 1_767_225_600_000_000 + number)
            )


class MemoryFeed:
    """One worker's feed over a source; the test says which lanes are its."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.positions: dict[str, int] = {}
        self.listener: FeedListener | None = None
        self.away = False
        self.skip = 0
        self.batch = 4
        self.committed: dict[str, int] = {}

    async def start(self, listener: FeedListener) -> None:
        if self.away:
            raise Unavailable("the source is away")
        self.listener = listener

    async def give(self, *lanes: str) -> None:
        assert self.listener is not None
        await self.listener.assigned(lanes)

    async def take(self, *lanes: str) -> None:
        assert self.listener is not None
        await self.listener.revoked(lanes)
        for lane in lanes:
            self.positions.pop(lane, None)

    async def poll(self, lanes: Sequence[str], *, timeout_s: float) -> FeedPoll:
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("the source is away")
        records, idle, ends, problems = [], {}, {}, {}
        for lane in lanes:
            if lane not in self.positions:  # taken away meanwhile
                continue
            position, known = self.positions[lane], self.source.lanes[lane]
            if position < self.source.first[lane]:
                problems[lane] = "its position is not among those that the source has"
                continue
            end = min(len(known), position + self.batch)
            if end > position:
                values = known[position:end]
                records.append(_records(lane, position + self.skip, end, values[self.skip :]))
                self.skip = 0
                self.positions[lane] = end
            else:
                idle[lane] = 1_900_000_000_000_000
            ends[lane] = len(known)
        if not records:
            await asyncio.sleep(0.002)
        return FeedPoll(records=tuple(records), ends=ends, idle_us=idle, problems=problems)

    async def bounds(self, lanes: Sequence[str]) -> dict[str, tuple[int, int]]:
        if self.away:
            raise Unavailable("the source is away")
        return {lane: (self.source.first[lane], len(self.source.lanes[lane])) for lane in lanes}

    async def end(self, lane: str, position: int) -> int | None:
        known = len(self.source.lanes[lane])
        return known if position <= known else None

    async def peek(self, lane: str, position: int) -> Peeked | None:
        known = self.source.lanes[lane]
        if position >= len(known):
            return None
        return Peeked(position=position, digest=digest_of(None, known[position]), time_us=7)

    def seek(self, lane: str, position: int) -> None:
        self.positions[lane] = position

    async def released(self, positions: Mapping[str, int]) -> None:
        self.committed.update(positions)

    async def kept_us(self, lanes: Sequence[str]) -> dict[str, int]:
        return {}

    async def close(self) -> None:
        self.listener = None


def _records(lane: str, first: int, end: int, values: list[bytes]) -> Records:
    return Records(
        lane=lane,
        position_first=first,
        position_end=end,
        positions=list(range(end - len(values), end)),
        values=list(values),
        keys=[None] * len(values),
        times_us=[None] * len(values),
        size_bytes=sum(map(len, values)),
    )


class GatedDecoder:
    """Decodes when it may."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.waiting = asyncio.Event()

    async def decode_lines(self, *_: Any, **__: Any) -> Decoded:
        raise AssertionError("capture decodes records")

    async def decode_records(self, records: Records, reading: Reading) -> Decoded:
        decoded = decode_records(records, reading)
        self.waiting.set()
        await self.open.wait()
        return decoded


class Worker:
    """A capture with its feed and decoder, running."""

    def __init__(self, world: World, source: Source, name: str) -> None:
        self.world, self.name = world, name
        self.feed = MemoryFeed(source)
        self.decoder = GatedDecoder()
        self.stop = asyncio.Event()
        self.capture: Capture | None = None

    async def run(self) -> None:
        world = self.world
        async with Appender(
            world.catalog, world.store, world.clock, log=world.log, limits=FAST, new_id=new_uid
        ) as appender:
            self.capture = Capture(
                world.catalog,
                appender,
                self.feed,
                self.decoder,
                world.clock,
                log=world.log,
                owner=self.name,
                reading=lambda lane: Reading(collection="t"),
                limits=FAST,
            )
            await self.capture.run(self.stop)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "BACKOFF_S", (0.01,))
    monkeypatch.setattr(module, "REPORT_EVERY_S", 0.02)
    monkeypatch.setattr(module, "HALTED_RETRY_S", 0.05)
    monkeypatch.setattr(capture_work, "TAKEN_CHECK_S", 0.05)


@asynccontextmanager
async def working(world: World, source: Source, *names: str) -> AsyncIterator[list[Worker]]:
    workers = [Worker(world, source, name) for name in names]
    async with asyncio.TaskGroup() as group:
        for worker in workers:
            group.create_task(worker.run())
        for worker in workers:
            await until(lambda worker=worker: worker.feed.listener is not None or worker.feed.away)
        try:
            yield workers
        finally:
            for worker in workers:
                worker.decoder.open.set()
                worker.stop.set()


async def until(true: Any, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while True:
            found = true()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.005)


async def stored(world: World) -> list[int]:
    """The positions in the log, in seq order."""
    view = await world.archive.view(world.log)
    from pitr.domain.columnar.scan import changes_between

    paths = await world.archive.verified(view.segments)
    changes = changes_between(paths, view.tail, seq_first=1, seq_end=2**62)
    assert [change.seq for change in changes] == list(range(1, len(changes) + 1))
    assert all(change.after == b'{"n":%d}' % change.position for change in changes)
    return [change.position for change in changes]


async def lane_of(world: World, lane: str = LANE) -> Any:
    [found] = await world.catalog.lanes(world.log, prefix=lane)
    return found


async def holds(world: World, count: int) -> bool:
    return (await world.catalog.log(world.log)).seq_next == count + 1


async def test_what_a_zombie_has_in_hand_is_not_stored(world: World) -> None:
    """It was given up for dead between decoding and appending; another went on meanwhile."""
    source = Source()
    source.add(20)
    async with working(world, source, "zombie", "heir") as (zombie, heir):
        zombie.decoder.open.clear()
        await zombie.feed.give(LANE)
        await zombie.decoder.waiting.wait()
        await heir.feed.give(LANE)  # and nobody told the zombie
        await until(lambda: holds(world, 20))
        zombie.decoder.open.set()
        await until(lambda: zombie.capture and zombie.capture.problems)
        assert zombie.capture is not None
        assert zombie.capture.problems == {LANE: "another worker captures it"}
        source.add(5)
        await until(lambda: holds(world, 25))
    assert await stored(world) == list(range(25))
    assert (await lane_of(world)).owner == "heir"


async def test_records_that_a_consumer_skips_are_fetched_again(world: World) -> None:
    source = Source()
    source.add(40)
    async with working(world, source, "one") as (one,):
        one.feed.skip = 2
        await one.feed.give(LANE)
        await until(lambda: _begun(one))
        one.feed.skip = 3
        source.add(10)
        await asyncio.sleep(0.05)
        await one.feed.take(LANE)
        await one.feed.give(LANE)
        await until(lambda: holds(world, 50))
    assert await stored(world) == list(range(50))


def _begun(worker: Worker) -> bool:
    return bool(worker.feed.positions)


@pytest.mark.timeout(30)
async def test_lanes_go_from_worker_to_worker_at_any_moment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A claim that was cut off may still come through after its heir's; the clock stands still.
    monkeypatch.setattr(capture_work, "TAKEN_SILENT_US", -1)
    source, dice = Source(), random.Random(11)
    lanes = [f"kafka:t:{number}" for number in range(3)]
    async with working(world, source, "a", "b", "c") as workers:
        owner: dict[str, Worker] = {}
        for _ in range(60):
            lane, heir = dice.choice(lanes), dice.choice(workers)
            source.add(dice.randrange(12), lane)
            if lane in source.lanes and owner.get(lane) is not heir:
                if lane in owner and dice.random() < 0.6:  # else nobody told it
                    await owner[lane].feed.take(lane)
                await heir.feed.give(lane)
                owner[lane] = heir
            await asyncio.sleep(dice.choice([0, 0.001, 0.01]))
        for lane in source.lanes:
            heir = dice.choice(workers)
            for worker in workers:
                if worker is not heir:
                    await worker.feed.take(lane)
            await heir.feed.take(lane)
            await heir.feed.give(lane)
        total = sum(map(len, source.lanes.values()))
        await until(lambda: holds(world, total))
    view = await world.archive.view(world.log)
    found: dict[str, list[int]] = {}
    import pyarrow.parquet as pq

    tables = [pq.read_table(path) for path in await world.archive.verified(view.segments)]
    changes = [change for table in [*tables, view.tail] for change in changes_of(table)]
    for change in sorted(changes, key=lambda change: change.seq):
        found.setdefault(change.lane, []).append(change.position)
    expected = {lane: list(range(len(values))) for lane, values in source.lanes.items() if values}
    assert found == expected


async def test_retention_that_was_faster_is_a_gap(world: World) -> None:
    source = Source()
    source.add(10)
    async with working(world, source, "one") as (one,):
        await one.feed.give(LANE)
        await until(lambda: holds(world, 10))
        one.decoder.open.clear()
        source.add(20)
        await one.feed.take(LANE)
        one.decoder.open.set()
        source.first[LANE] = 17
        await one.feed.give(LANE)
        await until(lambda: holds(world, 23))
        await until(lambda: _idle(world))
    [gap] = (await world.archive.view(world.log)).gaps
    assert (gap.lane, gap.position_first, gap.position_end) == (LANE, 10, 17)
    assert (gap.seq_end, gap.at_max_us) == (11, 7)
    assert await stored(world) == [*range(10), *range(17, 30)]


async def _idle(world: World) -> bool:
    lane = await lane_of(world)
    return lane.complete_us == 1_900_000_000_000_000 and lane.lag == 0


@pytest.mark.parametrize("longer", [False, True])
async def test_a_source_that_was_made_again_stops_its_lane(world: World, longer: bool) -> None:
    source = Source()
    source.add(10)
    async with working(world, source, "one") as (one,):
        await one.feed.give(LANE)
        await until(lambda: holds(world, 10))
        await one.feed.take(LANE)
        source.lanes[LANE] = [b'{"another":1}'] * (30 if longer else 4)
        await one.feed.give(LANE)
        await until(lambda: _problem(world, "made again"))
        assert await holds(world, 10)


async def _problem(world: World, text: str) -> bool:
    return text in ((await lane_of(world)).problem or "")


async def test_a_source_that_is_away_is_waited_for(world: World) -> None:
    source = Source()
    source.add(6)
    async with working(world, source, "one") as (one,):
        await one.feed.give(LANE)
        await until(lambda: holds(world, 6))
        one.feed.away = True
        await until(lambda: one.capture is not None and one.capture.problem is not None)
        source.add(6)
        one.feed.away = False
        await until(lambda: holds(world, 12))
        assert one.capture is not None
        assert one.capture.problem is None
    assert one.feed.committed == {LANE: 12}


async def test_a_lane_that_its_taker_leaves_comes_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that woke up too late claims a lane, and then is told that it has none."""
    monkeypatch.setattr(capture_work, "TAKEN_SILENT_US", -1)  # the clock stands still
    source = Source()
    source.add(5)
    async with working(world, source, "rightful") as (rightful,):
        await rightful.feed.give(LANE)
        await until(lambda: holds(world, 5))
        await world.catalog.claim(world.log, "late", {LANE: 0}, recorded_us=1)
        source.add(5)
        await until(lambda: holds(world, 10))
    assert await stored(world) == list(range(10))
