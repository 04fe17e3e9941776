"""Transactions that a seq tears are found in the changes around it, whatever way they are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr.domain.columnar import around
from pitr.domain.columnar.around import transactions_around
from pitr.domain.columnar.encoding import Packing
from pitr.domain.columnar.footers import FooterCache
from pitr.domain.columnar.rows import empty_table
from pitr.domain.errors import DataLoss
from pitr.domain.target import torn_by_seq
from tests.domain.columnar.builders import change, segment_file
from tests.domain.columnar.logs import logs, stored


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_torn_transactions_are_those_that_every_change_tells_of(data: st.DataObject) -> None:
    changes = data.draw(logs())
    reach = data.draw(st.sampled_from([1, 3, 10, 50]))
    with stored(data, changes) as log, pytest.MonkeyPatch.context() as patch:
        patch.setattr(around, "NAMES_MAX", data.draw(st.sampled_from([0, 2, 64])))
        patch.setattr(around, "BATCH_ROWS", data.draw(st.sampled_from([2, 1_000])))
        patch.setattr(around, "PAGES_MAX", data.draw(st.sampled_from([0, 1, 1_000])))
        footers = FooterCache()
        for seq_end in range(1, len(changes) + 2):
            window = range(max(seq_end - reach, 1), seq_end + reach)
            found = transactions_around(
                log.paths(range(window.start, seq_end)),
                log.paths(range(seq_end, window.stop)),
                log.tail,
                window=window,
                seq_end=seq_end,
                footers=footers,
            )
            every = [(row.seq, row.tx) for row in changes if row.seq in window]
            assert torn_by_seq(found, seq_end) == torn_by_seq(every, seq_end)


@pytest.mark.parametrize(("pages_max", "whole"), [(1, False), (0, True)])
def test_pages_without_the_transactions_are_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages_max: int, *, whole: bool
) -> None:
    packing = Packing(level=1, page_rows_max=16, page_bytes=1 << 20)
    changes = [
        change(seq, key=f'{{"id":{seq * 7_919 % 1_000}}}', tx="torn" if seq == 999 else f"{seq}")
        for seq in range(1, 1_001)
    ]
    before = segment_file(tmp_path, changes, packing=packing)
    after = segment_file(tmp_path, [change(1_001, tx="torn")])
    monkeypatch.setattr(around, "PAGES_MAX", pages_max)
    read = list[Path]()
    changes_of = around._changes

    def spied(path: Path, seqs: range) -> Iterator[pa.RecordBatch]:
        read.append(path)
        return changes_of(path, seqs)

    monkeypatch.setattr(around, "_changes", spied)
    found = transactions_around(
        [before],
        [after],
        empty_table(),
        window=range(1, 1_002),
        seq_end=1_001,
        footers=FooterCache(),
    )
    assert found == [(999, "torn"), (1_001, "torn")]
    assert read == ([after, before] if whole else [after])


def test_a_damaged_file_is_data_loss(tmp_path: Path) -> None:
    paths = [segment_file(tmp_path, [change(seq, tx="torn")]) for seq in (1, 2)]
    for path in paths:
        body = path.read_bytes()
        at = body.index(b"torn")
        path.write_bytes(body[:at] + b"born" + body[at + 4 :])
        with pytest.raises(DataLoss):
            transactions_around(
                paths[:1],
                paths[1:],
                empty_table(),
                window=range(1, 3),
                seq_end=2,
                footers=FooterCache(),
            )
        path.write_bytes(body)
