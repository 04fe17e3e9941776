"""Plans of restores: what one would read, find and do; and applying them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from pitr.domain.catalog import Catalog
from pitr.domain.columnar.halves import Halves
from pitr.domain.columnar.matching import members_of
from pitr.domain.errors import Conflict
from pitr.domain.estimate import Writing, done_of, estimate
from pitr.domain.log import LogView
from pitr.domain.outlook import Outline, Outlook
from pitr.domain.pgoutput.urls import split_password
from pitr.domain.plan_target import target_document
from pitr.domain.ports import Clock, Progress, RestorableState, Sink
from pitr.domain.restore_plan import (
    Asked,
    Into,
    PlannedRestore,
    check_same,
    does,
    gap_documents,
    table_notes,
)
from pitr.domain.rewind.scope import CutWithTorn
from pitr.domain.target import Resolution, Target, gaps_touched
from pitr.domain.times import rfc3339
from pitr.services.archive import Archive
from pitr.services.lease import Leases
from pitr.services.resolve import Resolver
from pitr.services.restore import (
    RestorePlan,
    Restorer,
    RestoreReport,
    RestoreRequest,
    asked_collections,
    check_gaps,
)

_TAKES_BACK: Final = ("replace", "swap")

OPERATIONS_LOOKED_AT: Final = 100
"""How many of the newest operations are asked for their speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRestore:
    """A planned restore whose rows are ready to be written. Reading them took ``read_us``."""

    plan: PlannedRestore
    reading: RestorePlan
    state: RestorableState
    sink: Sink
    into: Into
    restorer: Restorer
    read_us: int

    async def apply(self, *, progress: Progress = lambda _: None) -> RestoreReport:
        """Do what the plan says, or nothing.

        Raises:
            Conflict: A known gap was not accepted.
            DataLoss: An object is damaged; the place is as it was.
            SinkNotEmpty: The place holds something; it is as it was.
        """
        check_gaps(self.reading)
        detail = {
            "plan": self.plan.hash,
            "work": self.into.kind,
            "mode": self.into.mode,
            "sink": dict(self.plan.does["sink"]),
        }
        report = await self.restorer.restore(
            self.reading, self.sink, state=self.state, detail=detail, progress=progress
        )
        return replace(report, elapsed_us=report.elapsed_us + self.read_us)


class RestorePlanner:
    """Plans restores, and applies plans or refuses that."""

    def __init__(
        self,
        catalog: Catalog,
        archive: Archive,
        resolver: Resolver,
        restorer: Restorer,
        clock: Clock,
        *,
        leases: Leases,
        new_id: Callable[[], str],
    ) -> None:
        self._leases = leases
        self._new_id = new_id
        self._catalog = catalog
        self._archive = archive
        self._resolver = resolver
        self._restorer = restorer
        self._clock = clock

    @asynccontextmanager
    async def planned(
        self, request: RestoreRequest, into: Into, sink: Sink
    ) -> AsyncIterator[OpenedRestore]:
        """Plan a restore, and keep its rows ready; changes nothing.

        Raises:
            TargetBeyondWatermark: The target is ahead of what is captured.
            NotFound: A collection or the target does not exist.
            DataLoss: An object is missing or damaged.
            Unavailable: The place does not answer.
        """
        async with self._kept(request.log):
            view = await self._archive.view(request.log)
            found = await self._resolver.resolve(view, request.target)
            started_us = self._clock.now_us()  # what comes now is done again by who applies it
            reading = await self._restorer.planned(view, request, found)
            async with self._opened(reading, into, sink, started_us) as opened:
                yield opened

    @asynccontextmanager
    async def again(
        self,
        plan: PlannedRestore,
        into: Into,
        sink: Sink,
        *,
        actor: str | None = None,
        reason: str | None = None,
    ) -> AsyncIterator[OpenedRestore]:
        """Make the rows of a plan that was shown ready, if it still holds.

        Raises:
            Conflict: It does not hold any more; facts say what changed.
            DataLoss: An object is missing or damaged.
            Unavailable: The place does not answer.
        """
        asked, started_us = plan.asked, self._clock.now_us()
        request = RestoreRequest(
            log=asked.log,
            target=asked.target,
            collections=asked.collections,
            keys=asked.keys,
            where=asked.where,
            accept_gaps=asked.accept_gaps,
            actor=actor,
            reason=reason,
        )
        async with self._kept(asked.log):
            view = await self._archive.view(asked.log)
            check_log(view, asked)
            found = _resolved(view, asked, self._clock.now_us())
            reading = await self._restorer.planned(view, request, found)
            async with self._opened(reading, into, sink, started_us) as opened:
                check_same(plan.does, opened.plan.does)
                yield opened

    def _kept(self, log: str) -> AbstractAsyncContextManager[None]:
        """Let retention leave what is read, also while somebody makes up their mind."""
        return self._leases.reading(log, self._new_id(), kind="plan")

    @asynccontextmanager
    async def _opened(
        self, reading: RestorePlan, into: Into, sink: Sink, started_us: int
    ) -> AsyncIterator[OpenedRestore]:
        async with self._restorer.state(reading) as state:
            outlook = await sink.look(await _outline(state, into))
            read_us = self._clock.now_us() - started_us
            asked = _asked(reading)
            seen = _seen(reading, outlook) | {
                "into": named_again(into, outlook),
                "torn": await self._torn(reading, outlook),
            }
            if into.mode == "swap":
                seen["swap_id"] = into.swap_id
            writing = Writing(
                work=into.kind,
                mode=into.mode,
                row_count=sum(state.counts.values()),
                table_count=len(state.counts),
            )
            operations = await self._catalog.operations(asked.log, limit=OPERATIONS_LOOKED_AT)
            took = estimate(writing, read_s=read_us / 1e6, done=done_of(operations))
            plan = PlannedRestore.of(
                does(asked, into, outlook), seen | {"estimate": took.document()}
            )
            yield OpenedRestore(
                plan=plan,
                reading=reading,
                state=state,
                sink=sink,
                into=into,
                restorer=self._restorer,
                read_us=read_us,
            )

    async def _torn(self, reading: RestorePlan, outlook: Outlook) -> dict[str, Any]:
        """Look for transactions that only a part is taken back of, where others keep their rows."""
        asked = asked_collections(reading.request)
        halves = Halves()
        if asked is not None and any(each.action in _TAKES_BACK for each in outlook.tables):
            halves = await self._archive.halves(reading.view, reading.reads.cut, asked)
        return {"count": halves.count, "examples": list(halves.examples)}


async def _outline(state: RestorableState, into: Into) -> Outline:
    """Say what a state is without its rows; databases are told of members, too."""
    members: dict[str, frozenset[str]] = {}
    if into.kind == "postgres":
        members = {
            name: await asyncio.to_thread(members_of, state, name)
            for name, count in state.counts.items()
            if count and name not in state.schemas
        }
    return Outline(
        counts=state.counts,
        schemas=state.schemas,
        sequences=state.sequences,
        whole=state.whole,
        members=members,
    )


def _asked(reading: RestorePlan) -> Asked:
    request, resolution = reading.request, reading.resolution
    return Asked(
        log=request.log,
        log_id=reading.view.state.uid,
        target=request.target,
        kind=resolution.target.kind,
        cut=CutWithTorn.of(resolution),
        collections=request.collections,
        keys=request.keys,
        where=request.where,
        accept_gaps=request.accept_gaps,
    )


def _resolved(view: LogView, asked: Asked, now_us: int) -> Resolution:
    """The cut of a plan, with the gaps that are known by now."""
    kind: Any = asked.kind
    cut = asked.cut.cut
    return Resolution(
        target=Target(text=asked.target, kind=kind, at_us=asked.cut.at_us),
        position="exact",
        cut=cut,
        previous=None,
        next=None,
        watermark_us=view.watermark_us(now_us),
        gaps=gaps_touched(view.gaps, cut, after_change=kind == "seq"),
        torn=dict(asked.cut.torn),
    )


def check_log(view: LogView, asked: Asked) -> None:
    """Check that a plan is of this log, and that the log has not been cut since.

    Raises:
        Conflict: It is of another one, or the log ends before.
    """
    if view.state.uid != asked.log_id:
        raise Conflict(
            "the plan is of another log",
            hint="make it anew; --data and --log say which log it is",
            log=asked.log,
        )
    if view.state.seq_next < asked.cut.seq_end:
        raise Conflict(
            "the log ends before the moment of the plan",
            hint="make it anew",
            seq_next=view.state.seq_next,
            seq_end=asked.cut.seq_end,
        )


def _seen(reading: RestorePlan, outlook: Outlook) -> dict[str, Any]:
    reads, view, problems = reading.reads, reading.view, list(outlook.problems)
    gaps = gap_documents(reading.resolution.gaps)
    if gaps and not reading.request.accept_gaps:
        problems.insert(0, "the log has a known gap before the target; --accept-gaps accepts it")
    return {
        "target": target_document(reading.resolution),
        "where": outlook.where,
        "reads": {
            "base": [_object_document(ref) for ref in reads.base],
            "base_seq_end": reads.base_seq_end,
            "segments": [_object_document(ref) for ref in reads.segments],
            "tail": view.tail.num_rows if reads.tail else 0,
            "size_bytes": reads.size_bytes,
        },
        "gaps": gaps,
        "sequences": list(outlook.sequences),
        "problems": problems,
        "notes": table_notes(outlook),
    }


def _object_document(ref: Any) -> dict[str, Any]:
    return {
        "kind": ref.kind,
        "name": ref.name,
        "collection": ref.collection,
        "seq_first": ref.seq_first,
        "seq_end": ref.seq_end,
        "at_max": rfc3339(ref.at_max_us),
        "size_bytes": ref.size_bytes,
    }


def named_again(into: Into, outlook: Outlook) -> str:
    """The place as it can be named once more: without a password, a folder by its whole path."""
    if into.kind == "postgres":
        return split_password(into.place)[0]
    return outlook.where if into.kind == "files" else into.place
