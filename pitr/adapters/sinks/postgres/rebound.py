"""Definitions as PostgreSQL prints them, bound to tables and sequences of other names.

Pure text work on what ``pg_get_indexdef`` and ``pg_get_constraintdef`` write: their form is fixed
(``ruleutils.c``), and names are quoted where they are no plain words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pitr.adapters.sinks.postgres.tables import TableName, quoted

_NAME: Final = r'(?:[a-z_][a-z0-9_$]*|"(?:[^"]|"")+")'
_INDEX: Final = re.compile(
    rf"CREATE (UNIQUE )?INDEX {_NAME} ON (?:ONLY )?{_NAME}(?:\.{_NAME})? (USING .*)", re.S
)
_FOREIGN_KEY: Final = re.compile(
    rf"(FOREIGN KEY \((?:[^()\"]|{_NAME})*\) REFERENCES )(?:ONLY )?{_NAME}(?:\.{_NAME})?(\(.*)",
    re.S,
)


def rebound_index(definition: str, *, name: str, table: TableName) -> str | None:
    """The index on a table, under a name; None if the text has another form.

    That of a partitioned table is on all of its partitions.
    """
    found = _INDEX.fullmatch(definition)
    if found is None:
        return None
    unique, rest = found[1] or "", found[2]
    return f"CREATE {unique}INDEX {quoted(name)} ON {table.quoted} {rest}"


def rebound_foreign_key(definition: str, parent: TableName) -> str | None:
    """The foreign key to a parent of that name; None if the text has another form."""
    found = _FOREIGN_KEY.fullmatch(definition)
    return None if found is None else f"{found[1]}{parent.quoted}{found[2]}"


def rebound_sequences(expression: str, renamed: Mapping[str, str]) -> str:
    """An expression whose constants name other sequences; both sides are printed names."""
    for before, now in renamed.items():
        expression = expression.replace(f"{literal(before)}::regclass", f"{literal(now)}::regclass")
    return expression


def literal(text: str) -> str:
    """A text as it stands in SQL; as PostgreSQL prints it."""
    escaped = "'" + text.replace("'", "''").replace("\\", "\\\\") + "'"
    return f"E{escaped}" if "\\" in text else escaped
