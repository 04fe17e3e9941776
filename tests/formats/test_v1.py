"""Files of format 1 open for ever, byte for byte; these were written by its first release."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq

from pitr.domain.change import Op
from pitr.domain.columnar.footers import FooterCache
from pitr.domain.columnar.lookup import row_history
from pitr.domain.columnar.probe import object_problems
from pitr.domain.columnar.replay import Replay, ReplayInput
from pitr.domain.columnar.rows import changes_of
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.manifest import replay_entries
from pitr.domain.target import Cut

FOLDER = Path(__file__).parent / "v1"
SEGMENT, SNAPSHOT = FOLDER / "segment.parquet", FOLDER / "snapshot.parquet"
ROW = ("public.orders", '{"id":1}')
BIG = b'"big":18446744073709551617'


def test_the_manifest_entry_describes_the_objects() -> None:
    body = (FOLDER / "entry.json").read_bytes()
    manifest = replay_entries([(body, (FOLDER / "entry.sha256").read_text().strip())])
    assert manifest.version == 1
    for ref, path in zip(manifest.objects.values(), (SEGMENT, SNAPSHOT), strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == ref.sha256
        assert object_problems(path, ref) is None


def test_a_segment_has_every_column() -> None:
    table = pq.read_table(SEGMENT)
    assert table.schema.names == CHANGE_SCHEMA.names
    changes = sorted(changes_of(table), key=lambda change: change.seq)
    assert [change.seq for change in changes] == [1, 2, 3, 4, 5]
    assert changes[0].after == b'{"id": 1, "total": 1.10, "big": 18446744073709551617}'
    assert (changes[0].tx, changes[0].actor, changes[0].reason) == (
        "t1",
        "user:7",
        "POST /checkout",
    )
    assert changes[1].meta == b'{"request":"r-1"}'
    assert (changes[2].op, changes[2].unchanged) == (Op.PATCH, b'["big"]')
    assert changes[4].key == ""


def test_state_and_history_are_read_from_it(tmp_path: Path) -> None:
    for given in (
        ReplayInput(segments=(SEGMENT,), cut=Cut(seq_end=6)),
        ReplayInput(base=(SNAPSHOT,), base_seq_end=6, segments=(), cut=Cut(seq_end=6)),
    ):
        replay = Replay(given, memory_bytes=512 * 2**20, spill_folder=tmp_path, threads=1)
        with replay as state:
            rows = [change for batch in state.all_rows() for change in changes_of(batch)]
        assert [(row.collection, row.key) for row in rows] == [ROW]
        assert rows[0].after == b'{"id":1,"total":2.20,' + BIG + b"}"
    changes = row_history([SEGMENT], None, *ROW, footers=FooterCache())
    assert [change.seq for change in changes] == [3, 1]
