"""Watches how far the first reading of attached databases is, for who draws it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

from pitr.app import App
from pitr.domain.errors import PitrError
from pitr.domain.log import POSTGRES_PREFIX, LaneState, Source
from pitr.domain.pgoutput.progress import CopyProgress, progress_of
from pitr.faces.follow import attached

LOOK_EVERY_S = 0.5

Show = Callable[[Mapping[str, CopyProgress]], None]


async def lanes_of(app: App, log: str) -> list[tuple[Source, LaneState | None]]:
    """Return the databases that are attached to a log, each with its lane, None if not followed."""
    found = await app.catalog.sources(log)
    lanes = {lane.lane: lane for lane in await app.catalog.lanes(log, prefix=POSTGRES_PREFIX)}
    return [(source, lanes.get(source.lane)) for source in found]


@contextlib.asynccontextmanager
async def reading_shown(app: App, show: Show) -> AsyncIterator[None]:
    """Show it meanwhile, of all logs."""
    async with asyncio.TaskGroup() as group:
        showing = group.create_task(_show_on(app, show))
        try:
            yield
        finally:
            showing.cancel()


async def _show_on(app: App, show: Show) -> None:
    while True:
        with contextlib.suppress(PitrError):  # the log of events says it
            logs = {log for log, _ in await attached(app)}
            pairs = [(log, pair) for log in sorted(logs) for pair in await lanes_of(app, log)]
            one = len(logs) == 1
            show(
                {
                    source.name if one else f"{log}/{source.name}": progress_of(lane)
                    for log, (source, lane) in pairs
                }
            )
        await asyncio.sleep(LOOK_EVERY_S)
