"""What the shop's app does: transactions of row changes, and the lines it sends to pitr."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import msgspec

from pitr.demo.schema import Key, Row, Table

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encoder = msgspec.json.Encoder(decimal_format="number", uuid_format="canonical")


@dataclass(frozen=True, slots=True)
class RowChange:
    """One row created, updated or deleted; ``row`` is the row after it, None for a delete."""

    table: Table
    op: str
    key: Key
    row: Row | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """Changes that became true together at ``at_us``, µs UTC."""

    tx: str
    actor: str
    reason: str
    at_us: int
    changes: tuple[RowChange, ...]


def moment(at_us: int) -> datetime:
    """The time as the shop's tables hold it."""
    return _EPOCH + timedelta(microseconds=at_us)


def ndjson(transactions: Iterable[Transaction]) -> list[bytes]:
    """Write each change in pitr's native format, as a line; numbers keep every digit."""
    return [
        _encoder.encode(_native(transaction, change)) + b"\n"
        for transaction in transactions
        for change in transaction.changes
    ]


def _native(transaction: Transaction, change: RowChange) -> dict[str, object]:
    table, row = change.table, change.row
    return {
        "collection": table.collection,
        "key": dict(zip(table.key, change.key, strict=True)),
        "op": change.op,
        "after": None if row is None else table.document(row),
        "at": moment(transaction.at_us),
        "tx": transaction.tx,
        "actor": transaction.actor,
        "reason": transaction.reason,
    }
