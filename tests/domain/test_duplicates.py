"""A repeated name is always found, however it is spelled and wherever it stands."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.duplicates import (
    DEPTH_MAX,
    distinct_names,
    first_duplicate,
    is_too_deep,
    names_bound,
)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":1,"a":1}',
        '{"a":1,"b":2,"a":3}',
        '{"a" :1,"a" :1}',
        '{"a"\t:1,"a"\n:1,"b"\r:2}',
        r'{"a":1,"\u0061":1}',
        '{"":1,"":1}',
        '{"x":{"a":1,"a":1}}',
        '{"x":[{"a":1,"a":1}]}',
        '[[{"a":1,"a":1}]]',
        '{"x":1,"x":{"a":1}}',
        '{"a":{"b":1},"a":{"c":1}}',
        '{"a":":","a" :1}',
        '{"a":"\\":","a" :1}',
        '{"a":1,"a":' + "9" * 5000 + "}",
        '{"a":1,"a":1e999}',
        '{"😀":1,"\\ud83d\\ude00":1}',
    ],
)
def test_a_repeated_name_is_found(text: str) -> None:
    assert first_duplicate(text.encode()) is not None


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "1",
        '":"',
        '{"a":{"a":{"a":1}}}',
        '[{"a":1},{"a":1}]',
        '{"a":"\\"a\\":1"}',
        '{"a":":\\":"}',
        '{"a" : 1}',
        '{"a":' + "9" * 5000 + "}",
        '{"a":1,"A":1}',
    ],
)
def test_what_only_looks_repeated_is_not(text: str) -> None:
    assert first_duplicate(text.encode()) is None


def has_duplicate(text: str) -> bool:
    found = []

    def look(pairs: list[tuple[str, Any]]) -> None:
        found.append(len({name for name, _ in pairs}) != len(pairs))

    json.loads(text, object_pairs_hook=look)
    return any(found)


names = st.sampled_from(["a", "b", "", ":", '":', '" :', "\\", "é", "😀", '"a":1'])
strings = st.one_of(names, st.text(max_size=3))
spaces = st.sampled_from(["", "", "", "", " ", "\t", "\n", "\r", "  "])


@st.composite
def json_texts(draw: st.DrawFn, levels: int = 3) -> str:
    """JSON in every spelling, with repeated names now and then."""

    def spelled(text: str) -> str:
        return json.dumps(text, ensure_ascii=draw(st.booleans()))

    kind = draw(st.integers(0, 4 if levels else 1))
    if kind == 0:
        return spelled(draw(strings))
    if kind == 1:
        return draw(st.sampled_from(["1", "-0.50", "null", "true", "1e9"]))
    count = draw(st.integers(0, 3))
    inner = [draw(json_texts(levels - 1)) for _ in range(count)]
    if kind == 2:
        return "[" + ",".join(inner) + "]"
    return (
        "{"
        + ",".join(
            draw(spaces) + spelled(draw(strings)) + draw(spaces) + ":" + draw(spaces) + each
            for each in inner
        )
        + draw(spaces)
        + "}"
    )


@given(json_texts())
def test_the_answer_is_that_of_a_plain_decoder(text: str) -> None:
    assert (first_duplicate(text.encode()) is not None) == has_duplicate(text)


@given(json_texts())
def test_the_bound_never_counts_too_few_names(text: str) -> None:
    """The claim that ``names_bound`` makes, and that the fast way rests on."""
    count = 0

    def add(pairs: list[tuple[str, Any]]) -> None:
        nonlocal count
        count += len(pairs)

    json.loads(text, object_pairs_hook=add)
    bound = names_bound(text.encode())
    assert bound == -1 or bound >= count
    assert distinct_names(text.encode()) <= count
    if "\n:" not in text:
        assert names_bound(text.encode(), line_feeds=False) == bound


@pytest.mark.parametrize("pad", ["", '"' + "[" * 2000 + '",'])
def test_depth_is_counted_exactly(pad: str) -> None:
    def nested(levels: int) -> bytes:
        return f"[{pad}{'[' * (levels - 1)}{']' * (levels - 1)}]".encode()

    assert not is_too_deep(nested(DEPTH_MAX))
    assert is_too_deep(nested(DEPTH_MAX + 1))


def test_width_is_not_depth() -> None:
    assert not is_too_deep(b"[" + b'{"a":[]},' * 5000 + b"1]")
