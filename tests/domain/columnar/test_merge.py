"""A merge keeps every change as it is, in order, in bounded memory."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr.domain.columnar import merge as merge_module
from pitr.domain.columnar.merge import merge_segments
from pitr.domain.columnar.rows import changes_of
from pitr.domain.columnar.segment import SegmentWriter, WrittenFile
from pitr.domain.errors import DataLoss
from tests.domain.columnar.builders import MEMORY_BYTES, change, segment_file


def merged_file(paths: list[Path], folder: Path) -> WrittenFile:
    writer = SegmentWriter(folder, kind="segment")
    return merge_segments(paths, writer, memory_bytes=MEMORY_BYTES, spill_folder=folder)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["", "x", "é", "y"])), min_size=1
    ),
    cuts=st.sets(st.integers(1, 40), max_size=6),
    files_bytes=st.sampled_from([1, MEMORY_BYTES]),
)
def test_merged_equals_sorted(
    rows: list[tuple[str, str]], cuts: set[int], files_bytes: int
) -> None:
    """With the larger ``files_bytes`` there is room for two files at a time."""
    changes = [
        change(seq, collection=collection, key=key, tx=str(seq), meta=b"{}")
        for seq, (collection, key) in enumerate(rows, start=1)
    ]
    edges = [0, *sorted(cut for cut in cuts if cut < len(changes)), len(changes)]
    folder = Path(tempfile.mkdtemp())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge_module, "STEP_ROWS", 3)
        patch.setattr(merge_module, "FILE_BYTES", files_bytes)
        paths = [
            segment_file(folder, changes[first:end]) for first, end in itertools.pairwise(edges)
        ]
        written = merged_file(paths, folder)
    found = changes_of(pq.read_table(written.path))
    shutil.rmtree(folder)
    assert found == sorted(changes, key=lambda row: (row.collection, row.key.encode(), row.seq))
    assert (written.facts.seq_first, written.facts.seq_end) == (1, len(changes) + 1)


def test_a_hole_is_data_loss(tmp_path: Path) -> None:
    paths = [segment_file(tmp_path, [change(seq)]) for seq in (1, 3)]
    with pytest.raises(DataLoss):
        merged_file(paths, tmp_path)


def test_an_overlap_is_data_loss(tmp_path: Path) -> None:
    first = segment_file(tmp_path, [change(1), change(2)])
    second = segment_file(tmp_path, [change(2), change(3)])
    with pytest.raises(DataLoss):
        merged_file([first, second], tmp_path)


def test_a_damaged_page_is_data_loss(tmp_path: Path) -> None:
    path = segment_file(tmp_path, [change(seq) for seq in range(1, 9)])
    body = bytearray(path.read_bytes())
    body[60] ^= 0x10
    path.write_bytes(body)
    with pytest.raises(DataLoss):
        merged_file([path], tmp_path)
