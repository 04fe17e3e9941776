"""Writes the shop's transactions as plain SQL, in which a word on who and why is all for pitr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import groupby
from typing import Any

from pitr.demo.changes import RowChange, Transaction
from pitr.demo.schema import Row, Table


def script(transactions: Iterable[Transaction]) -> str:
    """Return the statements of the transactions, each between ``BEGIN`` and ``COMMIT``."""
    lines: list[str] = []
    for transaction in transactions:
        said = json.dumps({"actor": transaction.actor, "reason": transaction.reason})
        lines.append("BEGIN;")
        lines.append(f"SELECT pg_logical_emit_message(true, 'pitr', {literal(said)});")
        lines.extend(_statements(transaction.changes))
        lines.append("COMMIT;")
    return "\n".join(lines)


def _statements(changes: Iterable[RowChange]) -> Iterator[str]:
    for (table, op), group in groupby(changes, key=lambda change: (change.table, change.op)):
        match op:
            case "create":
                yield _insert(table, [change.values for change in group if change.values])
            case "update":
                yield from map(_update, group)
            case _:
                yield from map(_delete, group)


def _insert(table: Table, rows: Iterable[Row]) -> str:
    names = table.written
    values = ", ".join(f"({', '.join(literal(row[name]) for name in names)})" for row in rows)
    return f"INSERT INTO {table.collection} ({', '.join(names)}) VALUES {values};"


def _update(change: RowChange) -> str:
    assert change.values, "an update sets something"
    values = ", ".join(f"{name} = {literal(value)}" for name, value in change.values.items())
    return f"UPDATE {change.table.collection} SET {values} WHERE {_key(change)};"


def _delete(change: RowChange) -> str:
    return f"DELETE FROM {change.table.collection} WHERE {_key(change)};"


def _key(change: RowChange) -> str:
    pairs = zip(change.table.key, change.key, strict=True)
    return " AND ".join(f"{name} = {literal(value)}" for name, value in pairs)


def literal(value: Any) -> str:
    """Write a value as a string constant, which PostgreSQL reads as the type that is due there."""
    if value is None:
        return "NULL"
    return "'" + _text(value).replace("'", "''") + "'"


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    if isinstance(value, date):  # as every datetime is
        return value.isoformat()
    if isinstance(value, list):
        return "{" + ",".join(map(_element, value)) + "}"
    return str(value)


def _element(value: str | None) -> str:
    if value is None:
        return "NULL"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
