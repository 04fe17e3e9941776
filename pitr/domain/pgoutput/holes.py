"""Values that the stream leaves out and the log does not have either.

A row that moves to another key keeps its large values (TOAST) and does not send them, unless the
whole old row is sent (``REPLICA IDENTITY FULL``). The new key has no row before it that has them,
so the table is read again.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

HOLE: Final = "rows moved to other keys, and the source did not send their large values again"

_MARK: Final = '"pitr":{"unknown":['


def holes_of(changes: pa.Table) -> list[tuple[str, int]]:
    """Name the collections that have such rows, each with the commit time of the first, µs."""
    marked = changes.filter(pc.fill_null(pc.match_substring(changes["meta"], _MARK), False))
    if not len(marked):
        return []
    first = marked.group_by("collection").aggregate([("commit_us", "min")])
    return list(
        zip(first["collection"].to_pylist(), first["commit_us_min"].to_pylist(), strict=True)
    )
