"""The Arrow shape of changes, in memory and in Parquet; ``docs/format.md`` explains it."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

DRAFT_SCHEMA: Final = pa.schema(
    [
        pa.field("collection", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("op", pa.string(), nullable=False),
        pa.field("after", pa.string()),
        pa.field("before", pa.string()),
        pa.field("unchanged", pa.string()),
        pa.field("commit_us", pa.int64()),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("tx", pa.string()),
        pa.field("actor", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("meta", pa.string()),
    ]
)
"""A change as a format decoded it, before append gives it seq and times. ``commit_us`` is null
where the source gave no time; append then uses the time of recording."""

CHANGE_SCHEMA: Final = pa.schema(
    [
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("collection", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("op", pa.string(), nullable=False),
        pa.field("after", pa.string()),
        pa.field("before", pa.string()),
        pa.field("unchanged", pa.string()),
        pa.field("at_us", pa.int64(), nullable=False),
        pa.field("commit_us", pa.int64(), nullable=False),
        pa.field("recorded_us", pa.int64(), nullable=False),
        pa.field("lane", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("tx", pa.string()),
        pa.field("actor", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("meta", pa.string()),
    ]
)
"""A change in the log: the tail, segments and snapshots all have exactly these columns."""
