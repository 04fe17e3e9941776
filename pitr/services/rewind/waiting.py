"""Waits until the capture of a database has come as far as the database is."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from pitr.domain.catalog import Catalog
from pitr.domain.log import LaneState
from pitr.domain.pgoutput.notes import Notes
from pitr.domain.rewind.ports import RewindSink
from pitr.services.rewind.log import capturing

LOOK_S: Final = 0.002
LOOK_MAX_S: Final = 0.01
NUDGE_S: Final = 2.0
"""How soon the catalog is looked at again, at first and later, and how often the database is
written a message."""


async def awaited(catalog: Catalog, log: str, sink: RewindSink, *, wait_us: int) -> list[str]:
    """Wait for the lanes that capture a database; return notes on those that lag behind.

    What they have not brought yet looks like a change by somebody of whom the log knows nothing.

    Raises:
        Unavailable: The database or the catalog does not answer.
    """
    if not await catalog.sources(log):
        return []
    place, lsn = await sink.position()
    if lsn is None:
        return []
    notes = []
    for lane, noted in await capturing(catalog, log, place):
        name = lane.lane
        if not noted.copy.tables:
            continue
        if not lane.owner:
            notes.append(f"nobody follows {name}, so the log may not have the newest changes")
        elif _stands(lane) < lsn and not await _reached(catalog, log, name, sink, lsn, wait_us):
            notes.append(
                f"{name} is behind the database: what it has not brought yet looks like a conflict"
            )
    return notes


async def _reached(
    catalog: Catalog, log: str, name: str, sink: RewindSink, lsn: int, wait_us: int
) -> bool:
    pause_s, waited_s = LOOK_S, 0.0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_us / 1e6):
            while True:
                await asyncio.sleep(pause_s)
                waited_s, pause_s = waited_s + pause_s, min(pause_s * 2, LOOK_MAX_S)
                _, lane = await catalog.head(log, name)
                if _stands(lane) >= lsn:
                    return True
                if waited_s >= NUDGE_S:
                    waited_s = 0.0
                    await sink.position()
    return False


def _stands(lane: LaneState | None) -> int:
    return -1 if lane is None else Notes.of_json(lane.state).lsn or -1
