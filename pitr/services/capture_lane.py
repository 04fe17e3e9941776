"""A lane that is captured: the records that wait, where it stands, what is wrong with it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

from pitr.domain.limits import Limits
from pitr.domain.records import Records, joined

RECORD_BYTES = 300
"""What a record takes in memory besides its key and value."""


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(slots=True)
class Lane:
    """One lane of ours. ``name`` is the feed's; ``stored_as`` is the log's.

    It is polled and queues records only while it is ``begun``; ``moved`` tells why it must begin
    again. ``polled`` is where the queue ends, ``position`` where the log does; ``settled`` is
    clear while an append runs.
    """

    name: str
    stored_as: str
    queue: deque[Records] = field(default_factory=deque)
    queued_rows: int = 0
    queued_bytes: int = 0
    queued_since: float = 0.0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    settled: asyncio.Event = field(default_factory=_set_event)
    begun: bool = False
    moved: str | None = None
    position: int | None = None
    polled: int | None = None
    source_first: int | None = None
    source_end: int | None = None
    seen_us: int | None = None
    idle_us: int | None = None
    problem: str | None = None
    warning: str | None = None
    failures: int = 0
    fails_to_store: bool = False
    stored: int = 0
    stored_before: int = 0
    released: int | None = None

    def add(self, records: Records) -> None:
        """Queue what was polled; begin again if it does not go on where the queue ends."""
        if self.polled != records.position_first:
            self.begin_again("the source does not go on where it ended")
            return
        if not self.queue:
            self.queued_since = time.monotonic()
        self.queue.append(records)
        self.queued_rows += len(records.values)
        self.queued_bytes += records.size_bytes
        self.polled = records.position_end
        self.idle_us = None
        self.arrived.set()

    def take(self, rows_max: int, bytes_max: int) -> Records:
        """Take what is queued, up to about these limits."""
        parts: list[Records] = []
        rows = size_bytes = 0
        while self.queue and (not parts or (rows < rows_max and size_bytes < bytes_max)):
            part = self.queue.popleft()
            parts.append(part)
            rows += len(part.values)
            size_bytes += part.size_bytes
        self.queued_rows -= rows
        self.queued_bytes -= size_bytes
        self.queued_since = time.monotonic()
        return joined(parts)

    def drop(self) -> None:
        """Forget what is queued, and give nothing until the lane has begun again."""
        self.queue.clear()
        self.queued_rows = self.queued_bytes = 0
        self.begun = False
        self.moved = self.polled = self.idle_us = None

    def begin_again(self, reason: str) -> None:
        """Take no more records, and let whoever works on the lane begin again."""
        self.begun, self.moved = False, reason
        self.arrived.set()

    def clear_failures(self) -> None:
        """Note that the lane goes on."""
        self.problem, self.fails_to_store, self.failures = None, False, 0

    @property
    def memory_bytes(self) -> int:
        """About what the queue takes."""
        return self.queued_bytes + RECORD_BYTES * self.queued_rows

    def has_room(self, limits: Limits) -> bool:
        """Whether less than two batches wait."""
        return (
            self.queued_bytes < 2 * limits.capture_bytes_max
            and self.queued_rows < 2 * limits.capture_rows_max
        )

    def has_batch(self, limits: Limits) -> bool:
        """Whether a whole batch waits."""
        return (
            self.queued_rows >= limits.capture_rows_max
            or self.queued_bytes >= limits.capture_bytes_max
        )
