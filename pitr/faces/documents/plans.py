"""Targets, plans, restores, verification."""

from __future__ import annotations

from collections.abc import Iterable

from pitr.domain.change import Change
from pitr.domain.plan import Reads
from pitr.domain.target import Resolution
from pitr.domain.times import rfc3339
from pitr.faces.documents.base import Document, plain_text
from pitr.faces.documents.changes import change_reference, key_document
from pitr.faces.documents.logs import gap_document, object_document
from pitr.services.restore import RestorePlan, RestoreReport
from pitr.services.verify import Check, VerifyReport


def resolution_document(log: str, resolution: Resolution) -> Document:
    """A target against the log: which changes are in, and the commits on both sides."""
    cut = resolution.cut
    return {
        "log": log,
        "target": resolution.target.text,
        "kind": resolution.target.kind,
        "position": resolution.position,
        "at": rfc3339(resolution.target.at_us),
        "seq_end": cut.seq_end,
        "without_tx": sorted(cut.without_tx),
        "previous": _reference_or_none(resolution.previous),
        "next": _reference_or_none(resolution.next),
        "watermark": rfc3339(resolution.watermark_us),
        "gaps": [gap_document(gap) for gap in resolution.gaps],
    }


def _reference_or_none(change: Change | None) -> Document | None:
    return change_reference(change) if change is not None else None


def plan_document(plan: RestorePlan) -> Document:
    """What a restore will read for which moment."""
    return {
        "log": plan.request.log,
        "resolution": resolution_document(plan.request.log, plan.resolution),
        "collections": _sorted_or_none(plan.request.collections),
        "keys": _keys(plan.request.keys),
        "reads": reads_document(plan.reads),
    }


def reads_document(reads: Reads) -> Document:
    """The objects that a replay reads; ``base`` are the parts of one snapshot."""
    return {
        "base": [object_document(ref) for ref in reads.base],
        "base_seq_end": reads.base_seq_end,
        "segments": [object_document(ref) for ref in reads.segments],
        "tail": reads.tail,
        "size_bytes": reads.size_bytes,
    }


def restore_document(report: RestoreReport) -> Document:
    """A restore as it ran."""
    plan = report.plan
    return {
        "operation_id": report.operation_id,
        "log": plan.request.log,
        "resolution": resolution_document(plan.request.log, plan.resolution),
        "where": report.sink.where,
        "rows": dict(report.sink.rows),
        "row_count": report.row_count,
        "notes": list(report.sink.notes),
        "elapsed_us": report.elapsed_us,
    }


def verify_document(report: VerifyReport) -> Document:
    """What was looked at, and the worst of it."""
    return {
        "log": report.log,
        "verdict": report.verdict,
        "objects": report.objects,
        "size_bytes": report.size_bytes,
        "checks": [check_document(check) for check in report.checks],
    }


def check_document(check: Check) -> Document:
    """One thing that was looked at."""
    return {
        "name": check.name,
        "verdict": check.verdict,
        "detail": plain_text(check.detail),
        "lost": check.lost,
    }


def _sorted_or_none(names: Iterable[str] | None) -> list[str] | None:
    return sorted(names) if names is not None else None


def _keys(keys: Iterable[tuple[str, str]] | None) -> list[Document] | None:
    if keys is None:
        return None
    return [
        {"collection": collection, "key": key_document(key)} for collection, key in sorted(keys)
    ]
