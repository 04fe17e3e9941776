"""What people see of tables that are being read: a bar for each database, as long as it takes."""

from __future__ import annotations

import pytest

from pitr.domain.pgoutput.copying import CopyState, TableCopy
from pitr.domain.pgoutput.progress import CopyProgress, copy_progress
from pitr.faces.cli.progress import ReadingBars


def reading(rows: int, *, done: bool = False) -> CopyProgress:
    table = TableCopy(collection="public.a", rows=rows, estimate=1_000, done=done)
    return copy_progress(CopyState(tables=(table,), looked=True), rate=50.0)


def test_a_bar_comes_with_the_first_table_and_goes_with_the_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    bars = ReadingBars()
    bars.show({"shop": reading(0, done=True)})
    bars.show({})
    assert capsys.readouterr().err == ""
    for _ in range(2):  # a table may be read again later
        bars.show({"shop": reading(300), "other": reading(1_000, done=True)})
        bars.show({"shop": reading(600), "other": reading(10)})
        bars.show({"shop": reading(1_000, done=True), "other": reading(1_000, done=True)})
    bars.show({"shop": reading(700)})
    bars.close()
    seen = capsys.readouterr().err
    assert "0 of 1 table read, 300 of about 1,000 rows, 50 rows/s, about 14 s left" in seen
    assert "shop" in seen
