"""Makes drafts, batches and changes for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pitr.domain.batch import Batch
from pitr.domain.columnar.schema import DRAFT_SCHEMA


def draft(
    key: int | str = 1,
    after: str | None = '{"v":1}',
    *,
    collection: str = "shop.orders",
    op: str = "update",
    commit_us: int | None = None,
    position: int = 0,
    **rest: Any,
) -> dict[str, Any]:
    """One row of ``DRAFT_SCHEMA``; ``key`` is the value of a key column ``id``."""
    text = "" if op == "truncate" else f'{{"id":{key}}}'
    image = None if op in ("delete", "truncate") else after
    row = dict.fromkeys(DRAFT_SCHEMA.names) | {
        "collection": collection,
        "key": text,
        "op": op,
        "after": image,
        "commit_us": commit_us,
        "position": position,
    }
    return row | rest


def drafts(rows: Sequence[dict[str, Any]], *, position_first: int = 0) -> pa.Table:
    """A table of drafts, with positions counted from ``position_first``."""
    placed = [row | {"position": position_first + i} for i, row in enumerate(rows)]
    return pa.Table.from_pylist(placed, schema=DRAFT_SCHEMA)


def batch(
    rows: Sequence[dict[str, Any]], *, lane: str = "a", position_first: int | None = 0, **rest: Any
) -> Batch:
    """A batch of drafts over as many positions."""
    start = position_first or 0
    return Batch(
        lane=lane,
        position_first=position_first,
        position_end=start + len(rows),
        changes=drafts(rows, position_first=start),
        **rest,
    )
