"""A log as its readers see it at one moment: where it stands, its objects, its tail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from pitr.domain.manifest import ObjectRef

POSTGRES_PREFIX: Final = "postgres:"
"""Of lanes that attached databases come by; no other says what a table was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """Where a log stands. ``seq_next`` is the seq that the next change gets."""

    log_id: int
    name: str
    uid: str
    created_us: int
    seq_next: int
    manifest_version: int
    manifest_hash: str
    published_version: int
    clamped_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneState:
    """Where a lane stands: ``position`` is the first position not stored yet.

    ``at_us`` is the log time of its newest change; ``complete_us`` is None for a pushed lane. Only
    ``owner`` may append, if there is one. The rest is what a pulled lane's source said at
    ``seen_us``: its positions are ``[source_first, source_end)``; ``rate`` is in changes a second;
    ``lag_bytes`` is what waits in the WAL of a database, ``copy_rate`` how many rows a second are
    read that were there before it was attached; None while none are.
    """

    lane: str
    position: int
    at_us: int
    change_count: int = 0
    recorded_us: int = 0
    complete_us: int | None = None
    state: Mapping[str, Any] = field(default_factory=dict)
    owner: str | None = None
    source_first: int | None = None
    source_end: int | None = None
    seen_us: int | None = None
    rate: float | None = None
    problem: str | None = None
    lag_bytes: int | None = None
    copy_rate: float | None = None

    @property
    def lag(self) -> int | None:
        """Positions that the source has and the log has not; None where nobody asked it."""
        return None if self.source_end is None else max(self.source_end - self.position, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneReport:
    """What a lane's owner sees of its source.

    ``complete_us`` says that, with the lane at ``position``, the log has every change up to then.
    """

    lane: str
    position: int
    source_first: int | None = None
    source_end: int | None = None
    seen_us: int | None = None
    rate: float | None = None
    problem: str | None = None
    complete_us: int | None = None
    lag_bytes: int | None = None
    copy_rate: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A known hole in a lane (invariant 7). Bounds that are not known are None.

    ``collection`` is None where every one is touched. With ``healed_seq_end`` the hole has an end:
    the rows were read anew, and the log is whole again from there, and from ``at_max_us`` on.
    """

    lane: str
    position_first: int | None
    position_end: int | None
    at_min_us: int | None
    at_max_us: int | None
    seq_end: int
    reason: str
    recorded_us: int
    collection: str | None = None
    healed_seq_end: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A database that is attached to a log. ``url`` has no password."""

    name: str
    url: str
    slot: str
    publication: str
    created_us: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lane(self) -> str:
        """The lane of its changes."""
        return f"{POSTGRES_PREFIX}{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TailStats:
    """How much waits to be sealed. ``oldest_us`` is the recorded time of its oldest change."""

    row_count: int
    size_bytes: int
    oldest_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogView:
    """One consistent view: every change below ``state.seq_next`` is in an object or in ``tail``.

    ``tail`` has ``CHANGE_SCHEMA`` in seq order; it may be restricted to one row on request.
    """

    state: LogState
    objects: tuple[ObjectRef, ...]
    tail: pa.Table
    lanes: tuple[LaneState, ...] = ()
    gaps: tuple[Gap, ...] = ()

    @property
    def segments(self) -> tuple[ObjectRef, ...]:
        """The live segments by range."""
        return tuple(ref for ref in self.objects if ref.kind == "segment")

    @property
    def snapshots(self) -> tuple[ObjectRef, ...]:
        """The live snapshot parts by ``seq_end``."""
        return tuple(ref for ref in self.objects if ref.kind == "snapshot")

    def watermark_us(self, now_us: int) -> int:
        """Everything at or before this is captured (invariant 6): the least over pulled lanes."""
        pulled = [lane.complete_us for lane in self.lanes if lane.complete_us is not None]
        return min([now_us, *pulled])


@dataclass(frozen=True, slots=True, kw_only=True)
class Appended:
    """What an append stored: ``[seq_first, seq_end)``; empty when it was all stored before."""

    lane: str
    seq_first: int
    seq_end: int
    position_end: int
    quarantined_count: int = 0
    clamped_count: int = 0
    duplicate: bool = False

    @property
    def count(self) -> int:
        """Changes stored now."""
        return self.seq_end - self.seq_first


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A named moment: the changes below ``seq_end``, or those up to ``at_us`` if it is given."""

    name: str
    seq_end: int
    at_us: int | None
    created_us: int
    actor: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineItem:
    """One input in quarantine, with the place it came from."""

    quarantine_id: int
    lane: str
    position: int
    body: bytes
    format: str
    code: str
    reason: str
    recorded_us: int
    status: str
    meta: str | None = None
