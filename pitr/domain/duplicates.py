"""Whether a JSON text repeats a name in one object, and how deep it nests; values are not read.

JSON leaves the meaning of a repeated name open (RFC 8259, section 4), and every reader picks
another one. A change must mean the same to all of them, so a repeated name is refused.
"""

from __future__ import annotations

import json
import re

import msgspec

DEPTH_MAX = 500
"""Deepest nesting of objects and arrays in one JSON text. Decoders recurse; this is far from their
end and far past any row."""

_values = msgspec.json.Decoder()
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}\[\]]')


class _Repeated(Exception):
    """Carries the repeated name out of the decoder."""


def first_duplicate(text: bytes) -> str | None:
    """Find a name that stands twice in one object, at any level of a valid JSON text.

    Two spellings of one name (``"a"`` and ``"\\u0061"``) are the same name.
    """
    names_count = names_bound(text)
    if names_count >= 0 and distinct_names(text) == names_count:
        return None
    try:
        # The numbers are thrown away. float() takes any length, int() stops at 4,300 digits.
        json.loads(text.decode(), object_pairs_hook=_refuse_repeated, parse_int=float)
    except _Repeated as repeated:
        return str(repeated.args[0])
    return None


def _refuse_repeated(pairs: list[tuple[str, object]]) -> None:
    if len(dict(pairs)) == len(pairs):
        return
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise _Repeated(name)
        seen.add(name)


def names_bound(text: bytes, *, line_feeds: bool = True) -> int:
    """Count at least as many names as a valid JSON text has, or -1 where a count proves nothing.

    A name ends in a quote, and then its colon follows, so ``":`` occurs once for each name. Strings
    may hold it too, which only makes the count larger. White space between the quote and the colon
    would make it smaller: then the answer is -1.

    So where this bound equals a number of names known to be distinct within their objects, there
    are no other names, and none is repeated.

    Args:
        text: Valid JSON, or several such texts with white space between them.
        line_feeds: False where it is known that no line feed stands before a colon.
    """
    if b" :" in text or (line_feeds and b"\n:" in text):
        return -1
    # One byte is found much faster than two, and compact JSON has neither.
    if (b"\t" in text and b"\t:" in text) or (b"\r" in text and b"\r:" in text):
        return -1
    return text.count(b'":')


def distinct_names(text: bytes) -> int:
    """Count the names of a valid JSON text, one that is repeated in its object once.

    -1 where the text holds a number that cannot be read into Python; numbers are thrown away.
    """
    try:
        todo = [_values.decode(text)]
    except ValueError:
        return -1
    count = 0
    while todo:
        value = todo.pop()
        inner = value
        if type(value) is dict:
            count += len(value)
            inner = value.values()
        elif type(value) is not list:
            continue
        todo += [each for each in inner if type(each) is dict or type(each) is list]
    return count


def is_too_deep(text: bytes) -> bool:
    """Tell whether a valid JSON text nests deeper than ``DEPTH_MAX``."""
    # Each level takes two bytes and one opening bracket, so most texts need no walk.
    if len(text) <= 2 * DEPTH_MAX or text.count(b"{") + text.count(b"[") <= DEPTH_MAX:
        return False
    depth = 0
    for token in _TOKENS.finditer(text):
        first = text[token.start()]
        if first in b"{[":
            depth += 1
            if depth > DEPTH_MAX:
                return True
        elif first in b"}]":
            depth -= 1
    return False
