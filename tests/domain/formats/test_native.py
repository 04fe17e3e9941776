"""The native format: exact where it is good, named where it is not, and never in the way."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.domain.batch import Decoded
from pitr.domain.change import (
    COLLECTION_BYTES_MAX,
    DOCUMENT_BYTES_MAX,
    KEY_BYTES_MAX,
    Quarantined,
)
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.duplicates import DEPTH_MAX
from pitr.domain.errors import InvalidRequest
from pitr.domain.formats import (
    BLOCK_BYTES,
    decode_array,
    decode_lines,
    decode_one,
    decode_values,
    line_count,
)
from pitr.domain.formats.bulk import is_shortest
from pitr.domain.formats.decode import Items, _table_at_once
from pitr.domain.formats.fields import TEXT_BYTES_MAX

GOOD = b'{"collection":"c","key":1,"after":{"id":1}}'


def native(body: bytes, position_first: int = 0) -> Decoded:
    return decode_lines(body, format="native", position_first=position_first)


def row(body: bytes) -> dict[str, Any]:
    """The one change of ``body``, read one by one, and read at once among others."""
    alone = decode_one(body, format="native", position=7)
    assert alone.quarantined == ()
    assert alone.changes.schema == DRAFT_SCHEMA
    among = decode_values([GOOD, body, GOOD, GOOD], format="native", positions=[6, 7, 8, 9])
    assert among.changes.slice(1, 1).to_pylist() == alone.changes.to_pylist()
    (found,) = alone.changes.to_pylist()
    return found


def flaw(body: bytes) -> tuple[str, str]:
    """Why ``body`` is quarantined, alone and among good ones, which are all stored."""
    alone = decode_one(body, format="native", position=7)
    assert alone.changes.num_rows == 0
    among = decode_values([GOOD, body, GOOD, GOOD], format="auto", positions=[6, 7, 8, 9])
    assert among.quarantined == alone.quarantined
    assert among.changes["position"].to_pylist() == [6, 8, 9]
    (quarantined,) = alone.quarantined
    assert quarantined.body == body
    assert quarantined.position == 7
    assert quarantined.format == "native"
    return quarantined.code, quarantined.reason


def change(**fields: Any) -> bytes:
    """A good update, with some fields replaced, or left out with ``...``."""
    whole = {"collection": "c", "key": 1, "op": "update", "after": {"id": 1}} | fields
    return json.dumps({k: v for k, v in whole.items() if v is not ...}).encode()


def raw_after(after: str) -> bytes:
    return ('{"collection":"c","key":1,"after":' + after + "}").encode()


def test_the_change_of_the_docs() -> None:
    assert row(
        b'{"collection":"shop.orders","key":{"id":42},"op":"update","after":{"id":42,'
        b'"status":"paid"},"at":"2026-03-01T09:30:00.250001Z","tx":"9f2c","actor":"user:7",'
        b'"reason":"POST /checkout","before":{"id":42},"meta":{"ip":"::1"}}'
    ) == {
        "collection": "shop.orders",
        "key": '{"id":42}',
        "op": "update",
        "after": '{"id":42,"status":"paid"}',
        "before": '{"id":42}',
        "unchanged": None,
        "commit_us": 1_772_357_400_250_001,
        "position": 7,
        "tx": "9f2c",
        "actor": "user:7",
        "reason": "POST /checkout",
        "meta": '{"ip":"::1"}',
    }


@pytest.mark.parametrize(
    ("fields", "op", "after"),
    [
        ({"op": ...}, "update", '{"id": 1}'),
        ({"op": None}, "update", '{"id": 1}'),
        ({"op": ..., "after": None}, "delete", None),
        ({"op": "delete", "after": None}, "delete", None),
        ({"op": "delete", "after": ...}, "delete", None),
        ({"op": "delete", "after": ..., "before": {"id": 1}}, "delete", None),
        ({"op": "create"}, "create", '{"id": 1}'),
        ({"op": "read"}, "read", '{"id": 1}'),
        ({"op": "patch", "after": {"a": None}}, "patch", '{"a": null}'),
        ({"op": "update", "after": {}}, "update", "{}"),
        ({"op": "truncate", "key": ..., "after": ...}, "truncate", None),
        ({"op": "truncate", "key": None, "after": None, "before": None}, "truncate", None),
    ],
)
def test_op_and_after(fields: dict[str, Any], op: str, after: str | None) -> None:
    found = row(change(**fields))
    assert (found["op"], found["after"]) == (op, after)
    assert found["key"] == ("" if op == "truncate" else '{"id":1}')


@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [
        ({"op": ..., "after": ...}, "missing_field", "op"),
        ({"op": "update", "after": ...}, "missing_field", "after"),
        ({"op": "create", "after": None}, "missing_field", "after"),
        ({"op": "delete"}, "unexpected_field", "after"),
        ({"op": "truncate", "key": ...}, "unexpected_field", "after"),
        ({"op": "truncate", "after": ...}, "unexpected_field", "key"),
        (
            {"op": "truncate", "key": ..., "after": ..., "before": {"id": 1}},
            "unexpected_field",
            "before",
        ),
        ({"op": "UPDATE"}, "unknown_op", "op"),
        ({"op": "u"}, "unknown_op", "op"),
        ({"op": ""}, "unknown_op", "op"),
        ({"op": 1}, "wrong_type", "op"),
        ({"collection": ...}, "missing_field", "collection"),
        ({"collection": None}, "missing_field", "collection"),
        ({"collection": ""}, "bad_text", "collection"),
        ({"collection": 7}, "wrong_type", "collection"),
        ({"collection": "a\0b"}, "bad_text", "collection"),
        ({"collection": "é" * COLLECTION_BYTES_MAX}, "collection_too_long", "collection"),
        ({"key": ...}, "missing_field", "key"),
        ({"key": None}, "missing_field", "key"),
        ({"key": []}, "wrong_type", "key"),
        ({"key": {}}, "wrong_type", "key"),
        ({"key": {"id": None}}, "wrong_type", "key"),
        ({"key": "x" * KEY_BYTES_MAX}, "key_too_long", "key"),
        ({"key": {"id": "x" * KEY_BYTES_MAX}}, "key_too_long", "key"),
        ({"after": [1]}, "wrong_type", "after"),
        ({"after": "{}"}, "wrong_type", "after"),
        ({"before": 1}, "wrong_type", "before"),
        ({"meta": []}, "wrong_type", "meta"),
        ({"at": "2026-03-01T09:30:00"}, "naive_time", "at"),
        ({"at": "soon"}, "bad_time", "at"),
        ({"at": ""}, "bad_time", "at"),
        ({"at": 1.5}, "wrong_type", "at"),
        ({"at": 5.0}, "wrong_type", "at"),
        ({"at": 1e300}, "wrong_type", "at"),
        ({"at": True}, "wrong_type", "at"),
        ({"at": {}}, "wrong_type", "at"),
        ({"at": 10**30}, "bad_time", "at"),
        ({"at": 10**4000}, "bad_time", "at"),
        ({"tx": 1.5}, "wrong_type", "tx"),
        ({"tx": True}, "wrong_type", "tx"),
        ({"tx": "\0"}, "bad_text", "tx"),
        ({"actor": 7}, "wrong_type", "actor"),
        ({"actor": "a\0"}, "bad_text", "actor"),
        ({"reason": ["x"]}, "wrong_type", "reason"),
        ({"reason": "x" * (TEXT_BYTES_MAX + 1)}, "text_too_long", "reason"),
        ({"kye": 1}, "unknown_field", "kye"),
        ({"": 1}, "unknown_field", ""),
    ],
)
def test_a_flaw_has_a_code_and_names_its_field(
    fields: dict[str, Any], code: str, word: str
) -> None:
    found, reason = flaw(change(**fields))
    assert found == code
    assert reason.startswith(f"{word}:")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"garbage", "not_json"),
        (b"{", "not_json"),
        (b'{"collection":"c","key":1,"after":{"id":', "not_json"),
        (GOOD + GOOD, "not_json"),
        (GOOD + b" " + GOOD, "not_json"),
        (GOOD + b",", "not_json"),
        (GOOD[:-1] + b",}", "not_json"),
        (GOOD.replace(b"1", b"01"), "not_json"),
        (GOOD.replace(b"1", b"NaN"), "not_json"),
        (b'{"collection":"c","key":1,"after":{"a":"tab\tin it"}}', "not_json"),
        (b"\x00", "not_json"),
        (b"\x1f\x8b\x08\x00", "not_utf8"),
        (GOOD.decode().encode("utf-16"), "not_utf8"),
        (b'{"collection":"c","key":1,"after":{"a":"\xff"}}', "not_utf8"),
        (b'{"collection":"c","key":1,"after":{"a":"\xed\xa0\x80"}}', "not_utf8"),
        (b'{"collection":"c","key":1,"after":{"a":"\xc0\xaf"}}', "not_utf8"),
        (rb'{"collection":"c","key":1,"after":{"a":"\ud800"}}', "bad_unicode"),
        (rb'{"collection":"c","key":1,"after":{"\udc00 and more":1}}', "bad_unicode"),
        (rb'{"collection":"c","key":"\ud83d","after":{}}', "bad_unicode"),
        (b"[]", "not_an_object"),
        (b"42", "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"[" * 100_000, "not_an_object"),
        (raw_after("[" * 100_000), "too_deep"),
        (raw_after('{"a":' + "[" * DEPTH_MAX + "]" * DEPTH_MAX + "}"), "too_deep"),
        (raw_after('{"a":1,"a":2}'), "duplicate_name"),
        (raw_after('{"x":[{"a":1,"a":2}]}'), "duplicate_name"),
        (b'{"collection":"c","key":{"a":1,"a":1},"after":{}}', "duplicate_name"),
        (b'{"collection":"c","key":1,"after":{},"after":{}}', "duplicate_name"),
        (b'{"collection":"c","key":1,"after":{},"meta":{"m":{},"m":{}}}', "duplicate_name"),
        (rb'{"collection":"c","key":1,"after":{},"\u0061fter":{}}', "duplicate_name"),
    ],
)
def test_what_is_no_good_json_object_is_quarantined(body: bytes, code: str) -> None:
    assert flaw(body)[0] == code


def test_null_is_not_a_native_change_but_a_tombstone_where_the_format_is_open() -> None:
    (quarantined,) = decode_one(b"null", format="native", position=0).quarantined
    assert quarantined.code == "not_an_object"
    assert decode_one(b"null", format="auto", position=0) == decode_lines(
        b"", format="auto", position_first=0
    )


def test_a_duplicate_is_named() -> None:
    assert "'status'" in flaw(raw_after('{"id":1,"status":1,"status":2}'))[1]


@pytest.mark.parametrize(
    "after",
    [
        '{"n":18446744073709551617}',
        '{"n":-9223372036854775809}',
        '{"n":1234567890123456789012345678901234567890.1234567890}',
        '{"n":' + "9" * 10_000 + "}",
        '{"n":1.10,"m":-0.0,"e":1E+05}',
        '{"n":1e999}',
        '{"n":null}',
        '{"n":""}',
        "{}",
        "{ }",
        '{ "a" : [ 1 , 2 ] }',
        r'{"a":"\u0041\/\b\f\n\r\t\"\\"}',
        r'{"a":"\u0000"}',
        r'{"a":"😀 \ud83d\ude00 é \u00e9"}',
        '{"a":"\u0001F600 \uffff \U0010ffff \U000e0001 \x7f"}'.replace("\x01", "x"),
        '{"":1}',
        '{"a":{"a":{"a":{}}}}',
        '{"a":' + "[" * (DEPTH_MAX - 2) + "]" * (DEPTH_MAX - 2) + "}",
        '{"a":[' + "{}," * 5000 + "1]}",
        '{"a":"' + '\\":' * 50 + '"}',
        '{"a" : 1, "b" :2}',
        '{"a":"' + "x" * 10_000_000 + '"}',
    ],
)
def test_documents_come_back_byte_for_byte(after: str) -> None:
    assert row(raw_after(after))["after"] == after


def test_a_document_of_the_longest_size_is_kept_and_one_byte_more_is_not() -> None:
    longest = '{"a":"' + "x" * (DOCUMENT_BYTES_MAX - 8) + '"}'
    decoded = native(raw_after(longest) + b"\n" + raw_after(longest[:-1] + " }") + b"\n" + GOOD)
    assert decoded.changes["position"].to_pylist() == [0, 2]
    assert [q.code for q in decoded.quarantined] == ["document_too_large"]


def test_a_change_over_several_lines_keeps_its_line_feeds() -> None:
    body = b'[{"collection":"c","key":1,"after":{\n  "a": 1\r\n}}\n,\n' + GOOD + b"]"
    decoded = decode_array(body, format="native", position_first=5)
    assert decoded.changes["after"].to_pylist() == ['{\n  "a": 1\r\n}', '{"id":1}']
    assert decoded.changes["position"].to_pylist() == [5, 6]


def test_a_repeated_name_is_found_over_several_lines() -> None:
    bad = b'{"collection":"c","key":1,"after":{"a"\n:"\\":","a"\n:2}}'
    decoded = decode_array(
        b"[" + b",".join([GOOD, bad, GOOD, GOOD]) + b"]", format="native", position_first=0
    )
    assert [q.code for q in decoded.quarantined] == ["duplicate_name"]


def test_a_value_that_holds_two_changes_holds_none() -> None:
    values = [GOOD, GOOD + b"\n" + GOOD, GOOD, GOOD + GOOD]
    decoded = decode_values(values, format="auto", positions=range(4))
    assert decoded.changes["position"].to_pylist() == [0, 2]
    assert [q.position for q in decoded.quarantined] == [1, 3]


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"null", b"[1,", b"[1]]", b"[1] x", b"[" * 100_000, GOOD, b"\xff", b"[\x00]"],
)
def test_a_body_that_is_no_array_is_refused_as_a_whole(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_array(body, format="native", position_first=0)


def test_an_element_that_is_flawed_spoils_no_other() -> None:
    body = b"[" + b",".join([GOOD, b"1", b'"\xff"', GOOD.replace(b"c", b"\xff", 1), GOOD]) + b"]"
    decoded = decode_array(body, format="native", position_first=0)
    assert decoded.changes["position"].to_pylist() == [0, 4]
    assert [q.position for q in decoded.quarantined] == [1, 2, 3]
    assert decode_array(b"[]", format="native", position_first=0).changes.num_rows == 0


@pytest.mark.parametrize(
    ("body", "positions"),
    [
        (b"", []),
        (b"\n", []),
        (b"\n\n \n\t\r\n", []),
        (GOOD, [0]),
        (GOOD + b"\n", [0]),
        (GOOD + b"\n\n" + GOOD, [0, 2]),
        (b"\n" + GOOD + b"\n \n" + GOOD + b"\n\n", [1, 3]),
        (b"\xef\xbb\xbf" + GOOD + b"\n" + GOOD, [0, 1]),
        (b"\xef\xbb\xbf", []),
        (GOOD + b"\r\n" + GOOD + b"\r\n", [0, 1]),
        (GOOD + b"\r\n\r\n" + GOOD + b"\r\n", [0, 2]),
        (b"  " + GOOD + b"\t\n" + GOOD, [0, 1]),
    ],
)
def test_every_line_has_its_position(body: bytes, positions: list[int]) -> None:
    decoded = native(body, 100)
    assert decoded.quarantined == ()
    assert decoded.changes.schema == DRAFT_SCHEMA
    assert decoded.changes["position"].to_pylist() == [100 + place for place in positions]
    lines = body.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert line_count(body) == len(lines) - (lines[-1] == b"")


def test_a_last_line_that_was_cut_off_is_quarantined() -> None:
    decoded = native(GOOD + b"\n" + GOOD[:-5])
    assert decoded.changes.num_rows == 1
    assert [(q.position, q.code, q.body) for q in decoded.quarantined] == [
        (1, "not_json", GOOD[:-5])
    ]


def test_changes_that_share_or_span_lines_are_not_read_as_others() -> None:
    """As many values as lines, each value good: but not one of them is one line."""
    decoded = native(GOOD + GOOD + b"\n" + GOOD[:10] + b"\n" + GOOD[10:] + b"\n" + GOOD + b"\n")
    assert decoded.changes["position"].to_pylist() == [3]
    assert [q.position for q in decoded.quarantined] == [0, 1, 2]
    after_brace = GOOD.index(b"}") + 1
    decoded = native(b"\n".join([GOOD + GOOD, GOOD[:after_brace], GOOD[after_brace:], GOOD]))
    assert decoded.changes["position"].to_pylist() == [3]


def test_a_default_collection_is_for_changes_that_name_none() -> None:
    body = b'{"key":1,"after":{}}\n' + GOOD
    decoded = decode_lines(body, format="native", position_first=0, collection="d")
    assert decoded.changes["collection"].to_pylist() == ["d", "c"]


def test_an_integer_transaction_keeps_its_text() -> None:
    assert row(change(tx=2**70))["tx"] == str(2**70)


# ---------------------------------------------------------------- fast and slow are the same

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
documents = st.dictionaries(st.text(max_size=3), json_values, max_size=3)
times = st.sampled_from(
    [
        "2026-03-01T09:30:00Z",
        "2026-03-01T09:30:00.25+02:00",
        5,
        2**70,
        "2026-03-01T09:30:00",
        "",
        1.5,
    ]
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "collection": st.sampled_from(["c", "d", "é", "", "\0"]) | st.none(),
        "key": st.integers() | st.text(max_size=3) | documents | st.none() | st.just([]),
        "op": st.sampled_from(["create", "update", "patch", "delete", "read", "truncate", "x"])
        | st.none(),
        "after": documents | st.none() | st.just("x"),
        "before": documents | st.none(),
        "at": times | st.none(),
        "tx": st.text(max_size=3) | st.integers() | st.none() | st.just("\0"),
        "actor": st.text(max_size=3) | st.none() | st.just("\0"),
        "reason": st.text(max_size=3) | st.none(),
        "meta": documents | st.none(),
    },
)
good_fields = st.fixed_dictionaries(
    {
        "collection": st.sampled_from(["c", "d"]),
        "key": st.integers()
        | st.text(max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "é"]), st.integers() | st.text(max_size=2), min_size=1
        ),
        "after": documents,
    },
    optional={
        "op": st.sampled_from(["create", "update", "patch", "read"]),
        "before": documents | st.none(),
        "at": st.sampled_from(["2026-03-01T09:30:00Z", "2026-03-01 09:30:00.123456789-02:00", 5]),
        "tx": st.text(min_size=1, max_size=3),
        "meta": documents | st.none(),
    },
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A line: mostly good, otherwise strange, broken or cut."""
    kind = draw(st.integers(0, 9))
    content = draw(good_fields if kind < 7 else fields)
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (",", " : ")]))
    line = json.dumps(content, ensure_ascii=draw(st.booleans()), separators=separators).encode()
    if kind == 8:
        line = line[: draw(st.integers(0, len(line)))]
    if kind == 9:
        place = draw(st.integers(0, len(line)))
        inserted = draw(st.sampled_from([b'"', b"{", b"}", b"\n", b"\xff", b",", b'"after":{},']))
        line = line[:place] + inserted + line[place:]
    return line


@settings(deadline=None, max_examples=300)
@given(st.lists(lines(), max_size=12), st.sampled_from(["native", "auto"]), st.integers(0, 2**40))
def test_many_at_once_give_what_each_gives(
    many: list[bytes], wanted: Any, position_first: int
) -> None:
    body = b"\n".join(many)
    together = decode_lines(body, format=wanted, position_first=position_first)
    rows, quarantined = one_by_one(body, wanted, position_first)
    assert together.changes.to_pylist() == rows
    assert list(together.quarantined) == quarantined


def one_by_one(
    body: bytes, wanted: Any, position_first: int
) -> tuple[list[dict[str, Any]], list[Quarantined]]:
    rows: list[dict[str, Any]] = []
    quarantined: list[Quarantined] = []
    for place, line in enumerate(body.split(b"\n")):
        if line.strip():
            one = decode_one(line, format=wanted, position=position_first + place)
            rows += one.changes.to_pylist()
            quarantined += one.quarantined
    return rows, quarantined


Members = list[tuple[str, str]]
"""Names as they are spelled, quotes and all, each with its value; a name may stand twice."""

NAMES = ['"id"', '"n"', '"\\u006e"', '"é"', '"\\u00e9"', '"\\""', '""']
spelled = st.sampled_from(NAMES)
scalars = st.sampled_from(["1", "-0", '"x"', '"{"', '"\\":"', '"[{"', "null", "true", "[]", "{}"])


def object_text(members: Members, separators: tuple[str, str] = (",", ":")) -> str:
    comma, colon = separators
    return "{" + comma.join(name + colon + value for name, value in members) + "}"


inner_values = st.lists(st.tuples(spelled, scalars), max_size=2).map(object_text)
members_lists = st.lists(
    st.tuples(spelled, scalars | inner_values | inner_values.map(lambda each: f"[{each}]")),
    max_size=4,
)


@st.composite
def mostly_alike(draw: st.DrawFn) -> list[bytes]:
    """Changes that only names tell apart: whether one is repeated, or missing, or another."""
    shape = draw(members_lists)
    separators = draw(st.sampled_from([(",", ":"), (",", ":"), (",", ":"), (", ", ": ")]))
    many = []
    for _ in range(draw(st.integers(4, 7))):
        after = draw(members_lists) if draw(st.integers(0, 7)) == 7 else list(shape)
        change = [('"collection"', '"c"'), ('"key"', '{"id":1}')]
        change += [('"after"', object_text(after, separators))]
        if draw(st.booleans()):
            change += [(draw(st.sampled_from(['"before"', '"meta"'])), draw(inner_values))]
        change += [('"tx"', draw(st.sampled_from(['"t"', '"\\u0074"', '"é"', "null"])))]
        if draw(st.integers(0, 9)) == 9:
            change.append(draw(st.sampled_from([*change, ('"at"', "-0"), ('"at"', "5")])))
        many.append(object_text(change, separators).encode())
    return many


@settings(deadline=None, max_examples=500)
@given(mostly_alike())
def test_a_repeated_name_is_found_among_changes_that_are_alike(many: list[bytes]) -> None:
    body = b"\n".join(many)
    together = native(body)
    rows, quarantined = one_by_one(body, "native", 0)
    assert together.changes.to_pylist() == rows
    assert list(together.quarantined) == quarantined


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("place", ["after", "before", "meta", "key", ""])
@pytest.mark.parametrize("good", ['{"a":1,"b":{"x":[{"c":2}]}}', '{"z":0}'])
@pytest.mark.parametrize(
    "bad",
    ['{"a":1,"b":2,"a":3}', r'{"a":1,"\u0061":3}', '{"a":{"x":1,"x":2}}', '{"a":[{"":1,"":2}]}'],
)
def test_a_repeated_name_is_found_in_every_field(
    separators: tuple[str, str], place: str, good: str, bad: str
) -> None:
    members = {f'"{name}"': good for name in ("after", "before", "meta")}
    members |= {'"collection"': '"c"', '"key"': '{"a":1,"b":2}'}
    line = object_text(list(members.items()), separators).encode()
    other = {**members, f'"{place}"': bad} if place else members
    flawed = object_text([*other.items(), ('"tx"', '"t"')], separators).encode()
    if not place:
        flawed = flawed[:-1] + b',"tx":"t"}'
    decoded = native(b"\n".join([line, line, flawed, line, line]))
    assert decoded.changes["position"].to_pylist() == [0, 1, 3, 4]
    assert [q.code for q in decoded.quarantined] == ["duplicate_name"]


def test_what_the_encoder_writes_is_never_longer_than_what_it_read() -> None:
    """The claim that ``is_shortest`` rests on, for every character there is."""
    for code in range(0x80):
        spellings = [msgspec.json.encode(chr(code)), f'"\\u{code:04x}"'.encode()]
        spellings += [b'"\\%c"' % each for each in b'"\\/bfnrt'] + [b'"%c"' % code]
        lengths = {len(each) for each in spellings if _reads_as(each, chr(code))}
        assert len(spellings[0]) == min(lengths)
    others = "".join(map(chr, [*range(0x80, 0xD800), *range(0xE000, 0x110000)]))
    assert len(msgspec.json.encode(others)) == len(others.encode()) + 2


def _reads_as(text: bytes, value: str) -> bool:
    try:
        return bool(msgspec.json.decode(text) == value)
    except msgspec.DecodeError:
        return False


def test_only_the_shortest_text_without_a_repeated_name_is_shortest() -> None:
    members = msgspec.json.Decoder(dict[str, msgspec.Raw])

    def holds(text: bytes) -> bool:
        return is_shortest([members.decode(text)], len(text))

    assert holds(b"{}")
    assert holds('{"a":1,"é":{ "x" : 1 }}'.encode())
    assert not holds(b'{"a":1,"a":1}')
    assert not holds(rb'{"a":1,"\u0061":1}')
    assert not holds(b'{"a":1, "b":1}')
    assert not holds(rb'{"\u00e9":1}')


def test_lines_of_many_blocks_keep_their_positions() -> None:
    many = [raw_after(f'{{"n":{n},"pad":"{"x" * 500}"}}') for n in range(3 * BLOCK_BYTES // 500)]
    many[2000] = b""
    many[3000] = b"garbage"
    for end in (b"\n", b"\r\n"):
        decoded = native(b"\xef\xbb\xbf" + end.join(many), 10)
        good = [n for n in range(len(many)) if n not in (2000, 3000)]
        assert decoded.changes["position"].to_pylist() == [10 + n for n in good]
        assert decoded.changes["after"].to_pylist() == [
            many[n].decode()[len(raw_after("")) - 1 : -1] for n in good
        ]
        assert [q.position for q in decoded.quarantined] == [3010]
        assert decoded.changes["after"].num_chunks == 1


@settings(deadline=None)
@given(st.lists(good_fields, min_size=4, max_size=8), st.booleans())
def test_good_changes_are_read_at_once(many: list[dict[str, Any]], ascii_only: bool) -> None:
    """Else the fast way is never taken, and the test above compares the slow way with itself."""
    values = [json.dumps(each, ensure_ascii=ascii_only).encode() for each in many]
    values = [value for value in values if not value.count(b"\\u0000")]
    if len(values) < 4 or any(each["key"] == "" for each in many):
        return
    assert _table_at_once(Items(values, range(len(values))), "auto") is not None


@settings(deadline=None)
@given(st.lists(documents, min_size=1, max_size=6), st.sampled_from([None, 1]), st.booleans())
def test_after_is_the_exact_slice_of_the_input(
    many: list[dict[str, Any]], indent: int | None, ascii_only: bool
) -> None:
    texts = [json.dumps(each, indent=indent, ensure_ascii=ascii_only) for each in many]
    body = "[" + ",".join(raw_after(text).decode() for text in texts) + "]"
    decoded = decode_array(body.encode(), format="auto", position_first=0)
    assert decoded.quarantined == ()
    assert decoded.changes["after"].to_pylist() == texts


def test_one_flaw_among_thousands_costs_its_neighbours_nothing() -> None:
    many = [raw_after(f'{{"n":{n}}}') for n in range(5000)]
    many[2500] = b"garbage"
    decoded = native(b"\n".join(many))
    assert [q.position for q in decoded.quarantined] == [2500]
    assert decoded.changes["position"].to_pylist() == [n for n in range(5000) if n != 2500]
