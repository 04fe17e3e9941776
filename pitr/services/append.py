"""Appends batches to a log: many small ones share a commit, a large one becomes a segment."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

import pyarrow as pa

from pitr.domain.admission import AT_US_MIN, Admitted, admit
from pitr.domain.batch import Batch
from pitr.domain.catalog import Catalog
from pitr.domain.columnar.segment import encode_segment
from pitr.domain.columnar.stamp import stamp
from pitr.domain.errors import Busy, Conflict, PitrError, SequenceMoved, Unavailable
from pitr.domain.limits import Limits
from pitr.domain.log import Appended, LaneState, LogState
from pitr.domain.ports import Clock, ObjectStore

SEGMENT_ATTEMPTS_MAX = 3
"""Tries to list a segment while others append; after that the batch goes through the tail."""


@dataclass(slots=True)
class _Waiting:
    batch: Batch
    size_bytes: int
    answer: asyncio.Future[Appended]


class Appender:
    """The one way into a log from this process; an async context manager.

    ``append`` may be called from any number of tasks; batches are stored in the order of the
    calls, and those that wait at the same time share one commit. A caller that goes away does not
    stop what it handed over. Leaving the context stores all that waits.
    """

    def __init__(
        self,
        catalog: Catalog,
        store: ObjectStore,
        clock: Clock,
        *,
        log: str,
        limits: Limits,
        new_id: Callable[[], str],
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._clock = clock
        self._log = log
        self._limits = limits
        self._new_id = new_id
        self._waiting: deque[_Waiting] = deque()
        self._storing: list[_Waiting] = []
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._runner: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        runner = self._run()
        self._runner = asyncio.create_task(runner)  # noqa: TID251 - awaited by __aexit__
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None, "entered before"
        self._closing = True
        self._wake.set()
        await self._runner

    async def append(self, batch: Batch) -> Appended:
        """Store a batch; durable on return.

        Raises:
            PositionConflict: Its lane stands elsewhere.
            IdempotencyConflict: Its key was used with another body.
            Busy: Too much waits already; nothing was stored.
            Unavailable: It is unknown whether it was stored: send it again.
        """
        if self._closing:
            raise Unavailable("pitr is shutting down", retry_after_s=1)
        answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(batch, self._room(batch), answer))
        self._wake.set()
        return await answer

    async def _run(self) -> None:
        try:
            while not (self._closing and not self._waiting):
                while self._waiting:
                    await self._store_next()
                if not self._closing:
                    self._wake.clear()
                    await self._wake.wait()
        except BaseException as error:
            # Nobody may wait for ever for a runner that is gone.
            self._closing = True
            lost = [entry for entry in self._storing if not entry.answer.done()]
            lost += self._waiting
            self._tell(lost, [error] * len(lost))
            raise

    def _room(self, batch: Batch) -> int:
        """Take room in the queue, in bytes; it is free again once the batch is answered."""
        size_bytes: int = max(batch.size_bytes, batch.changes.nbytes)
        full = self._waiting_bytes + size_bytes > self._limits.append_queue_bytes_max
        if full and self._waiting_bytes:
            raise Busy("too many changes wait to be stored", retry_after_s=1)
        self._waiting_bytes += size_bytes
        return size_bytes

    async def _store_next(self) -> None:
        """Store the batch at the head of the queue, and with it what can share its commit."""
        if self._is_large(self._waiting[0].batch.changes):
            self._storing = [self._waiting.popleft()]
            await self._answer(self._storing, self._store_segment(self._storing[0].batch))
        else:
            self._storing = self._group()
            await self._store_group(self._storing)
        self._storing = []

    def _is_large(self, changes: pa.Table) -> bool:
        """Whether changes are worth a segment of their own."""
        limits = self._limits
        size_bytes: int = changes.nbytes
        return bool(changes.num_rows) and (
            changes.num_rows >= limits.segment_rows_min or size_bytes >= limits.segment_bytes_min
        )

    def _group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        rows = 0
        while self._waiting:
            count = self._waiting[0].batch.changes.num_rows
            large = self._is_large(self._waiting[0].batch.changes)
            if group and (large or rows + count > self._limits.append_group_rows_max):
                break
            group.append(self._waiting.popleft())
            rows += count
        return group

    async def _store_group(self, group: list[_Waiting]) -> None:
        if len(group) == 1:
            await self._answer(group, self._append_one(group[0].batch))
            return
        try:
            answers = await self._append([entry.batch for entry in group])
        except Unavailable as error:
            self._tell(group, [error] * len(group))
        except Exception:  # one bad batch must not take the others of its commit with it
            for entry in group:
                await self._store_group([entry])
        else:
            self._tell(group, answers)

    async def _answer(self, group: list[_Waiting], storing: Awaitable[Appended]) -> None:
        try:
            self._tell(group, [await storing])
        except Exception as error:  # the caller's to judge: it is raised from its append
            self._tell(group, [error])

    async def _append(self, batches: list[Batch]) -> list[Appended | PitrError]:
        return await self._catalog.append(
            self._log,
            batches,
            recorded_us=self._clock.now_us(),
            skew_us=self._limits.skew_us,
        )

    async def _append_one(self, batch: Batch) -> Appended:
        (answer,) = await self._append([batch])
        if isinstance(answer, PitrError):
            raise answer
        return answer

    async def _store_segment(self, batch: Batch) -> Appended:
        """Make a segment for the next seq and list it; again if others were faster."""
        for _ in range(SEGMENT_ATTEMPTS_MAX):
            log, lane = await self._catalog.head(self._log, batch.lane)
            admitted = admit(batch, lane)
            if not self._is_large(admitted.changes):
                break
            try:
                return await self._try_segment(batch, admitted, log, lane)
            except SequenceMoved:
                continue
        return await self._append_one(batch)

    async def _try_segment(
        self, batch: Batch, admitted: Admitted, log: LogState, lane: LaneState | None
    ) -> Appended:
        recorded_us = self._clock.now_us()
        stamped = await asyncio.to_thread(
            stamp,
            admitted.changes,
            seq_first=log.seq_next,
            lane=batch.lane,
            position_first=None,
            lane_at_us=lane.at_us if lane is not None else AT_US_MIN,
            recorded_us=recorded_us,
            skew_us=self._limits.skew_us,
        )
        # A name of our own: two that append the same at the same microsecond make the same bytes,
        # and the one that loses must not delete what the other has listed.
        encoded = await asyncio.to_thread(encode_segment, stamped.table, attempt=self._new_id())
        segment = encoded.ref(self._log)
        # Durable, then listed, then released. A crash between any two steps repeats work; no
        # order of crashes loses a change.
        await self._store.put_new(segment.name, encoded.body, sha256=segment.sha256)
        try:
            appended = await self._catalog.append_segment(
                self._log,
                batch,
                segment=segment,
                stamped=stamped,
                lane_position=lane.position if lane is not None else None,
                recorded_us=recorded_us,
            )
        except Conflict:
            await self._store.delete(segment.name)
            raise
        if appended.duplicate:  # its idempotency key was known: the segment is not listed
            await self._store.delete(segment.name)
        return appended

    def _tell(self, group: list[_Waiting], answers: Sequence[Appended | BaseException]) -> None:
        for entry, answer in zip(group, answers, strict=True):
            self._waiting_bytes -= entry.size_bytes
            if entry.answer.done():  # its caller went away
                continue
            if isinstance(answer, BaseException):
                entry.answer.set_exception(answer)
            else:
                entry.answer.set_result(answer)
