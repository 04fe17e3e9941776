"""Columns for a collection that has no table yet, from one look at all of its documents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from pitr.adapters.sinks.postgres.tables import IDENTIFIER_BYTES_MAX, TableName, quoted
from pitr.domain.documents import is_object, members
from pitr.domain.errors import InvalidRequest

COLUMNS_MAX: Final = 1600
"""Columns that a PostgreSQL table can have."""

NOTHING_KNOWN: Final = "no rows, and no table that would say its columns"

_DIGITS_MAX: Final = 16_000
_INTEGER: Final = re.compile(rb"-?[0-9]+")
_INT64_MAX: Final = 2**63 - 1


class Inference:
    """What was seen of each member. Memory grows with the members' names only.

    integers of 64 bits → ``bigint``; other numbers → ``numeric``; strings → ``text``; booleans →
    ``boolean``; objects, arrays and mixtures → ``json``, which alone keeps the exact text
    (``jsonb`` reorders and rewrites). A member of the key that is a mixture is ``jsonb``, because
    ``json`` cannot be compared.
    """

    def __init__(self, collection: str) -> None:
        self._collection = collection
        self._types: dict[str, str] = {}
        self._key_names: tuple[str, ...] | None = None
        self._key_alike = True

    def add(self, batch: pa.RecordBatch) -> None:
        """Look at a batch.

        Raises:
            InvalidRequest: A document is no object, or a member cannot name a column.
        """
        keys, documents = batch.column("key").to_pylist(), batch.column("after").to_pylist()
        for key, document in zip(keys, documents, strict=True):
            body = document.encode()
            if not is_object(body):
                raise self._unfit("the document is no object", key)
            found = members(body)
            self._add_key(key, found)
            for name, value in found.items():
                if value == b"null" and name in self._types:
                    continue
                self._see(name, value, key)

    def _add_key(self, key: str, found: dict[str, bytes]) -> None:
        body = key.encode()
        parts = members(body) if is_object(body) else {}
        self._key_names = tuple(parts) if self._key_names is None else self._key_names
        self._key_alike &= tuple(parts) == self._key_names
        for name, value in parts.items():
            self._see(name, value, key)
            self._key_alike &= value != b"null" and found.get(name, value) != b"null"

    def _see(self, name: str, value: bytes, key: str) -> None:
        if name not in self._types:
            self._check_name(name, key)
        seen, before = _type_of(value), self._types.setdefault(name, "")
        if seen != before:
            self._types[name] = _wider(before, seen)

    def _check_name(self, name: str, key: str) -> None:
        if not 0 < len(name.encode()) <= IDENTIFIER_BYTES_MAX or "\0" in name:
            raise self._unfit("the member cannot name a column", key, member=name)
        if len(self._types) == COLUMNS_MAX:
            raise self._unfit(
                "the documents have too many different members", key, columns_max=COLUMNS_MAX
            )

    def columns(self) -> list[tuple[str, str]]:
        """Name and type, the key's columns first, the others as they first appeared."""
        first = self._key_names or ()
        order = [*first, *(name for name in self._types if name not in first)]
        return [(name, self._column_type(name)) for name in order]

    def _column_type(self, name: str) -> str:
        found = self._types[name] or "text"
        return "jsonb" if found == "json" and name in self.primary_key() else found

    def primary_key(self) -> Sequence[str]:
        """The key's columns; none if keys have different members or nulls."""
        return (self._key_names or ()) if self._key_alike else ()

    def create_statement(self, name: TableName) -> str:
        """The statement that makes the table, without its primary key."""
        key = self.primary_key()
        columns = [
            f"{quoted(column)} {type_}{' NOT NULL' if column in key else ''}"
            for column, type_ in self.columns()
        ]
        return f"CREATE TABLE {name.quoted} ({', '.join(columns)})"

    def _unfit(self, message: str, key: str, **facts: object) -> InvalidRequest:
        return InvalidRequest(message, hint=None, collection=self._collection, key=key, **facts)


def _type_of(value: bytes) -> str:
    match value[:1]:
        case b'"':
            return "text"
        case b"t" | b"f":
            return "boolean"
        case b"n":
            return ""
        case b"{" | b"[":
            return "json"
        case _:
            return _number_type(value)


def _number_type(value: bytes) -> str:
    if len(value) < 19 and _INTEGER.fullmatch(value):
        return "bigint"
    if _INTEGER.fullmatch(value) and len(value) <= 20:
        return "bigint" if -_INT64_MAX - 1 <= int(value) <= _INT64_MAX else "numeric"
    mantissa, _, exponent = value.lower().partition(b"e")
    fits = len(mantissa) < _DIGITS_MAX and abs(int(exponent[:6] or b"0")) < _DIGITS_MAX // 2
    return "numeric" if fits and len(exponent) <= 6 else "json"


def _wider(one: str, other: str) -> str:
    if not one or not other:
        return one or other
    return "numeric" if {one, other} == {"bigint", "numeric"} else "json"
