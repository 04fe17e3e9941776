"""The demo's shop: its stream is the same every time, makes sense, and becomes exact SQL."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import chain, islice
from uuid import UUID

import pytest

from pitr.demo.changes import RowChange, Transaction
from pitr.demo.compare import difference
from pitr.demo.schema import CUSTOMERS, ORDER_LINES, ORDERS, PAYMENTS, PRODUCTS, STOCK, TABLES
from pitr.demo.shop import Shop
from pitr.demo.sql import literal, script

START_US = 1_700_000_000_000_000
PARENTS = (
    (STOCK, "sku", PRODUCTS),
    (ORDERS, "customer_id", CUSTOMERS),
    (ORDER_LINES, "order_id", ORDERS),
    (ORDER_LINES, "sku", PRODUCTS),
    (PAYMENTS, "order_id", ORDERS),
)


def stream(shop: Shop, count: int = 3_000) -> list[Transaction]:
    return list(islice(chain(shop.opening(), shop.business()), count))


def changes_of(transactions: Iterable[Transaction]) -> list[RowChange]:
    return [change for transaction in transactions for change in transaction.changes]


@pytest.fixture
def shop() -> Shop:
    return Shop(seed=1, start_us=START_US)


def test_the_same_seed_gives_the_same_stream(shop: Shop) -> None:
    again = Shop(seed=1, start_us=START_US)
    other = Shop(seed=2, start_us=START_US)
    text = script(stream(shop))
    assert text == script(stream(again))
    assert text != script(stream(other))


def test_every_transaction_leaves_the_shop_in_order(shop: Shop) -> None:
    """Creates make rows, updates and deletes meet them, and no child is left without its parent."""
    rows: dict[str, dict[tuple[object, ...], dict[str, object]]]
    rows = {table.name: {} for table in TABLES}
    parts = [each.changes for each in stream(shop)]
    parts += [shop.mistake(), *(each.changes for each in islice(shop.business(), 300))]
    for part in parts:
        assert part
        for change in part:
            known = rows[change.table.name]
            assert (change.key in known) == (change.op != "create")
            if change.values is None:
                assert change.op == "delete"
                del known[change.key]
            else:
                known.setdefault(change.key, {}).update(change.values)
                assert tuple(known[change.key]) == change.table.columns
                assert change.table.key_of(known[change.key]) == change.key
    for child, column, parent in PARENTS:
        for row in rows[child.name].values():
            assert (row[column],) in rows[parent.name]


def test_the_stream_holds_every_kind_of_change(shop: Shop) -> None:
    seen = {(change.table.name, change.op) for change in changes_of(stream(shop, 5_000))}
    everywhere = {(table.name, op) for table in TABLES for op in ("create", "delete")}
    everywhere.remove(("payments", "delete"))
    assert everywhere <= seen
    assert {(name, "update") for name in ("customers", "products", "stock", "orders")} <= seen


def test_the_mistake_spares_cancelled_orders_only(shop: Shop) -> None:
    status: dict[object, object] = {}
    for change in changes_of(stream(shop)):
        if change.table is ORDERS and (change.values is None or "status" in change.values):
            status[change.key] = change.values and change.values["status"]
    mistake = shop.mistake()
    deleted = {change.key for change in mistake if change.table is ORDERS}
    assert deleted == {key for key, value in status.items() if value not in (None, "cancelled")}
    blanked = [change.values for change in mistake if change.table is CUSTOMERS]
    assert blanked
    assert all(values == {"email": "", "newsletter": False} for values in blanked)


def test_a_transaction_is_plain_sql() -> None:
    product = {
        "sku": "it's",
        "name": "null",
        "price": Decimal("1.10"),
        "weight_kg": None,
        "attributes": '{"a":  1.10}',
        "labels": ["", None, 'quo"te', "back\\slash", "it's"],
        "sold_from": date(7, 3, 28),
        "active": True,
    }
    line = {"order_id": 1, "sku": "x", "quantity": 2, "unit_price": Decimal(3), "amount": 6}
    changes = (
        RowChange(PRODUCTS, "create", ("it's",), product),
        RowChange(ORDER_LINES, "create", (1, 1), {**line, "line": 1}),
        RowChange(ORDER_LINES, "create", (1, 2), {**line, "line": 2}),
        RowChange(STOCK, "update", ("it's", "süd / 2"), {"quantity": -3}),
        RowChange(ORDERS, "delete", (7,), None),
    )
    transaction = Transaction(actor="ops:o'neil", reason="ü", changes=changes)
    assert script([transaction]).split("\n") == [
        "BEGIN;",
        "SELECT pg_logical_emit_message(true, 'pitr',"
        """ '{"actor": "ops:o''neil", "reason": "\\u00fc"}');""",
        "INSERT INTO shop.products"
        " (sku, name, price, weight_kg, attributes, labels, sold_from, active) VALUES"
        """ ('it''s', 'null', '1.10', NULL, '{"a":  1.10}',"""
        """ '{"",NULL,"quo\\"te","back\\\\slash","it''s"}', '0007-03-28', 'True');""",
        "INSERT INTO shop.order_lines (order_id, line, sku, quantity, unit_price) VALUES"
        " ('1', '1', 'x', '2', '3'), ('1', '2', 'x', '2', '3');",
        "UPDATE shop.stock SET quantity = '-3' WHERE sku = 'it''s' AND warehouse = 'süd / 2';",
        "DELETE FROM shop.orders WHERE id = '7';",
        "COMMIT;",
    ]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (b"\x00\xff", "'\\x00ff'"),
        (b"", "'\\x'"),
        (datetime(2026, 3, 1, 9, 30, 0, 250_000, UTC), "'2026-03-01T09:30:00.250000+00:00'"),
        (5e-324, "'5e-324'"),
        (-0.0, "'-0.0'"),
        (-(2**63), "'-9223372036854775808'"),
        (UUID(int=7), "'00000000-0000-0000-0000-000000000007'"),
        ([], "'{}'"),
    ],
)
def test_a_value_is_written_exactly(value: object, written: str) -> None:
    assert literal(value) == written


def test_difference_tells_lost_added_and_changed_rows() -> None:
    found = difference(
        "t", {"(1)": "a", "(2)": "b", "(3)": "c"}, {"(1)": "a", "(2)": "x", "(4)": "d"}
    )
    assert (found.rows, found.lost, found.added, found.changed) == (3, 1, 1, 1)
    assert found.examples == (
        "t (3) is lost",
        "t (4) should not exist",
        "t (2): b became x",
    )
    assert not found.identical
    assert difference("t", {"(1)": "a"}, {"(1)": "a"}).identical
    assert not difference("t", {}, None).identical
    assert not difference("t", None, {}).identical
