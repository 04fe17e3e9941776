"""Follows an attached database: every committed change into the log, once and in order.

The stream of its slot is read, decoded and stored by three tasks with bounded queues between them;
a fourth reads tables that are to be copied. Whatever goes wrong, all begin again from where the
lane's notes in the catalog say it stands: they are stored with the changes (invariants 1 to 3).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace

import structlog

from pitr.domain.catalog import Catalog
from pitr.domain.columnar.rows import changes_of
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.errors import LaneTaken, PitrError, PositionConflict
from pitr.domain.limits import Limits
from pitr.domain.log import Source
from pitr.domain.pgoutput.copying import CopyState
from pitr.domain.pgoutput.lost import SlotLost
from pitr.domain.pgoutput.notes import Notes
from pitr.domain.pgoutput.ports import Cluster, Database
from pitr.domain.pgoutput.schema import TableSchema, schema_from_body
from pitr.domain.pgoutput.schema_log import SCHEMAS, emptied, emptying
from pitr.domain.pgoutput.sequence_log import SEQUENCES, sample_of_body
from pitr.domain.pgoutput.standing import standing_problem
from pitr.domain.pgoutput.turns import Turns
from pitr.domain.ports import Clock
from pitr.domain.target import Cut
from pitr.services.append import Appender
from pitr.services.archive import Archive
from pitr.services.follow_copy import TableCopier
from pitr.services.follow_log import LaneLog
from pitr.services.follow_read import Sample, StreamReader
from pitr.services.follow_report import FollowReports
from pitr.services.follow_state import Following
from pitr.services.follow_store import StreamStore
from pitr.services.tasks import backoff_s, pause, single

TAKEN_CHECK_S = 1.0
HALTED_RETRY_S = 30.0
OTHER = "another process follows it"


class _Halted(Exception):
    """The lane cannot go on until a person has decided; the text says what to do."""


class Follower:
    """Follows one database. ``run`` it once."""

    def __init__(
        self,
        catalog: Catalog,
        appender: Appender,
        archive: Archive,
        database: Database,
        clock: Clock,
        *,
        log: str,
        source: Source,
        owner: str,
        limits: Limits,
        is_gone: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._catalog = catalog
        self._appender = appender
        self._archive = archive
        self._database = database
        self._clock = clock
        self._log = log
        self._source = source
        self._owner = owner
        self._limits = limits
        self._turns = Turns(owner, is_gone)
        self._logger = structlog.get_logger("pitr.follow").bind(log=log, lane=source.lane)
        self.following = Following(lane=source.lane)
        self.waits = False
        """Whether another process follows it, and this one is there in case that ends."""
        self._lane = LaneLog(self.following, catalog, appender, clock, log=log, owner=owner)

    @property
    def problem(self) -> str | None:
        """Why nothing is captured just now, or soon will not be; None while all is well."""
        return self.following.problem or self.following.warning

    async def run(self, stop: asyncio.Event) -> None:
        """Follow until ``stop``; what is under way then is stored by the next one.

        Cut off, it leaves the lane as ``kill -9`` would.
        """
        reports = FollowReports(
            self.following,
            self._catalog,
            self._database,
            self._clock,
            log=self._log,
            owner=self._owner,
            limits=self._limits,
        )
        try:
            async with asyncio.TaskGroup() as group:
                reporting = group.create_task(reports.run())
                while not stop.is_set():
                    await self._attempt(stop)
                reporting.cancel()
            with contextlib.suppress(PitrError):  # else another waits until we are silent
                await self._catalog.leave(self._log, self._owner, self._source.lane)
        finally:
            await self._database.close()

    async def _attempt(self, stop: asyncio.Event) -> None:
        following = self.following
        try:
            self.waits = not await self._may_take()
            if self.waits:
                following.claimed = False
                self._say("another_follows", OTHER)
                await pause(TAKEN_CHECK_S, stop)
                return
            await self._follow(stop)
        except LaneTaken as error:
            self._logger.warning("lane_taken", error=str(error))
            following.claimed = False
            await pause(backoff_s(0), stop)
        except _Halted as error:
            self._say("lane_halted", str(error))
            await pause(HALTED_RETRY_S, stop)
        except SlotLost as error:
            self._say("slot_lost", str(error))
            await self._note_loss(str(error))
        except (PitrError, OSError) as error:
            if not isinstance(error, PositionConflict):
                following.problem = str(error)
            self._logger.warning(
                "begins_again", error=str(error), hint=getattr(error, "hint", None)
            )
            await pause(backoff_s(following.failures), stop)
            following.failures += 1

    async def _may_take(self) -> bool:
        """Tell whether nobody else follows it just now."""
        lane = self._source.lane
        found = await self._catalog.lanes(self._log, prefix=lane)
        return self._turns.may_take(
            next((each for each in found if each.lane == lane), None),
            now_us=self._clock.now_us(),
            passed_us=time.monotonic_ns() // 1_000,
        )

    async def _note_loss(self, reason: str) -> None:
        """Remember that the source has lost something, whatever it says the next time."""
        with contextlib.suppress(PitrError):  # then it is found again
            notes = replace(self.following.notes, lost=reason)
            await self._lane.append(DRAFT_SCHEMA.empty_table(), notes=notes)
            self.following.problem = reason

    def _say(self, event: str, problem: str) -> None:
        if self.following.problem != problem:
            self._logger.error(event, reason=problem)
        self.following.problem = problem

    async def _follow(self, stop: asyncio.Event) -> None:
        """Claim the lane, see that the source is the one that was captured, and follow it."""
        following = self.following
        await self._claim()
        schemas, sample = await self._known()
        if (problem := await self._standing()) is not None:
            await self._anchor(problem, schemas)
            schemas = {}
        assert following.notes.lsn is not None, "it stands somewhere"
        async with self._database.stream(following.notes.lsn) as stream:
            reader = StreamReader(
                following.notes,
                stream,
                self._database,
                schemas=schemas,
                sample=sample,
                limits=self._limits,
            )
            copier = TableCopier(
                following, self._database, schemas=schemas.values(), look=reader.look_soon
            )
            store = StreamStore(following, self._lane, stream, copier, reader.decoded)
            reading = (reader.read(), reader.watch(), reader.decode())
            await _run_all(stop, *reading, store.run(), copier.run())

    async def _claim(self) -> None:
        now_us = self._clock.now_us()
        lane = self._source.lane
        claimed = await self._catalog.claim(self._log, self._owner, {lane: 0}, recorded_us=now_us)
        state = claimed[lane]
        if "replaced_by" in state.state:
            raise _Halted("the lane was ended: attach the database under another name")
        notes = Notes.of_json(state.state)
        self.following.begin(position=state.position, at_us=state.at_us, notes=notes)

    async def _known(self) -> tuple[dict[int, TableSchema], Sample]:
        """Return what the log says of the source's tables, by relid, and of its sequences."""
        view = await self._archive.view(self._log)
        cut, own = Cut(seq_end=view.state.seq_next), frozenset((SCHEMAS, SEQUENCES))
        reads = self._archive.reads(view, cut, collections=own)
        bodies: dict[str, list[bytes]] = {}
        async with self._archive.state(view, reads, collections=own) as state:
            for collection in own & state.counts.keys():
                bodies[collection] = [
                    change.after
                    for batch in state.rows(collection)
                    for change in changes_of(batch)
                    if change.lane == self._source.lane and change.after is not None
                ]
        schemas = map(schema_from_body, bodies.get(SCHEMAS, ()))
        samples = [sample_of_body(body) for body in bodies.get(SEQUENCES, ())]
        return {schema.relid: schema for schema in schemas}, samples[-1] if samples else ()

    async def _standing(self) -> str | None:
        """Return why the source cannot go on where the log stands, None if it can."""
        following, notes = self.following, self.following.notes
        cluster, slot = await self._database.cluster(), await self._database.slot()
        if notes.system is not None and notes.system != cluster.system:
            raise _Halted(
                f"this is another database cluster ({cluster.system}) than the one that was"
                f" captured ({notes.system}): detach, and attach it under another name"
            )
        problem = standing_problem(notes, cluster, slot)
        if problem is None:
            lsn = notes.lsn
            if lsn is None:
                assert slot is not None, "its absence is a problem"
                lsn = slot.confirmed_flush_lsn
            following.notes = _now_in(replace(notes, lsn=lsn), cluster)
        return problem

    async def _anchor(self, problem: str, schemas: Mapping[int, TableSchema]) -> None:
        """Go on after a loss: a gap, a slot made anew, and every table read again (invariant 7)."""
        following = self.following
        since_us = following.at_us if following.position else None
        await self._lane.open_gap(problem, collection=None, at_us=since_us)
        described = {schema.collection for schema in schemas.values()}
        others = {table.collection for table in following.notes.copy.tables} - described
        if others:
            rows = emptying(sorted(others), commit_us=None)
            await self._lane.append(rows, notes=following.notes)
        lsn = await self._database.make_slot()
        cluster = await self._database.cluster()
        notes = replace(following.notes, lsn=lsn, open=None, copy=CopyState(), lost=None)
        await self._lane.append(emptied(schemas.values()), notes=_now_in(notes, cluster))


def _now_in(notes: Notes, cluster: Cluster) -> Notes:
    return replace(notes, system=cluster.system, timeline=cluster.timeline)


async def _run_all(stop: asyncio.Event, *parts: Coroutine[None, None, None]) -> None:
    """Run all parts until one fails, or ``stop``.

    A task group of Python 3.11 that is cancelled while it ends for an error raises that error
    alone; whoever tries again after errors would never end.

    Raises:
        The first error of any of them.
        CancelledError: It is cancelled, whatever failed at the same moment.
    """
    task = asyncio.current_task()
    assert task is not None, "it runs in a task"
    cancels = task.cancelling()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(part) for part in parts]
            await stop.wait()
            for each in tasks:
                each.cancel()
    except BaseExceptionGroup as failures:
        if task.cancelling() > cancels:
            raise asyncio.CancelledError from failures
        raise single(failures) from failures
