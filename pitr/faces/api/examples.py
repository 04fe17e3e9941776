"""Answers as OpenAPI shows them; tests/faces/test_api_openapi.py checks them against real ones."""

from __future__ import annotations

from typing import Any

_AT = "2026-03-01T09:30:00.250001Z"
_LATER = "2026-03-01T09:30:02.000000Z"

STATUS: dict[str, Any] = {
    "log": "main",
    "log_id": "6f1c2a9be5d44a0e9c07d8e1f3a5b7c9",
    "created_at": "2026-02-01T00:00:00.000000Z",
    "now": "2026-03-01T10:00:00.000000Z",
    "change_count": 511,
    "seq_next": 512,
    "newest_at": _AT,
    "watermark": "2026-03-01T10:00:00.000000Z",
    "clamped_count": 0,
    "tail": {"change_count": 11, "size_bytes": 4910, "oldest_at": _AT},
    "segments": {"count": 1, "change_count": 500, "size_bytes": 31022},
    "snapshot": {
        "seq_end": 501,
        "at": _AT,
        "parts": 1,
        "row_count": 230,
        "size_bytes": 20114,
    },
    "size_bytes": 51136,
    "manifest": {"version": 2, "published_version": 2},
    "lanes": [
        {
            "lane": "shop-1",
            "position": 511,
            "change_count": 511,
            "newest_at": _AT,
            "recorded_at": _LATER,
            "complete_to": None,
            "owner": None,
            "source_first": None,
            "source_end": None,
            "lag": None,
            "seen_at": None,
            "rate": None,
            "problem": None,
            "lag_bytes": None,
            "copy": None,
        }
    ],
    "gaps": [],
    "quarantine": {"waiting": 1, "replayed": 0, "dismissed": 0},
}

LOGS: dict[str, Any] = {"logs": [STATUS]}

_CHANGE: dict[str, Any] = {
    "seq": 511,
    "collection": "shop.orders",
    "key": {"id": 42},
    "op": "update",
    "at": _AT,
    "committed_at": _AT,
    "recorded_at": _LATER,
    "lane": "shop-1",
    "position": 510,
    "tx": "9f2c",
    "actor": "user:7",
    "reason": "POST /checkout",
}

HISTORY: dict[str, Any] = {
    "log": "main",
    "collection": "shop.orders",
    "key": {"id": 42},
    "changes": [
        _CHANGE
        | {
            "before": {"id": 42, "status": "new"},
            "after": {"id": 42, "status": "paid"},
            "patch": None,
            "fields": [{"name": "status", "before": "new", "after": "paid"}],
            "meta": None,
        }
    ],
}

_MATCH: dict[str, Any] = {
    "tx": "9f2c",
    "at_min": _AT,
    "at_max": _AT,
    "seq_first": 508,
    "seq_end": 512,
    "actor": "user:7",
    "actor_count": 1,
    "reason": "POST /checkout",
    "reason_count": 1,
    "change_count": 4,
    "changes": [
        {"collection": "shop.lines", "op": "create", "count": 3},
        {"collection": "shop.orders", "op": "update", "count": 1},
    ],
    "examples": [{"seq": 508, "collection": "shop.lines", "key": {"id": 91}, "op": "create"}],
    "target": "before-tx:9f2c",
    "command": "pitr describe before-tx:9f2c",
}

FIND: dict[str, Any] = {
    "log": "main",
    "since": "2026-03-01T09:00:00.000000Z",
    "until": None,
    "match_count": 1,
    "change_count": 4,
    "matches": [_MATCH],
    "watermark": "2026-03-01T10:00:00.000000Z",
    "without_tx": [],
    "gaps": [],
}

DESCRIBE: dict[str, Any] = {
    "log": "main",
    "target": "2026-03-01T09:30:01Z",
    "kind": "time",
    "position": "between",
    "at": "2026-03-01T09:30:01.000000Z",
    "seq_end": 512,
    "without_tx": [],
    "previous": _CHANGE,
    "next": None,
    "watermark": "2026-03-01T10:00:00.000000Z",
    "gaps": [],
    "previous_transaction": _MATCH,
    "next_transaction": None,
}

MARK: dict[str, Any] = {
    "name": "before-deploy-42",
    "target": "mark:before-deploy-42",
    "seq_end": 512,
    "at": None,
    "created_at": _LATER,
    "actor": "user:7",
    "reason": "deploy 42",
}

MARKS: dict[str, Any] = {"log": "main", "marks": [MARK]}

QUARANTINE: dict[str, Any] = {
    "log": "main",
    "counts": {"waiting": 1, "replayed": 0, "dismissed": 0},
    "items": [
        {
            "id": 7,
            "lane": "shop-1",
            "position": 1001,
            "code": "not_json",
            "reason": "change: JSON is malformed: expected ':' (byte 14)",
            "format": "native",
            "status": "waiting",
            "recorded_at": _LATER,
            "body": '{"collection" "shop.orders"}',
            "body_base64": None,
        }
    ],
    "next_id": None,
}
