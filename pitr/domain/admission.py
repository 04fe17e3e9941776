"""Whether and which part of a batch may enter its lane; the rule behind *once* (invariant 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.batch import Batch
from pitr.domain.change import Quarantined
from pitr.domain.errors import LaneTaken, PositionConflict
from pitr.domain.log import LaneState

AT_US_MIN = -(2**63)
"""The log time of a lane that holds nothing yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """What is left of a batch to store; ``changes.position`` and quarantine are absolute."""

    changes: pa.Table
    quarantined: tuple[Quarantined, ...]
    position_end: int
    duplicate: bool


def new_lane(lane: str) -> LaneState:
    """A lane that holds nothing; its position is decided by its first batch."""
    return LaneState(lane=lane, position=0, at_us=AT_US_MIN)


def admit(batch: Batch, lane: LaneState | None) -> Admitted:
    """Decide what of ``batch`` its lane takes now.

    Args:
        lane: Where the lane stands, None for a new one: that takes any first position.

    Raises:
        PositionConflict: The lane stands elsewhere; read where (``facts['expected']``), then
            send from there.
        LaneTaken: Another worker has claimed the lane.
    """
    if lane is not None and lane.owner != batch.owner:
        raise LaneTaken("the lane belongs to another worker", lane=batch.lane, owner=lane.owner)
    stands = lane.position if lane is not None else (batch.position_first or 0)
    if batch.position_first is None:
        return _shifted(batch, stands)
    if stands == batch.position_first:
        return _whole(batch)
    if not batch.resume or stands < batch.position_first:
        raise PositionConflict(
            "the lane does not stand where the batch starts",
            hint=f"send again from position {stands}",
            lane=batch.lane,
            expected=stands,
            got=batch.position_first,
        )
    return _rest(batch, stands)


def _whole(batch: Batch) -> Admitted:
    return Admitted(
        changes=batch.changes,
        quarantined=batch.quarantined,
        position_end=batch.position_end,
        duplicate=False,
    )


def _shifted(batch: Batch, stands: int) -> Admitted:
    positions = pc.add(batch.changes.column("position"), stands)
    index = batch.changes.schema.get_field_index("position")
    return Admitted(
        changes=batch.changes.set_column(index, batch.changes.schema.field(index), positions),
        quarantined=tuple(replace(q, position=q.position + stands) for q in batch.quarantined),
        position_end=batch.position_end + stands,
        duplicate=False,
    )


def _rest(batch: Batch, stands: int) -> Admitted:
    keep = pc.greater_equal(batch.changes.column("position"), stands)
    return Admitted(
        changes=batch.changes.filter(keep),
        quarantined=tuple(q for q in batch.quarantined if q.position >= stands),
        position_end=max(batch.position_end, stands),
        duplicate=stands >= batch.position_end,
    )
