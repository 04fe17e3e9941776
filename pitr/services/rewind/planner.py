"""Plans of rewinds: what would be done, found in the log and in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

from pitr.domain.catalog import Catalog
from pitr.domain.change import Change
from pitr.domain.columnar.scan import newest_changes, overtaken, transaction_spans
from pitr.domain.errors import Conflict
from pitr.domain.limits import Limits
from pitr.domain.log import LogView
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.plan import is_own
from pitr.domain.ports import Clock
from pitr.domain.rewind.columns import Schemas
from pitr.domain.rewind.plan import RewindPlan, does, plan_hash
from pitr.domain.rewind.ports import HeldRewind, LockedTables, RewindSink
from pitr.domain.rewind.scope import CutWithTorn, Scope
from pitr.domain.rewind.sight import REFERENCES_SHOWN, Sight
from pitr.domain.rewind.transaction import AppTransaction, check_not_overtaken, the_transaction
from pitr.services.archive import Archive
from pitr.services.resolve import Resolver, segments_over
from pitr.services.restore import known_collections
from pitr.services.rewind.asked import (
    accepted_gaps,
    asked_collections,
    check_known,
    notes_on_left_out,
)
from pitr.services.rewind.difference import DifferenceReader, Differing
from pitr.services.rewind.log import captured_by
from pitr.services.rewind.parents import BROUGHT_MAX, ROUNDS_MAX, parents_then
from pitr.services.rewind.requests import Asked, RevertRequest, RewindRequest, UndoRequest
from pitr.services.rewind.seen import (
    gap_document,
    seen_document,
    since_document,
    target_document,
    transaction_document,
)
from pitr.services.rewind.undo import operation_of, traces_of
from pitr.services.tasks import beside

OVERTAKEN_SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A plan with what it was made from, all of it still there, and the tables locked."""

    plan: RewindPlan
    view: LogView
    differing: Differing
    held: HeldRewind


@dataclass(frozen=True, slots=True)
class _Found:
    """What a plan is made from."""

    view: LogView
    scope: Scope
    seen: dict[str, Any]
    with_references: bool = False


class Planner:
    """Finds what rewinds would do; changes nothing."""

    def __init__(
        self,
        catalog: Catalog,
        archive: Archive,
        resolver: Resolver,
        clock: Clock,
        *,
        limits: Limits,
    ) -> None:
        self._catalog = catalog
        self._archive = archive
        self._resolver = resolver
        self._clock = clock
        self._reader = DifferenceReader(archive, limits=limits)

    async def plan(self, request: Asked, sink: RewindSink) -> RewindPlan:
        """Plan what is asked for; see ``Rewinder``."""
        plan, *_ = await self._planned(await self._found(request), sink, hold=None)
        return plan

    async def ready(self, request: Asked, sink: RewindSink, hold: AsyncExitStack) -> Ready:
        """Plan what is asked for, with everything kept in ``hold`` that it takes to do it."""
        async with beside(sink.warm()):
            found = await self._found(request)
        plan, differing, held = await self._planned(found, sink, hold=hold)
        assert held is not None, "it was asked for"
        return Ready(plan=plan, view=found.view, differing=differing, held=held)

    async def _found(self, request: Asked) -> _Found:
        match request:
            case RewindRequest():
                return await self._rewind(request)
            case UndoRequest():
                return await self._undo(request)
            case RevertRequest():
                return await self._revert(request)

    async def _rewind(self, request: RewindRequest) -> _Found:
        """Take rows back to a moment."""
        view = await self._archive.view(request.log)
        asked = asked_collections(request)
        check_known(view, asked)
        then = await self._resolver.resolve(view, request.target)
        now = await self._resolver.newest(view)
        gaps = accepted_gaps((then, now), asked, accept=request.accept_gaps)
        scope = Scope(
            kind="rewind",
            log=request.log,
            log_id=view.state.uid,
            then=CutWithTorn.of(then),
            now=CutWithTorn.of(now),
            collections=request.collections,
            keys=request.keys,
            where=request.where,
            scan=request.scan,
            rules=request.rules,
        )
        seen = {"target": target_document(then), "gaps": [gap_document(gap) for gap in gaps]}
        return _Found(view, scope, seen, request.with_references)

    async def _undo(self, request: UndoRequest) -> _Found:
        """Undo a rewind."""
        log, operation_id = request.log, request.operation_id
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
            rules=request.rules,
        )
        return _Found(view, scope, {"target": target_document(then), "gaps": []})

    async def _revert(self, request: RevertRequest) -> _Found:
        """Undo one transaction of the app."""
        view = await self._archive.view(request.log)
        transaction = await self._transaction(view, request.tx)
        first, end = transaction.seq_first, transaction.seq_end
        then = await self._resolver.resolve(view, f"before-seq:{first}")
        now = await self._resolver.resolve(view, f"seq:{end - 1}")
        gaps = accepted_gaps((then, now), None, accept=request.accept_gaps)
        # What was there without it, all else being equal: others may lie among its changes.
        scope = Scope(
            kind="revert",
            log=request.log,
            log_id=view.state.uid,
            then=CutWithTorn(seq_end=end, torn={request.tx: first}),
            now=CutWithTorn(seq_end=end),
            tx=request.tx,
            rules=request.rules,
        )
        seen = {
            "target": target_document(then),
            "gaps": [gap_document(gap) for gap in gaps],
            "transaction": transaction_document(transaction, then.next),
        }
        return _Found(view, scope, seen)

    async def _transaction(self, view: LogView, tx: str) -> AppTransaction:
        paths = await self._archive.verified(view.segments)
        spans = await asyncio.to_thread(transaction_spans, paths, view.tail, tx)
        latest = await self._resolver.newest(view)
        transaction = the_transaction(
            tx,
            spans,
            open_txs=latest.cut.without_tx,
            watermark_us=view.watermark_us(self._clock.now_us()),
        )
        if not transaction.is_alone:
            first, end = transaction.seq_first, transaction.seq_end
            near = await self._archive.verified(segments_over(view, first, end))
            rows = await asyncio.to_thread(
                overtaken,
                near,
                view.tail,
                tx,
                seq_first=first,
                seq_end=end,
                limit=OVERTAKEN_SHOWN,
            )
            check_not_overtaken(tx, rows)
        return transaction

    # What all plans have in common --------------------------------------------------------------

    async def _planned(
        self, found: _Found, sink: RewindSink, *, hold: AsyncExitStack | None
    ) -> tuple[RewindPlan, Differing, HeldRewind | None]:
        """Plan; where there is a ``hold``, what it takes to do it stays open in there."""
        view, scope = found.view, found.scope
        for _ in range(ROUNDS_MAX):
            async with AsyncExitStack() as opened:
                looking = replace(found, scope=scope)
                if hold is None:
                    differing = await opened.enter_async_context(
                        self._reader.differing(view, scope)
                    )
                    held, sight = None, await self._looked(looking, sink, differing)
                else:
                    differing, held = await self._held(looking, sink, opened)
                    sight = held.sight
                brought = frozenset[tuple[str, str]]()
                if found.with_references and sight.missing:
                    parents = await parents_then(
                        self._archive, view, scope.then, sight.missing, differing.differences
                    )
                    brought = scope.brought | parents
                if brought <= scope.brought:
                    plan = await self._document(view, scope, differing, sight, found.seen)
                    if hold is not None:
                        await hold.enter_async_context(opened.pop_all())
                    return plan, differing, held
                _check_few(len(brought))
                scope = replace(scope, brought=brought)
        raise Conflict(
            "rows refer to rows that refer to rows, and so on",
            hint="take the collections back as a whole",
            generations_max=ROUNDS_MAX,
        )

    async def _looked(self, found: _Found, sink: RewindSink, differing: Differing) -> Sight:
        return await sink.look(
            differing.works,
            found.scope.rules,
            known=_known(found.view, differing),
            references_max=_references_max(found),
        )

    async def _held(
        self, found: _Found, sink: RewindSink, opened: AsyncExitStack
    ) -> tuple[Differing, HeldRewind]:
        """Look under locks; the tables are locked and described while the log is read."""
        view, scope, locked = found.view, found.scope, list[LockedTables]()

        async def lock(tables: Mapping[str, Schemas]) -> None:
            locked.append(await opened.enter_async_context(sink.locking(tables)))

        differing = await opened.enter_async_context(
            self._reader.differing(view, scope, meanwhile=None if scope.scan else lock)
        )
        if not locked:
            await lock({work.collection: work.schemas for work in differing.works})
        held = await locked[0].look(
            differing.works,
            scope.rules,
            known=_known(found.view, differing),
            references_max=_references_max(found),
        )
        return differing, held

    async def _document(
        self,
        view: LogView,
        scope: Scope,
        differing: Differing,
        sight: Sight,
        seen: dict[str, Any],
    ) -> RewindPlan:
        done = does(scope, differing.differences, sight)
        lanes = await captured_by(self._catalog, scope.log, sight.place)
        seen |= seen_document(differing, sight, scope)
        since = await self._since(view, scope, sight, differing)
        for each in seen["conflicts"]["examples"]:
            each["since"] = since.get((each["collection"], each["key"]))
        asked = scope.collections if scope.keys is None else None
        seen["notes"] += [*differing.notes, *notes_on_left_out(differing.left_out, asked)]
        seen["lanes"] = {
            work.collection: lanes[work.collection]
            for work in differing.works
            if work.collection in lanes
        }
        return RewindPlan(does=done, hash=plan_hash(done), seen=seen)

    async def _since(
        self, view: LogView, scope: Scope, sight: Sight, differing: Differing
    ) -> dict[tuple[str, str], dict[str, Any]]:
        """Who changed rows that are in conflict, as far as the log knows.

        A change that leaves a row as it was expected is none: it may be the echo of a rewind.
        """
        seq_first = scope.now.seq_end
        rows = [(each.collection, each.key) for each in sight.conflicts]
        if not rows or seq_first >= view.state.seq_next:
            return {}
        refs = segments_over(view, seq_first, view.state.seq_next)
        paths = await self._archive.verified(refs)
        changes: list[Change] = await asyncio.to_thread(
            newest_changes, paths, view.tail, rows, seq_first=seq_first
        )
        expected = await asyncio.to_thread(
            _documents_now, differing, {(each.collection, each.key) for each in changes}
        )
        return {
            (each.collection, each.key): since_document(each)
            for each in changes
            if each.after != expected.get((each.collection, each.key))
        }


def _known(view: LogView, differing: Differing) -> dict[str, TableSchema | None]:
    """The collections of the log, with what their tables are."""
    names = known_collections(view)
    return {name: differing.schemas.get(name) for name in names if not is_own(name)}


def _documents_now(
    differing: Differing, rows: set[tuple[str, str]]
) -> dict[tuple[str, str], bytes]:
    """What the log says that some of the rows that differ are now."""
    found = {}
    for collection in sorted({collection for collection, _ in rows}):
        for batch in differing.differences[collection].rows("now"):
            for key, after in zip(
                batch["key"].to_pylist(), batch["after"].to_pylist(), strict=True
            ):
                if (collection, key) in rows:
                    found[collection, key] = after.encode()
    return found


def _references_max(found: _Found) -> int:
    return BROUGHT_MAX + 1 if found.with_references else REFERENCES_SHOWN


def _check_few(count: int) -> None:
    if count > BROUGHT_MAX:
        raise Conflict(
            "too many rows would have to be brought along",
            hint="take the collections that they are of back as a whole",
            rows_max=BROUGHT_MAX,
        )
