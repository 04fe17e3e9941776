"""The demo's shop: what its customers do, as a seeded stream of transactions that never ends.

The same seed and clock give the same stream. The shop keeps its own rows, as an app does, so that
each transaction makes sense after those before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Context, Decimal
from random import Random
from typing import Any
from uuid import UUID

from pitr.demo.changes import RowChange, Transaction, moment
from pitr.demo.goods import ODD_SKUS, WAREHOUSES, Goods
from pitr.demo.schema import (
    CUSTOMERS,
    ORDER_LINES,
    ORDERS,
    PAYMENTS,
    PRODUCTS,
    STOCK,
    TABLES,
    Key,
    Row,
    Table,
)

PRODUCT_COUNT = 120
CUSTOMER_COUNT = 200
_EXACT = Context(prec=100)
_CURRENCIES = ("EUR", "USD", "JPY")


@dataclass(slots=True)
class Shop:
    """The rows of the shop as its app knows them, and a clock of its own.

    Args:
        seed: Decides everything that happens.
        start_us: When the shop opens, µs UTC.
        step_us: About how much time passes per change, µs; never more than that.
    """

    seed: int
    start_us: int
    step_us: int
    rows: dict[Table, dict[Key, Row]] = field(init=False)
    now_us: int = field(init=False)
    _random: Random = field(init=False)
    _goods: Goods = field(init=False)
    _changes: list[RowChange] = field(init=False, default_factory=list)
    _tx_count: int = field(init=False, default=0)
    _order_id: int = field(init=False, default=100_000)
    _children: dict[int, list[tuple[Table, Key]]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = {table: {} for table in TABLES}
        self.now_us = self.start_us
        self._random = Random(self.seed)
        self._goods = Goods(self._random)

    def opening(self) -> Iterator[Transaction]:
        """Fill the shelves and sign the first customers up."""
        for sku in (*ODD_SKUS, *(self._goods.sku() for _ in range(PRODUCT_COUNT - len(ODD_SKUS)))):
            self._add_product(sku)
            yield self._commit("ops:import", "opening of the shop")
        for _ in range(CUSTOMER_COUNT):
            yield self._sign_up()

    def business(self) -> Iterator[Transaction]:
        """Do business for ever."""
        doings = self._doings()
        while True:
            (doing,) = self._random.choices(list(doings), weights=list(doings.values()))
            transaction = doing()
            if transaction is not None:
                yield transaction

    def blunder(self) -> Transaction:
        """Forget what ``story.BLUNDER_SQL`` destroys: the app hears of it row by row."""
        for order in [o for o in self.rows[ORDERS].values() if o["status"] != "cancelled"]:
            self._delete_order(order["id"])
        for key in list(self.rows[CUSTOMERS]):
            self._update(CUSTOMERS, key, email="", newsletter=False)
        return self._commit("ops:jo", "clean up test orders, unsubscribe one customer")

    def _doings(self) -> dict[Callable[[], Transaction | None], int]:
        return {
            self._check_out: 100,
            self._pay: 25,
            self._ship: 20,
            self._cancel: 15,
            self._restock: 15,
            self._edit_customer: 25,
            self._sign_up: 15,
            self._erase_order: 5,
            self._close_account: 3,
            self._rename_product: 2,
            self._edit_product: 5,
        }

    def _commit(self, actor: str, reason: str) -> Transaction:
        """Make the changes since the last commit a transaction, and let time pass."""
        self._tx_count += 1
        steps = self._random.uniform(0.9, 1.0) * len(self._changes)
        self.now_us += max(1, int(steps * self.step_us))
        changes, self._changes = tuple(self._changes), []
        tx = f"shop-{self._tx_count}"
        return Transaction(tx=tx, actor=actor, reason=reason, at_us=self.now_us, changes=changes)

    def _put(self, table: Table, row: Row) -> None:
        key = table.key_of(row)
        op = "update" if key in self.rows[table] else "create"
        self.rows[table][key] = row
        self._changes.append(RowChange(table, op, key, row))

    def _update(self, table: Table, key: Key, **values: Any) -> None:
        self._put(table, {**self.rows[table][key], **values})

    def _delete(self, table: Table, key: Key) -> None:
        del self.rows[table][key]
        self._changes.append(RowChange(table, "delete", key, None))

    def _some(self, table: Table, **values: Any) -> Row | None:
        """Some row with those values, or None if a few tries find none."""
        keys = self._keys(table)
        for _ in range(20 if keys else 0):
            row = self.rows[table].get(self._random.choice(keys))
            if row is not None and all(row[name] == value for name, value in values.items()):
                return row
        return None
