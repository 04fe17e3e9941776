"""Changes, and the history of a row."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from pitr.domain.change import Change, Op
from pitr.domain.history import FieldChange, RowChange
from pitr.domain.times import rfc3339
from pitr.faces.documents.base import Document, json_fragment


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
