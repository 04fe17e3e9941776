"""Ingest, quarantine, marks and operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from pitr.domain.log import Appended, Mark, QuarantineItem
from pitr.domain.times import rfc3339
from pitr.faces.render.text import counted, facts_table, printable, seconds, short, table
from pitr.services.ingest import IngestReport

BODY_CHARS_MAX = 4_000
"""Longest body of a quarantined input that text shows."""


def ingest_text(report: IngestReport, *, elapsed_s: float) -> str:
    """What an ingest did."""
    fresh = report.lines - report.skipped_lines
    facts: list[tuple[str, object]] = [
        ("lines", f"{report.lines:,}, {report.skipped_lines:,} of them were there before"),
        ("stored", f"{counted(report.stored, 'change')}{_range(report.seq_first, report.seq_end)}"),
        ("quarantined", f"{report.quarantined:,}{_reasons(report.reasons)}"),
        ("took", f"{elapsed_s:,.2f} s, {fresh / max(elapsed_s, 1e-6):,.0f} lines a second"),
    ]
    return facts_table(facts)


def _range(seq_first: int | None, seq_end: int | None) -> str:
    if seq_first is None or seq_end is None:
        return ""
    return f", seq {seq_first} to {seq_end - 1}"


def _reasons(reasons: Mapping[str, int]) -> str:
    named = ", ".join(f"{count:,} {code}" for code, count in sorted(reasons.items()))
    return f": {named}" if named else ""


def quarantine_warning(report: IngestReport) -> str:
    """That lines were set aside, so that nobody misses it."""
    return (
        f"WARNING: {counted(report.quarantined, 'line')} could not be read and went to quarantine"
    )


def appended_text(appended: Appended) -> str:
    """What an append stored."""
    stored = _range(appended.seq_first, appended.seq_end) if appended.count else ""
    return f"stored {counted(appended.count, 'change')}{stored}"


def quarantine_table(items: Sequence[QuarantineItem]) -> str:
    """One line for each input."""
    rows = [
        (
            str(item.quarantine_id),
            rfc3339(item.recorded_us),
            item.lane,
            item.position,
            item.code,
            item.status,
            short(item.reason),
        )
        for item in items
    ]
    headers = ("ID", "RECORDED", "LANE", "POSITION", "CODE", "STATUS", "REASON")
    return table(headers, rows, right=frozenset({"ID", "POSITION"}))


def quarantine_text(item: QuarantineItem) -> str:
    """One input with its bytes, as far as they are text."""
    facts: list[tuple[str, object]] = [
        ("id", str(item.quarantine_id)),
        ("status", item.status),
        ("code", item.code),
        ("reason", item.reason),
        ("format", item.format),
        ("lane", f"{item.lane}, position {item.position}"),
        ("recorded", rfc3339(item.recorded_us)),
        ("bytes", len(item.body)),
    ]
    body = item.body.decode("utf-8", "backslashreplace")
    return f"{facts_table(facts)}\n\n{printable(short(body, BODY_CHARS_MAX))}"


def marks_table(marks: Sequence[Mark]) -> str:
    """One line for each mark."""
    rows = [
        (
            mark.name,
            str(mark.seq_end),
            rfc3339(mark.at_us),
            rfc3339(mark.created_us),
            mark.actor,
            mark.reason,
        )
        for mark in marks
    ]
    headers = ("MARK", "SEQ_END", "AT", "CREATED", "ACTOR", "REASON")
    return table(headers, rows, right=frozenset({"SEQ_END"}))


def operations_table(operations: Sequence[Mapping[str, Any]]) -> str:
    """One line for each operation."""
    rows = [
        (
            each["operation_id"],
            _kind(each),
            rfc3339(each["started_us"]),
            each["outcome"] or "running",
            _took(each),
            operation_rows(each["detail"]),
            each["actor"],
            each["reason"],
            _of_what(each["detail"]),
            each["detail"].get("where"),
        )
        for each in operations
    ]
    headers = (
        *("ID", "KIND", "STARTED", "OUTCOME", "TOOK", "ROWS", "ACTOR", "REASON", "TARGET"),
        "WHERE",
    )
    return table(headers, rows, right=frozenset({"TOOK", "ROWS"}))


def operation_text(operation: Mapping[str, Any]) -> str:
    """One operation with all that is known of it."""
    facts: list[tuple[str, object]] = [
        ("operation", operation["operation_id"]),
        ("kind", _kind(operation)),
        ("outcome", operation["outcome"] or "running"),
        ("started", rfc3339(operation["started_us"])),
        ("took", _took(operation)),
        ("by", operation["actor"]),
        ("for", operation["reason"]),
    ]
    detail = operation["detail"]
    facts += [(name, _fact(detail[name])) for name in sorted(detail) if detail[name] is not None]
    return facts_table(facts)


def _fact(value: object) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _kind(operation: Mapping[str, Any]) -> str:
    of = operation["detail"].get("of")
    return f"{operation['kind']} of {of}" if of else str(operation["kind"])


def _of_what(detail: Mapping[str, Any]) -> str | None:
    """What it was about: a moment, an operation, a transaction."""
    for name in ("target", "undoes", "tx"):
        if isinstance(detail.get(name), str):
            return str(detail[name])
    at, seq_end = detail.get("at"), detail.get("seq_end")
    return at or (None if seq_end is None else f"seq:{seq_end - 1}")


def operation_rows(detail: Mapping[str, Any]) -> int | None:
    """How many rows it wrote, or would write."""
    rows = detail.get("rows")
    if not isinstance(rows, Mapping):
        return None
    counts = [
        count
        for each in rows.values()
        for count in (each.values() if isinstance(each, Mapping) else [each])
    ]
    return sum(count for count in counts if isinstance(count, int))


def _took(operation: Mapping[str, Any]) -> str | None:
    if operation["ended_us"] is None:
        return None
    return seconds(operation["ended_us"] - operation["started_us"])
