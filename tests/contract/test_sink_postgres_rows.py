"""The short way to COPY text is the long way's equal, and refuses what that refuses."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.adapters.sinks.batches import SLICE_BYTES_MAX, SLICE_ROWS_MAX, slices
from pitr.adapters.sinks.postgres.rows import RowEncoder
from pitr.adapters.sinks.postgres.tables import Column, Table, TableName
from pitr.adapters.sinks.postgres.values import Unfit, check_scale, text_of
from pitr.domain.errors import InvalidRequest
from pitr.domain.pgoutput.schema import TableSchema
from tests.fakes import change_batch, table_schema

BASES = [
    ("int4", -1),
    ("int8", -1),
    ("numeric", -1),
    ("numeric", (10 << 16 | 2) + 4),
    ("float8", -1),
    ("bool", -1),
    ("text", -1),
    ("varchar", 3 + 4),
    ("timestamptz", -1),
    ("timestamp", -1),
    ("timestamp", 3),
    ("date", -1),
    ("time", -1),
    ("json", -1),
    ("jsonb", -1),
    ("bytea", -1),
    ("bit", -1),
    ("interval", -1),
    ("array", -1),
    ("", -1),
]
RAW = st.one_of(
    st.sampled_from(
        [
            "null",
            "true",
            "false",
            "0",
            "-0",
            "1.10",
            "1.234",
            "1e3",
            "1E-7",
            "[]",
            "{}",
            "[ 1,\n2 ]",
            '{"a":\t"b\\n"}',
            '["a\\tb",null,[1]]',
            '"null"',
            '"\\\\N"',
            '"\\\\."',
            '"a\\tb\\r\\n"',
            '"{\\"a\\": 1}"',
            '"{oops"',
            '"\\u0000"',
            '"12.5"',
            '"1\\u0032"',
            '"NaN"',
            '"infinity"',
            '"2026-03-01"',
            '"2026-03-01T09:30:00Z"',
            '"2026-03-01 09:30:00.25+02:00"',
            '"2026-03-01T00:00:00"',
            '"09:30:00"',
            '"\\\\x00ff"',
            '"AAEC"',
            '"no base64"',
            '"abcd"',
            "9223372036854775807",
            "123456789012345678901234567890.10",
            "-1772357400250001",
        ]
    ),
    st.integers().map(str),
    st.text(max_size=5).map(lambda text: orjson.dumps(text).decode()),
)


def table_of(*columns: Column, schema: TableSchema | None = None) -> Table:
    return Table(name=TableName("public", "t"), oid=1, columns=columns, schema=schema)


def column(name: str, base: str, typmod: int = -1, **options: object) -> Column:
    element = "text" if base == "array" else None
    return Column(name=name, type=base, base=base, typmod=typmod, element=element, **options)  # type: ignore[arg-type]


def encoded(
    table: Table, documents: list[str], *, short_way: bool, drop_unknown: bool = False
) -> object:
    """The rows by key and what was left out, or what was said of the first that does not fit."""
    encoder = RowEncoder("t", table, drop_unknown=drop_unknown)
    rows = [(f'{{"id":{number}}}', text) for number, text in enumerate(documents)]
    if not short_way:
        encoder._usual_made = True
    found: dict[str, object] = {}
    try:
        for lines in encoder.encoded(change_batch("t", rows)):
            texts = lines.body.decode().split("\n")[:-1]
            for key, text in zip(lines.keys, texts, strict=True):
                found[key] = dict(zip(lines.columns, text.split("\t"), strict=True))
    except InvalidRequest as error:
        return error.facts
    return found | {"left out": encoder.left_out}


@pytest.mark.parametrize(("base", "typmod"), BASES)
@given(values=st.lists(st.one_of(st.none(), RAW), min_size=1, max_size=4))
def test_both_ways_give_the_same_text(base: str, typmod: int, values: list[str | None]) -> None:
    table = table_of(
        column("id", "int4"),
        column("v", base, typmod),
        column("w", "text", fills_itself=True),
        column("g", "text", generated=True),
    )
    documents = []
    for number, value in enumerate(values):
        parts = [f'"id":{number}'] if number % 2 else []
        parts += [f'"v":{value}'] if value is not None else ['"g":1']
        parts += ['"w":"w"'] if number % 3 else []
        documents.append("{" + ",".join(parts) + "}")
    assert encoded(table, documents, short_way=True) == encoded(table, documents, short_way=False)


@given(number=st.decimals(allow_nan=False, allow_infinity=False), scale=st.integers(-5, 12))
def test_a_scale_refuses_exactly_what_would_be_rounded(number: Decimal, scale: int) -> None:
    numeric = column("v", "numeric", (20 << 16 | scale & 0x7FF) + 4)
    exact = number == number.scaleb(scale).to_integral_value().scaleb(-scale)
    try:
        check_scale(str(number), numeric)
    except Unfit:
        assert not exact
    else:
        assert exact or abs(number.adjusted()) > 20, "beyond the context's precision"


def test_odd_column_names_take_the_long_way() -> None:
    table = table_of(column("id", "int4"), column('a "b"\\', "text"))
    assert encoded(table, ['{"id":1,"a \\"b\\"\\\\":"x"}'], short_way=True) == {
        '{"id":0}': {"id": "1", 'a "b"\\': "x"},
        "left out": set(),
    }


THEN = table_schema("t", "id", "kept", "made", "nullable", "g", former=("gone", "again"))
"""``later`` and ``again`` came after the moment; ``gone`` and an ``again`` went before it."""


@pytest.mark.parametrize("drop_unknown", [False, True])
@given(
    rows=st.lists(
        st.dictionaries(
            st.sampled_from(["kept", "made", "nullable", "g", "gone", "again", "later", "odd"]),
            st.sampled_from(["null", '"x"', "1", '"a\\tb"']),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_both_ways_know_the_columns_of_the_moment(
    rows: list[dict[str, str]], drop_unknown: bool
) -> None:
    table = table_of(
        column("id", "int4"),
        column("again", "text"),
        column("later", "text", fills_itself=True),
        column("kept", "text"),
        column("made", "text", fills_itself=True),
        column("nullable", "text"),
        column("g", "text", generated=True),
        schema=THEN,
    )
    documents = [
        "{" + ",".join([f'"id":{n}', *(f'"{name}":{value}' for name, value in row.items())]) + "}"
        for n, row in enumerate(rows)
    ]
    short, long = (
        encoded(table, documents, short_way=each, drop_unknown=drop_unknown)
        for each in (True, False)
    )
    assert isinstance(short, dict) and isinstance(long, dict)
    went = {"gone", "again", "later", "odd"} & {name for row in rows for name in row}
    assert long.pop("left out") == went
    told = short.pop("left out")
    assert told == went or (drop_unknown and went - {"later", "odd"} <= told <= went)
    assert short == long
    for place, row in enumerate(rows):
        texts = long[f'{{"id":{place}}}']
        assert (texts["again"], texts.get("later")) == ("\\N", None)
        assert ("made" in texts) == ("made" in row)
        assert "g" not in texts


@pytest.mark.parametrize(
    ("raw", "literal"),
    [
        ("[]", "{}"),
        ('["a\\"b\\\\c",null,"NULL",""]', '{"a\\"b\\\\c",NULL,"NULL",""}'),
        ("[[1,2],[3,4]]", '{{"1","2"},{"3","4"}}'),
        ('"{1,2}"', "{1,2}"),
    ],
)
def test_arrays_become_literals(raw: str, literal: str) -> None:
    assert text_of(column("v", "array"), raw.encode()) == literal


def test_slices_are_bounded_in_rows_and_bytes() -> None:
    small = [(f'{{"id":{number}}}', "{}") for number in range(5000)]
    large = [(f'{{"id":{number}}}', f'{{"v":"{"x" * 3_000_000}"}}') for number in range(9)]
    parts = list(slices([change_batch("t", small), change_batch("t", large)]))
    assert max(part.num_rows for part in parts) == SLICE_ROWS_MAX
    assert sum(part.num_rows for part in parts) == 5009
    heavy = [part.num_rows for part in parts if part.column("after").nbytes > 1_000_000]
    assert max(heavy) * 3_000_000 <= SLICE_BYTES_MAX and sum(heavy) == 9
    keys = [key for part in parts for key in part.column("key").to_pylist()]
    assert keys == [key for key, _ in (*small, *large)]
    assert msgspec.json.decode(keys[-1]) == {"id": 8}
