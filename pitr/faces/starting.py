"""The start of processes that run for long: what is away is waited for, and said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import structlog

from pitr.app import App, open_app
from pitr.domain.errors import Unavailable
from pitr.services.tasks import backoff_s, pause
from pitr.settings import Settings

SAID_MAX = 5
"""How often the same is said; then it is known."""

Result = TypeVar("Result")


async def patiently(
    start: Callable[[], Awaitable[Result]], settings: Settings, stop: asyncio.Event
) -> Result:
    """Do a part of the start, again and again while catalog or store is away.

    A PostgreSQL of our own is not waited for: it runs when it was started, or cannot.

    Raises:
        Unavailable: Our own PostgreSQL does not run, or ``stop`` was set while we waited.
    """
    logger = structlog.get_logger("pitr.start")
    attempt = 0
    while True:
        try:
            return await start()
        except Unavailable as error:
            if settings.catalog_url is None or stop.is_set():
                raise
            if attempt < SAID_MAX:
                logger.warning("start_waits", error=str(error), hint="check PITR_CATALOG_URL")
            await pause(backoff_s(attempt), stop)
            attempt += 1


@asynccontextmanager
async def opened(settings: Settings, stop: asyncio.Event) -> AsyncIterator[App]:
    """Like ``open_app``, patiently."""
    async with AsyncExitStack() as stack:
        yield await patiently(lambda: stack.enter_async_context(open_app(settings)), settings, stop)
