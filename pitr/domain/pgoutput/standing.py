"""Whether a source can go on where the log stands; if not, what is missing is a gap."""

from __future__ import annotations

from pitr.domain.pgoutput.model import lsn_text
from pitr.domain.pgoutput.notes import Notes
from pitr.domain.pgoutput.ports import Cluster
from pitr.domain.pgoutput.source import SlotState


def standing_problem(notes: Notes, cluster: Cluster, slot: SlotState | None) -> str | None:
    """Return why changes may be missing, or be other ones by now; None if all is well."""
    if notes.lost is not None:
        return notes.lost
    if slot is None:
        return "the replication slot is gone"
    if slot.is_lost:
        why = slot.invalidation_reason or "it was too far behind"
        return f"the source gave the replication slot up: {why}"
    return None if notes.lsn is None else _moved(notes, notes.lsn, cluster, slot)


def _moved(notes: Notes, lsn: int, cluster: Cluster, slot: SlotState) -> str | None:
    """Return how source or slot were moved, against the log."""
    stands = f"the log stands at {lsn_text(lsn)}"
    if (left := _left_at(notes, cluster)) is not None and left < lsn:
        return (
            f"the source went back to {lsn_text(left)} and took another course (a standby took"
            f" over, or it was restored); {stands}"
        )
    if cluster.lsn < lsn:
        return f"the source was restored from an older state, {lsn_text(cluster.lsn)}; {stands}"
    if slot.confirmed_flush_lsn is not None and slot.confirmed_flush_lsn > lsn:
        return (
            f"the replication slot was moved on to {lsn_text(slot.confirmed_flush_lsn)} by"
            f" somebody else, or made anew; {stands}"
        )
    return None


def _left_at(notes: Notes, cluster: Cluster) -> int | None:
    """Return where the source left the timeline that was captured; None if it is still on it."""
    if notes.timeline is None or notes.timeline == cluster.timeline:
        return None
    return dict(cluster.ancestors).get(notes.timeline, 0)


def slot_warning(slot: SlotState) -> str | None:
    """Return why the source may give the slot up soon, None if it need not be feared."""
    if slot.is_lost:
        return "the source gave the replication slot up"
    retained, safe = slot.retained_bytes or 0, slot.safe_wal_bytes
    if slot.wal_status == "unreserved" or (safe is not None and safe < max(retained, 1) // 3):
        return (
            f"the source keeps {retained:,} bytes of WAL for the replication slot, and gives it up"
            f" after {safe or 0:,} more (max_slot_wal_keep_size)"
        )
    return None
