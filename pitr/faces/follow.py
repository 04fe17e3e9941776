"""Follows attached databases beside whatever else a process does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from pitr.app import App
from pitr.domain.errors import PitrError
from pitr.domain.log import Source
from pitr.domain.pgoutput.attach_request import is_detaching
from pitr.services.follow import Follower
from pitr.services.tasks import pause

LOOK_EVERY_S = 2.0
"""How often it is seen whether databases were attached or detached."""

STOP_S = 10.0
"""Longest wait for a follower to end in order; one that is cut off goes on where it was."""


async def attached(app: App) -> list[tuple[str, Source]]:
    """Return the databases that are to be followed, of every log, with the log's name."""
    return [
        (log.name, source)
        for log in await app.catalog.logs()
        for source in await app.catalog.sources(log.name)
        if not is_detaching(source)
    ]


@contextlib.asynccontextmanager
async def following(app: App, forced: asyncio.Event | None = None) -> AsyncIterator[None]:
    """Follow every database that is attached to any log, meanwhile; ``forced`` waits for none."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_Followers(app, group, forced or asyncio.Event()).keep(stop))
        try:
            yield
        finally:
            stop.set()


class _Followers:
    """One follower for each attached database, as long as it is attached."""

    def __init__(self, app: App, group: asyncio.TaskGroup, forced: asyncio.Event) -> None:
        self._app = app
        self._group = group
        self._forced = forced
        self._stops: dict[tuple[str, str, int], asyncio.Event] = {}
        self._logger = structlog.get_logger("pitr.follow")

    async def keep(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._look()
            except PitrError as error:
                self._logger.warning("sources_unknown", error=str(error))
            await pause(LOOK_EVERY_S, stop)
        for each in self._stops.values():
            each.set()

    async def _look(self) -> None:
        found = await attached(self._app)
        wanted = {(log, source.name, source.created_us): source for log, source in found}
        for key in [key for key in self._stops if key not in wanted]:
            self._stops.pop(key).set()
        for key, source in wanted.items():
            if key not in self._stops:
                follower = await self._app.follower(key[0], source)
                stop = self._stops[key] = asyncio.Event()
                self._group.create_task(self._follow(key[0], source, follower, stop))

    async def _follow(
        self, log: str, source: Source, follower: Follower, stop: asyncio.Event
    ) -> None:
        followers, name = self._app.followers, f"{log}/{source.lane}"
        followers[name] = follower
        try:
            async with asyncio.TaskGroup() as group:
                running = group.create_task(follower.run(stop))
                await stop.wait()
                cut_short = group.create_task(self._forced.wait())
                ends = (running, cut_short)
                await asyncio.wait(ends, timeout=STOP_S, return_when=asyncio.FIRST_COMPLETED)
                running.cancel()
                cut_short.cancel()
        finally:
            if followers.get(name) is follower:
                del followers[name]
