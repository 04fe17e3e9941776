"""The moment of a plan, for its reader: asked, resolved, and the changes on both sides."""

from __future__ import annotations

from typing import Any

from pitr.domain.change import Change
from pitr.domain.target import Resolution
from pitr.domain.times import rfc3339


def target_document(resolution: Resolution) -> dict[str, Any]:
    """Write down a resolved target; keys of rows are their canonical text."""
    cut = resolution.cut
    return {
        "asked": resolution.target.text,
        "kind": resolution.target.kind,
        "position": resolution.position,
        "at": rfc3339(resolution.target.at_us),
        "seq_end": cut.seq_end,
        "without_tx": sorted(cut.without_tx),
        "watermark": rfc3339(resolution.watermark_us),
        "previous": side_document(resolution.previous),
        "next": side_document(resolution.next),
    }


def side_document(change: Change | None) -> dict[str, Any] | None:
    """Write down which change it is, by whom and why; without its documents."""
    if change is None:
        return None
    return {
        "seq": change.seq,
        "at": rfc3339(change.at_us),
        "collection": change.collection,
        "key": change.key,
        "op": str(change.op),
        "tx": change.tx,
        "actor": change.actor,
        "reason": change.reason,
    }
