"""What asyncio leaves to its users: pauses that end early, tasks that end for certain."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

Result = TypeVar("Result")

BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)


def backoff_s(failures: int) -> float:
    """How long to wait after a failure that came after ``failures`` others."""
    return BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]


async def pause(seconds: float, stop: asyncio.Event) -> None:
    """Sleep, but no longer than until ``stop``."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


async def in_thread(work: Callable[[], Result], *, interrupt: Callable[[], None]) -> Result:
    """Run in a thread; when cancelled, interrupt it and wait until it has ended.

    What the thread works on may be taken down after that.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))  # noqa: TID251 - ended below
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        interrupt()
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()
        raise


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run something beside the body: both are over at the end.

    Whichever fails first ends the other, and its error is raised.
    """
    try:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            yield
            await asyncio.wait([task])  # see ``Archive.verified``
    except BaseExceptionGroup as errors:
        raise single(errors) from errors


async def ended(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it is over, whatever it ends with."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()


def single(error: BaseException) -> BaseException:
    """Return the first error of a group, which may be of groups itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
