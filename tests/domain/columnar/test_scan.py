"""Scans find changes by transaction, time and seq, in files and tail alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from pitr.domain.columnar.rows import tail_table
from pitr.domain.columnar.scan import changes_between, neighbours, transaction_start
from tests.domain.columnar.builders import change, segment_file

TIMES = [5, 5, 7, 6, 6, 9]
CHANGES = [
    change(seq, at_us=at_us, tx="t" if seq % 2 else None, key=f"{9 - seq}")
    for seq, at_us in enumerate(TIMES, start=1)
]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [segment_file(tmp_path, CHANGES[:2]), segment_file(tmp_path, CHANGES[2:4])]


TAIL = tail_table(CHANGES[4:])


def test_the_start_of_a_transaction(paths: list[Path]) -> None:
    assert transaction_start(paths, TAIL, "t") == 1
    assert transaction_start(paths[1:], TAIL, "t") == 3
    assert transaction_start([], TAIL, "t") == 5
    assert transaction_start(paths, None, "nobody's") is None


@pytest.mark.parametrize("at_us", range(4, 11))
def test_neighbours_of_a_moment(paths: list[Path], at_us: int) -> None:
    ordered = sorted(CHANGES, key=lambda row: (row.at_us, row.seq))
    before = [row for row in ordered if row.at_us <= at_us]
    after = [row for row in ordered if row.at_us > at_us]
    expected = (before[-1] if before else None, after[0] if after else None)
    assert neighbours(paths, TAIL, at_us) == expected


def test_changes_between_seqs(paths: list[Path]) -> None:
    assert changes_between(paths, TAIL, seq_first=2, seq_end=6) == CHANGES[1:5]
    assert changes_between(paths, TAIL, seq_first=2, seq_end=6, limit=2) == CHANGES[1:3]
    assert changes_between([], TAIL, seq_first=1, seq_end=99) == CHANGES[4:]
    assert changes_between([], None, seq_first=1, seq_end=99) == []
