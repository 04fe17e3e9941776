"""Rewinds and their undoing: plan, apply, record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pitr.domain.catalog import Catalog
from pitr.domain.errors import Conflict, PitrError
from pitr.domain.limits import Limits
from pitr.domain.ports import Clock
from pitr.domain.rewind.columns import ColumnRules
from pitr.domain.rewind.plan import RewindPlan, check_same, does, reason_of
from pitr.domain.rewind.ports import Committing, RewindSink, Rewound, Says
from pitr.domain.rewind.scope import CutWithTorn
from pitr.domain.rewind.sight import OnConflict, Sight
from pitr.services.append import Appender
from pitr.services.archive import Archive
from pitr.services.lease import Leases
from pitr.services.operations import Operations
from pitr.services.resolve import Resolver
from pitr.services.rewind.aftermath import Aftermath, noted
from pitr.services.rewind.asked import check_request
from pitr.services.rewind.difference import DifferenceReader, Differing
from pitr.services.rewind.log import RewindLog, captured_by
from pitr.services.rewind.overtaken import put_right
from pitr.services.rewind.planner import Planner, Ready
from pitr.services.rewind.record import Run, begun, marked, rewound_document, told_document
from pitr.services.rewind.requests import (
    WAIT_US,
    Asked,
    RevertRequest,
    RewindRequest,
    UndoRequest,
)
from pitr.services.rewind.waiting import awaited
from pitr.services.tasks import beside


@dataclass(frozen=True, slots=True, kw_only=True)
class RewindReport:
    """A rewind as it ran. ``mark`` is the moment before it.

    ``lanes`` bring its changes into the log, by collection; ``appended`` of them were put there by
    the rewind itself.
    """

    operation_id: str
    plan: RewindPlan
    mark: str
    rewound: Rewound
    lanes: Mapping[str, str]
    appended: int
    elapsed_us: int
    notes: Sequence[str] = ()

    @property
    def row_count(self) -> int:
        """Rows written."""
        return sum(each.count for each in self.rewound.written.values())


class Applying(Protocol):
    """Does what a plan says, as ``Rewinder.apply``."""

    def __call__(
        self,
        plan: RewindPlan,
        *,
        on_conflict: OnConflict = "refuse",
        actor: str | None = None,
        reason: str | None = None,
    ) -> Awaitable[RewindReport]:
        """Do it."""
        ...


@dataclass(frozen=True, slots=True)
class PlannedRewind:
    """A plan, and how it is applied: to ``apply`` may be given more of what a plan has seen."""

    plan: RewindPlan
    apply: Applying


class Rewinder:
    """Takes rows of a live database back to a moment, completely or not at all (invariant 12)."""

    def __init__(
        self,
        catalog: Catalog,
        archive: Archive,
        resolver: Resolver,
        clock: Clock,
        *,
        appender: Callable[[str], Awaitable[Appender]],
        leases: Leases,
        new_id: Callable[[], str],
        limits: Limits,
    ) -> None:
        self._planner = Planner(catalog, archive, resolver, clock, limits=limits)
        self._leases = leases
        self._operations = Operations(catalog, clock, leases)
        self._aftermath = Aftermath(catalog, leases)
        self._catalog = catalog
        self._archive = archive
        self._resolver = resolver
        self._clock = clock
        self._appender = appender
        self._new_id = new_id
        self._limits = limits
        self._reader = DifferenceReader(archive, limits=limits)

    # Planning -----------------------------------------------------------------------------------

    async def plan(self, request: RewindRequest, sink: RewindSink) -> RewindPlan:
        """Find what a rewind would do; changes nothing.

        Raises:
            TargetBeyondWatermark: The target is ahead of what is captured.
            Conflict: A known gap touches what would be taken back, and it was not accepted.
            NotFound: A collection or the target does not exist.
            InvalidRequest: Rows have no key, or columns exist on one side only.
        """
        return await self._plan(request, sink)

    async def plan_undo(
        self,
        log: str,
        operation_id: str,
        sink: RewindSink,
        *,
        rules: ColumnRules | None = None,
        wait_us: int = WAIT_US,
    ) -> RewindPlan:
        """Find what it takes to undo a rewind: its rows, and no others, as they were before it.

        Rows that changed after it are conflicts.

        Raises:
            NotFound: There is no such rewind.
            Conflict: It did not end well, or the log does not have all of its changes yet.
        """
        request = UndoRequest(
            log=log, operation_id=operation_id, rules=rules or ColumnRules(), wait_us=wait_us
        )
        return await self._plan(request, sink)

    async def plan_revert(
        self,
        log: str,
        tx: str,
        sink: RewindSink,
        *,
        rules: ColumnRules | None = None,
        accept_gaps: bool = False,
        wait_us: int = WAIT_US,
    ) -> RewindPlan:
        """Find what it takes to undo one transaction of the app, and nothing else.

        Its rows go back to what they would be without it; rows that changed after it are conflicts.

        Raises:
            NotFound: There is no such transaction.
            Conflict: Several have this id; or the log does not have the whole of it; or others
                changed its rows before it ended; or a known gap touches it.
            InvalidRequest: Rows have no key, or columns exist on one side only.
        """
        request = RevertRequest(
            log=log, tx=tx, rules=rules or ColumnRules(), accept_gaps=accept_gaps, wait_us=wait_us
        )
        return await self._plan(request, sink)

    async def _plan(self, request: Asked, sink: RewindSink) -> RewindPlan:
        check_request(request)
        async with self._reading(request.log):
            notes = await self._ready(request.log, sink, request.wait_us)
            return noted(await self._planner.plan(request, sink), notes)

    @asynccontextmanager
    async def planned(
        self, request: Asked, sink: RewindSink, *, at_once: bool
    ) -> AsyncIterator[PlannedRewind]:
        """Plan, to apply it while this is open.

        Args:
            at_once: Nobody is asked in between. Then the tables are locked from the first look at
                them on, and what was looked at is done: no other look is needed. Otherwise nothing
                is locked, and to apply it is to check all of it again.

        Raises:
            PitrError: As ``plan``, ``plan_undo`` and ``plan_revert``; with ``at_once`` also what
                stands in the way of locking the tables.
        """
        async with sink.kept(), AsyncExitStack() as hold:
            if not at_once:
                plan = await self._plan(request, sink)
                yield PlannedRewind(plan, partial(self.apply, sink=sink))
                return
            check_request(request)
            waited: list[str] = []

            async def wait() -> None:
                waited.extend(
                    await awaited(self._catalog, request.log, sink, wait_us=request.wait_us)
                )

            async with beside(wait()):
                await hold.enter_async_context(self._reading(request.log))
                notes = await self._aftermath.settle(request.log, sink)
            ready = await self._planner.ready(request, sink, hold)
            plan = noted(ready.plan, [*notes, *waited])
            yield PlannedRewind(plan, partial(self._apply_held, ready=ready))

    def _reading(self, log: str) -> AbstractAsyncContextManager[None]:
        return self._leases.reading(log, self._new_id(), kind="plan")

    # Applying -----------------------------------------------------------------------------------

    async def apply(
        self,
        plan: RewindPlan,
        sink: RewindSink,
        *,
        on_conflict: OnConflict = "refuse",
        actor: str | None = None,
        reason: str | None = None,
        wait_us: int = WAIT_US,
    ) -> RewindReport:
        """Do what a plan says, or nothing; sets a mark first, and records who and why.

        Raises:
            Conflict: The plan does not hold any more; or rows are not what the log says, and
                ``on_conflict`` is to refuse that; or rows would refer to rows that are not there.
            InvalidRequest: A row does not fit its table.
            Unavailable: The database does not answer, or a table is locked by somebody else.
        """
        scope, operation_id, started_us = plan.scope, self._new_id(), self._clock.now_us()
        run = Run(plan, operation_id, on_conflict, actor, reason, reason_of(operation_id, reason))
        # The lease is on the log as it stands before any view is taken of it.
        state = await self._catalog.log(scope.log)
        if state.uid != scope.log_id:
            raise Conflict("the plan is of another log", log=scope.log)
        async with self._operations.running(begun(run, state, started_us)) as running:
            waited = await self._ready(scope.log, sink, wait_us)
            view = await self._archive.view(scope.log)
            latest = CutWithTorn.of(await self._resolver.newest(view))
            # An undo goes back from where the rewind left the rows; what came after is a conflict.
            now = latest if scope.kind == "rewind" else scope.now
            async with (
                self._reader.differing(view, scope, now=now) as differing,
                marked(self._catalog, self._clock, run),
            ):
                seen = list[Sight]()

                def check(sight: Sight) -> None:
                    seen.append(sight)
                    check_same(plan.does, does(scope, differing.differences, sight))

                rewound = await sink.rewind(
                    differing.works,
                    scope.rules,
                    on_conflict=on_conflict,
                    says=Says(reason=run.says, actor=run.actor),
                    check=check,
                    committing=self._committing(run),
                    folder=differing.folder if scope.scan else None,
                )
                captured = await captured_by(self._catalog, scope.log, seen[0].place)
                appended, lanes, notes = await self._told(
                    run, differing, rewound, captured, latest.seq_end
                )
            running.detail |= rewound_document(rewound) | told_document(lanes, appended)
        late = latest.seq_end - scope.now.seq_end
        if late > 0 and scope.kind == "rewind":
            notes.append(
                f"{late} changes came since the plan; rows that it does not name were left"
            )
        return RewindReport(
            operation_id=operation_id,
            plan=plan,
            mark=run.mark,
            rewound=rewound,
            lanes=lanes,
            appended=appended,
            elapsed_us=self._clock.now_us() - started_us,
            notes=(*waited, *rewound.notes, *notes),
        )

    async def _apply_held(
        self,
        plan: RewindPlan,
        *,
        ready: Ready,
        on_conflict: OnConflict = "refuse",
        actor: str | None = None,
        reason: str | None = None,
    ) -> RewindReport:
        """Do what a plan says that was made a moment ago, under locks that still stand."""
        scope, operation_id, started_us = plan.scope, self._new_id(), self._clock.now_us()
        run = Run(plan, operation_id, on_conflict, actor, reason, reason_of(operation_id, reason))
        async with self._operations.running(begun(run, ready.view.state, started_us)) as running:
            async with marked(self._catalog, self._clock, run):
                rewound = await ready.held.rewind(
                    on_conflict=on_conflict,
                    says=Says(reason=run.says, actor=run.actor),
                    committing=self._committing(run),
                    folder=ready.differing.folder if scope.scan else None,
                )
                appended, lanes, notes = await self._told(
                    run, ready.differing, rewound, plan.seen["lanes"], ready.view.state.seq_next
                )
            running.detail |= rewound_document(rewound) | told_document(lanes, appended)
        return RewindReport(
            operation_id=operation_id,
            plan=plan,
            mark=run.mark,
            rewound=rewound,
            lanes=lanes,
            appended=appended,
            elapsed_us=self._clock.now_us() - started_us,
            notes=(*rewound.notes, *notes),
        )

    def _committing(self, run: Run) -> Committing:
        async def committing(xid: str, rewound: Rewound) -> None:
            """Record what is about to be committed: whoever finds the record later can ask."""
            detail = rewound_document(rewound) | {
                "xid": xid,
                "committing_us": self._clock.now_us(),
            }
            await self._operations.note(run.operation_id, detail)

        return committing

    async def _told(
        self,
        run: Run,
        differing: Differing,
        rewound: Rewound,
        captured: Mapping[str, str],
        began: int,
    ) -> tuple[int, dict[str, str], list[str]]:
        """Tell the log of it, where nobody else does: ``captured`` are the lanes that do."""
        scope = run.plan.scope
        lanes = {work.collection: captured.get(work.collection) for work in differing.works}
        log = RewindLog(
            self._appender,
            log=scope.log,
            operation_id=run.operation_id,
            actor=run.actor,
            reason=run.says,
        )
        missing = [name for name, lane in lanes.items() if lane is None]
        appended, notes = 0, list[str]()
        try:
            appended = await log.append(
                [] if scope.scan else [differing.differences[name] for name in missing],
                [each for each in rewound.conflicts if each.collection in missing],
                [each for each in rewound.settled_rows if each[0] in missing],
                skipped=run.on_conflict == "skip",
                scanned=differing.scanned(rewound.found, missing),
            )
            if appended:
                notes += await put_right(
                    self._catalog,
                    self._archive,
                    scope.log,
                    log,
                    seq_first=began,
                    limits=self._limits,
                )
        except PitrError as error:
            # The database has committed: that cannot be taken back, so it is not called failed.
            notes.append(f"the log could not be told of the rewind ({error}); reconcile it")
        return appended, {name: lane or log.lane for name, lane in lanes.items()}, notes

    async def _ready(self, log: str, sink: RewindSink, wait_us: int) -> list[str]:
        """Find out what became of killed rewinds, and wait for the capture; return notes."""
        notes = await self._aftermath.settle(log, sink)
        return notes + await awaited(self._catalog, log, sink, wait_us=wait_us)
