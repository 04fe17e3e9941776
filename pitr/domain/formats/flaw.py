"""Why an input cannot be read; every code has its row in ``docs/quarantine.md``."""

from __future__ import annotations

from typing import Final

CODES: Final = frozenset(
    {
        "bad_message",
        "bad_text",
        "bad_time",
        "bad_unicode",
        "collection_too_long",
        "document_too_large",
        "duplicate_name",
        "key_too_long",
        "marker",
        "missing_field",
        "missing_key",
        "naive_time",
        "not_a_change",
        "not_an_object",
        "not_json",
        "not_utf8",
        "text_too_long",
        "too_deep",
        "unexpected_field",
        "unknown_field",
        "unknown_op",
        "unresolvable",
        "wrong_type",
    }
)
"""Every quarantine code there is. A code is public and never changes its meaning."""


class Flaw(Exception):
    """The input cannot be read: ``code`` for programs, ``reason`` for people, naming the field."""

    def __init__(self, code: str, reason: str) -> None:
        assert code in CODES, code
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason
