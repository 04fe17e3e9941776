"""Follows attached databases beside whatever else a process does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from pitr.app import App
from pitr.domain.errors import PitrError
from pitr.domain.log import Source
from pitr.services.tasks import pause

LOOK_EVERY_S = 5.0
"""How often it is seen whether databases were attached or detached."""


@contextlib.asynccontextmanager
async def following(app: App) -> AsyncIterator[None]:
    """Follow every database that is attached to any log, meanwhile."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_Followers(app, group).keep(stop))
        try:
            yield
        finally:
            stop.set()


class _Followers:
    """One follower for each attached database, as long as it is attached."""

    def __init__(self, app: App, group: asyncio.TaskGroup) -> None:
        self._app = app
        self._group = group
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
        wanted = {
            (log.name, source.name, source.created_us): source
            for log in await self._app.catalog.logs()
            for source in await self._app.catalog.sources(log.name)
        }
        for key in [key for key in self._stops if key not in wanted]:
            self._stops.pop(key).set()
        for key, source in wanted.items():
            if key not in self._stops:
                stop = self._stops[key] = asyncio.Event()
                self._group.create_task(self._follow(key[0], source, stop))

    async def _follow(self, log: str, source: Source, stop: asyncio.Event) -> None:
        follower = await self._app.follower(log, source)
        try:
            await follower.run(stop)
        finally:
            self._app.followers.remove(follower)
