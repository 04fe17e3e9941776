"""What the reader of a plan is told beside what it does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from pitr.domain import plan_target
from pitr.domain.change import Change
from pitr.domain.log import Gap
from pitr.domain.rewind.scope import Scope
from pitr.domain.rewind.sight import REFERENCES_SHOWN, Sight
from pitr.domain.rewind.transaction import AppTransaction
from pitr.domain.target import Resolution
from pitr.domain.times import rfc3339
from pitr.services.rewind.difference import Differing


def gap_document(gap: Gap) -> dict[str, Any]:
    return {
        "lane": gap.lane,
        "collection": gap.collection,
        "seq_end": gap.seq_end,
        "reason": gap.reason,
    }


def target_document(resolution: Resolution) -> dict[str, Any]:
    return plan_target.target_document(resolution)


def since_document(change: Change) -> dict[str, Any]:
    return {
        "seq": change.seq,
        "at": rfc3339(change.at_us),
        "op": change.op,
        "tx": change.tx,
        "actor": change.actor,
        "reason": change.reason,
    }


def transaction_document(transaction: AppTransaction, first: Change | None) -> dict[str, Any]:
    return {
        "tx": transaction.tx,
        "seq_first": transaction.seq_first,
        "seq_end": transaction.seq_end,
        "changes": transaction.count,
        "lanes": list(transaction.lanes),
        "at": None if first is None else rfc3339(first.at_us),
        "actor": None if first is None else first.actor,
        "reason": None if first is None else first.reason,
    }


def seen_document(differing: Differing, sight: Sight, scope: Scope) -> dict[str, Any]:
    conflicts = [asdict(replace(each, live=None)) for each in sight.conflicts]
    unknown = [
        f"{each.collection}: what {each.unknown} rows were is not known; they stay as they are"
        for each in differing.differences.values()
        if each.unknown
    ]
    return {
        "sink": asdict(sight.place),
        "conflicts": {"counts": dict(sight.conflict_counts), "examples": conflicts},
        "settled": dict(sight.settled),
        "unknown_to_log": {
            each.collection: {"count": each.scan.unknown, "keys": list(each.scan.unknown_keys)}
            for each in sight.tables
            if each.scan is not None and each.scan.unknown
        },
        "sequences": [asdict(each) for each in sight.sequences],
        "emptied": sorted(differing.changed.emptied),
        "torn": {
            "count": differing.changed.torn_count,
            "examples": list(differing.changed.torn),
        },
        "references": {
            "missing": {
                "count": sight.missing_count,
                "examples": [asdict(each) for each in sight.missing[:REFERENCES_SHOWN]],
            },
            "staying": {
                "count": sight.staying_count,
                "examples": [asdict(each) for each in sight.staying[:REFERENCES_SHOWN]],
            },
            "brought": _counts(scope.brought),
        },
        "bytes": differing.size_bytes,
        "notes": [*sight.notes, *unknown],
    }


def _counts(rows: Iterable[tuple[str, str]]) -> dict[str, int]:
    return dict(sorted(Counter(collection for collection, _ in rows).items()))
