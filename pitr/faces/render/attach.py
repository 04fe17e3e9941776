"""Attached databases as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pitr.domain.log import LaneState, Source
from pitr.domain.pgoutput.attach import Finding
from pitr.domain.pgoutput.attach_request import is_detaching
from pitr.domain.pgoutput.progress import progress_of
from pitr.domain.times import rfc3339
from pitr.faces.render.copies import progress_text
from pitr.faces.render.text import counted, facts_table, printable, size, table
from pitr.services.attach import Attached, Prepared
from pitr.services.detach import DetachReport

SILENT_US = 30_000_000
"""A lane of which nothing was heard for so long is followed by nobody."""


def findings_text(findings: Iterable[Finding]) -> str:
    """What is not as it should be, each with the way out and its statements; worst last."""
    order = ("note", "warning", "refused")
    found = sorted(
        (finding for finding in findings if finding.level in order),
        key=lambda finding: order.index(finding.level),
    )
    return "\n".join(line for finding in found for line in _lines(finding))


def _lines(finding: Finding) -> Iterable[str]:
    yield printable(f"{finding.level}: {finding.text}")
    if finding.hint:
        yield printable(f"  {finding.hint}")
    yield from _statements(finding.statements)


def _statements(statements: Iterable[str]) -> Iterable[str]:
    """Statements to be copied; some have several lines."""
    for statement in statements:
        for line in f"{statement};".splitlines():
            yield printable(f"    {line}")


def attached_text(prepared: Prepared, attached: Attached) -> str:
    """What was attached, and what was made for that."""
    plan = prepared.plan
    tables = counted(len(plan.tables), "table")
    made = [f"{step.kind} {step.name}" for step in attached.done if step.did == "made"]
    there = [f"{step.kind} {step.name}" for step in attached.done if step.did == "there"]
    facts: list[tuple[str, object]] = [
        ("attached", f"{prepared.name}, {prepared.url}"),
        ("tables", f"{tables}, and those made later" if plan.follows_new_tables else tables),
    ]
    if plan.left_out:
        facts.append(("left out", ", ".join(left.collection for left in plan.left_out)))
    if plan.inserts_only:
        facts.append(("only inserts", ", ".join(plan.inserts_only)))
    facts.append(("made", ", ".join(made) or "nothing"))
    if there:
        facts.append(("was there", ", ".join(there)))
    return facts_table(facts)


def detached_text(report: DetachReport) -> str:
    """What was taken away."""
    facts: list[tuple[str, object]] = [
        ("detached", f"{report.source.name}, {report.source.url}"),
        ("removed", ", ".join(report.removed) or "nothing"),
    ]
    return facts_table(facts)


def left_text(report: DetachReport) -> str:
    """What stays in the database, why, and what takes it away."""
    lines: list[str] = []
    for left in report.left:
        lines.append(printable(f"stays: {left.what}: {left.why}"))
        if left.statements:
            lines.append("  to be run there by somebody who may:")
            lines += _statements(left.statements)
    return "\n".join(lines)


def sources_table(pairs: Sequence[tuple[Source, LaneState | None]], *, now_us: int) -> str:
    """One line for each database; below what is still being read, and the problems."""
    rows = [
        (
            source.name,
            source.url,
            source.slot,
            _tables(lane),
            None if lane is None or lane.lag_bytes is None else size(lane.lag_bytes),
            _state(source, lane, now_us),
        )
        for source, lane in pairs
    ]
    headers = ("NAME", "URL", "SLOT", "TABLES", "LAG", "STATE")
    copies = [
        printable(f"{source.name}: {progress_text(progress)}")
        for source, lane in pairs
        if (progress := progress_of(lane)).tables_left
    ]
    problems = [
        printable(f"{source.name}: {lane.problem}")
        for source, lane in pairs
        if lane is not None and lane.problem
    ]
    right = frozenset({"TABLES", "LAG"})
    return "\n".join(filter(None, [table(headers, rows, right=right), *copies, *problems]))


def _tables(lane: LaneState | None) -> int | None:
    return None if lane is None else progress_of(lane).tables_count


def _state(source: Source, lane: LaneState | None, now_us: int) -> str:
    if is_detaching(source):
        return "being detached"
    if lane is None or lane.seen_us is None:
        return "not followed yet"
    if now_us - lane.seen_us > SILENT_US:
        return f"not followed since {rfc3339(lane.seen_us)}"
    if lane.problem:
        return "has a problem"
    to_do = progress_of(lane).tables_left
    return f"{counted(to_do, 'table')} being read" if to_do else "followed"
