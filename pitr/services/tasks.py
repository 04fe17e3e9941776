"""What asyncio leaves to its users: pauses that end early, tasks that end for certain."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any


async def pause(seconds: float, stop: asyncio.Event) -> None:
    """Sleep, but no longer than until ``stop``."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


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
