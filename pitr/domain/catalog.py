"""The catalog as services see it; the contract suite runs on every implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from pitr.domain.batch import Batch
from pitr.domain.columnar.stamp import Stamped
from pitr.domain.errors import PitrError
from pitr.domain.lease import Lease
from pitr.domain.log import (
    Appended,
    Gap,
    LaneReport,
    LaneState,
    LogState,
    LogView,
    Mark,
    QuarantineItem,
    Source,
    TailStats,
)
from pitr.domain.manifest import Entry, EntryKind, ObjectRef


class Catalog(Protocol):
    """Logs, lanes, tail, manifest, marks, gaps, quarantine, operations.

    Every method is one transaction. All raise ``Unavailable`` when the database does not answer,
    and ``NotFound`` for a log that does not exist, but for those that list its records: they find
    none. Their other errors are theirs to tell.
    """

    async def close(self) -> None:
        """Close every connection."""
        ...

    # Logs and lanes

    async def create_log(
        self, name: str, *, uid: str, created_us: int, manifest_hash: str
    ) -> LogState:
        """Make a log if there is none of that name; return it either way."""
        ...

    async def log(self, name: str) -> LogState:
        """Return where a log stands."""
        ...

    async def logs(self) -> list[LogState]:
        """Return every log, by name."""
        ...

    async def lanes(self, log: str, *, prefix: str = "") -> list[LaneState]:
        """Return the lanes whose name starts with ``prefix``, by name."""
        ...

    async def head(self, log: str, lane: str) -> tuple[LogState, LaneState | None]:
        """Return where the log and one lane stand, as of one moment."""
        ...

    async def view(self, log: str, *, tail: bool = True) -> LogView:
        """Return one consistent view; without ``tail`` its tail is empty."""
        ...

    async def row_view(self, log: str, collection: str, key: str) -> LogView:
        """Return a consistent view with only what touches one row, without lanes and gaps."""
        ...

    async def torn(self, state: LogState, *, seq_end: int, at_us: int | None) -> dict[str, int]:
        """Return the transactions on both sides of a cut, with their first seq."""
        ...

    # Appends

    async def append(
        self, log: str, batches: Sequence[Batch], *, recorded_us: int, skew_us: int
    ) -> list[Appended | PitrError]:
        """Add the batches to the tail at once; each is answered alone."""
        ...

    async def append_segment(
        self,
        log: str,
        batch: Batch,
        *,
        segment: ObjectRef,
        stamped: Stamped,
        lane_position: int | None,
        recorded_us: int,
    ) -> Appended:
        """List a durable segment that holds ``batch``; ``SequenceMoved`` if the log grew.

        A batch whose idempotency key is known is answered as before, and nothing is listed.
        """
        ...

    # Lanes of a pulled source

    async def claim(
        self, log: str, owner: str, starts: Mapping[str, int], *, recorded_us: int
    ) -> dict[str, LaneState]:
        """Make ``owner`` the only one that may append to these lanes; new ones start there."""
        ...

    async def report(self, log: str, owner: str, reports: Sequence[LaneReport]) -> None:
        """Note what an owner sees of its lanes' source; lanes of others stay as they are."""
        ...

    async def leave(self, log: str, owner: str, lane: str) -> None:
        """Let another take a lane at once that ``owner`` has; its source is not over."""
        ...

    async def skip(self, log: str, owner: str, gap: Gap) -> Gap:
        """Record what a source has lost and move the lane past it; ``PositionConflict``."""
        ...

    async def open_gap(self, log: str, owner: str, gap: Gap) -> None:
        """Record a hole that will heal, unless it is recorded already; ``LaneTaken``."""
        ...

    async def heal_gaps(
        self, log: str, owner: str, lane: str, *, at_us: int, but: Sequence[str], all_known: bool
    ) -> int:
        """End a lane's open gaps, but for those of collections still being read; how many.

        One of the whole source ends when ``all_known`` and nothing is being read; ``LaneTaken``.
        """
        ...

    async def replace_lane(self, log: str, lane: str, replaced_by: str, gap: Gap) -> bool:
        """End a lane whose source is another one by now, with a gap; False if there is none."""
        ...

    async def release(self, log: str, lane: str) -> bool:
        """Let a lane hold the watermark back no longer; False if there is none."""
        ...

    # Attached databases

    async def sources(self, log: str) -> list[Source]:
        """Return the databases that are attached to a log, by name."""
        ...

    async def add_source(self, log: str, source: Source) -> None:
        """Attach a database; ``Conflict`` if the name is taken."""
        ...

    async def change_source(self, log: str, source: Source) -> bool:
        """Put this in place of the database of its name; False if there is none."""
        ...

    async def remove_source(self, log: str, name: str) -> bool:
        """Detach a database; False if there is none."""
        ...

    # Objects

    async def tail_stats(self, log: str) -> TailStats:
        """Return how much of the log is not sealed yet."""
        ...

    async def oldest_run(self, log: str, *, rows_max: int, bytes_max: int) -> pa.Table:
        """Return the oldest tail changes without a hole in seq, within both limits."""
        ...

    async def seal(self, log: str, segment: ObjectRef, *, recorded_us: int) -> Entry:
        """List a durable segment in place of the tail changes it holds; ``Conflict`` if raced."""
        ...

    async def replace_objects(
        self,
        log: str,
        *,
        kind: EntryKind,
        add: tuple[ObjectRef, ...] = (),
        retire: tuple[str, ...] = (),
        expire: tuple[str, ...] = (),
        recorded_us: int,
    ) -> Entry:
        """List, retire and expire objects in one entry; ``Conflict`` if the manifest moved."""
        ...

    async def expirable_objects(self, log: str, *, before_us: int) -> list[ObjectRef]:
        """Choose the objects retired before ``before_us`` that no live lease may read, for good.

        From then on no lease is given or renewed for a view that holds one of them.
        """
        ...

    async def entries(
        self, log: str, *, version_first: int, limit: int = 1_000
    ) -> list[tuple[int, bytes, str]]:
        """Return (version, body, hash) of manifest entries from ``version_first`` on."""
        ...

    async def published(self, log: str, version: int) -> None:
        """Note that entries up to ``version`` are in the store."""
        ...

    # Records

    async def put_mark(
        self,
        log: str,
        name: str,
        *,
        seq_end: int | None,
        at_us: int | None,
        created_us: int,
        actor: str | None,
        reason: str | None,
    ) -> Mark:
        """Name a moment; ``Conflict`` if the name is taken."""
        ...

    async def marks(self, log: str) -> list[Mark]:
        """Return the log's marks, oldest first."""
        ...

    async def mark(self, log: str, name: str) -> Mark:
        """Return one mark; ``NotFound`` if there is none."""
        ...

    async def delete_mark(self, log: str, name: str) -> None:
        """Forget a mark; ``NotFound`` if there is none."""
        ...

    async def quarantine(
        self, log: str, *, status: str | None = "waiting", id_first: int = 0, limit: int = 100
    ) -> list[QuarantineItem]:
        """Return inputs in quarantine, oldest first."""
        ...

    async def quarantine_counts(self, log: str) -> dict[str, int]:
        """Return how many inputs are in quarantine, by status."""
        ...

    async def dismiss(self, log: str, quarantine_id: int, *, resolved_us: int) -> None:
        """Set an input aside for good; ``NotFound`` if it does not wait."""
        ...

    async def begin_operation(
        self,
        state: LogState,
        *,
        operation_id: str,
        kind: str,
        actor: str | None,
        reason: str | None,
        started_us: int,
        detail: Mapping[str, Any],
    ) -> None:
        """Record that an operation starts."""
        ...

    async def end_operation(
        self, operation_id: str, *, outcome: str, ended_us: int, detail: Mapping[str, Any]
    ) -> None:
        """Record how an operation ended."""
        ...

    async def note_operation(self, operation_id: str, detail: Mapping[str, Any]) -> None:
        """Add to what is known of an operation while it runs."""
        ...

    async def operations(self, log: str, *, limit: int = 20) -> list[dict[str, Any]]:
        """Return the newest operations, newest first.

        The outcome of one that has not ended is ``running``, with its ``holder``, as long as it
        has a lease, and ``lost`` otherwise.
        """
        ...

    # Leases

    async def take_lease(
        self,
        state: LogState,
        *,
        operation_id: str,
        kind: str,
        actor: str | None,
        holder: str,
        sink: str | None,
        length_us: int,
    ) -> Lease:
        """Take or renew a lease on the view of ``state`` and on a place, by the catalog's clock.

        Returns the lease that stands then: another operation's, if that writes to the place.
        ``Conflict`` if objects that the view holds have been expired.
        """
        ...

    async def release_lease(self, operation_id: str, holder: str) -> None:
        """Let go of a lease; one that has run out already is no error."""
        ...

    async def leases(self, log: str) -> list[Lease]:
        """Return the leases of a log that have not run out, oldest first."""
        ...

    async def record_gap(self, log: str, gap: Gap) -> None:
        """Record a known hole (invariant 7)."""
        ...

    async def forget_answers(self, *, before_us: int) -> int:
        """Forget the answers to idempotent requests recorded before ``before_us``."""
        ...
