"""PostgreSQL's array literals as JSON arrays.

Source: PostgreSQL documentation, "Array Input and Output Syntax". Only what ``array_out`` writes
is understood: no white space around elements, and in quotes whatever could be misunderstood.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from pitr.domain.pgoutput.model import Form

NUMBER: Final = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
"""A number as JSON writes it; read by Python and by RE2."""

NUMBERS: Final = rf"^\{{(?:(?:{NUMBER}|NULL)(?:,(?:{NUMBER}|NULL))*)?\}}$"
"""An array of numbers with one dimension; ``numbers_as_json`` makes JSON of it."""

DIMENSIONS_MAX: Final = 6
"""PostgreSQL's arrays have no more."""

_AS_JSON: Final = bytes.maketrans(b"{}", b"[]")

_TOKEN: Final = re.compile(
    r'(?P<mark>[{},])|"(?P<quoted>(?:[^"\\]|\\.)*+)"|(?P<bare>[^{},"\\]+)', re.DOTALL
)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_number: Final = re.compile(NUMBER)
_encode: Final = msgspec.json.encode


def numbers_as_json(literals: bytes) -> bytes:
    """Write literals that match ``NUMBERS``, one after the other, as JSON of the same lengths."""
    return literals.translate(_AS_JSON).replace(b"NULL", b"null")


def array_as_json(literal: str, element: Form) -> bytes:
    """Write an array as JSON; the exact text as a string where it is not a plain literal."""
    if element == "string" and not _may_need_care(literal):
        return _encode(literal[1:-1].split(",") if len(literal) > 2 else [])
    found = _elements(literal, element)
    return _encode(literal) if found is None else found


def _may_need_care(literal: str) -> bool:
    return (
        literal[:1] != "{"
        or literal[-1:] != "}"
        or '"' in literal
        or "\\" in literal
        or "NULL" in literal
        or literal.count("{") != 1
        or literal.count("}") != 1
        or ",," in literal
        or "{," in literal
        or ",}" in literal
    )


def _elements(literal: str, element: Form) -> bytes | None:
    """Write each element; None if this is no literal, or has bounds of its own."""
    out: list[bytes] = []
    place = depth = 0
    value_before = False
    while place < len(literal):
        token = _TOKEN.match(literal, place)
        if token is None or (place > 0 and depth == 0):
            return None
        mark = token["mark"]
        if mark is None or mark == "{":
            if value_before or (mark is None and depth == 0):
                return None
            depth += mark is not None
            if depth > DIMENSIONS_MAX:
                return None
            value_before = mark is None
            out.append(b"[" if mark else _element(token, element))
        elif mark == ",":
            if not value_before:
                return None
            value_before = False
            out.append(b",")
        else:
            if not value_before and out[-1:] != [b"["]:
                return None
            depth -= 1
            value_before = True
            out.append(b"]")
        place = token.end()
    return b"".join(out) if depth == 0 and out else None


def _element(token: re.Match[str], element: Form) -> bytes:
    text = token["bare"]
    if text is None:
        text = _ESCAPED.sub(r"\1", token["quoted"])
    elif text == "NULL":
        return b"null"
    if element in ("integer", "number") and _number.fullmatch(text):
        return text.encode()
    if element == "boolean" and text in ("t", "f"):
        return b"true" if text == "t" else b"false"
    return _encode(text)
