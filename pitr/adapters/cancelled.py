"""A task that is being cancelled ends so, whatever a driver makes of it."""

from __future__ import annotations

import asyncio


def check_cancelled(error: BaseException) -> None:
    """Raise the cancellation that an error took the place of, if the task is being cancelled.

    asyncpg ends a transaction on the way out; where that fails, its own error comes instead of the
    cancellation, and whoever tries again after errors would never end.

    Raises:
        CancelledError: The task is being cancelled.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError from error
