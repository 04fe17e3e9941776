"""The small records beside a log, and what an ingest did."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from pitr.domain.log import Appended, Mark, QuarantineItem
from pitr.domain.times import rfc3339
from pitr.faces.documents.base import Document, plain_text
from pitr.services.ingest import IngestReport


def mark_document(mark: Mark) -> Document:
    """A named moment; ``target`` is how other commands name it."""
    return {
        "name": mark.name,
        "target": f"mark:{mark.name}",
        "seq_end": mark.seq_end,
        "at": rfc3339(mark.at_us),
        "created_at": rfc3339(mark.created_us),
        "actor": mark.actor,
        "reason": mark.reason,
    }


def quarantine_document(item: QuarantineItem) -> Document:
    """An input that could not be read; ``body_base64`` is set where the bytes are no text."""
    text = _utf8(item.body)
    return {
        "id": item.quarantine_id,
        "lane": item.lane,
        "position": item.position,
        "code": item.code,
        "reason": plain_text(item.reason),
        "format": item.format,
        "status": item.status,
        "recorded_at": rfc3339(item.recorded_us),
        "body": text,
        "body_base64": base64.b64encode(item.body).decode() if text is None else None,
    }


def _utf8(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def operation_document(operation: Mapping[str, Any]) -> Document:
    """One restore or other operation, as ``Catalog.operations`` returns it."""
    return {
        "id": operation["operation_id"],
        "kind": operation["kind"],
        "outcome": operation["outcome"],
        "actor": operation["actor"],
        "reason": operation["reason"],
        "started_at": rfc3339(operation["started_us"]),
        "ended_at": rfc3339(operation["ended_us"]),
        "detail": operation["detail"],
    }


def ingest_document(log: str, report: IngestReport) -> Document:
    """What the ingest of a file did."""
    return {
        "log": log,
        "lane": report.lane,
        "resumed": report.resumed,
        "lines": report.lines,
        "skipped_lines": report.skipped_lines,
        "stored": report.stored,
        "seq_first": report.seq_first,
        "seq_end": report.seq_end,
        "quarantined_count": report.quarantined,
        "quarantined_reasons": dict(sorted(report.reasons.items())),
    }


def appended_document(log: str, appended: Appended) -> Document:
    """What an append stored; ``seq_first`` and ``seq_end`` are null where it stored nothing."""
    return {
        "log": log,
        "lane": appended.lane,
        "position_end": appended.position_end,
        "stored": appended.count,
        "seq_first": appended.seq_first if appended.count else None,
        "seq_end": appended.seq_end if appended.count else None,
        "duplicate": appended.duplicate,
        "quarantined_count": appended.quarantined_count,
        "clamped_count": appended.clamped_count,
    }
