"""Writing documents, and the document of an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from pitr.domain.errors import PitrError

Document = dict[str, Any]

_INTEGER_MAX = 2**63 - 1


def dumps(document: object, *, indent: bool = False) -> bytes:
    """Write a document as JSON, on one line unless ``indent`` is asked for; no newline at the end.

    Embedded JSON is written as it came, so that it may bring line breaks of its own.
    """
    return orjson.dumps(document, default=str, option=orjson.OPT_INDENT_2 if indent else None)


def json_fragment(text: bytes | str | None) -> orjson.Fragment | None:
    """Embed valid JSON text as it is; None is null."""
    return orjson.Fragment(text) if text is not None else None


def error_document(error: PitrError) -> Document:
    """What went wrong: code, message, hint and facts."""
    return {
        "code": error.code,
        "message": plain_text(error.message),
        "hint": plain_text(error.hint) if error.hint is not None else None,
        "facts": facts_document(error.facts),
    }


def facts_document(facts: Mapping[str, object]) -> Document:
    """The facts of an error; what JSON has no form for becomes text."""
    return {name: _fact(value) for name, value in facts.items()}


def _fact(value: object) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and abs(value) <= _INTEGER_MAX:
        return value
    if isinstance(value, list | tuple):
        return [_fact(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _fact(item) for name, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(plain_text(str(item)) for item in value)
    return plain_text(str(value))


def plain_text(text: str) -> str:
    """Replace what cannot be written as UTF-8 (half characters of foreign file names)."""
    return text.encode("utf-8", "replace").decode()
