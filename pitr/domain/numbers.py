"""Numbers of JSON, compared exactly by their text: of any length, never through a float."""

from __future__ import annotations

import re
from typing import Final

Number = tuple[int, int, str]
"""Sign, power of ten, digits, so that tuples have the order of the numbers they stand for."""

EXPONENT_DIGITS_MAX: Final = 1_000
"""Longest exponent, in digits; a number with a longer one is not read."""

_NUMBER: Final = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?")
_COMPLEMENT: Final = str.maketrans("0123456789", "9876543210")
_PAST_NINE: Final = ":"
"""After the complements of all digits: of two negative numbers the one that goes on is less."""


def number_of(text: str) -> Number | None:
    """Read a JSON number (RFC 8259); None if the text is none. Equal numbers are equal tuples."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    minus, whole, part, exponent_sign, exponent = (group or "" for group in found.groups())
    exponent = exponent.lstrip("0")
    if len(exponent) > EXPONENT_DIGITS_MAX:
        return None
    digits = (whole + part).lstrip("0")
    if not digits:
        return 0, 0, ""
    # The value is 0.DIGITS times ten to this power; the first digit is not a zero.
    power = len(digits) - len(part) + int(exponent_sign + (exponent or "0"))
    digits = digits.rstrip("0")
    if minus:
        return -1, -power, digits.translate(_COMPLEMENT) + _PAST_NINE
    return 1, power, digits
