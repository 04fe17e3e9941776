"""Array literals as JSON."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.pgoutput.arrays import NUMBERS, array_as_json, numbers_as_json
from pitr.domain.pgoutput.model import Form
from tests.domain.pgoutput import naive
from tests.domain.pgoutput.strategies import FORMS, arrays


@pytest.mark.parametrize(
    ("literal", "element", "expected"),
    [
        ("{}", "string", "[]"),
        ("{a}", "string", '["a"]'),
        ("{a,b}", "string", '["a","b"]'),
        (
            '{"a b","c,d","{}","","NULL",NULL,null}',
            "string",
            '["a b","c,d","{}","","NULL",null,"null"]',
        ),
        ('{"\\"","\\\\","\\a"}', "string", '["\\"","\\\\","a"]'),
        ("{{a,b},{c,d}}", "string", '[["a","b"],["c","d"]]'),
        ("{1,-2,NULL}", "integer", "[1,-2,null]"),
        ("{{{1}},{{2}}}", "integer", "[[[1]],[[2]]]"),
        ("{1.50,NaN,1e+20,Infinity}", "number", '[1.50,"NaN",1e+20,"Infinity"]'),
        ("{t,f,NULL}", "boolean", "[true,false,null]"),
        ('{"2026-03-01 09:30:00+00",infinity}', "string", '["2026-03-01 09:30:00+00","infinity"]'),
        ('{"{\\"a\\": 1}"}', "string", '["{\\"a\\": 1}"]'),
        ("{{{{{{1}}}}}}", "integer", "[[[[[[1]]]]]]"),
    ],
)
def test_literals(literal: str, element: Form, expected: str) -> None:
    assert array_as_json(literal, element) == expected.encode()
    json.loads(expected)


@pytest.mark.parametrize("element", ["string", "integer"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "}",
        ",",
        "{",
        "{a",
        "a}",
        "{a}}",
        "{a}{b}",
        "{a},{b}",
        "{a},b",
        "{a}b",
        "{a}NULL",
        "{,}",
        "{a,}",
        "{,a}",
        "{a,,b}",
        "{{a}{b}}",
        "{{a}b}",
        "{a{b}}",
        '{a"b"}',
        '{"a"b}',
        '{"a',
        '{"a\\',
        "{a\\b}",
        "[2:3]={1,2}",
        "{{{{{{{1}}}}}}}",
    ],
)
def test_what_is_no_plain_literal_stays_a_text(text: str, element: Form) -> None:
    assert array_as_json(text, element) == naive.dumps(text).encode()


@given(st.sampled_from(FORMS[:4]).flatmap(lambda form: st.tuples(st.just(form), arrays(form))))
def test_it_is_what_the_plain_reader_gives(given_array: tuple[Form, str]) -> None:
    element, literal = given_array
    expected = naive.rendered("array", element, literal).encode()
    assert array_as_json(literal, element) == expected
    if element in ("integer", "number") and re.match(NUMBERS, literal):
        assert numbers_as_json(literal.encode()) == expected
