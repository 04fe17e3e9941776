"""A task that is being cancelled ends so, whatever fails at the same moment."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from pitr.domain.errors import DataLoss, Unavailable
from pitr.services.follow import _run_all
from tests.changes import batch, draft
from tests.services.world import World


async def fails() -> None:
    raise Unavailable("the catalog is away")


async def ends_slowly(ending: asyncio.Event, go: asyncio.Event) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        ending.set()
        await go.wait()


async def test_a_cancellation_beside_an_error_is_not_lost() -> None:
    """The group is about to end for the error when its task is cancelled."""
    ending, go = asyncio.Event(), asyncio.Event()
    parts = (ends_slowly(ending, go), fails())
    running = asyncio.create_task(_run_all(asyncio.Event(), *parts))
    await ending.wait()
    running.cancel()
    go.set()
    await asyncio.wait([running])
    assert running.cancelled()


async def test_an_error_alone_stays_itself() -> None:
    ending, go = asyncio.Event(), asyncio.Event()
    go.set()
    with pytest.raises(Unavailable):
        await _run_all(asyncio.Event(), ends_slowly(ending, go), fails())


async def test_an_object_that_is_away_leaves_no_mark_of_a_cancellation(world: World) -> None:
    """Adapters take errors of a task that is marked so for what it is cancelled by."""
    await world.append(batch([draft(1, '{"v":1}')]))
    await world.sealer.seal(world.log, force=True)
    view = await world.archive.view(world.log)
    missing = [replace(ref, name=f"{ref.name}-gone") for ref in view.segments]
    with pytest.raises(DataLoss):
        await world.archive.verified(missing)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
