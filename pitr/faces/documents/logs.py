"""How logs stand: lanes, gaps, objects."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.domain.admission import AT_US_MIN
from pitr.domain.log import Gap, LaneState
from pitr.domain.manifest import ObjectRef
from pitr.domain.pgoutput.progress import progress_of
from pitr.domain.times import rfc3339
from pitr.faces.documents.base import Document
from pitr.faces.documents.copies import copy_document
from pitr.services.status import LogStatus


def status_document(status: LogStatus) -> Document:
    """How a log stands."""
    state = status.state
    return {
        "log": state.name,
        "log_id": state.uid,
        "created_at": rfc3339(state.created_us),
        "now": rfc3339(status.now_us),
        "change_count": state.seq_next - 1,
        "seq_next": state.seq_next,
        "newest_at": _newest_at(status),
        "watermark": rfc3339(status.watermark_us),
        "clamped_count": state.clamped_count,
        "tail": {
            "change_count": status.tail.row_count,
            "size_bytes": status.tail.size_bytes,
            "oldest_at": rfc3339(status.tail.oldest_us),
        },
        "segments": {
            "count": len(status.segments),
            "change_count": sum(ref.row_count for ref in status.segments),
            "size_bytes": sum(ref.size_bytes for ref in status.segments),
        },
        "snapshot": snapshot_document(status.snapshot),
        "size_bytes": status.size_bytes,
        "manifest": {
            "version": state.manifest_version,
            "published_version": state.published_version,
        },
        "lanes": [lane_document(lane) for lane in status.lanes],
        "gaps": [gap_document(gap) for gap in status.gaps],
        "quarantine": status.quarantine,
    }


def _newest_at(status: LogStatus) -> str | None:
    return rfc3339(status.at_max_us) if status.state.seq_next > 1 else None


def snapshot_document(parts: Sequence[ObjectRef]) -> Document | None:
    """A snapshot by its parts; None where there is none."""
    if not parts:
        return None
    return {
        "seq_end": parts[0].seq_end,
        "at": rfc3339(max(ref.at_max_us for ref in parts)),
        "parts": len(parts),
        "row_count": sum(ref.row_count for ref in parts),
        "size_bytes": sum(ref.size_bytes for ref in parts),
    }


def lane_document(lane: LaneState) -> Document:
    """Where a lane stands; ``position`` is the one it expects next."""
    progress = progress_of(lane)
    return {
        "lane": lane.lane,
        "position": lane.position,
        "change_count": lane.change_count,
        "newest_at": rfc3339(lane.at_us) if lane.change_count else None,
        "recorded_at": rfc3339(lane.recorded_us),
        "complete_to": None if lane.complete_us == AT_US_MIN else rfc3339(lane.complete_us),
        "owner": lane.owner,
        "source_first": lane.source_first,
        "source_end": lane.source_end,
        "lag": lane.lag,
        "seen_at": rfc3339(lane.seen_us),
        "rate": lane.rate,
        "problem": lane.problem,
        "lag_bytes": lane.lag_bytes,
        "copy": copy_document(progress) if progress.tables_left else None,
    }


def gap_document(gap: Gap) -> Document:
    """A known hole."""
    return {
        "lane": gap.lane,
        "collection": gap.collection,
        "position_first": gap.position_first,
        "position_end": gap.position_end,
        "at_min": rfc3339(gap.at_min_us),
        "at_max": rfc3339(gap.at_max_us),
        "seq_end": gap.seq_end,
        "healed_seq_end": gap.healed_seq_end,
        "reason": gap.reason,
        "recorded_at": rfc3339(gap.recorded_us),
    }


def object_document(ref: ObjectRef) -> Document:
    """One object of the store."""
    return {
        "kind": ref.kind,
        "name": ref.name,
        "collection": ref.collection,
        "seq_first": ref.seq_first,
        "seq_end": ref.seq_end,
        "at_min": rfc3339(ref.at_min_us),
        "at_max": rfc3339(ref.at_max_us),
        "row_count": ref.row_count,
        "size_bytes": ref.size_bytes,
        "sha256": ref.sha256,
    }
