"""How logs stand, and what keeps them in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pitr.domain.admission import AT_US_MIN
from pitr.domain.log import Gap, LaneState
from pitr.domain.manifest import ObjectRef
from pitr.domain.pgoutput.progress import progress_of
from pitr.domain.times import rfc3339
from pitr.faces.render.copies import progress_text
from pitr.faces.render.text import counted, facts_table, size, table
from pitr.services.status import LogStatus


def logs_table(logs: Sequence[LogStatus]) -> str:
    """One line for each log."""
    rows = [
        (
            log.state.name,
            log.state.seq_next - 1,
            _newest_at(log),
            rfc3339(log.watermark_us),
            log.tail.row_count,
            len(log.segments),
            size(log.size_bytes),
            sum(gap.healed_seq_end is None for gap in log.gaps),
            log.quarantine.get("waiting", 0),
        )
        for log in logs
    ]
    headers = (
        *("LOG", "CHANGES", "NEWEST", "WATERMARK", "TAIL", "SEGMENTS", "SIZE", "GAPS"),
        "QUARANTINE",
    )
    numbers = frozenset({"CHANGES", "TAIL", "SEGMENTS", "SIZE", "GAPS", "QUARANTINE"})
    return table(headers, rows, right=numbers)


def _newest_at(log: LogStatus) -> str | None:
    return rfc3339(log.at_max_us) if log.state.seq_next > 1 else None


def status_text(log: LogStatus) -> str:
    """All about one log."""
    state = log.state
    newest = _newest_at(log)
    facts: list[tuple[str, object]] = [
        ("log", state.name),
        ("changes", f"{state.seq_next - 1:,}" + (f", the newest at {newest}" if newest else "")),
        ("watermark", rfc3339(log.watermark_us)),
        ("tail", f"{counted(log.tail.row_count, 'change')}, {size(log.tail.size_bytes)}"),
        ("segments", f"{len(log.segments):,}, {size(sum(r.size_bytes for r in log.segments))}"),
        ("snapshot", _snapshot_line(log.snapshot)),
        ("manifest", f"version {state.manifest_version}, published {state.published_version}"),
        ("quarantine", ", ".join(f"{count:,} {name}" for name, count in log.quarantine.items())),
    ]
    if state.clamped_count:
        facts.append(
            ("clamped", f"{counted(state.clamped_count, 'change')} were dated too far ahead")
        )
    parts = [facts_table(facts)]
    if log.lanes:
        parts.append(lanes_table(log))
    if log.gaps:
        parts.append(gaps_table(log.gaps))
    return "\n\n".join(parts)


def _snapshot_line(parts: Sequence[ObjectRef]) -> str:
    if not parts:
        return "none"
    rows, size_bytes = sum(r.row_count for r in parts), sum(r.size_bytes for r in parts)
    return f"before seq {parts[0].seq_end}, {counted(rows, 'row')}, {size(size_bytes)}"


def lanes_table(log: LogStatus) -> str:
    """One line for each lane; below what is still being read, and the problems."""
    rows = [
        (
            lane.lane,
            lane.position,
            lane.change_count,
            rfc3339(lane.at_us) if lane.change_count else None,
            lane_complete(lane),
            lane.lag if lane.lag_bytes is None else size(lane.lag_bytes),
            _lag_seconds(lane, log.now_us),
            None if lane.rate is None else f"{lane.rate:,.0f}/s",
        )
        for lane in log.lanes
    ]
    headers = ("LANE", "POSITION", "CHANGES", "NEWEST", "COMPLETE TO", "LAG", "BEHIND", "RATE")
    right = frozenset({"POSITION", "CHANGES", "LAG", "BEHIND", "RATE"})
    copies = [
        f"{lane.lane}: {progress_text(progress)}"
        for lane in log.lanes
        if (progress := progress_of(lane)).tables_left
    ]
    problems = [f"{lane.lane}: {lane.problem}" for lane in log.lanes if lane.problem]
    return "\n".join([table(headers, rows, right=right), *copies, *problems])


def lane_complete(lane: LaneState) -> str | None:
    """The time up to which a pulled lane is complete; words where there is none yet."""
    if lane.complete_us == AT_US_MIN:
        return "not yet"
    return rfc3339(lane.complete_us)


def _lag_seconds(lane: LaneState, now_us: int) -> str | None:
    if lane.complete_us is None or lane.complete_us == AT_US_MIN:
        return None
    return f"{max(now_us - lane.complete_us, 0) / 1e6:,.1f} s"


def gaps_table(gaps: Iterable[Gap]) -> str:
    """One line for each known hole."""
    rows = [
        (
            f"gap in {gap.collection or gap.lane}",
            gap.position_first,
            gap.position_end,
            rfc3339(gap.at_min_us),
            rfc3339(gap.at_max_us),
            gap.healed_seq_end,
            gap.reason,
        )
        for gap in gaps
    ]
    headers = ("GAP", "POSITION_FIRST", "POSITION_END", "FROM", "TO", "HEALED_SEQ", "REASON")
    return table(headers, rows, right=frozenset({"POSITION_FIRST", "POSITION_END", "HEALED_SEQ"}))
