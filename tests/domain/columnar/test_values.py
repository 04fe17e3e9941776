"""Decoding a few rows of a page gives what pyarrow reads, whatever the values are."""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pitr.domain.columnar import encoding, values
from pitr.domain.columnar.encoding import FAST, finish, open_writer
from pitr.domain.columnar.footers import Footer
from pitr.domain.columnar.pages import column_values
from pitr.domain.columnar.schema import CHANGE_SCHEMA

INT64 = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.sampled_from([INT64, st.integers(0, 3), st.integers(10**15, 10**15 + 500)])
TEXTS = st.sampled_from([st.sampled_from("abc"), st.text(max_size=20)])


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Changes whose columns have nothing to do with each other."""
    count = draw(st.integers(1, 700))
    columns = []
    for field in CHANGE_SCHEMA:
        one = draw(NUMBERS if field.type == pa.int64() else TEXTS)
        if field.nullable:
            one = draw(st.sampled_from([one, st.none() | one, st.none()]))
        some = draw(st.lists(one, min_size=1, max_size=40))
        repeated = draw(st.integers(1, 90))  # long runs, and values again and again
        column = [some[row // repeated % len(some)] for row in range(count)]
        columns.append(pa.array(column, field.type))
    return pa.table(columns, schema=CHANGE_SCHEMA)


def written(table: pa.Table, path: Path) -> Path:
    """Write rows as a segment, in the order given."""
    with path.open("wb") as file:
        writer = open_writer(file, kind="segment", packing=FAST, sample=table)
        writer.write_table(table)
        finish(writer, document_bytes_max=0)
    return path


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(tables(), st.data())
def test_any_rows_are_what_pyarrow_reads(table: pa.Table, data: st.DataObject) -> None:
    folder = Path(tempfile.mkdtemp())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "WRITE_BATCH_ROWS", data.draw(st.sampled_from([1, 7, 256])))
        patch.setattr(encoding, "PAGE_BYTES_MAX", data.draw(st.sampled_from([64, 1 << 20])))
        path = written(table, folder / "any.parquet")
    [group] = Footer(path).groups
    stored = pq.read_table(path)
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(table))] * 2)))
    with path.open("rb") as file:
        for at, name in enumerate(CHANGE_SCHEMA.names):
            found = column_values(file.fileno(), group, at, range(first, last))
            expected = stored[name][first:last].to_pylist()
            assert found == [row.encode() if isinstance(row, str) else row for row in expected]
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "texts", [["a"], ["", "a", "", "aa", "a"], ["b" * 300, "a", "\x01\x00\x00\x00a"]]
)
@pytest.mark.parametrize("wanted", ["a", "", "aa", "c"])
def test_places_of_a_text(texts: list[str], wanted: str) -> None:
    body = b"".join(len(text).to_bytes(4, "little") + text.encode() for text in texts)
    expected = [row for row, text in enumerate(texts) if text == wanted]
    assert values.places_of(body, wanted.encode()) == expected


@pytest.mark.parametrize("start", ["ones", "zeros", "packed"])
@given(data=st.data())
def test_rows_here_and_there_of_a_page_with_nulls(start: str, data: st.DataObject) -> None:
    """Levels are runs of ones and zeros (count << 1, level), or eight packed (1 << 1 | 1, bits)."""
    runs = {
        "ones": (b"\x3c\1", [1] * 30),
        "zeros": (b"\x04\0", [0] * 2),
        "packed": (b"\x03\xad", [1, 0, 1, 1, 0, 1, 0, 1]),
    }
    names = [start, *data.draw(st.lists(st.sampled_from(sorted(runs)), max_size=6)), "ones"]
    levels = b"".join(runs[name][0] for name in names)
    there = [level for name in names for level in runs[name][1]]
    texts = [b"%d" % row if level else None for row, level in enumerate(there)]
    plain = b"".join(struct.pack("<I", len(text)) + text for text in texts if text is not None)
    rows = sorted(data.draw(st.frozensets(st.integers(0, len(texts) - 1), min_size=1)))
    body = struct.pack("<I", len(levels)) + levels + plain
    found = values.text_values(body, values.PLAIN, rows, nullable=True, dictionary=[])
    assert found == [texts[row] for row in rows]
    with pytest.raises(ValueError, match="levels"):
        values.text_values(body, values.PLAIN, [len(texts)], nullable=True, dictionary=[])


BRACED = st.sampled_from(
    ["{", "{}", "{a", "{{", '{"a":1}', "{\0{", "{" * 30, "{" + "b" * 118 + "{"]
)
ODD = BRACED | st.text("{}b\0", max_size=4)


@pytest.mark.parametrize("near", [1, 40, 4_096])
@given(
    texts=st.lists(BRACED, min_size=1, max_size=300) | st.lists(ODD, min_size=1, max_size=300),
    wanted=st.frozensets(ODD),
)
def test_rows_of_keys_are_where_the_texts_are(
    near: int, texts: list[str], wanted: frozenset[str]
) -> None:
    """Whether braces tell where texts begin or not, and whatever looks like a length."""
    texts = sorted(texts)
    body = b"".join(len(text).to_bytes(4, "little") + text.encode() for text in texts)
    expected = [(row, text.encode()) for row, text in enumerate(texts) if text in wanted]
    keys = sorted(key.encode() for key in wanted)
    are_objects = all(text.startswith("{") for text in texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(values, "_NEAR_BYTES", near)
        found = values.rows_of_keys(body, len(texts), keys, are_objects=are_objects)
        assert found == expected
        assert values.rows_of_keys(body, len(texts), keys, are_objects=False) == expected


@pytest.mark.parametrize("rows", [range(0, 1), range(3, 9)])
def test_a_page_that_ends_too_early_is_an_error(rows: range) -> None:
    for encoded in (values.PLAIN, values.RLE_DICTIONARY, values.DELTA_BINARY_PACKED, 99):
        with pytest.raises((ValueError, IndexError, struct.error)):
            values.text_values(b"\x02", encoded, rows, nullable=False, dictionary=[])
