"""Plans of rewinds: what would be done, found in the log and in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from pitr.domain.catalog import Catalog
from pitr.domain.change import Change
from pitr.domain.columnar.scan import newest_changes, overtaken, transaction_spans
from pitr.domain.errors import Conflict
from pitr.domain.limits import Limits
from pitr.domain.log import LogView
from pitr.domain.plan import is_own
from pitr.domain.ports import Clock
from pitr.domain.rewind.columns import ColumnRules
from pitr.domain.rewind.plan import RewindPlan, does, plan_hash
from pitr.domain.rewind.ports import RewindSink
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
    check_request,
    notes_on_left_out,
)
from pitr.services.rewind.difference import DifferenceReader, Differing
from pitr.services.rewind.log import captured_by
from pitr.services.rewind.parents import BROUGHT_MAX, ROUNDS_MAX, parents_then
from pitr.services.rewind.requests import RevertRequest, RewindRequest
from pitr.services.rewind.seen import (
    gap_document,
    seen_document,
    since_document,
    target_document,
    transaction_document,
)
from pitr.services.rewind.undo import operation_of, traces_of
from pitr.services.rewind.waiting import awaited

OVERTAKEN_SHOWN: Final = 20


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

    async def plan(self, request: RewindRequest, sink: RewindSink) -> RewindPlan:
        """Plan to take rows back to a moment; see ``Rewinder.plan``."""
        check_request(request)
        notes = await awaited(self._catalog, request.log, sink, wait_us=request.wait_us)
        view = await self._archive.view(request.log)
        asked = asked_collections(request)
        check_known(view, asked)
        then = await self._resolver.resolve(view, request.target)
        now = await self._resolver.resolve(view, "latest")
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
        return await self._planned(
            view, scope, sink, seen, notes, with_references=request.with_references
        )

    async def plan_undo(
        self,
        log: str,
        operation_id: str,
        sink: RewindSink,
        *,
        rules: ColumnRules,
        wait_us: int,
    ) -> RewindPlan:
        """Plan to undo a rewind; see ``Rewinder.plan_undo``."""
        notes = await awaited(self._catalog, log, sink, wait_us=wait_us)
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
            rules=rules,
        )
        seen = {"target": target_document(then), "gaps": []}
        return await self._planned(view, scope, sink, seen, notes)

    async def plan_revert(self, request: RevertRequest, sink: RewindSink) -> RewindPlan:
        """Plan to undo one transaction of the app; see ``Rewinder.plan_revert``."""
        notes = await awaited(self._catalog, request.log, sink, wait_us=request.wait_us)
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
        return await self._planned(view, scope, sink, seen, notes)

    async def _transaction(self, view: LogView, tx: str) -> AppTransaction:
        paths = await self._archive.verified(view.segments)
        spans = await asyncio.to_thread(transaction_spans, paths, view.tail, tx)
        latest = await self._resolver.resolve(view, "latest")
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
        self,
        view: LogView,
        scope: Scope,
        sink: RewindSink,
        seen: dict[str, Any],
        notes: Sequence[str],
        *,
        with_references: bool = False,
    ) -> RewindPlan:
        for _ in range(ROUNDS_MAX):
            async with self._reader.differing(view, scope) as differing:
                sight = await self._looked(view, scope, sink, differing, with_references)
                brought = frozenset[tuple[str, str]]()
                if with_references and sight.missing:
                    found = await parents_then(
                        self._archive, view, scope.then, sight.missing, differing.differences
                    )
                    brought = scope.brought | found
                if brought <= scope.brought:
                    return await self._document(view, scope, differing, sight, seen, notes)
                _check_few(len(brought))
                scope = replace(scope, brought=brought)
        raise Conflict(
            "rows refer to rows that refer to rows, and so on",
            hint="take the collections back as a whole",
            generations_max=ROUNDS_MAX,
        )

    async def _looked(
        self,
        view: LogView,
        scope: Scope,
        sink: RewindSink,
        differing: Differing,
        with_references: bool,
    ) -> Sight:
        schemas = await self._reader.schemas(view, scope.now)
        known = {name: schemas.get(name) for name in known_collections(view) if not is_own(name)}
        return await sink.look(
            differing.works,
            scope.rules,
            known=known,
            references_max=BROUGHT_MAX + 1 if with_references else REFERENCES_SHOWN,
        )

    async def _document(
        self,
        view: LogView,
        scope: Scope,
        differing: Differing,
        sight: Sight,
        seen: dict[str, Any],
        notes: Sequence[str],
    ) -> RewindPlan:
        done = does(scope, differing.differences, sight)
        lanes = await captured_by(self._catalog, scope.log, sight.place)
        seen |= seen_document(differing, sight, scope)
        since = await self._since(view, scope, sight, differing)
        for each in seen["conflicts"]["examples"]:
            each["since"] = since.get((each["collection"], each["key"]))
        asked = scope.collections if scope.keys is None else None
        seen["notes"] += [*notes, *differing.notes, *notes_on_left_out(differing.left_out, asked)]
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


def _check_few(count: int) -> None:
    if count > BROUGHT_MAX:
        raise Conflict(
            "too many rows would have to be brought along",
            hint="take the collections that they are of back as a whole",
            rows_max=BROUGHT_MAX,
        )
