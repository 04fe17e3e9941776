"""One row, one key text; different values, different keys."""

from __future__ import annotations

import json
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.change import KEY_BYTES_MAX
from pitr.domain.keys import (
    CANONICAL_SIMPLE,
    KEY_DEPTH_MAX,
    BadKey,
    canonical_key,
    column_names,
    key_from_members,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("42", '{"id":42}'),
        (" 42 ", '{"id":42}'),
        ("-0", '{"id":-0}'),
        ("1.0", '{"id":1.0}'),
        ("1E400", '{"id":1E400}'),
        ("true", '{"id":true}'),
        ('""', '{"id":""}'),
        ('"a/b"', '{"id":"a/b"}'),
        (r'"a\/b"', '{"id":"a/b"}'),
        (r'"\u0041"', '{"id":"A"}'),
        (r'"\u00e9"', '{"id":"é"}'),
        (r'"\ud83d\ude00"', '{"id":"😀"}'),
        (r'"\u0000"', r'{"id":"\u0000"}'),
        (r'"a\"b\\c"', r'{"id":"a\"b\\c"}'),
        ("18446744073709551617", '{"id":18446744073709551617}'),
        ("9" * 5000, '{"id":' + "9" * 5000 + "}"),
        (
            "1234567890123456789012345678901234567890.10",
            '{"id":1234567890123456789012345678901234567890.10}',
        ),
        ('{ "b" : 2 , "a" : 1 }', '{"a":1,"b":2}'),
        (r'{"\u0061":1}', '{"a":1}'),
        ('{"Z":1,"a":2,"é":3,"😀":4}', '{"Z":1,"a":2,"é":3,"😀":4}'),
        ('{"n":{"value":"AQ==","scale":2}}', '{"n":{"scale":2,"value":"AQ=="}}'),
        ('{"n":[ 1 , {"b":1,"a":2} ]}', '{"n":[1,{"a":2,"b":1}]}'),
    ],
)
def test_a_key_has_one_canonical_text(text: str, canonical: str) -> None:
    assert canonical_key(text.encode()) == canonical
    assert canonical_key(canonical.encode()) == canonical


def test_numbers_and_strings_that_look_alike_are_different_keys() -> None:
    assert len({canonical_key(text) for text in (b"1", b"1.0", b"1e0", b'"1"', b"10e-1")}) == 5


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        (b"", "not_json"),
        (b"nul", "not_json"),
        (b"01", "not_json"),
        (b"1,2", "not_json"),
        (b"1 2", "not_json"),
        (b'{"id":1.2.3}', "not_json"),
        (b'{"id":01}', "not_json"),
        (b'{"id":1}x', "not_json"),
        (b'"\xff"', "not_json"),
        (b'"\xed\xa0\x80"', "not_json"),
        (rb'"\ud800"', "not_json"),
        (rb'"\udc00 and on"', "not_json"),
        (b"null", "wrong_type"),
        (b"[1]", "wrong_type"),
        (b"{}", "wrong_type"),
        (b'{"id":null}', "wrong_type"),
        (b'{"id":{"a":null}}', "wrong_type"),
        (b'{"id":[null]}', "wrong_type"),
        (b'{"id":1,"id":1}', "duplicate_name"),
        (rb'{"id":1,"\u0069d":1}', "duplicate_name"),
        (b'{"id":{"a":1,"a":2}}', "duplicate_name"),
        (b'{"id":' + b"[" * 9 + b"1" + b"]" * 9 + b"}", "too_deep"),
        (b"[" * 100_000, "too_deep"),
        (b'"' + b"x" * KEY_BYTES_MAX + b'"', "key_too_long"),
        (b'{"id":"' + b"x" * KEY_BYTES_MAX + b'"}', "key_too_long"),
        (b'"' + "é".encode() * (KEY_BYTES_MAX // 2) + b'"', "key_too_long"),
    ],
)
def test_what_names_no_row_is_refused_with_its_code(text: bytes, flaw: str) -> None:
    with pytest.raises(BadKey) as refused:
        canonical_key(text)
    assert refused.value.flaw == flaw


def test_the_longest_key_is_still_a_key() -> None:
    text = '{"id":"' + "x" * (KEY_BYTES_MAX - 9) + '"}'
    assert len(text) == KEY_BYTES_MAX
    assert canonical_key(text.encode()) == text


scalars = st.one_of(st.integers(), st.text(), st.booleans())
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
shallow_keys = st.dictionaries(st.text(), values, min_size=1, max_size=4)


def depth(value: object) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth, inner), default=0)


def refused(key: dict[str, object]) -> bool:
    return depth(key) > KEY_DEPTH_MAX


@given(shallow_keys, st.booleans(), st.randoms())
def test_every_spelling_of_a_key_gives_the_same_text(
    key: dict[str, object], ascii_only: bool, order: object
) -> None:
    if refused(key):
        return
    names = list(key)
    order.shuffle(names)  # type: ignore[attr-defined]
    spelled = json.dumps({name: key[name] for name in names}, ensure_ascii=ascii_only, indent=1)
    canonical = canonical_key(spelled.encode())
    assert json.loads(canonical) == key
    assert canonical == msgspec.json.encode(key, order="sorted").decode()


@given(st.from_regex(re.compile(CANONICAL_SIMPLE), fullmatch=True))
def test_the_short_cut_for_simple_keys_agrees_with_the_long_way(text: str) -> None:
    text = text.rstrip("\n")
    if len(text) > KEY_BYTES_MAX:
        return
    name, value = next(iter(msgspec.json.decode(text, type=dict[str, msgspec.Raw]).items()))
    spaced = b'{ "' + name.encode() + b'" : ' + bytes(value) + b" }"
    assert canonical_key(text.encode()) == canonical_key(spaced) == text


def test_columns_come_sorted_and_keys_are_made_of_them() -> None:
    key = key_from_members({"b": b"1.10", "a": b'"x"'})
    assert key == '{"a":"x","b":1.10}'
    assert column_names(key) == ("a", "b")
