"""The scheduled work of every process that runs for long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from pitr.app import App

SEAL_EVERY_S = 1
TIDY_EVERY_S = 30
REVIVE_EVERY_S = 5
JOB_WAIT_S = 60
"""How long a scheduled job may go on after the signal to end."""


@contextlib.asynccontextmanager
async def upkeep(app: App, forced: asyncio.Event) -> AsyncIterator[None]:
    """Seal and tidy by the clock; at the end let a running job finish, unless ``forced``."""
    scheduler = AsyncIOScheduler(timezone=UTC)
    jobs = _Jobs()
    now = datetime.fromtimestamp(app.clock.now_us() / 1e6, UTC)
    for work, every_s in (
        (app.maintenance.seal, SEAL_EVERY_S),
        (app.maintenance.tidy, TIDY_EVERY_S),
        (app.revive_catalog, REVIVE_EVERY_S),
    ):
        scheduler.add_job(
            jobs.run,
            "interval",
            args=[work],
            seconds=every_s,
            next_run_time=now,
            max_instances=1,
            coalesce=True,
            misfire_grace_time=None,
        )
    scheduler.start()
    try:
        yield
    finally:
        scheduler.pause()
        await jobs.finish(forced)
        scheduler.shutdown(wait=False)
        await asyncio.sleep(0)  # the scheduler takes itself down in the loop's next turn


class _Jobs:
    """The scheduled jobs that run just now."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[object]] = set()

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Run a job, known while it runs."""
        task = asyncio.current_task()
        assert task is not None, "the scheduler runs jobs as tasks"
        self._running.add(task)
        try:
            await work()
        finally:
            self._running.discard(task)

    async def finish(self, forced: asyncio.Event) -> None:
        """Wait for running jobs, within the bound and unless forced; then stop them.

        A job may stop anywhere: each of its steps is durable before the next one begins.
        """
        if not self._running:
            return
        async with asyncio.TaskGroup() as group:
            cut_short = group.create_task(forced.wait())
            waiting = group.create_task(asyncio.wait(set(self._running), timeout=JOB_WAIT_S))
            await asyncio.wait((cut_short, waiting), return_when=asyncio.FIRST_COMPLETED)
            cut_short.cancel()
            waiting.cancel()
        left = set(self._running)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
