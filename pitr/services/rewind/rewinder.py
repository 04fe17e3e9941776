"""Rewinds and their undoing: plan, apply, record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pitr.domain.catalog import Catalog
from pitr.domain.errors import Conflict, NotFound, PitrError
from pitr.domain.limits import Limits
from pitr.domain.log import Gap, LogView
from pitr.domain.plan import is_own
from pitr.domain.ports import Clock
from pitr.domain.rewind.columns import ColumnRules
from pitr.domain.rewind.plan import RewindPlan, check_same, does, plan_hash, reason_of
from pitr.domain.rewind.ports import RewindSink, Rewound, Says
from pitr.domain.rewind.scope import CutWithTorn, Scope
from pitr.domain.rewind.sight import OnConflict, Sight
from pitr.domain.target import Resolution
from pitr.services.append import Appender
from pitr.services.archive import Archive
from pitr.services.resolve import Resolver
from pitr.services.restore import known_collections
from pitr.services.rewind.difference import DifferenceReader, Differing
from pitr.services.rewind.log import RewindLog, captured_by
from pitr.services.rewind.record import Recorded, Run, end_document
from pitr.services.rewind.seen import gap_document, seen_document, target_document
from pitr.services.rewind.undo import operation_of, traces_of


@dataclass(frozen=True, slots=True, kw_only=True)
class RewindRequest:
    """What to take back; ``keys`` are (collection, canonical key). None is everything."""

    log: str
    target: str
    collections: frozenset[str] | None = None
    keys: frozenset[tuple[str, str]] | None = None
    rules: ColumnRules = field(default_factory=ColumnRules)
    accept_gaps: bool = False


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
        new_id: Callable[[], str],
        limits: Limits,
    ) -> None:
        self._catalog = catalog
        self._archive = archive
        self._resolver = resolver
        self._clock = clock
        self._appender = appender
        self._new_id = new_id
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
        view = await self._archive.view(request.log)
        asked = _asked(request)
        _check_known(view, asked)
        then = await self._resolver.resolve(view, request.target)
        now = await self._resolver.resolve(view, "latest")
        gaps = _gaps((then, now), asked)
        if gaps and not request.accept_gaps:
            raise Conflict(
                "the log has a known gap in what would be taken back",
                hint="pitr status shows the gaps; --accept-gaps goes by what the log has",
                gaps=len(gaps),
                lane=gaps[0].lane,
            )
        scope = Scope(
            kind="rewind",
            log=request.log,
            log_id=view.state.uid,
            then=CutWithTorn.of(then),
            now=CutWithTorn.of(now),
            collections=request.collections,
            keys=request.keys,
            rules=request.rules,
        )
        seen = {"target": target_document(then), "gaps": [gap_document(gap) for gap in gaps]}
        return await self._planned(view, scope, sink, seen)

    async def plan_undo(
        self, log: str, operation_id: str, sink: RewindSink, *, rules: ColumnRules | None = None
    ) -> RewindPlan:
        """Find what it takes to undo a rewind: its rows, and no others, as they were before it.

        Rows that changed after it are conflicts.

        Raises:
            NotFound: There is no such rewind.
            Conflict: It did not end well, or the log does not have all of its changes yet.
        """
        operation = await operation_of(self._catalog, log, operation_id)
        view = await self._archive.view(log)
        traces = await traces_of(self._archive, view, operation)
        then = await self._resolver.resolve(view, f"before-seq:{traces.seq_first}")
        now = await self._resolver.resolve(view, f"seq:{traces.seq_end - 1}")
        scope = Scope(
            kind="undo",
            log=log,
            log_id=view.state.uid,
            then=CutWithTorn.of(then),
            now=CutWithTorn.of(now),
            operation=operation_id,
            rules=rules or ColumnRules(),
        )
        seen = {"target": target_document(then), "gaps": []}
        return await self._planned(view, scope, sink, seen)

    async def _planned(
        self, view: LogView, scope: Scope, sink: RewindSink, seen: dict[str, Any]
    ) -> RewindPlan:
        async with self._reader.differing(view, scope) as differing:
            sight = await sink.look(differing.works, scope.rules)
            done = does(scope, differing.differences, sight)
        lanes = await captured_by(self._catalog, scope.log, sight.place)
        seen |= seen_document(differing, sight)
        seen["lanes"] = {
            work.collection: lanes[work.collection]
            for work in differing.works
            if work.collection in lanes
        }
        return RewindPlan(does=done, hash=plan_hash(done), seen=seen)

    # Applying -----------------------------------------------------------------------------------

    async def apply(
        self,
        plan: RewindPlan,
        sink: RewindSink,
        *,
        on_conflict: OnConflict = "refuse",
        actor: str | None = None,
        reason: str | None = None,
    ) -> RewindReport:
        """Do what a plan says, or nothing; sets a mark first, and records who and why.

        Raises:
            Conflict: The plan does not hold any more; or rows are not what the log says, and
                ``on_conflict`` is to refuse that; or rows would refer to rows that are not there.
            InvalidRequest: A row does not fit its table.
            Unavailable: The database does not answer, or a table is locked by somebody else.
        """
        scope, operation_id, started_us = plan.scope, self._new_id(), self._clock.now_us()
        view = await self._archive.view(scope.log)
        if view.state.uid != scope.log_id:
            raise Conflict("the plan is of another log", log=scope.log)
        latest = CutWithTorn.of(await self._resolver.resolve(view, "latest"))
        # An undo goes back from where the rewind left the rows; what came after is a conflict.
        now = latest if scope.kind == "rewind" else scope.now
        run = Run(plan, operation_id, on_conflict, actor, reason, reason_of(operation_id, reason))
        async with (
            self._reader.differing(view, scope, now=now) as differing,
            self._recorded(view, run, started_us) as ended,
        ):
            rewound, appended, lanes, notes = await self._rewound(run, differing, sink)
            ended.update(end_document(rewound, lanes, appended))
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
            notes=(*rewound.notes, *notes),
        )

    async def _rewound(
        self, run: Run, differing: Differing, sink: RewindSink
    ) -> tuple[Rewound, int, dict[str, str], list[str]]:
        """Change the database, then the log."""
        scope, seen = run.plan.scope, list[Sight]()

        def check(sight: Sight) -> None:
            seen.append(sight)
            check_same(run.plan.does, does(scope, differing.differences, sight))

        rewound = await sink.rewind(
            differing.works,
            scope.rules,
            on_conflict=run.on_conflict,
            says=Says(reason=run.says, actor=run.actor),
            check=check,
        )
        captured = await captured_by(self._catalog, scope.log, seen[0].place)
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
                [differing.differences[name] for name in missing],
                [each for each in rewound.conflicts if each.collection in missing],
                [each for each in rewound.settled_rows if each[0] in missing],
                skipped=run.on_conflict == "skip",
            )
        except PitrError as error:
            # The database has committed: that cannot be taken back, so it is not called failed.
            notes.append(f"the log could not be told of the rewind ({error}); reconcile it")
        return rewound, appended, {name: lane or log.lane for name, lane in lanes.items()}, notes

    def _recorded(self, view: LogView, run: Run, started_us: int) -> Recorded:
        return Recorded(self._catalog, self._clock, view, run, started_us)


def _asked(request: RewindRequest) -> frozenset[str] | None:
    if request.keys is not None:
        return frozenset(collection for collection, _ in request.keys)
    return request.collections


def _check_known(view: LogView, asked: frozenset[str] | None) -> None:
    apps = {name for name in known_collections(view) if not is_own(name)}
    unknown = sorted((asked or frozenset()) - apps)
    if unknown:
        raise NotFound(
            "the log has no such collection",
            hint=f"it has: {', '.join(sorted(apps)) or 'none'}",
            collection=unknown[0],
        )


def _gaps(resolutions: Sequence[Resolution], asked: frozenset[str] | None) -> list[Gap]:
    found = dict.fromkeys(gap for each in resolutions for gap in each.gaps)
    return [
        gap for gap in found if gap.collection is None or asked is None or gap.collection in asked
    ]
