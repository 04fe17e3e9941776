"""Plans of every kind, made, shown, recorded and applied in one way."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pitr.domain.catalog import Catalog
from pitr.domain.errors import InvalidRequest, NotFound, PitrError
from pitr.domain.estimate import Writing, estimate
from pitr.domain.pgoutput.urls import split_password
from pitr.domain.ports import Clock, Progress, Sink
from pitr.domain.restore_plan import Into, Plan
from pitr.domain.rewind.columns import ColumnRules
from pitr.domain.rewind.plan import RewindPlan
from pitr.domain.rewind.ports import RewindSink
from pitr.domain.rewind.sight import OnConflict
from pitr.services.lease import Leases
from pitr.services.plan_record import PlanRecord, Who
from pitr.services.restore import RestoreReport, RestoreRequest
from pitr.services.restore_plan import RestorePlanner
from pitr.services.rewind.requests import (
    WAIT_US,
    Asked,
    RevertRequest,
    RewindRequest,
    UndoRequest,
)
from pitr.services.rewind.rewinder import Rewinder, RewindReport

Report = RestoreReport | RewindReport


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRequest:
    """What to plan; as in ``RestoreRequest`` and ``RewindRequest``."""

    log: str
    target: str
    collections: frozenset[str] | None = None
    keys: frozenset[tuple[str, str]] | None = None
    where: tuple[str, ...] = ()
    accept_gaps: bool = False
    with_references: bool = False
    scan: bool = False
    rules: ColumnRules = field(default_factory=ColumnRules)
    wait_us: int = WAIT_US


Run = Callable[[OnConflict, Progress], Awaitable[Report]]


class Opened:
    """A plan that can be applied while it is open. ``applied`` says whether it was tried."""

    def __init__(self, plan: Plan, into: Into, run: Run) -> None:
        self.plan = plan
        self.into = into
        self.applied = False
        self._run = run

    @property
    def asks(self) -> bool:
        """Whether something that exists would change, so that a person has to say yes."""
        return isinstance(self.plan, RewindPlan) or self.into.changes_something

    async def apply(
        self,
        *,
        on_conflict: OnConflict = "refuse",
        progress: Progress = lambda _: None,
    ) -> Report:
        """Do what the plan says, or nothing.

        Raises:
            Conflict: It cannot be done as things are; facts say why.
            DataLoss: An object is missing or damaged; the place is as it was.
            Unavailable: The place does not answer.
        """
        self.applied = True
        return await self._run(on_conflict, progress)


class Plans:
    """Makes plans and applies them; each is recorded with who and why, also the refused ones.

    A plan that is applied while it is open is recorded as the operation that it became.
    """

    def __init__(
        self,
        catalog: Catalog,
        clock: Clock,
        *,
        restores: RestorePlanner,
        rewinder: Rewinder,
        sink: Callable[[Into], Sink],
        database: Callable[[str], RewindSink],
        leases: Leases,
        new_id: Callable[[], str],
    ) -> None:
        self._leases = leases
        self._catalog = catalog
        self._clock = clock
        self._restores = restores
        self._rewinder = rewinder
        self._sink = sink
        self._database = database
        self._new_id = new_id

    # Planning -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def planned(
        self, request: PlanRequest, into: Into, who: Who, *, at_once: bool = False
    ) -> AsyncIterator[Opened]:
        """Plan what brings a moment back into a place; changes nothing.

        Args:
            at_once: It is applied right away, and nobody is asked; see ``Rewinder.planned``.

        Raises:
            TargetBeyondWatermark: The target is ahead of what is captured.
            InvalidRequest: The request makes no sense, or does not fit the place.
            NotFound: A collection or the target does not exist.
        """
        told = {"target": request.target, "mode": into.mode}
        async with self._recorded(request.log, "plan", told, who) as record:
            if into.mode == "rewind":
                async with self._opened(_rewind_request(request), into, who, at_once) as opened:
                    await record.keep(opened)
                    yield opened
                return
            _check_restore(request, into)
            if into.mode == "swap":
                into = replace(into, swap_id=record.operation_id[:SWAP_ID_CHARS])
            asked = RestoreRequest(
                log=request.log,
                target=request.target,
                collections=request.collections,
                keys=request.keys,
                where=request.where,
                accept_gaps=request.accept_gaps,
                actor=who.actor,
                reason=who.reason,
            )
            async with self._restores.planned(asked, into, self._sink(into)) as restore:

                async def run(_: OnConflict, progress: Progress) -> Report:
                    return await restore.apply(progress=progress)

                opened = Opened(restore.plan, into, run)
                await record.keep(opened)
                yield opened

    @asynccontextmanager
    async def undoing(
        self,
        log: str,
        operation_id: str,
        place: str | None,
        rules: ColumnRules,
        who: Who,
        *,
        at_once: bool = False,
    ) -> AsyncIterator[Opened]:
        """Plan what undoes an operation.

        Args:
            place: The database; by default the one that the operation changed.
            at_once: It is applied right away, and nobody is asked.

        Raises:
            NotFound: There is no such operation.
            Conflict: It cannot be undone.
        """
        operation = await self.operation(log, operation_id)
        operation_id = operation["operation_id"]
        into = _into_of(operation, place)
        told = {"undoes": operation_id, "mode": "rewind"}
        async with self._recorded(log, "plan", told, who) as record:
            asked = UndoRequest(log=log, operation_id=operation_id, rules=rules)
            async with self._opened(asked, into, who, at_once) as opened:
                if opened.plan.does["sink"] != operation["detail"]["sink"]:
                    raise InvalidRequest(
                        "that is not the database that the operation changed",
                        hint="leave out --into, or name the same database",
                        operation=operation_id,
                    )
                await record.keep(opened)
                yield opened

    @asynccontextmanager
    async def reverting(
        self,
        log: str,
        tx: str,
        into: Into,
        rules: ColumnRules,
        who: Who,
        *,
        accept_gaps: bool,
        at_once: bool = False,
    ) -> AsyncIterator[Opened]:
        """Plan what undoes one transaction of the app.

        Args:
            at_once: It is applied right away, and nobody is asked.

        Raises:
            NotFound: There is no such transaction.
        """
        told = {"tx": tx, "mode": "rewind"}
        async with self._recorded(log, "plan", told, who) as record:
            asked = RevertRequest(log=log, tx=tx, rules=rules, accept_gaps=accept_gaps)
            async with self._opened(asked, into, who, at_once) as opened:
                await record.keep(opened)
                yield opened

    @asynccontextmanager
    async def _opened(
        self, asked: Asked, into: Into, who: Who, at_once: bool
    ) -> AsyncIterator[Opened]:
        started_us, sink = self._clock.now_us(), self._database(into.place)
        async with self._rewinder.planned(asked, sink, at_once=at_once) as rewind:
            shown = _shown(rewind.plan, into, (self._clock.now_us() - started_us) / 1e6)

            async def run(on_conflict: OnConflict, _: Progress) -> Report:
                return await rewind.apply(
                    shown, on_conflict=on_conflict, actor=who.actor, reason=who.reason
                )

            yield Opened(shown, into, run)

    # Applying a plan that was shown --------------------------------------------------------------

    @asynccontextmanager
    async def again(self, plan: Plan, into: Into, who: Who) -> AsyncIterator[Opened]:
        """Open a plan that was shown, if it still holds.

        Args:
            into: ``place_of(plan)``, or the same place with a password.

        Raises:
            Conflict: It does not hold any more; facts say what changed.
        """
        if isinstance(plan, RewindPlan):
            sink = self._database(into.place)

            async def rewind(on_conflict: OnConflict, _: Progress) -> Report:
                return await self._rewinder.apply(
                    plan, sink, on_conflict=on_conflict, actor=who.actor, reason=who.reason
                )

            yield Opened(plan, into, rewind)
            return
        told = {"target": plan.asked.target, "mode": into.mode, "plan": plan.hash}
        async with self._recorded(plan.asked.log, "restore", told, who) as record:
            made = self._restores.again(
                plan, into, self._sink(into), actor=who.actor, reason=who.reason
            )
            async with made as restore:

                async def run(_: OnConflict, progress: Progress) -> Report:
                    return await restore.apply(progress=progress)

                record.forget()
                yield Opened(plan, into, run)

    async def operation(self, log: str, operation_id: str) -> dict[str, Any]:
        """Return one operation of a log; its first characters do if they are of no other.

        Raises:
            NotFound: There is none of that id.
            InvalidRequest: There are several that begin like that.
        """
        operations = await self._leases.operations(log, limit=OPERATIONS_MAX)
        found = [each for each in operations if each["operation_id"].startswith(operation_id)]
        if not found or not operation_id:
            raise NotFound(
                "there is no such operation",
                hint="pitr operations lists them",
                operation=operation_id,
            )
        if len(found) > 1:
            raise InvalidRequest("several operations begin like that", operation=operation_id)
        return found[0]

    # Records ------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _recorded(
        self, log: str, kind: str, told: Mapping[str, Any], who: Who
    ) -> AsyncIterator[PlanRecord]:
        record = PlanRecord(
            self._catalog, self._clock, self._new_id(), kind=kind, log=log, told=told, who=who
        )
        try:
            yield record
        except PitrError as error:
            await record.refused(error)
            raise
        await record.shown()


def _into_of(operation: Mapping[str, Any], place: str | None) -> Into:
    into = place or operation["detail"].get("into")
    if into is None:
        raise InvalidRequest(
            "the operation does not say which database it changed", hint="say --into URL"
        )
    return Into(place=into, mode="rewind")


def _rewind_request(request: PlanRequest) -> RewindRequest:
    return RewindRequest(
        log=request.log,
        target=request.target,
        collections=request.collections,
        keys=request.keys,
        where=request.where,
        with_references=request.with_references,
        scan=request.scan,
        rules=request.rules,
        accept_gaps=request.accept_gaps,
        wait_us=request.wait_us,
    )


def _shown(plan: RewindPlan, into: Into, spent_s: float) -> RewindPlan:
    """The plan, with where it goes, and how long it may take."""
    writing = Writing(
        work="rewind",
        mode="rewind",
        row_count=plan.row_count,
        table_count=len(plan.does["collections"]),
    )
    more = {
        "into": split_password(into.place)[0],
        "where": plan.seen["sink"]["url"],
        "estimate": estimate(writing, read_s=spent_s).document(),
    }
    return replace(plan, seen={**plan.seen, **more})


SWAP_ID_CHARS: Final = 12

OPERATIONS_MAX: Final = 10_000
"""How many operations are looked through for one."""


def _check_restore(request: PlanRequest, into: Into) -> None:
    """Refuse what only a rewind can do.

    Raises:
        InvalidRequest: It was asked for.
    """
    replaces = into.kind == "postgres" and (into.force or into.mode == "swap")
    if replaces and (request.keys is not None or request.where):
        raise InvalidRequest(
            "that would put some rows in the place of whole tables",
            hint="--mode rewind takes single rows back; or restore them into an empty database",
        )
    only = {
        "--with-references": request.with_references,
        "--scan": request.scan,
        "--added": request.rules.added != ColumnRules().added,
        "--gone": request.rules.gone != ColumnRules().gone,
    }
    asked = [option for option, given in only.items() if given]
    if asked:
        raise InvalidRequest(
            "that is for rewinds only", hint="add --mode rewind", options=" ".join(asked)
        )
