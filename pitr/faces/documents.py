"""The JSON documents of every face: plain dicts made of the domain's dataclasses; no I/O.

A document may hold ``orjson.Fragment``: JSON that came in is put out byte for byte and is never
read as numbers (invariant 10). Only ``dumps`` writes documents. Times are RFC 3339, UTC, to the
microsecond; sizes are bytes; ranges are half-open.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from pitr.domain.change import Change, Op
from pitr.domain.errors import PitrError
from pitr.domain.history import FieldChange, RowChange
from pitr.domain.log import Appended, Gap, LaneState, Mark, QuarantineItem
from pitr.domain.manifest import ObjectRef
from pitr.domain.plan import Reads
from pitr.domain.target import Resolution
from pitr.domain.times import rfc3339
from pitr.services.ingest import IngestReport
from pitr.services.restore import RestorePlan, RestoreReport
from pitr.services.status import LogStatus
from pitr.services.verify import Check, VerifyReport

Document = dict[str, Any]

_INTEGER_MAX = 2**63 - 1


def dumps(document: object, *, indent: bool = False) -> bytes:
    """Write a document as JSON, on one line unless ``indent`` is asked for; no newline at the end.

    Embedded JSON is written as it came, so that it may bring line breaks of its own.
    """
    return orjson.dumps(document, default=str, option=orjson.OPT_INDENT_2 if indent else None)


def json_fragment(text: bytes | str | None) -> orjson.Fragment | None:
    """Embed valid JSON text as it is; None is null."""
    return orjson.Fragment(text) if text is not None else None


def error_document(error: PitrError) -> Document:
    """What went wrong: code, message, hint and facts."""
    return {
        "code": error.code,
        "message": plain_text(error.message),
        "hint": plain_text(error.hint) if error.hint is not None else None,
        "facts": facts_document(error.facts),
    }


def facts_document(facts: Mapping[str, object]) -> Document:
    """The facts of an error; what JSON has no form for becomes text."""
    return {name: _fact(value) for name, value in facts.items()}


def _fact(value: object) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and abs(value) <= _INTEGER_MAX:
        return value
    if isinstance(value, list | tuple):
        return [_fact(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain_text(str(item)) for item in value)
    return plain_text(str(value))


def plain_text(text: str) -> str:
    """Replace what cannot be written as UTF-8 (half characters of foreign file names)."""
    return text.encode("utf-8", "replace").decode()


# Changes


def change_document(change: Change) -> Document:
    """A change with its documents."""
    return change_reference(change) | {
        "after": json_fragment(change.after),
        "before": json_fragment(change.before),
        "unchanged": json_fragment(change.unchanged),
        "meta": json_fragment(change.meta),
    }


def change_reference(change: Change) -> Document:
    """Which change it is: all but its documents."""
    return {
        "seq": change.seq,
        "collection": change.collection,
        "key": key_document(change.key),
        "op": str(change.op),
        "at": rfc3339(change.at_us),
        "committed_at": rfc3339(change.commit_us),
        "recorded_at": rfc3339(change.recorded_us),
        "lane": change.lane,
        "position": change.position,
        "tx": change.tx,
        "actor": change.actor,
        "reason": change.reason,
    }


def key_document(key: str) -> orjson.Fragment | None:
    """A canonical key as JSON; None for the key of a truncate."""
    return json_fragment(key) if key else None


def history_document(log: str, collection: str, key: str, changes: Sequence[RowChange]) -> Document:
    """The history of one row, in the order given."""
    return {
        "log": log,
        "collection": collection,
        "key": key_document(key),
        "changes": [row_change_document(change) for change in changes],
    }


def row_change_document(change: RowChange) -> Document:
    """A change of one row: ``before`` and ``after`` are the whole row, null where it was not."""
    return change_reference(change.change) | {
        "before": json_fragment(change.before),
        "after": json_fragment(change.after),
        "patch": json_fragment(change.change.after if change.change.op is Op.PATCH else None),
        "fields": [field_document(field) for field in change.fields],
        "meta": json_fragment(change.change.meta),
    }


def field_document(field: FieldChange) -> Document:
    """One member that changed; ``before`` or ``after`` is left out where it was absent."""
    document: Document = {"name": field.name}
    if field.before is not None:
        document["before"] = json_fragment(field.before)
    if field.after is not None:
        document["after"] = json_fragment(field.after)
    return document


# Logs


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
    return {
        "lane": lane.lane,
        "position": lane.position,
        "change_count": lane.change_count,
        "newest_at": rfc3339(lane.at_us) if lane.change_count else None,
        "recorded_at": rfc3339(lane.recorded_us),
        "complete_to": rfc3339(lane.complete_us),
    }


def gap_document(gap: Gap) -> Document:
    """A known hole."""
    return {
        "lane": gap.lane,
        "position_first": gap.position_first,
        "position_end": gap.position_end,
        "at_min": rfc3339(gap.at_min_us),
        "at_max": rfc3339(gap.at_max_us),
        "seq_end": gap.seq_end,
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


# Records


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


# Ingest


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


# Targets, restores, verification


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
