"""Targets, plans, restores, verification."""

from __future__ import annotations

from pitr.domain.change import Change
from pitr.domain.plan import Reads
from pitr.domain.restore_plan import Plan, kind_of
from pitr.domain.rewind.plan import RewindPlan
from pitr.domain.target import Resolution
from pitr.domain.times import rfc3339
from pitr.faces.documents.base import Document, plain_text
from pitr.faces.documents.changes import change_reference
from pitr.faces.documents.logs import gap_document, object_document
from pitr.faces.render import Swapped
from pitr.services.plans import Report
from pitr.services.rewind.rewinder import RewindReport
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


def reads_document(reads: Reads) -> Document:
    """The objects that a replay reads; ``base`` are the parts of one snapshot."""
    return {
        "base": [object_document(ref) for ref in reads.base],
        "base_seq_end": reads.base_seq_end,
        "segments": [object_document(ref) for ref in reads.segments],
        "tail": reads.tail,
        "size_bytes": reads.size_bytes,
    }


def applied_document(plan: Plan, report: Report) -> Document:
    """A plan as it was applied."""
    common = {
        "operation_id": report.operation_id,
        "kind": kind_of(plan),
        "log": plan.scope.log if isinstance(plan, RewindPlan) else plan.asked.log,
        "plan": plan.hash,
        "target": plan.seen.get("target"),
        "where": plan.seen.get("where"),
        "row_count": report.row_count,
        "elapsed_us": report.elapsed_us,
    }
    if isinstance(report, RewindReport):
        return common | _rewound_document(report)
    return common | {"rows": dict(report.sink.rows), "notes": list(report.sink.notes)}


def _rewound_document(report: RewindReport) -> Document:
    rewound = report.rewound
    return {
        "rows": {
            name: {"insert": each.inserted, "update": each.updated, "delete": each.deleted}
            for name, each in rewound.written.items()
        },
        "mark": report.mark,
        "settled": dict(rewound.settled),
        "conflicts": [
            {"collection": each.collection, "key": each.key, "kind": each.kind}
            for each in rewound.conflicts
        ],
        "lanes": dict(report.lanes),
        "appended": report.appended,
        "notes": list(report.notes),
    }


def swapped_document(found: Swapped) -> Document:
    """The tables that one swap replaced."""
    return {
        "swap_id": found.swap_id,
        "at": found.at,
        "tables": [{"table": live, "old": old} for live, old in sorted(found.tables.items())],
        "size_bytes": found.size_bytes,
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
