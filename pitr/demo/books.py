"""The shop's rows as its app knows them, its clock, and the transaction it is busy with."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from pitr.demo.changes import RowChange, Transaction
from pitr.demo.schema import TABLES, Key, Row, Table

PICKS_MAX = 20
"""Tries to pick a row at random that fits; after that there is none."""

STEP_US_MAX = 700
"""How much time passes from one transaction to the next, at most."""


@dataclass(slots=True)
class Books:
    """Rows by table and key.

    Args:
        random: Decides how much time passes, and which rows are picked.
        now_us: The shop's own clock, µs UTC.
    """

    random: Random
    now_us: int
    rows: dict[Table, dict[Key, Row]] = field(init=False)
    _keys: dict[Table, list[Key]] = field(init=False)
    _changes: list[RowChange] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.rows = {table: {} for table in TABLES}
        self._keys = {table: [] for table in TABLES}

    def create(self, table: Table, **row: Any) -> None:
        """Create a row that does not exist."""
        key = table.key_of(row)
        assert key not in self.rows[table], "it exists already"
        self._keys[table].append(key)
        self.rows[table][key] = row
        self._changes.append(RowChange(table, "create", key, row))

    def update(self, table: Table, key: Key, **values: Any) -> None:
        """Change some values, none of the key, of a row that exists."""
        self.rows[table][key] = {**self.rows[table][key], **values}
        self._changes.append(RowChange(table, "update", key, values))

    def delete(self, table: Table, key: Key) -> None:
        """Delete a row that exists."""
        del self.rows[table][key]
        self._changes.append(RowChange(table, "delete", key, None))

    def some(self, table: Table, **values: Any) -> Row | None:
        """Pick a row that has these values; None if there seems to be none."""
        keys = self._keys[table]
        for _ in range(PICKS_MAX):
            if not keys:
                break
            place = self.random.randrange(len(keys))
            row = self.rows[table].get(keys[place])
            if row is None:
                keys[place] = keys[-1]
                keys.pop()
            elif all(row[name] == value for name, value in values.items()):
                return row
        return None

    def commit(self, actor: str, reason: str) -> Transaction:
        """Make a transaction of the changes since the last one, and let time pass."""
        self.now_us += self.random.randrange(1, STEP_US_MAX)
        return Transaction(actor=actor, reason=reason, changes=self.taken())

    def taken(self) -> tuple[RowChange, ...]:
        """Return the changes since the last transaction, which somebody else made."""
        changes, self._changes = tuple(self._changes), []
        return changes
