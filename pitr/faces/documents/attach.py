"""Attached databases: what is made in them, and how far they are captured."""

from __future__ import annotations

from collections.abc import Iterable

from pitr.domain.log import LaneState, Source
from pitr.domain.pgoutput.attach import Finding
from pitr.domain.pgoutput.attach_request import is_detaching
from pitr.domain.pgoutput.copying import CopyState
from pitr.domain.pgoutput.progress import progress_of
from pitr.domain.times import rfc3339
from pitr.faces.documents.base import Document
from pitr.faces.documents.copies import copy_document
from pitr.services.attach import Attached, Prepared
from pitr.services.detach import DetachReport


def findings_document(findings: Iterable[Finding]) -> list[Document]:
    """What was found; ``about`` and ``level`` are words for programs."""
    return [
        {
            "about": finding.about,
            "level": finding.level,
            "text": finding.text,
            "hint": finding.hint,
            "statements": list(finding.statements),
        }
        for finding in findings
    ]


def attach_plan_document(log: str, prepared: Prepared) -> Document:
    """What attaching a database makes; ``script`` is what is missing."""
    plan = prepared.plan
    return {
        "log": log,
        "name": prepared.name,
        "url": prepared.url,
        "database": prepared.database,
        "slot": plan.names.slot,
        "publications": list(plan.publications),
        "tables": [
            {
                "collection": table.collection,
                "columns": list(plan.columns[table.collection])
                if table.collection in plan.columns
                else None,
                "rows_estimate": table.rows_estimate,
                "size_bytes": table.size_bytes,
            }
            for table in plan.tables
        ],
        "left_out": [
            {"collection": left.collection, "reason": left.reason} for left in plan.left_out
        ],
        "inserts_only": list(plan.inserts_only),
        "follows_new_tables": plan.follows_new_tables,
        "findings": findings_document(plan.findings),
        "script": plan.script,
    }


def attached_document(attached: Attached) -> Document:
    """What was made in a database."""
    return {
        "lane": attached.source.lane,
        "attached_at": rfc3339(attached.source.created_us),
        "again": attached.again,
        "done": [{"kind": step.kind, "name": step.name, "did": step.did} for step in attached.done],
    }


def detach_document(log: str, report: DetachReport) -> Document:
    """What was taken away, and what stays."""
    return {
        "log": log,
        "name": report.source.name,
        "lane": report.source.lane,
        "reached": report.unreached is None,
        "removed": list(report.removed),
        "left": [
            {"what": left.what, "why": left.why, "statements": list(left.statements)}
            for left in report.left
        ],
    }


def source_document(source: Source, lane: LaneState | None) -> Document:
    """An attached database; ``tables`` are those that were met in it so far."""
    copy = CopyState.of_json(lane.state.get("copy") if lane is not None else None)
    return {
        "name": source.name,
        "url": source.url,
        "slot": source.slot,
        "publications": list(source.options.get("publications", [source.publication])),
        "lane": source.lane,
        "attached_at": rfc3339(source.created_us),
        "detaching": is_detaching(source),
        "tables": [
            {
                "collection": table.collection,
                "rows_read": table.rows,
                "rows_expected": table.expected,
                "complete": table.done,
            }
            for table in copy.tables
        ],
        "copy": copy_document(progress_of(lane)),
        "problem": lane.problem if lane is not None else None,
        "lag_bytes": lane.lag_bytes if lane is not None else None,
        "seen_at": rfc3339(lane.seen_us) if lane is not None else None,
    }
