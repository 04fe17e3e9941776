"""What the shop's app does: transactions of row changes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pitr.demo.schema import Key, Row, Table

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class RowChange:
    """One row created, updated or deleted.

    ``values`` are all values of a row that is created, those that an update sets, and None for a
    delete.
    """

    table: Table
    op: str
    key: Key
    values: Row | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """Changes that become true together."""

    actor: str
    reason: str
    changes: tuple[RowChange, ...]


def moment(at_us: int) -> datetime:
    """The time as the shop's tables hold it."""
    return _EPOCH + timedelta(microseconds=at_us)
