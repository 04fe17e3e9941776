"""Detaches a database: takes away what attaching made there; what was captured stays.

First the catalog says that nobody may follow it any more: a follower that finds its slot gone would
make it again. If this breaks off, the same request again completes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, replace

from pitr.domain.catalog import Catalog
from pitr.domain.errors import Conflict, NotFound, PitrError
from pitr.domain.log import LaneState, Source
from pitr.domain.pgoutput.attach_ports import Attachable, Connect
from pitr.domain.pgoutput.attach_request import DETACHING, names_in
from pitr.domain.pgoutput.attach_results import Detached, Left
from pitr.domain.pgoutput.attach_undo import shares_database, undo_statements
from pitr.domain.pgoutput.urls import with_password
from pitr.domain.ports import Clock
from pitr.services.lanes import LaneKeeper

QUIET_S = 3.0
"""A follower reports every second: nobody follows a lane of which nothing was heard so long."""

QUIET_MAX_S = 30.0
FRESH_US = 60_000_000
"""Whoever reported no later than so long ago may be there still; clocks may differ a little."""

LOOK_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachReport:
    """What was done. ``unreached`` is why the database was left as it is, None if it was not."""

    source: Source
    removed: tuple[str, ...] = ()
    left: tuple[Left, ...] = ()
    unreached: str | None = None


class Detacher:
    """Detaches databases; ``password`` is for URLs, which have none."""

    def __init__(
        self,
        catalog: Catalog,
        lanes: LaneKeeper,
        clock: Clock,
        *,
        connect: Connect,
        password: str | None,
    ) -> None:
        self._catalog = catalog
        self._lanes = lanes
        self._clock = clock
        self._connect = connect
        self._password = password

    async def detach(self, log: str, name: str, *, force: bool = False) -> DetachReport:
        """Detach a database, and release its lane.

        Args:
            force: Detach it also if the database cannot be asked, and end what streams from it.

        Raises:
            NotFound: None is attached under that name.
            Conflict: Somebody uses the slot; nothing was changed.
            Unavailable: It does not answer, or somebody holds a lock there.
        """
        found = await self._catalog.sources(log)
        source = next((source for source in found if source.name == name), None)
        if source is None:
            raise NotFound(
                "no database is attached under that name",
                hint="pitr sources lists them",
                name=name,
                log=log,
            )
        try:
            report = await self._take_away(log, source, force=force)
        except PitrError as error:
            if not force:
                raise _with_way_out(error, name) from error
            await self._end_following(log, source)
            report = await self._given_up(log, source, str(error))
        await self._catalog.remove_source(log, name)
        with contextlib.suppress(NotFound):  # nobody has followed it yet
            await self._lanes.release(log, source.lane)
        return report

    async def _take_away(self, log: str, source: Source, *, force: bool) -> DetachReport:
        url = with_password(source.url, self._password)
        async with self._connect(url) as database:
            await self._end_following(log, source)
            try:
                done = await self._detached(database, source, force=force)
            except Conflict:  # of the slot, before anything was taken away
                await self._catalog.change_source(log, source)
                raise
        return DetachReport(source=source, removed=tuple(done.removed), left=tuple(done.left))

    async def _detached(self, database: Attachable, source: Source, *, force: bool) -> Detached:
        try:
            return await database.detach(names_in(source), terminate=False)
        except Conflict:
            if not force:
                raise
            return await database.detach(names_in(source), terminate=True)

    async def _given_up(self, log: str, source: Source, reason: str) -> DetachReport:
        others = [
            other
            for each in await self._catalog.logs()
            for other in await self._catalog.sources(each.name)
            if (each.name, other.name) != (log, source.name)
        ]
        statements = undo_statements(source, shared=shares_database(source, others))
        left = Left(what="what attaching made in the database", why=reason, statements=statements)
        return DetachReport(source=source, left=(left,), unreached=reason)

    async def _end_following(self, log: str, source: Source) -> None:
        """Let nobody follow it any more, and wait until nobody does."""
        ending = replace(source, options={**source.options, DETACHING: True})
        await self._catalog.change_source(log, ending)
        lane = await self._lane(log, source.lane)
        if lane is None or lane.owner is None:
            return
        if lane.seen_us is not None and self._clock.now_us() - lane.seen_us > FRESH_US:
            return
        seen_us, began_s = lane.seen_us, time.monotonic()
        quiet_since_s = began_s
        while time.monotonic() < min(quiet_since_s + QUIET_S, began_s + QUIET_MAX_S):
            await asyncio.sleep(LOOK_S)
            lane = await self._lane(log, source.lane)
            if lane is not None and lane.seen_us not in (None, seen_us):
                seen_us, quiet_since_s = lane.seen_us, time.monotonic()

    async def _lane(self, log: str, name: str) -> LaneState | None:
        found = await self._catalog.lanes(log, prefix=name)
        return next((lane for lane in found if lane.lane == name), None)


def _with_way_out(error: PitrError, name: str) -> PitrError:
    """The error, with what can be done about it here."""
    way = (
        f"then pitr detach {name} again; with --force it is detached all the same, and what stays"
        " in the database is named"
    )
    hint = f"{error.hint}; {way}" if error.hint else f"see to that, {way}"
    return type(error)(error.message, hint=hint, **error.facts)
