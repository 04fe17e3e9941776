"""Repairs a log that was compared with live tables: appends what it lacks, deletes what is gone.

The lane of the source is claimed first: nobody else adds to it then, so what is newer than the
comparison is known for certain. Rows that the lane has newer changes of are left as they are. The
rest is appended to the lane where it stands: its notes stay what they are, and whoever follows goes
on from them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pitr.domain.admission import AT_US_MIN
from pitr.domain.catalog import Catalog
from pitr.domain.columnar.lane_changes import LaneChanges, Newer
from pitr.domain.errors import Conflict, PitrError, Unavailable
from pitr.domain.limits import Limits
from pitr.domain.log import LaneReport, LaneState
from pitr.domain.pgoutput.model import lsn_text
from pitr.domain.pgoutput.notes import Notes
from pitr.domain.ports import Clock
from pitr.domain.reconcile import Reconciled, Repair, Repaired, too_many_deletes
from pitr.services.append import Appender
from pitr.services.archive import Archive
from pitr.services.reconcile_write import Found, Writer, drafts_of
from pitr.services.tasks import single

TX_PREFIX: Final = "reconcile:"
REASON: Final = "pitr reconcile"

ALIVE_EVERY_S: Final = 1.0
OPEN_PAUSE_S: Final = 1.0
"""How long to wait where the lane stands in the middle of a transaction."""


class Repairer:
    """Repairs once."""

    def __init__(
        self,
        catalog: Catalog,
        archive: Archive,
        clock: Clock,
        *,
        appender: Callable[[str], Awaitable[Appender]],
        owner: str,
        operation_id: str,
        folder: Path,
        limits: Limits,
    ) -> None:
        self._catalog = catalog
        self._archive = archive
        self._clock = clock
        self._appender = appender
        self._owner = owner
        self._operation_id = operation_id
        self._folder = folder
        self._limits = limits

    async def repaired(
        self,
        compared: Reconciled,
        found: Sequence[Found],
        *,
        dry_run: bool,
        allow_deletes: bool,
        actor: str | None,
        reason: str | None,
        wait_us: int,
    ) -> Reconciled:
        """Append what is needed, and record it with who and why; say what was done.

        Args:
            compared: What the comparison said; its guard was asked.
            wait_us: Longest wait for a transaction that is stored in pieces.

        Raises:
            Unavailable: Catalog or store is away, or that transaction does not end.
            Conflict: The lane ended, or somebody else took it: what was appended is right by
                itself; compare again.
        """
        found = [each for each in found if each.reads.count or each.deletes.count]
        if dry_run:
            refused = () if allow_deletes else _refused(compared)
            would = [
                Repaired(
                    collection=each.collection, reads=each.reads.count, deletes=each.deletes.count
                )
                for each in found
            ]
            repair = Repair(dry_run=True, collections=tuple(would), refused=refused)
            return replace(compared, repair=repair)
        if not found:
            return replace(compared, repair=Repair(dry_run=False))
        why = REASON if reason is None else f"{REASON}: {reason}"
        async with self._recorded(compared, actor=actor, reason=reason) as detail:
            async with self._claimed(compared, wait_us) as lane:
                done = await self._append_all(compared, found, lane, actor=actor, reason=why)
            detail["collections"] = {
                each.collection: {"reads": each.reads, "deletes": each.deletes, "left": each.left}
                for each in done
            }
        repair = Repair(
            dry_run=False,
            operation_id=self._operation_id,
            tx=self._tx,
            collections=tuple(done),
        )
        return replace(compared, repair=repair)

    @property
    def _tx(self) -> str:
        return f"{TX_PREFIX}{self._operation_id}"

    @asynccontextmanager
    async def _recorded(
        self, compared: Reconciled, *, actor: str | None, reason: str | None
    ) -> AsyncIterator[dict[str, Any]]:
        detail: dict[str, Any] = {
            "target": f"before-seq:{compared.place.seq_end}",
            "where": compared.lane,
            "lsn": lsn_text(compared.place.lsn),
            "tx": self._tx,
        }
        await self._catalog.begin_operation(
            await self._catalog.log(compared.log),
            operation_id=self._operation_id,
            kind="reconcile",
            actor=actor,
            reason=reason,
            started_us=self._clock.now_us(),
            detail=detail,
        )
        outcome = "failed"
        ended: dict[str, Any] = {}
        try:
            yield ended
            outcome = "done"
        except BaseException as error:
            ended |= {"error": getattr(error, "code", type(error).__name__), "why": str(error)}
            raise
        finally:
            with contextlib.suppress(PitrError):  # what was appended tells of itself
                await self._catalog.end_operation(
                    self._operation_id,
                    outcome=outcome,
                    ended_us=self._clock.now_us(),
                    detail=ended,
                )

    # The lane -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _claimed(self, compared: Reconciled, wait_us: int) -> AsyncIterator[LaneState]:
        """Take the lane away from whoever follows, who takes it again afterwards."""
        log, lane = compared.log, compared.lane
        end_s = time.monotonic() + wait_us / 1e6
        while True:
            now_us = self._clock.now_us()
            claimed = await self._catalog.claim(log, self._owner, {lane: 0}, recorded_us=now_us)
            try:
                if _is_whole(claimed[lane], compared.place.lsn):
                    async with self._staying(log, claimed[lane]):
                        yield claimed[lane]
                    return
            finally:
                await self._catalog.leave(log, self._owner, lane)
            if time.monotonic() > end_s:
                raise Unavailable(
                    "a large transaction is being captured", hint="try again later", lane=lane
                )
            await asyncio.sleep(OPEN_PAUSE_S)

    @asynccontextmanager
    async def _staying(self, log: str, lane: LaneState) -> AsyncIterator[None]:
        """Say now and then that we live: who says nothing for long loses the lane."""

        async def stay() -> None:
            while True:
                alive = LaneReport(
                    lane=lane.lane, position=lane.position, seen_us=self._clock.now_us()
                )
                with contextlib.suppress(PitrError):
                    await self._catalog.report(log, self._owner, [alive])
                await asyncio.sleep(ALIVE_EVERY_S)

        try:
            async with asyncio.TaskGroup() as group:
                staying = group.create_task(stay())
                yield
                staying.cancel()
        except BaseExceptionGroup as failures:
            raise single(failures) from failures

    # What is appended ---------------------------------------------------------------------------

    async def _append_all(
        self,
        compared: Reconciled,
        found: Sequence[Found],
        lane: LaneState,
        *,
        actor: str | None,
        reason: str,
    ) -> list[Repaired]:
        notes, seq_end = Notes.of_json(lane.state), compared.place.seq_end
        view = await self._archive.view(compared.log)
        paths = await self._archive.verified(
            [ref for ref in view.segments if ref.seq_end > seq_end]
        )
        changes = LaneChanges(paths=paths, tail=view.tail, lane=compared.lane, seq_first=seq_end)
        newer = await asyncio.to_thread(
            Newer,
            changes,
            collections=[each.collection for each in found],
            folder=self._folder,
            memory_bytes=self._limits.memory_bytes,
            threads=self._limits.threads,
        )
        try:
            copied = {table.collection for table in notes.copy.tables if table.done}
            mended = [
                each
                for each in found
                if each.collection in copied and each.collection not in newer.renewed
            ]
            done = [
                await asyncio.to_thread(_outcome, each, newer, each in mended) for each in found
            ]
            writer = Writer(
                await self._appender(compared.log),
                lane,
                owner=self._owner,
                constants={
                    "commit_us": _commit_us(compared, lane),
                    "tx": self._tx,
                    "actor": actor,
                    "reason": reason,
                },
            )
            batches = drafts_of(mended, newer, self._limits)
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                await writer.write(batch)
            await writer.end()
        finally:
            newer.close()
        return done


def _refused(compared: Reconciled) -> tuple[str, ...]:
    return tuple(each.collection for each in compared.collections if too_many_deletes(each))


def _is_whole(lane: LaneState, lsn: int) -> bool:
    """Tell whether a lane stands between two transactions.

    Raises:
        Conflict: It ended, or was begun anew.
    """
    notes = Notes.of_json(lane.state)
    if "replaced_by" in lane.state or notes.lost is not None or (notes.lsn or 0) < lsn:
        raise Conflict("the lane is not what it was; compare again", lane=lane.lane)
    return notes.open is None


def _commit_us(compared: Reconciled, lane: LaneState) -> int:
    """When the repair is in log time: no moment that was complete before may change."""
    complete_us = lane.complete_us if lane.complete_us is not None else AT_US_MIN
    return max(compared.place.at_us, complete_us + 1)


def _outcome(found: Found, newer: Newer, is_mended: bool) -> Repaired:
    """Say what becomes of the rows of a collection."""
    if not is_mended:
        left = found.reads.count + found.deletes.count
        return Repaired(collection=found.collection, left=left)
    reads, deletes = (newer.counts(found.collection, f) for f in (found.reads, found.deletes))
    both = [reads, deletes]
    return Repaired(
        collection=found.collection,
        reads=reads.get("todo", 0),
        deletes=deletes.get("todo", 0),
        superseded=sum(each.get("superseded", 0) for each in both),
        left=sum(each.get("left", 0) for each in both),
    )
