"""JSON documents: merged as RFC 7396 says, and no byte of a value is ever written anew."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.documents import fill_unchanged, is_object, joined, members, merge_patch

# RFC 7396, appendix A, whole; the first column is the original, the last one the result.
APPENDIX_A = [
    ('{"a":"b"}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"b"}', '{"b":"c"}', '{"a":"b","b":"c"}'),
    ('{"a":"b"}', '{"a":null}', "{}"),
    ('{"a":"b","b":"c"}', '{"a":null}', '{"b":"c"}'),
    ('{"a":["b"]}', '{"a":"c"}', '{"a":"c"}'),
    ('{"a":"c"}', '{"a":["b"]}', '{"a":["b"]}'),
    ('{"a":{"b":"c"}}', '{"a":{"b":"d","c":null}}', '{"a":{"b":"d"}}'),
    ('{"a":[{"b":"c"}]}', '{"a":[1]}', '{"a":[1]}'),
    ('["a","b"]', '["c","d"]', '["c","d"]'),
    ('{"a":"b"}', '["c"]', '["c"]'),
    ('{"a":"foo"}', "null", "null"),
    ('{"a":"foo"}', '"bar"', '"bar"'),
    ('{"e":null}', '{"a":1}', '{"e":null,"a":1}'),
    ("[1,2]", '{"a":"b","c":null}', '{"a":"b"}'),
    ("{}", '{"a":{"bb":{"ccc":null}}}', '{"a":{"bb":{}}}'),
]


@pytest.mark.parametrize(("target", "patch", "result"), APPENDIX_A)
def test_the_examples_of_the_rfc_come_out(target: str, patch: str, result: str) -> None:
    assert merge_patch(target.encode(), patch.encode()) == result.encode()


def reference(target: Any, patch: Any) -> Any:
    """RFC 7396, section 2, line by line."""
    if isinstance(patch, dict):
        if not isinstance(target, dict):
            target = {}
        target = dict(target)
        for name, value in patch.items():
            if value is None:
                target.pop(name, None)
            else:
                target[name] = reference(target.get(name), value)
        return target
    return patch


names = st.sampled_from(["a", "b", "é", '"', "\\", "a/b", "", "\u2028", "\0"])
scalars = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from([1.5, -0.0])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(names, values, max_size=4)
spaces = st.sampled_from([None, 1, "\t"])


@given(values | st.just(...), values | objects, spaces, spaces)
def test_a_merge_patch_does_what_the_rfc_says_with_any_white_space(
    target: Any, patch: Any, target_space: Any, patch_space: Any
) -> None:
    text = None if target is ... else json.dumps(target, indent=target_space).encode()
    merged = merge_patch(text, json.dumps(patch, indent=patch_space).encode())
    assert json.loads(merged) == reference(None if target is ... else target, patch)


EXACT = [
    "1.10",
    "-0",
    "0.0",
    "1E400",
    "1" * 40,
    "0." + "1" * 60,
    '"\\u00e9"',
    "[ 1 , 2 ]",
    '"/\\/"',
]


@pytest.mark.parametrize("text", EXACT)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_no_value_is_written_anew(text: str, depth: int) -> None:
    def nested(name: str) -> bytes:
        return ('{"x":' * depth + f'{{"{name}":{text}}}' + "}" * depth).encode()

    merged = merge_patch(nested("old"), nested("new"))
    inner = f'{{"old":{text},"new":{text}}}'
    assert merged == ('{"x":' * depth + inner + "}" * depth).encode()


def test_names_are_the_same_in_any_spelling() -> None:
    assert merge_patch(b'{"\\u0061":1,"b":2}', b'{"a":null}') == b'{"b":2}'


def test_a_patch_as_deep_as_a_document_may_be_is_merged() -> None:
    deep = b'{"a":' * 499 + b"1" + b"}" * 499
    assert merge_patch(deep, deep) == deep


@given(st.dictionaries(st.text(max_size=3), st.sampled_from(EXACT)))
def test_members_and_joined_are_each_others_inverse(parts: dict[str, str]) -> None:
    raw = {name: value.encode() for name, value in parts.items()}
    assert members(joined(raw)) == raw
    assert list(members(joined(raw))) == list(raw)


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b"{}", True), (b' \t\r\n{"a":1}', True), (b"[]", False), (b"null", False), (b'"{"', False)],
)
def test_an_object_is_known_by_its_brace(text: bytes, expected: bool) -> None:
    assert is_object(text) is expected


# What a source leaves out as unchanged


def reference_filled(target: Any, after: dict[str, Any], unchanged: list[str]) -> dict[str, Any]:
    filled = dict(after)
    for name in unchanged:
        if isinstance(target, dict) and name in target and name not in after:
            filled[name] = target[name]
    return filled


@given(values | st.just(...), objects, st.lists(names, max_size=4, unique=True))
def test_what_was_left_out_as_unchanged_comes_from_the_row_before(
    target: Any, after: dict[str, Any], unchanged: list[str]
) -> None:
    filled = fill_unchanged(
        None if target is ... else json.dumps(target).encode(),
        json.dumps(after).encode(),
        json.dumps(unchanged).encode(),
    )
    assert json.loads(filled) == reference_filled(target, after, unchanged)


@given(objects, objects, st.lists(names, max_size=4, unique=True))
def test_members_keep_the_order_of_the_row_and_new_ones_follow(
    target: dict[str, Any], after: dict[str, Any], unchanged: list[str]
) -> None:
    filled = list(
        members(fill_unchanged(*(json.dumps(each).encode() for each in (target, after, unchanged))))
    )
    known = [name for name in target if name in filled]
    assert filled == known + [name for name in after if name not in target]


def test_null_and_absent_are_two_things() -> None:
    """In ``after`` a null is a null; it removes nothing, unlike in a merge patch."""
    assert fill_unchanged(b'{"a":1,"b":2}', b'{"a":null}', b'["b"]') == b'{"a":null,"b":2}'
    assert fill_unchanged(b'{"a":1,"b":null}', b'{"a":2}', b'["b"]') == b'{"a":2,"b":null}'


def test_a_value_never_captured_stays_absent() -> None:
    assert fill_unchanged(None, b'{"a":1.10}', b'["big"]') == b'{"a":1.10}'
    assert fill_unchanged(b'{"a":1}', b'{"a":1.10}', b'["big"]') == b'{"a":1.10}'


def test_what_is_no_object_is_not_split() -> None:
    with pytest.raises(msgspec.DecodeError):
        members(b"[1]")
