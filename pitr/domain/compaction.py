"""When to seal, merge and snapshot: decisions only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pitr.domain.limits import Limits
from pitr.domain.log import LogView, TailStats
from pitr.domain.manifest import ObjectRef

TIER_FACTOR = 8
"""Segments are merged with neighbours of their own size class; classes grow by this factor, so
that a change is rewritten about log₈ of the log's length times."""

TIER_BYTES_MIN = 4 * 1024
"""Everything smaller is one size class."""


def seal_due(stats: TailStats, *, now_us: int, limits: Limits) -> bool:
    """Tell whether the tail is large or old enough to become a segment."""
    if stats.oldest_us is None:
        return False
    return (
        stats.row_count >= limits.seal_rows
        or stats.size_bytes >= limits.seal_bytes
        or now_us - stats.oldest_us >= limits.seal_age_us
    )


def adjacent_runs(segments: Iterable[ObjectRef]) -> list[list[ObjectRef]]:
    """Split segments into runs without a hole: each starts where the one before ends."""
    runs: list[list[ObjectRef]] = []
    for segment in sorted(segments, key=lambda ref: ref.seq_first):
        if runs and runs[-1][-1].seq_end == segment.seq_first:
            runs[-1].append(segment)
        else:
            runs.append([segment])
    return runs


def tier(size_bytes: int) -> int:
    """The size class of a segment, from 0."""
    size, floor = 0, TIER_BYTES_MIN
    while size_bytes > floor:
        size, floor = size + 1, floor * TIER_FACTOR
    return size


def segments_to_merge(
    segments: Sequence[ObjectRef], limits: Limits, *, everything: bool = False
) -> tuple[ObjectRef, ...]:
    """Choose neighbours to merge into one segment; empty when nothing is worth it.

    Args:
        segments: The live segments.
        limits: ``compact_count_min`` neighbours of a size class (or smaller) make a merge, up to
            ``compact_bytes_max`` together.
        everything: Merge any two neighbours that fit.
    """
    runs = adjacent_runs(segments)
    if everything:
        groups = (group for run in runs for group in _groups(run, limits))
        return next((tuple(group) for group in groups if len(group) >= 2), ())
    for level in sorted({tier(ref.size_bytes) for ref in segments}):
        for group in (group for run in runs for group in _groups(run, limits, level=level)):
            if sum(tier(ref.size_bytes) == level for ref in group) >= limits.compact_count_min:
                return tuple(group)
    return ()


def _groups(
    run: Sequence[ObjectRef], limits: Limits, *, level: int | None = None
) -> list[list[ObjectRef]]:
    """Cut a run into groups of neighbours up to size class ``level`` that fit into one segment."""
    groups: list[list[ObjectRef]] = [[]]
    for segment in run:
        if level is not None and tier(segment.size_bytes) > level:
            groups.append([])
            continue
        size_bytes = sum(ref.size_bytes for ref in groups[-1])
        if size_bytes + segment.size_bytes > limits.compact_bytes_max:
            groups.append([])
        groups[-1].append(segment)
    return groups


def latest_snapshot(snapshots: Iterable[ObjectRef]) -> tuple[ObjectRef, ...]:
    """The parts of the newest snapshot; empty if there is none."""
    parts = tuple(snapshots)
    seq_end = max((ref.seq_end for ref in parts), default=0)
    return tuple(ref for ref in parts if ref.seq_end == seq_end)


def snapshot_due(view: LogView, *, waited_us: int, limits: Limits) -> bool:
    """Tell whether enough changed since the newest snapshot for the next to be worth its writing.

    Args:
        view: The log now.
        waited_us: How long the newest snapshot has been the newest, as far as is known.
        limits: ``snapshot_changes_min`` changes are enough at any time, if they are as many as
            the snapshot has rows, each of which the next one writes again; once
            ``snapshot_age_us`` has passed, a hundredth of the rows.
    """
    parts = latest_snapshot(view.snapshots)
    changed = view.state.seq_next - (parts[0].seq_end if parts else 1)
    rows = sum(ref.row_count for ref in parts)
    if waited_us >= limits.snapshot_age_us:
        return changed > rows // 100
    return changed >= max(limits.snapshot_changes_min, rows)


def snapshots_to_retire(snapshots: Iterable[ObjectRef], *, kept: int) -> tuple[ObjectRef, ...]:
    """The parts of all but the newest ``kept`` snapshots."""
    parts = tuple(snapshots)
    newest = sorted({ref.seq_end for ref in parts})[-kept:]
    return tuple(ref for ref in parts if ref.seq_end not in newest)
