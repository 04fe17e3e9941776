"""What the reader of a plan is told beside what it does."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from pitr.domain.log import Gap
from pitr.domain.rewind.sight import Sight
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
    previous, following = resolution.previous, resolution.next
    return {
        "asked": resolution.target.text,
        "position": resolution.position,
        "previous": None if previous is None else [previous.seq, rfc3339(previous.at_us)],
        "next": None if following is None else [following.seq, rfc3339(following.at_us)],
    }


def seen_document(differing: Differing, sight: Sight) -> dict[str, Any]:
    conflicts = [asdict(replace(each, live=None)) for each in sight.conflicts]
    return {
        "conflicts": {"counts": dict(sight.conflict_counts), "examples": conflicts},
        "settled": dict(sight.settled),
        "sequences": [asdict(each) for each in sight.sequences],
        "emptied": sorted(differing.changed.emptied),
        "torn": {
            "count": differing.changed.torn_count,
            "examples": list(differing.changed.torn),
        },
        "bytes": differing.size_bytes,
        "notes": list(sight.notes),
    }
