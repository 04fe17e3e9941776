"""Conditions on columns: what they mean, and that numbers are compared exactly."""

from __future__ import annotations

import json
import operator
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.errors import InvalidRequest
from pitr.domain.numbers import number_of
from pitr.domain.where import (
    CONDITION_CHARS_MAX,
    Condition,
    meeting,
    parse_condition,
    parse_conditions,
)


def meet(conditions: Sequence[Condition], before: bytes | None, after: bytes | None) -> bool:
    return meeting(conditions)(before, after)


SPELLINGS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,3})(\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?", fullmatch=True
)


@given(SPELLINGS, SPELLINGS)
def test_numbers_have_the_order_of_what_they_stand_for(one: str, other: str) -> None:
    first, second = number_of(one), number_of(other)
    assert first is not None
    assert second is not None
    for compare in (operator.lt, operator.eq, operator.gt):
        assert compare(first, second) is compare(Fraction(one), Fraction(other))


def test_numbers_of_any_length_are_told_apart() -> None:
    long = "9" * 40_000
    assert number_of(f"{long}1") < number_of(f"{long}2")  # type: ignore[operator]
    assert number_of(f"-{long}.1") < number_of(f"-{long}.09")  # type: ignore[operator]
    assert number_of("1e999999999999") > number_of("9e999999999998")  # type: ignore[operator]
    assert number_of("0.0e7") == number_of("-0")


@pytest.mark.parametrize(
    "text", ["", "01", "1.", ".5", "+1", "1e", "NaN", "٣", " 1", "1e" + "9" * 2_000]
)
def test_what_is_no_number_of_json_is_none(text: str) -> None:
    assert number_of(text) is None


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        ("c = 1.10", "1.1", True),
        ("c = 12345678901234567890.1", "12345678901234567890.2", False),
        ("c < 12345678901234567890.2", "12345678901234567890.1", True),
        ("c >= -1", "-1e0", True),
        ("c > 99", '"100.5"', True),  # a number that was sent as text
        ('c > "99"', '"100.5"', False),  # as text it is below
        ("c = 7", '"007"', False),
        ("c != 7", '"seven"', True),
        ("c != 7", "null", False),
        ("c = paid", '"paid"', True),
        ("c = 'it''s'", '"it\\u0027s"', True),
        ('c = "caf\\u00e9"', '"café"', True),
        ("c > 2026-03-01", '"2026-03-01T09:30:00Z"', True),
        ("c = two words", '"two words"', True),
        ("c = true", "true", True),
        ("c = true", '"true"', False),
        ("c != true", "false", True),
        ("c is null", "null", True),
        ("c IS NULL", '"null"', False),
        ("c ~ b", '"abc"', True),
        ("c ~ B", '"abc"', False),
        ("c ~ 34", "12345", True),
        ('c ~ "\\"b\\""', '{"a":"b"}', True),
        ("c = x", '{"a":1}', False),
        ("c != x", "[1]", True),
        ("c < x", "[1]", False),
    ],
)
def test_a_value_meets_a_condition(condition: str, value: str, holds: bool) -> None:
    document = f'{{"c": {value}}}'.encode()
    assert meet([parse_condition(condition)], None, document) is holds
    assert meet([parse_condition(condition)], document, None) is holds
    assert meet([parse_condition(condition.replace("c", '"c"', 1))], None, document) is holds


def test_a_column_that_is_not_there_meets_nothing() -> None:
    for condition in ("c = 1", "c != 1", "c is null", "c ~ x"):
        for document in (b'{"d":1}', b"[1]", None):
            assert not meet([parse_condition(condition)], document, document)


def test_all_conditions_hold_in_one_document_unless_they_name_theirs() -> None:
    before, after = b'{"status":"new","total":1}', b'{"status":"paid","total":2}'

    def holds(*conditions: str) -> bool:
        return meet(parse_conditions(conditions), before, after)

    assert holds("status = paid", "total = 2")
    assert holds("status = new", "total < 2")
    assert not holds("status = new", "total = 2")
    assert holds("before.status = new", "after.status = paid")
    assert holds("before.status = new", "total = 2")
    assert not holds("after.status = new")
    assert holds()


def test_names_of_columns_may_be_anything_in_quotes() -> None:
    document = b'{"a b":1,"before.x":2,"a.b":3,"before":4}'
    for condition in ('"a b" = 1', '"before.x" = 2', "a.b = 3", "before = 4", 'after."a b"=1'):
        assert meet([parse_condition(condition)], None, document)


@pytest.mark.parametrize(
    "text",
    [
        *("", "c", "= 1", "c 1", "c == 1", "c =", "c is not null", "c between 1 and 2", "c = null"),
        *("c < true", "c = {}", "c = [1]", "c = 'x", 'c = "x', 'c = "\\x"', '"c = 1', "xis null"),
        "c = " + "x" * CONDITION_CHARS_MAX,
    ],
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_condition(text)
    assert "where" in refused.value.facts


def test_there_is_a_limit_on_conditions() -> None:
    with pytest.raises(InvalidRequest):
        parse_conditions(["c = 1"] * 17)


@given(st.text(alphabet="c =<>~!\"'\\.1en ", max_size=12))
def test_no_text_makes_the_reader_fail_in_another_way(text: str) -> None:
    try:
        condition = parse_condition(text)
    except InvalidRequest:
        return
    meet([condition], b'{"c":1,"n":"e"}', json.dumps({condition.column: "1"}).encode())
