"""COPY's text against a naive reader, one value after the other."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.change import KEY_BYTES_MAX
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.errors import DataLoss
from pitr.domain.keys import canonical_key
from pitr.domain.pgoutput import copytext
from pitr.domain.pgoutput.copytext import (
    changes_of,
    decode_rows,
    entered,
    last_values,
    unescaped,
)
from pitr.domain.pgoutput.decode import decode_part
from pitr.domain.pgoutput.model import Column, Form, Part, Relation, Transaction

Row = list[str | None]

ESCAPED = {"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
ESCAPED["\v"] = "\\v"

TRANSACTION = Transaction(lsn=0x16B3748, commit_us=1_772_357_400_000_000, xid=768)


def copied(rows: list[Row]) -> bytes:
    """Write rows as COPY does."""

    def value(text: str | None) -> str:
        return "\\N" if text is None else "".join(ESCAPED.get(letter, letter) for letter in text)

    return "".join("\t".join(map(value, row)) + "\n" for row in rows).encode()


def relation(*columns: Column, key: tuple[str, ...] = ("id",)) -> Relation:
    return Relation(relid=16384, schema="public", name="t", identity="d", columns=columns, key=key)


def column(name: str, form: Form = "string", element: Form | None = None) -> Column:
    return Column(name=name, type_oid=25, typmod=-1, form=form, element=element)


def naive(text: str | None, of: Column) -> bytes:
    """A value as JSON; arrays are left to the stream's own tests."""
    if text is None:
        return b"null"
    if of.form == "boolean":
        return {"t": b"true", "f": b"false"}[text]
    if of.form in ("integer", "number") and text not in ("NaN", "Infinity", "-Infinity"):
        return text.encode()
    return msgspec.json.encode(text)


def naive_document(row: Row, columns: tuple[Column, ...]) -> str:
    members = [
        msgspec.json.encode(each.name) + b":" + naive(text, each)
        for text, each in zip(row, columns, strict=True)
    ]
    return (b"{" + b",".join(members) + b"}").decode()


texts = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
    st.text(st.sampled_from('\\"\t\n\r\b\f\v\x01\x1f\x7fNnbfrtv{}é😀 x'), max_size=8),
    st.sampled_from(["", "\\N", "\\.", "\\\\", "N", "null", "\\x41"]),
)
values: dict[Form, st.SearchStrategy[str]] = {
    "string": texts,
    "integer": st.integers(-(2**80), 2**80).map(str),
    "number": st.one_of(
        st.sampled_from(["NaN", "Infinity", "-Infinity", "0", "-1.50", "1e+20", "2.5e-07"]),
        st.decimals(allow_nan=False, allow_infinity=False).map(lambda d: format(d, "f")),
    ),
    "boolean": st.sampled_from("tf"),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[tuple[Column, ...], list[Row], tuple[str, ...]]:
    names = draw(st.lists(texts.filter(bool), min_size=1, max_size=5, unique=True))
    columns = tuple(column(name, draw(st.sampled_from(sorted(values)))) for name in names)
    key = draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    row = st.tuples(
        *(
            values[each.form] if each.name in key else st.none() | values[each.form]
            for each in columns
        )
    ).map(list)
    return columns, draw(st.lists(row, max_size=6)), tuple(key)


@given(tables())
def test_every_row_is_the_document_that_a_naive_reader_makes(
    table: tuple[tuple[Column, ...], list[Row], tuple[str, ...]],
) -> None:
    columns, rows, key = table

    changes = changes_of(copied(rows), relation(*columns, key=key))

    changes.validate(full=True)
    assert changes.schema == DRAFT_SCHEMA
    assert changes["after"].to_pylist() == [naive_document(row, columns) for row in rows]
    places = {each.name: place for place, each in enumerate(columns)}
    assert changes["key"].to_pylist() == [
        canonical_key(
            naive_document(
                [row[places[name]] for name in key], tuple(columns[places[name]] for name in key)
            ).encode()
        )
        for row in rows
    ]
    assert changes["position"].to_pylist() == list(range(len(rows)))
    assert set(changes["op"].to_pylist()) <= {"read"}


@given(st.lists(st.tuples(texts, texts).map(list), min_size=1, max_size=5))
def test_the_last_row_tells_where_to_go_on(rows: list[Row]) -> None:
    data = copied(rows)

    assert last_values(data, [1, 0]) == [rows[-1][1], rows[-1][0]]
    assert [unescaped(cell) for cell in data.split(b"\n")[0].split(b"\t")] == rows[0]


FORMS = (
    column("id", "integer"),
    column("s"),
    column("n", "number"),
    column("b", "boolean"),
    column("a", "array", "integer"),
    column("as", "array", "string"),
    column("an", "array", "number"),
    column("ab", "array", "boolean"),
)
ARRAYS = ["{1,NULL,-3}", '{"a,b","\\"q\\"",NULL,"NULL",""}', "{1.5,NaN,Infinity}", "{t,f,NULL}"]
ROWS: list[Row] = [
    ["1", 'say "hi"\t\\ \v\x01', "1.50", "t", *ARRAYS],
    ["2", None, None, None, None, None, None, None],
    ["3", "", "NaN", "f", "{}", "{}", "{}", "{}"],
    ["4", "é😀\n", "-Infinity", "t", "{{1,2},{3,4}}", "[2:3]={a,b}", "{1e+20}", "{{t},{f}}"],
    ["5", "\\N", "1e+20", "f", "[0:1]={1,2}", '{"x\\\\y","line\n","\t"}', "{0.10}", "{f}"],
]


def test_a_row_is_the_same_bytes_whether_it_is_read_or_comes_through_the_stream() -> None:
    table = relation(*FORMS)

    def inserted(row: Row) -> bytes:
        cells = (
            b"n" if text is None else b"t" + len(text.encode()).to_bytes(4, "big") + text.encode()
            for text in row
        )
        head = b"I" + table.relid.to_bytes(4, "big") + b"N" + len(row).to_bytes(2, "big")
        return head + b"".join(cells)

    part = Part(
        messages=[inserted(row) for row in ROWS],
        relations={table.relid: table},
        open_before=TRANSACTION,
        rows=len(ROWS),
    )
    streamed = decode_part(part, position_first=0).changes
    read = changes_of(copied(ROWS), table)

    assert len(streamed) == len(ROWS)
    assert read.select(["collection", "key", "after"]).equals(
        streamed.select(["collection", "key", "after"])
    )


def test_arrays_are_json_arrays() -> None:
    documents = [
        json.loads(after)
        for after in changes_of(copied(ROWS), relation(*FORMS))["after"].to_pylist()
    ]

    assert documents[0]["a"] == [1, None, -3]
    assert documents[0]["as"] == ["a,b", '"q"', None, "NULL", ""]
    assert documents[0]["an"] == [1.5, "NaN", "Infinity"]
    assert documents[3]["a"] == [[1, 2], [3, 4]]
    assert documents[3]["as"] == "[2:3]={a,b}"
    assert documents[4]["as"] == ["x\\y", "line\n", "\t"]


def test_nothing_and_no_columns_are_no_changes() -> None:
    assert changes_of(b"", relation(column("id"))).equals(DRAFT_SCHEMA.empty_table())
    assert changes_of(b"\n\n", relation()).equals(DRAFT_SCHEMA.empty_table())


@pytest.mark.parametrize("data", [b"1\n", b"1\t2\t3\n", b"1\t2\n3\n", b"1\n2\t3\n", b"1\t2"])
def test_rows_of_another_width_are_refused(data: bytes) -> None:
    with pytest.raises(DataLoss):
        changes_of(data, relation(column("id"), column("name")))


# What cannot be stored --------------------------------------------------------------------------


def test_rows_without_a_usable_key_are_quarantined_and_their_neighbours_stored() -> None:
    long = "x" * KEY_BYTES_MAX
    rows: list[Row] = [["1", "a"], [None, "b"], [long, "c"], ["\t", "d"], [None, None]]

    decoded = decode_rows(copied(rows), relation(column("id"), column("name")))

    assert decoded.changes["key"].to_pylist() == ['{"id":"1"}', '{"id":"\\t"}']
    assert decoded.changes["position"].to_pylist() == [0, 3]
    assert [(each.position, each.code) for each in decoded.quarantined] == [
        (1, "wrong_type"),
        (2, "key_too_long"),
        (4, "wrong_type"),
    ]
    assert decoded.quarantined[0].body == b"\\N\tb"
    meta: Any = json.loads(decoded.quarantined[0].meta or b"")
    assert meta["collection"] == "public.t"
    assert [each["name"] for each in meta["columns"]] == ["id", "name"]


def test_text_that_is_not_utf8_is_quarantined() -> None:
    table = relation(column("id", "integer"), column("name"))

    decoded = decode_rows(b"1\tx\n2\t\xff\n3\t\xc3\xa9\n", table)

    assert decoded.changes["after"].to_pylist() == ['{"id":1,"name":"x"}', '{"id":3,"name":"é"}']
    assert [(each.position, each.code, each.reason) for each in decoded.quarantined] == [
        (1, "not_utf8", "name: is not UTF-8")
    ]


def test_a_table_with_nothing_that_can_be_stored_gives_no_changes() -> None:
    keyless = decode_rows(b"1\n2\n", relation(column("a"), key=()))
    nulls = decode_rows(b"\\N\n\\N\n", relation(column("id")))

    assert not len(keyless.changes) and not len(nulls.changes)
    assert [each.code for each in keyless.quarantined] == ["missing_key"] * 2
    assert [each.code for each in nulls.quarantined] == ["missing_key"] * 2


def test_a_row_that_is_too_large_is_quarantined(monkeypatch: pytest.MonkeyPatch) -> None:
    table = relation(column("id", "integer"), column("name"))
    monkeypatch.setattr("pitr.domain.pgoutput.changes.DOCUMENT_BYTES_MAX", 1_000)
    large = "x" * 1_000

    decoded = decode_rows(copied([["1", "a"], ["2", large], ["3", "b"]]), table)

    assert decoded.changes["position"].to_pylist() == [0, 2]
    assert [(each.position, each.code) for each in decoded.quarantined] == [
        (1, "document_too_large")
    ]
    # Rows that are larger by far are not even looked into.
    monkeypatch.setattr(copytext, "ROW_BYTES_MAX", 10)
    again = decode_rows(copied([["1", "a"], ["2", "x" * 20], ["3", None]]), table)
    assert again.changes["after"].to_pylist() == ['{"id":1,"name":"a"}', '{"id":3,"name":null}']
    assert [(each.position, each.code) for each in again.quarantined] == [(1, "document_too_large")]


# The place in the stream ------------------------------------------------------------------------


def test_a_chunk_enters_as_changes_of_the_message_that_ends_it() -> None:
    reads = changes_of(b"1\tx\n2\ty\n3\tz\n", relation(column("id"), column("name")))

    placed = entered(reads.slice(1), TRANSACTION, position=40)

    assert placed.schema == DRAFT_SCHEMA
    assert placed["position"].to_pylist() == [40, 41]
    assert placed["tx"].to_pylist() == ["768:0/16B3748"] * 2
    assert placed["commit_us"].to_pylist() == [TRANSACTION.commit_us] * 2
    assert placed["after"].to_pylist() == reads["after"].to_pylist()[1:]
    assert len(entered(reads.slice(0, 0), TRANSACTION, position=0)) == 0


def test_a_row_without_a_key_of_its_own_is_its_key_but_for_nulls() -> None:
    table = relation(column("a"), column("b"), key=("a", "b"))
    read = decode_rows(b"1\t\\N\n\\N\t2\n1\t2\n", table)
    assert read.changes["key"].to_pylist() == ['{"a":"1"}', '{"b":"2"}', '{"a":"1","b":"2"}']
    assert read.changes["after"][0].as_py() == '{"a":"1","b":null}'
