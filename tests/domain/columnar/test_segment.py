"""Segments and snapshot parts keep every value, are sorted, and say the truth about themselves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.change import Change, Op
from pitr.domain.columnar import encoding
from pitr.domain.columnar.encoding import row_groups
from pitr.domain.columnar.facts import facts_of
from pitr.domain.columnar.footers import Footer
from pitr.domain.columnar.names import safe_name, segment_name, snapshot_name
from pitr.domain.columnar.rows import changes_of, tail_table
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.columnar.segment import SegmentWriter, encode_segment, write_files
from tests.domain.columnar.builders import change

EXACT = [
    b'{"n":18446744073709551617,"m":-170141183460469231731687303715884105728}',
    b'{"d":1234567890123456789012345678901234567890.1234567890,"e":1.10,"f":1e400}',
    '{"t":"a\u00e9\u4e2d\U0001f600\U0010ffff\U000e0001\u0000"}'.encode(),
    b'{"empty":"","null":null,"spaces" :  [ ] }',
    b'"\\ud83d\\ude00 \\u0000"',
    b"",
    b"null",
    None,
]


def exact_changes() -> list[Change]:
    return [
        change(
            seq,
            key=f'{{"id":"{chr(0x1F600 + seq % 16)}"}}',
            op=Op.PATCH,
            after=document,
            before=document,
            unchanged=document,
            meta=document,
            at_us=-(1 << 62) + seq,
            commit_us=(1 << 62) - seq,
            tx="" if seq % 2 else None,
            actor="\U0010ffff",
            reason=None if seq % 2 else "",
        )
        for seq, document in enumerate(EXACT, start=1 << 50)
    ]


def read(body: bytes) -> list[Change]:
    return changes_of(pq.read_table(pa.py_buffer(body)))


def test_every_value_comes_back_byte_for_byte() -> None:
    changes = exact_changes()
    encoded = encode_segment(tail_table(changes))
    assert sorted(read(encoded.body), key=lambda row: row.seq) == changes


def test_duckdb_reads_every_value_byte_for_byte(tmp_path: Path) -> None:
    """Other engines read the store too; every encoding must be one they know."""
    changes = exact_changes()
    path = tmp_path / "segment.parquet"
    path.write_bytes(encode_segment(tail_table(changes)).body)
    table = duckdb.sql(f"SELECT * FROM '{path}' ORDER BY seq").to_arrow_table()
    assert changes_of(table) == changes


@given(st.lists(st.tuples(st.text(max_size=2), st.text(max_size=2)), min_size=1, max_size=20))
def test_rows_are_sorted_by_the_bytes_of_collection_and_key(rows: list[tuple[str, str]]) -> None:
    changes = [
        change(seq, collection=collection, key=key)
        for seq, (collection, key) in enumerate(rows, start=1)
    ]
    found = read(encode_segment(tail_table(changes)).body)
    order = [(row.collection.encode(), row.key.encode(), row.seq) for row in found]
    assert order == sorted(order)
    assert sorted(found, key=lambda row: row.seq) == changes


def test_facts_and_ref() -> None:
    changes = [
        change(7, at_us=30, op=Op.CREATE),
        change(8, at_us=20, op=Op.DELETE),
        change(9, at_us=25, op=Op.TRUNCATE, collection="other"),
    ]
    encoded = encode_segment(tail_table(changes))
    ref = encoded.ref("main")
    assert (ref.seq_first, ref.seq_end, ref.at_min_us, ref.at_max_us) == (7, 10, 20, 30)
    assert ref.ops == {"other": {"truncate": 1}, "shop.orders": {"create": 1, "delete": 1}}
    assert (ref.row_count, ref.size_bytes) == (3, len(encoded.body))
    assert ref.sha256 == hashlib.sha256(encoded.body).hexdigest()
    assert ref.name == f"main/segments/{7:020}-{10:020}-{ref.sha256[:16]}.parquet"
    metadata = pq.read_metadata(pa.py_buffer(encoded.body)).metadata
    assert metadata[b"pitr.format"] == b"1"
    assert metadata[b"pitr.kind"] == b"segment"
    assert metadata[b"pitr.document_bytes_max"] == b"8"


def test_the_same_changes_give_the_same_bytes() -> None:
    table = tail_table(exact_changes())
    assert encode_segment(table).body == encode_segment(table).body


def test_row_groups_keep_both_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "ROW_GROUP_ROWS_MAX", 3)
    monkeypatch.setattr(encoding, "ROW_GROUP_BYTES_MAX", 100)
    sizes = [1, 1, 1, 1, 60, 60, 500, 1]
    table = tail_table(
        [change(seq, key="k", after=b"x" * size) for seq, size in enumerate(sizes, start=1)]
    )
    assert [group.num_rows for group in row_groups(table)] == [3, 2, 1, 1, 1]
    assert pa.concat_tables(row_groups(table)).equals(table)


def test_a_snapshot_has_parts_of_one_collection_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pitr.domain.columnar.segment.ROW_GROUP_ROWS_MAX", 10)
    changes = [
        change(seq, collection=collection, key=f"{seq:03}")
        for seq, collection in enumerate(["a"] * 35 + ["b/ü"] * 5, start=1)
    ]
    batches = tail_table(changes).to_batches(max_chunksize=4)
    writer = SegmentWriter(tmp_path, kind="snapshot", part_bytes_max=1)
    files = list(write_files(writer, batches))
    assert len(files) > 2
    assert [(file.collection, file.part) for file in files] == [
        *(("a", part) for part in range(len(files) - 1)),
        ("b/ü", 0),
    ]
    assert [row for file in files for row in read(file.path.read_bytes())] == changes
    for file in files:
        body = file.path.read_bytes()
        assert (file.size_bytes, file.sha256) == (len(body), hashlib.sha256(body).hexdigest())
        assert file.facts == facts_of(tail_table(read(body)))
    ref = files[-1].snapshot_ref("main", seq_end=99, at_min_us=1, at_max_us=50)
    assert (ref.collection, ref.seq_first, ref.seq_end, ref.at_max_us) == ("b/ü", 1, 99, 50)
    assert sorted(tmp_path.iterdir()) == sorted(file.path for file in files)


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    def failing() -> object:
        yield tail_table([change(1)]).to_batches()[0]
        raise OSError("the source broke")

    with pytest.raises(OSError, match="broke"):
        list(write_files(SegmentWriter(tmp_path, kind="segment"), failing()))
    assert list(tmp_path.iterdir()) == []


def test_long_documents_make_pages_of_few_rows(tmp_path: Path) -> None:
    changes = [change(seq, key=f"{seq:05}", after=b"x" * 20_000) for seq in range(1, 200)]
    path = tmp_path / "segment.parquet"
    path.write_bytes(encode_segment(tail_table(changes)).body)
    with path.open("rb") as file:
        for group in Footer(path).groups:
            assert len(group.pages(file.fileno(), 0).rows_first) > 4


def test_no_document_is_in_a_footer(tmp_path: Path) -> None:
    changes = [change(seq, key=f"{seq:05}", after=b"x" * 900) for seq in range(1, 200)]
    body = encode_segment(tail_table(changes)).body
    assert b"x" * 900 not in body[-int.from_bytes(body[-8:-4], "little") - 20_000 :]


@pytest.mark.parametrize(
    ("collection", "name"),
    [
        ("public.orders", "public.orders"),
        ("shop/a b", "shop%2Fa%20b"),
        ("..", "%2E."),
        ("~x", "%7Ex"),
        ("é", "%C3%A9"),
        ("", ""),
    ],
)
def test_collections_are_safe_in_names(collection: str, name: str) -> None:
    assert safe_name(collection) == name


def test_names_are_bounded_and_distinct() -> None:
    long = [safe_name("é" * 200 + str(number)) for number in range(50)]
    assert len(set(long)) == 50
    assert all(len(name) < 100 and not name.split("~")[0][-2:].count("%") for name in long)
    name = snapshot_name("main", seq_end=9, collection="é" * 256, part=0, sha256="f" * 64)
    assert len(name.rpartition("/")[2]) < 200
    assert segment_name("m", seq_first=1, seq_end=2, sha256="ab" * 32).endswith(
        "-abababababababab.parquet"
    )


def test_schema_is_the_same_after_reading() -> None:
    assert pq.read_schema(pa.py_buffer(encode_segment(tail_table([change(1)])).body)).equals(
        CHANGE_SCHEMA
    )


def test_pages_of_a_snapshot_are_small_where_documents_are(tmp_path: Path) -> None:
    """So that few rows of it can be read; what is narrow does not pay for that."""
    writer = SegmentWriter(tmp_path, kind="snapshot")
    changes = [
        change(seq, key=f'{{"id":{seq:05}}}', op=Op.CREATE, after=b'{"n":"%0400d"}' % seq)
        for seq in range(1, 2_001)
    ]
    [written] = write_files(writer, tail_table(changes).to_batches())
    [group] = Footer(written.path).groups
    with written.path.open("rb") as file:
        pages = {
            name: len(group.pages(file.fileno(), CHANGE_SCHEMA.get_field_index(name)).rows_first)
            for name in ("key", "after", "seq")
        }
    assert pages["seq"] == 1
    assert 2_000 * 20 // (8 * 1024) <= pages["key"] <= 8
    assert 2_000 * 400 // (16 * 1024) <= pages["after"] <= 2_000 * 400 // (8 * 1024)
