"""Leases while they are held: renewed, refused, taken over, lost; and what retention leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from pitr.domain.errors import Conflict, DataLoss, Unavailable
from pitr.domain.lease import Lease
from pitr.domain.ports import Progress, RestorableState, SinkReport
from pitr.services.lease import Leases
from pitr.services.operations import Begun, Operations
from pitr.services.restore import Restorer, RestoreRequest
from tests.changes import batch, draft
from tests.services.world import World

Body = Callable[[], Awaitable[None]]
SHORT_US = 300_000


class Tried:
    """A catalog whose leases can be made to fail; it counts how often one was asked for."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.asked = 0
        self.fails: BaseException | None = None
        self.answers: Lease | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def take_lease(self, *args: Any, **rest: Any) -> Lease:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        found: Lease = await self._real.take_lease(*args, **rest)
        return self.answers or found

    async def asked_again(self, times: int = 2) -> None:
        """Wait until so many more leases were asked for."""
        end = self.asked + times
        async with asyncio.timeout(20):
            while self.asked < end:
                await asyncio.sleep(0.005)


@pytest.fixture
def tried(world: World) -> Tried:
    return Tried(world.catalog)


def leases(catalog: Any, holder: str = "me", *, gone: frozenset[str] = frozenset()) -> Leases:
    return Leases(catalog, holder=holder, is_gone=gone.__contains__, length_us=SHORT_US)


async def held(world: World, leases: Leases, body: Body, *, sink: str | None = None) -> None:
    state = await world.catalog.log(world.log)
    async with leases.held(state, uuid4().hex, kind="restore", actor="ana", sink=sink):
        await body()


async def test_it_is_renewed_while_it_is_held_and_gone_afterwards(
    world: World, tried: Tried
) -> None:
    async def body() -> None:
        (first,) = await world.catalog.leases(world.log)
        async with asyncio.timeout(20):
            while not any(
                each.until_us > first.until_us and each.operation_id == first.operation_id
                for each in await world.catalog.leases(world.log)
            ):
                await asyncio.sleep(0.01)

    await held(world, leases(tried), body)
    assert await world.catalog.leases(world.log) == []


async def test_a_place_that_is_taken_is_refused_with_who_has_it(world: World) -> None:
    place = uuid4().hex

    async def body() -> None:
        with pytest.raises(Conflict) as refused:
            await held(world, leases(world.catalog, "other"), nothing, sink=place)
        (mine,) = await world.catalog.leases(world.log)
        facts = refused.value.facts
        assert (facts["operation"], facts["actor"]) == (mine.operation_id, "ana")
        assert {"since", "until", "kind", "log"} <= facts.keys()
        assert refused.value.hint is not None
        await held(world, leases(world.catalog, "other"), nothing, sink=uuid4().hex)

    await held(world, Leases(world.catalog, holder="me"), body, sink=place)
    await held(world, leases(world.catalog, "other"), nothing, sink=place)


async def test_a_dead_holder_is_not_waited_for(world: World) -> None:
    place, state = uuid4().hex, await world.catalog.log(world.log)
    asked: dict[str, Any] = {"kind": "rewind", "actor": None, "length_us": 600_000_000}
    for number in range(3):
        asked |= {"holder": f"dead-{number}", "sink": place}
        await world.catalog.take_lease(state, operation_id=uuid4().hex, **asked)
        with pytest.raises(Conflict):
            await held(world, leases(world.catalog), nothing, sink=place)
        gone = frozenset({f"dead-{number}"})
        await held(world, leases(world.catalog, gone=gone), nothing, sink=place)


async def test_a_catalog_that_is_away_for_a_while_ends_nothing(world: World, tried: Tried) -> None:
    async def body() -> None:
        tried.fails = Unavailable("the catalog does not answer")
        await until_there_are(world, 0)
        await tried.asked_again(3)
        tried.fails = None
        await until_there_are(world, 1)

    await held(world, leases(tried), body)


async def test_who_lost_the_place_to_another_is_ended(world: World, tried: Tried) -> None:
    place, ended = uuid4().hex, []

    async def body() -> None:
        (mine,) = await world.catalog.leases(world.log)
        tried.answers = replace(mine, operation_id="theirs", holder="other")
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            ended.append(True)
            raise

    with pytest.raises(Conflict) as lost:
        await held(world, leases(tried), body, sink=place)
    assert ended and lost.value.facts["operation"] == "theirs"


async def test_what_the_body_raises_comes_out_as_it_is(world: World) -> None:
    error = ValueError("x")

    async def body() -> None:
        raise error

    with pytest.raises(ValueError, match="x") as raised:
        await held(world, leases(world.catalog), body)
    assert raised.value is error
    assert error.__cause__ is None
    assert await world.catalog.leases(world.log) == []


async def test_a_cancelled_body_lets_go(world: World) -> None:
    begun = asyncio.Event()

    async def body() -> None:
        begun.set()
        await asyncio.sleep(20)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(held(world, leases(world.catalog), body))
        await begun.wait()
        task.cancel()
    assert task.cancelled()
    assert await world.catalog.leases(world.log) == []


async def test_a_missing_object_is_no_loss_if_the_lease_had_run_out(
    world: World, tried: Tried
) -> None:
    """Its holder stood still, so retention did not wait: nothing is wrong with the store."""
    loss = DataLoss("an object is missing from the store")

    async def body() -> None:
        tried.fails = Unavailable("cut off")
        await until_there_are(world, 0)
        await world.compactor.compact(world.log, everything=True)
        world.clock.advance(2_000)
        assert await world.compactor.expire(world.log)
        tried.fails = None
        raise loss

    await history(world)
    with pytest.raises(Conflict, match="has been expired"):
        await held(world, leases(tried), body)


async def test_a_missing_object_is_a_loss_if_the_lease_held(world: World) -> None:
    loss = DataLoss("an object is missing from the store")

    async def body() -> None:
        raise loss

    with pytest.raises(DataLoss):
        await held(world, leases(world.catalog), body)
    assert await world.catalog.leases(world.log) == []


async def until_there_are(world: World, count: int) -> None:
    async with asyncio.timeout(20):
        while len(await world.catalog.leases(world.log)) != count:
            await asyncio.sleep(0.01)


# Operations -------------------------------------------------------------------------------------


async def test_an_operation_of_a_dead_process_is_lost_at_once(world: World) -> None:
    state, id_ = await world.catalog.log(world.log), uuid4().hex
    asked: dict[str, Any] = {"kind": "restore", "actor": None, "sink": None, "holder": "dead"}
    await world.catalog.take_lease(state, operation_id=id_, length_us=10**9, **asked)
    await world.catalog.begin_operation(
        state, operation_id=id_, kind="restore", actor=None, reason=None, started_us=1, detail={}
    )
    (there,) = await leases(world.catalog).operations(world.log)
    (here,) = await leases(world.catalog, gone=frozenset({"dead"})).operations(world.log)
    assert (there["outcome"], here["outcome"]) == ("running", "lost")


async def test_a_refused_operation_is_recorded(world: World) -> None:
    place, state = uuid4().hex, await world.catalog.log(world.log)
    facts: dict[str, Any] = {"kind": "restore", "actor": "bo", "reason": "why", "detail": {"a": 1}}
    begun = Begun(state=state, operation_id=uuid4().hex, started_us=1, sink=place, **facts)

    async def body() -> None:
        with pytest.raises(Conflict):
            async with Operations(
                world.catalog, world.clock, leases(world.catalog, "other")
            ).running(begun):
                pytest.fail("the place is taken")

    await held(world, Leases(world.catalog, holder="me"), body, sink=place)
    (failed,) = await world.catalog.operations(world.log)
    assert (failed["outcome"], failed["actor"], failed["reason"]) == ("failed", "bo", "why")
    assert failed["detail"]["error"] == "conflict"


# Retention --------------------------------------------------------------------------------------


class PausedSink:
    """Writes nothing before it is let go on."""

    def __init__(self) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self.rows: list[tuple[str, str]] = []

    async def write(self, state: RestorableState, *, progress: Progress) -> SinkReport:
        self.begun.set()
        await self.go.wait()
        for collection in state.counts:
            for found in await asyncio.to_thread(list, state.rows(collection)):
                keys, documents = (found[name].to_pylist() for name in ("key", "after"))
                self.rows += zip(keys, documents, strict=True)
        return SinkReport(rows={"shop.orders": len(self.rows)}, where="nowhere")


@asynccontextmanager
async def paused_restore(world: World, leases: Leases) -> AsyncIterator[PausedSink]:
    """A restore that has its lease and has read nothing yet; it ends with the block."""
    restorer = Restorer(
        *(world.catalog, world.archive, world.resolver, world.clock),
        leases=leases,
        new_id=lambda: uuid4().hex,
    )
    plan = await restorer.plan(RestoreRequest(log=world.log, target="latest"))
    sink, go, begun = PausedSink(), asyncio.Event(), asyncio.Event()
    real = world.archive.verified

    async def verified(refs: Any) -> Any:
        if not begun.is_set():
            begun.set()
            await go.wait()
        return await real(refs)

    world.archive.verified = verified  # type: ignore[method-assign]
    sink.go.set()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(restorer.restore(plan, sink))  # type: ignore[arg-type]
            async with asyncio.timeout(20):
                await begun.wait()
            yield sink
            go.set()
    finally:
        world.archive.verified = real  # type: ignore[method-assign]


async def history(world: World) -> None:
    """Segments worth merging."""
    for number in range(4):
        await world.append(
            batch([draft(n, f'{{"n":{number}}}') for n in range(6)], position_first=number * 6)
        )


async def test_a_paused_restore_ends_right_while_its_objects_are_replaced(world: World) -> None:
    """Field notes, row 15: deletion must not race a running restore."""
    kept_0 = World(
        world.catalog,
        world.store,
        world.clock,
        world.log,
        world.scratch,
        replace(world.limits, retired_kept_us=0),
    )
    await history(kept_0)
    before = (await kept_0.archive.view(kept_0.log)).objects
    async with paused_restore(kept_0, Leases(world.catalog, holder="me")) as sink:
        assert await world.compactor.compact(world.log, everything=True)
        world.clock.advance(1)
        assert await kept_0.compactor.expire(world.log) == []
    assert len(sink.rows) == 6
    assert {document for _, document in sink.rows} == {'{"n":3}'}
    (operation,) = await world.catalog.operations(world.log)
    assert operation["outcome"] == "done"
    gone = {each.name for each in await kept_0.compactor.expire(world.log)}
    assert {each.name for each in before} <= gone
    assert not {name for name, _ in await world.store.list("")} & {each.name for each in before}


async def test_two_restores_into_one_place_exclude_each_other(world: World) -> None:
    await history(world)
    restorer = Restorer(
        *(world.catalog, world.archive, world.resolver, world.clock),
        leases=Leases(world.catalog, holder="me"),
        new_id=lambda: uuid4().hex,
    )
    plan = await restorer.plan(RestoreRequest(log=world.log, target="latest", actor="ana"))
    here, there = ({"sink": {"kind": "files", "path": f"/{uuid4().hex}"}} for _ in range(2))
    first, second, third = PausedSink(), PausedSink(), PausedSink()
    for each in (second, third):
        each.go.set()
    async with asyncio.TaskGroup() as group:
        group.create_task(restorer.restore(plan, first, detail=here))  # type: ignore[arg-type]
        async with asyncio.timeout(20):
            await first.begun.wait()
        with pytest.raises(Conflict) as refused:
            await restorer.restore(plan, second, detail=here)  # type: ignore[arg-type]
        assert refused.value.facts["actor"] == "ana"
        await restorer.restore(plan, third, detail=there)  # type: ignore[arg-type]
        first.go.set()
    assert not second.begun.is_set()
    assert len(first.rows) == len(third.rows) == 6
    found = await world.catalog.operations(world.log)
    assert sorted(each["outcome"] for each in found) == ["done", "done", "failed"]
    await restorer.restore(plan, second, detail=here)  # type: ignore[arg-type]


async def test_a_restore_that_stood_still_too_long_says_so(world: World, tried: Tried) -> None:
    await history(world)
    with pytest.raises(BaseExceptionGroup) as raised:
        async with paused_restore(world, leases(tried)):
            tried.fails = Unavailable("cut off")
            await until_there_are(world, 0)
            assert await world.compactor.compact(world.log, everything=True)
            world.clock.advance(2_000)
            assert await world.compactor.expire(world.log)
            tried.fails = None
    (error,) = raised.value.exceptions
    assert isinstance(error, Conflict) and "has been expired" in str(error)
    (operation,) = await world.catalog.operations(world.log)
    assert (operation["outcome"], operation["detail"]["error"]) == ("failed", "conflict")
    assert "has been expired" in operation["detail"]["why"]


async def nothing() -> None:
    """A body that has nothing to do."""
