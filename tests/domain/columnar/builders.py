"""Changes, files and states for the columnar tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pitr.domain.change import Change, Op
from pitr.domain.columnar.encoding import FAST, Packing
from pitr.domain.columnar.replay import Replay, ReplayInput
from pitr.domain.columnar.rows import changes_of, tail_table
from pitr.domain.columnar.segment import SegmentWriter, encode_segment, write_files
from pitr.domain.target import Cut

MEMORY_BYTES = 512 * 1024 * 1024


def change(seq: int, key: str = '{"id":1}', op: Op = Op.UPDATE, **given: Any) -> Change:
    """Return a change with the given fields and plain others."""
    fields: dict[str, Any] = {
        "collection": "shop.orders",
        "after": None if op in (Op.DELETE, Op.TRUNCATE) else b'{"id":1}',
        "at_us": seq,
        "commit_us": seq,
        "recorded_us": seq,
        "lane": "test",
        "position": seq,
    }
    return Change(seq=seq, key="" if op == Op.TRUNCATE else key, op=op, **(fields | given))


def segment_file(folder: Path, changes: Sequence[Change], *, packing: Packing = FAST) -> Path:
    """Write changes as a segment."""
    encoded = encode_segment(tail_table(changes), packing=packing)
    path = folder / f"{encoded.facts.seq_first:020}-{encoded.sha256[:16]}.parquet"
    path.write_bytes(encoded.body)
    return path


def snapshot_files(folder: Path, given: ReplayInput) -> tuple[Path, ...]:
    """Replay and write the state as snapshot parts."""
    folder.mkdir(exist_ok=True)
    writer = SegmentWriter(folder, kind="snapshot")
    with replay(given, folder) as state:
        return tuple(file.path for file in write_files(writer, state.all_rows()))


def replay(given: ReplayInput, folder: Path) -> Replay:
    """Return a replay with the smallest budget, to be entered."""
    return Replay(given, memory_bytes=MEMORY_BYTES, spill_folder=folder, threads=2)


def state_of(given: ReplayInput, folder: Path) -> tuple[list[Change], dict[str, int], list[Change]]:
    """Return all rows in order, the counts, and all rows read collection by collection.

    That everything was read before, as a plan does it, makes no difference.
    """
    with replay(given, folder) as state:
        rows = [row for batch in state.all_rows() for row in changes_of(batch)]
        for collection in state.counts:
            count = sum(len(each) for each in state.rows(collection, documents_only=True))
            assert count == state.counts[collection]
        by_collection = [
            row
            for collection in state.counts
            for batch in state.rows(collection)
            for row in changes_of(batch)
        ]
        return rows, dict(state.counts), by_collection


def expected(state: Iterable[Change]) -> list[Change]:
    """Return folded rows as a replay gives them: in order, without what came before them."""
    rows = [replace(row, before=None, unchanged=None) for row in state]
    return sorted(rows, key=lambda row: (row.collection.encode(), row.key.encode()))


ALL = Cut(seq_end=1 << 50)
