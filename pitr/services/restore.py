"""Restores: target, plan, verify, replay, commit, report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from pitr.domain.catalog import Catalog
from pitr.domain.columnar.matching import MatchingState, check_of_rows
from pitr.domain.columnar.rows import changes_of
from pitr.domain.errors import Conflict, NotFound
from pitr.domain.lease import sink_text
from pitr.domain.log import POSTGRES_PREFIX, Gap, LogView
from pitr.domain.pgoutput.schema import TableSchema, schema_from_body
from pitr.domain.pgoutput.schema_log import SCHEMAS
from pitr.domain.pgoutput.sequence_log import SEQUENCES, SampledSequence, sample_of_body
from pitr.domain.plan import Reads, chosen, is_own
from pitr.domain.ports import Clock, Progress, RestorableState, Sink, SinkReport
from pitr.domain.target import Resolution
from pitr.domain.times import rfc3339
from pitr.domain.where import parse_conditions
from pitr.services.archive import Archive
from pitr.services.lease import Leases
from pitr.services.operations import Begun, Operations
from pitr.services.resolve import Resolver


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRequest:
    """What to restore; ``keys`` are (collection, canonical key).

    ``collections`` None is all but the log's own, which are restored only if they are named.
    ``where`` are conditions on the documents of rows (``domain.where``); all must hold.
    """

    log: str
    target: str
    collections: frozenset[str] | None = None
    keys: frozenset[tuple[str, str]] | None = None
    where: tuple[str, ...] = ()
    accept_gaps: bool = False
    actor: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    """A restore as it will run: the resolved target and what is read for it.

    ``resolution`` has only those gaps that lie in what is restored. ``collections`` None is all
    there are; ``schemas`` are those that are tables of an attached database, as they were, and
    ``sequences`` what its sequences stood at.
    """

    request: RestoreRequest
    resolution: Resolution
    reads: Reads
    view: LogView
    collections: frozenset[str] | None = None
    schemas: Mapping[str, TableSchema] = field(default_factory=dict)
    sequences: Sequence[SampledSequence] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreReport:
    """A restore as it ran."""

    operation_id: str
    plan: RestorePlan
    sink: SinkReport
    elapsed_us: int

    @property
    def row_count(self) -> int:
        """Rows written."""
        return sum(self.sink.rows.values())


class Restorer:
    """Brings the state of a moment into a sink, completely or not at all (invariant 12)."""

    def __init__(
        self,
        catalog: Catalog,
        archive: Archive,
        resolver: Resolver,
        clock: Clock,
        *,
        leases: Leases,
        new_id: Callable[[], str],
    ) -> None:
        self._operations = Operations(catalog, clock, leases)
        self._archive = archive
        self._resolver = resolver
        self._clock = clock
        self._new_id = new_id

    async def plan(self, request: RestoreRequest) -> RestorePlan:
        """Resolve the target and choose what to read; changes nothing.

        Raises:
            TargetBeyondWatermark: The target is ahead of what is captured.
            Conflict: A known gap lies in what would be restored, and it was not accepted.
            NotFound: A collection or the target does not exist.
        """
        view = await self._archive.view(request.log)
        found = await self._resolver.resolve(view, request.target)
        plan = await self.planned(view, request, found)
        check_gaps(plan)
        return plan

    async def planned(
        self, view: LogView, request: RestoreRequest, found: Resolution
    ) -> RestorePlan:
        """Choose what to read for a resolved target; gaps are not looked at.

        Raises:
            NotFound: A collection does not exist.
            InvalidRequest: A condition cannot be read.
        """
        check_of_rows(parse_conditions(request.where))
        asked = asked_collections(request)
        resolution = replace(found, gaps=_gaps_in(found, asked))
        known = known_collections(view)
        schemas, sequences = await self._of_databases(view, resolution, known)
        _check_known(known | schemas.keys(), asked)
        wanted = chosen(known, asked)
        reads = self._archive.reads(view, resolution.cut, torn=resolution.torn, collections=wanted)
        return RestorePlan(
            request=request,
            resolution=resolution,
            reads=reads,
            view=view,
            collections=wanted,
            schemas={
                name: schema for name, schema in schemas.items() if asked is None or name in asked
            },
            sequences=sequences,
        )

    async def _of_databases(
        self, view: LogView, resolution: Resolution, known: set[str]
    ) -> tuple[dict[str, TableSchema], tuple[SampledSequence, ...]]:
        """Read what the tables of attached databases were, and what their sequences stood at.

        Raises:
            DataLoss: An object or a document is missing or damaged.
        """
        own = known & {SCHEMAS, SEQUENCES}
        if not own:
            return {}, ()
        reads = self._archive.reads(
            view, resolution.cut, torn=resolution.torn, collections=frozenset(own)
        )
        bodies: dict[str, list[bytes]] = {SCHEMAS: [], SEQUENCES: []}
        async with self._archive.state(view, reads, collections=frozenset(own)) as state:
            for collection in own:
                batches = await asyncio.to_thread(list, state.rows(collection))
                found = (change for batch in batches for change in changes_of(batch))
                bodies[collection] = [
                    each.after
                    for each in found
                    if each.lane.startswith(POSTGRES_PREFIX) and each.after is not None
                ]
        schemas = map(schema_from_body, bodies[SCHEMAS])
        samples = map(sample_of_body, bodies[SEQUENCES])
        return {schema.collection: schema for schema in schemas}, tuple(chain(*samples))

    @asynccontextmanager
    async def state(self, plan: RestorePlan) -> AsyncIterator[RestorableState]:
        """Replay what a plan reads into the rows that it restores.

        Raises:
            DataLoss: An object is missing or damaged.
        """
        async with self._archive.state(
            plan.view, plan.reads, collections=plan.collections, keys=plan.request.keys
        ) as state:
            state.schemas, state.sequences = plan.schemas, plan.sequences
            state.whole = asked_collections(plan.request) is None
            # A table that was empty is part of the state, also if it never had a row.
            empty = dict.fromkeys(plan.schemas, 0)
            state.counts = dict(sorted((empty | dict(state.counts)).items()))
            conditions = parse_conditions(plan.request.where)
            if conditions:
                yield await asyncio.to_thread(MatchingState, state, conditions)
            else:
                yield state

    async def restore(
        self,
        plan: RestorePlan,
        sink: Sink,
        *,
        state: RestorableState | None = None,
        detail: Mapping[str, Any] | None = None,
        progress: Progress = lambda _: None,
    ) -> RestoreReport:
        """Run exactly ``plan`` into ``sink``, and record it with who and why.

        Args:
            state: The rows, where they were made already: those of ``state(plan)``.
            detail: What else is recorded of it.

        Raises:
            DataLoss: An object is missing or damaged; the sink is as it was.
            SinkNotEmpty: The sink holds something; it is as it was.
        """
        request, started_us = plan.request, self._clock.now_us()
        begun = Begun(
            state=plan.view.state,
            operation_id=self._new_id(),
            kind="restore",
            actor=request.actor,
            reason=request.reason,
            started_us=started_us,
            detail=dict(detail or {}) | _detail(plan),
            sink=sink_text((detail or {}).get("sink", {})),
        )
        async with self._operations.running(begun) as running, AsyncExitStack() as stack:
            if state is None:
                state = await stack.enter_async_context(self.state(plan))
            write_from_us = self._clock.now_us()
            report = await sink.write(state, progress=progress)
            running.detail |= {
                "rows": dict(report.rows),
                "row_count": sum(report.rows.values()),
                "where": report.where,
                "write_s": (self._clock.now_us() - write_from_us) / 1e6,
            }
        if not running.is_recorded:
            note = "the restore is done, but its end could not be recorded in the catalog"
            report = replace(report, notes=(*report.notes, note))
        return RestoreReport(
            operation_id=begun.operation_id,
            plan=plan,
            sink=report,
            elapsed_us=self._clock.now_us() - started_us,
        )


def _detail(plan: RestorePlan) -> dict[str, Any]:
    """What is recorded of a restore when it begins."""
    request, cut = plan.request, plan.resolution.cut
    return {
        "target": request.target,
        "seq_end": cut.seq_end,
        "at": rfc3339(cut.at_us),
        "without_tx": sorted(cut.without_tx),
        "collections": sorted(request.collections) if request.collections else None,
        "where_rows": list(request.where),
        "objects": len(plan.reads.objects),
        "manifest_version": plan.view.state.manifest_version,
    }


def asked_collections(request: RestoreRequest) -> frozenset[str] | None:
    """Return the collections that are restored as far as they are named; None is all."""
    if request.keys is not None:
        return frozenset(collection for collection, _ in request.keys)
    return request.collections


def _gaps_in(resolution: Resolution, asked: frozenset[str] | None) -> tuple[Gap, ...]:
    """The gaps that touch what is asked for: a table may be one before any row of it is known."""
    return tuple(
        gap
        for gap in resolution.gaps
        if gap.collection is None or asked is None or gap.collection in asked
    )


def check_gaps(plan: RestorePlan) -> None:
    """Refuse a plan with known holes that were not accepted.

    Raises:
        Conflict: It has some.
    """
    gaps = plan.resolution.gaps
    if gaps and not plan.request.accept_gaps:
        raise Conflict(
            "the log has a known gap before the target",
            hint="pitr status shows the gaps; --accept-gaps restores what there is",
            gaps=len(gaps),
            lane=gaps[0].lane,
        )


def known_collections(view: LogView) -> set[str]:
    """Every collection that some object or the tail holds a change of."""
    named = {collection for ref in view.objects for collection in ref.ops}
    parts = {ref.collection for ref in view.snapshots if ref.collection is not None}
    return named | parts | set(view.tail.column("collection").unique().to_pylist())


def _check_known(known: set[str], asked: frozenset[str] | None) -> None:
    unknown = sorted((asked or frozenset()) - known)
    if unknown:
        apps = sorted(name for name in known if not is_own(name))
        raise NotFound(
            "the log has no such collection",
            hint=f"it has: {', '.join(apps) or 'none'}",
            collection=unknown[0],
        )
