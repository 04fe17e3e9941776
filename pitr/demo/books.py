"""The shop's rows as its app knows them, its clock, and the transaction it is busy with."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

from pitr.demo.changes import RowChange, Transaction
from pitr.demo.schema import TABLES, Key, Row, Table

PICKS_MAX = 20
"""Tries to pick a row at random that fits; after that there is none."""

STEPS_MAX = 50
"""Steps of the clock in one transaction, however large it is."""


@dataclass(slots=True)
class Books:
    """Rows by table and key.

    Args:
        random: Decides how much time passes, and which rows are picked.
        now_us: The shop's own clock, µs UTC.
        step_us: How much time passes per change, µs; never more than that.
    """

    random: Random
    now_us: int
    step_us: int
    rows: dict[Table, dict[Key, Row]] = field(init=False)
    _keys: dict[Table, list[Key]] = field(init=False)
    _changes: list[RowChange] = field(init=False, default_factory=list)
    _tx_count: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.rows = {table: {} for table in TABLES}
        self._keys = {table: [] for table in TABLES}

    def put(self, table: Table, **row: Any) -> None:
        """Create or replace a row."""
        key = table.key_of(row)
        op = "update" if key in self.rows[table] else "create"
        if op == "create":
            self._keys[table].append(key)
        self.rows[table][key] = row
        self._changes.append(RowChange(table, op, key, row))

    def update(self, table: Table, key: Key, **values: Any) -> None:
        """Change some values of a row that exists."""
        self.put(table, **{**self.rows[table][key], **values})

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
        self._tx_count += 1
        steps = self.random.uniform(0.9, 1.0) * min(len(self._changes), STEPS_MAX)
        self.now_us += max(1, int(steps * self.step_us))
        changes, self._changes = tuple(self._changes), []
        return Transaction(
            tx=f"shop-{self._tx_count}",
            actor=actor,
            reason=reason,
            at_us=self.now_us,
            changes=changes,
        )
