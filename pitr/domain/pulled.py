"""Rules for a lane that is pulled: what is a gap, what is another source, what is urgent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pitr.domain.admission import AT_US_MIN
from pitr.domain.log import Gap, LaneState
from pitr.domain.records import Peeked, Records, digest_of
from pitr.domain.times import rfc3339

NEAR_FRACTION = 0.2
"""A lane that has less than this part of the source's records between it and their deletion."""

OLD_FRACTION = 0.6
"""A record that is as old as this part of the time for which it is kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The positions that a lane's source has: ``[first, end)``."""

    first: int
    end: int


def last_of(records: Records) -> dict[str, Any] | None:
    """Return what the lane's state keeps of its last record; None, with no record, keeps the old.

    ``source_problem`` knows a source again by it.
    """
    if not records.values:
        return None
    digest = digest_of(records.keys[-1], records.values[-1])
    return {"last": {"position": records.positions[-1], "digest": digest}}


def position_to_peek(lane: LaneState, source: Source) -> int | None:
    """Return which record of the source to look at before the lane goes on, None for none.

    After a gap that is the first one left; otherwise the last one captured, if it is still there.
    """
    if lane.position < source.first:
        return source.first
    known = lane.state.get("last")
    if known and source.first <= known["position"] and lane.position <= source.end:
        position: int = known["position"]
        return position
    return None


def source_problem(lane: LaneState, source: Source, peeked: Peeked | None) -> str | None:
    """Tell why a source cannot be the one that a lane was captured from; None if it can.

    Args:
        lane: Where it stands; its state has the digest of the last record captured.
        source: What the source has now.
        peeked: The record at ``position_to_peek``, if there is one.
    """
    if lane.position > source.end:
        return (
            f"the source ends at {source.end}, before position {lane.position} which the log"
            " reached: it was deleted and made again, or cut off"
        )
    known = lane.state.get("last")
    if (
        known
        and peeked is not None
        and peeked.position == known["position"]
        and peeked.digest != known["digest"]
    ):
        return (
            f"the record at position {peeked.position} is another one than the log holds:"
            " the source was deleted and made again"
        )
    return None


def gap_of(lane: LaneState, source: Source, peeked: Peeked | None, *, recorded_us: int) -> Gap:
    """Describe what a source has deleted before the lane came to it.

    Args:
        peeked: The first record that is left, if there is one.
    """
    return Gap(
        lane=lane.lane,
        position_first=lane.position,
        position_end=source.first,
        at_min_us=lane.at_us if lane.at_us > AT_US_MIN else None,
        at_max_us=peeked.time_us if peeked is not None else None,
        seq_end=1,
        reason="the source deleted them before they were captured (retention)",
        recorded_us=recorded_us,
    )


def next_lane(lane: LaneState) -> str | None:
    """Return the lane that this one was replaced by, if it was."""
    following: str | None = lane.state.get("replaced_by")
    return following


def replacement(lane: str) -> str:
    """Name the lane that takes over when the source of a lane was made again."""
    base, tilde, number = lane.rpartition("~")
    return f"{base}~{int(number) + 1}" if tilde and number.isdigit() else f"{lane}~2"


def retention_problem(
    position: int, source: Source, *, oldest_us: int | None, kept_us: int | None, now_us: int
) -> str | None:
    """Warn before a source deletes what is not captured yet; None if that is far off.

    Args:
        oldest_us: Time of the oldest record that is not captured.
        kept_us: For how long the source keeps records, where that is known.
    """
    if position >= source.end:
        return None
    if oldest_us is not None and kept_us is not None:
        if now_us - oldest_us < OLD_FRACTION * kept_us:
            return None
        return (
            f"records from {rfc3339(oldest_us)} on are not captured, and the source deletes them"
            f" at {rfc3339(oldest_us + kept_us)}"
        )
    if source.first and position - source.first < NEAR_FRACTION * (source.end - source.first):
        return (
            f"{source.end - position} records are not captured, and the source deletes from"
            f" position {source.first} on"
        )
    return None


def collection_of(lane: str) -> str | None:
    """Return the collection of changes of a lane that name none: the topic of a Kafka lane."""
    source, _, rest = lane.partition(":")
    return rest.rpartition(":")[0] if source == "kafka" else None
