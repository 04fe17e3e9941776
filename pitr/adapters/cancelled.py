"""A task that is being cancelled ends so, whatever a driver makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from pitr.domain.errors import PitrError


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


@contextmanager
def cancelled_first() -> Iterator[None]:
    """Have ``check_cancelled`` look at whatever error of a driver leaves the block.

    It need not be one that asyncpg means to raise: its pool may meet a connection half taken down.
    What pitr itself found out stays: why a restore failed is more than that it was cut off.
    """
    try:
        yield
    except PitrError:
        raise
    except Exception as error:
        check_cancelled(error)
        raise
