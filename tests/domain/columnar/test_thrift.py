"""Integers that are decoded many at once are those that are decoded one by one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.columnar.thrift import Reader, varints


def encoded(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


NUMBERS = st.lists(st.integers(0, 2**63 - 1) | st.integers(0, 300))


@given(before=st.binary(max_size=5), numbers=NUMBERS, after=st.binary(max_size=5))
def test_integers_are_decoded_all_at_once(before: bytes, numbers: list[int], after: bytes) -> None:
    body = before + b"".join(map(encoded, numbers)) + after
    assert varints(body, len(before), len(numbers)).tolist() == numbers
    reader = Reader(body, len(before))
    assert [reader.varint() for _ in numbers] == numbers


@given(numbers=NUMBERS, missing=st.integers(1, 3))
def test_integers_that_are_not_there_are_noticed(numbers: list[int], missing: int) -> None:
    with pytest.raises(ValueError, match="too early"):
        varints(b"".join(map(encoded, numbers)) + b"\xff", 0, len(numbers) + missing)


def test_an_integer_of_more_than_63_bits_is_noticed() -> None:
    with pytest.raises(ValueError, match="too long"):
        varints(encoded(7) + encoded(2**63), 0, 2)
