"""The demo's shop: the stream is the same every time, makes sense, and loses no digit."""

from __future__ import annotations

from itertools import chain, islice, pairwise

import msgspec
import pytest

from pitr.demo.changes import Transaction, ndjson
from pitr.demo.compare import difference
from pitr.demo.schema import CUSTOMERS, ORDER_LINES, ORDERS, PAYMENTS, PRODUCTS, STOCK, TABLES
from pitr.demo.shop import Shop
from pitr.domain.formats import decode_lines

START_US = 1_700_000_000_000_000
STEP_US = 100_000
PARENTS = (
    (STOCK, "sku", PRODUCTS),
    (ORDERS, "customer_id", CUSTOMERS),
    (ORDER_LINES, "order_id", ORDERS),
    (ORDER_LINES, "sku", PRODUCTS),
    (PAYMENTS, "order_id", ORDERS),
)


def stream(shop: Shop, count: int = 3_000) -> list[Transaction]:
    return list(islice(chain(shop.opening(), shop.business()), count))


@pytest.fixture
def shop() -> Shop:
    return Shop(seed=1, start_us=START_US, step_us=STEP_US)


def test_the_same_seed_gives_the_same_stream(shop: Shop) -> None:
    again = Shop(seed=1, start_us=START_US, step_us=STEP_US)
    other = Shop(seed=2, start_us=START_US, step_us=STEP_US)
    lines = ndjson(stream(shop))
    assert lines == ndjson(stream(again))
    assert lines != ndjson(stream(other))


def test_time_moves_on_and_never_faster_than_agreed(shop: Shop) -> None:
    transactions = stream(shop)
    times = [transaction.at_us for transaction in transactions]
    assert all(earlier < later for earlier, later in pairwise(times))
    changes = sum(len(transaction.changes) for transaction in transactions)
    assert START_US + 0.8 * changes * STEP_US < times[-1] <= START_US + changes * STEP_US
    assert len({transaction.tx for transaction in transactions}) == len(transactions)


def test_every_transaction_leaves_the_shop_in_order(shop: Shop) -> None:
    """Creates make rows, updates and deletes meet them, and no child is left without its parent."""
    rows: dict[str, dict[tuple[object, ...], object]] = {table.name: {} for table in TABLES}
    for transaction in [*stream(shop), shop.mistake(), *islice(shop.business(), 300)]:
        assert transaction.changes
        for change in transaction.changes:
            known = rows[change.table.name]
            assert (change.key in known) == (change.op != "create")
            if change.row is None:
                del known[change.key]
            else:
                assert tuple(change.row) == change.table.columns
                known[change.key] = change.row
    for child, column, parent in PARENTS:
        for row in rows[child.name].values():
            assert (row[column],) in rows[parent.name]  # type: ignore[index]


def test_the_stream_holds_every_kind_of_change(shop: Shop) -> None:
    seen = {
        (change.table.name, change.op)
        for transaction in stream(shop, 5_000)
        for change in transaction.changes
    }
    everywhere = {(table.name, op) for table in TABLES for op in ("create", "delete")}
    everywhere.remove(("payments", "delete"))
    assert everywhere <= seen
    assert {(name, "update") for name in ("customers", "products", "stock", "orders")} <= seen


def test_the_mistake_spares_cancelled_orders_only(shop: Shop) -> None:
    status = {
        change.key: change.row["status"] if change.row else None
        for transaction in stream(shop)
        for change in transaction.changes
        if change.table is ORDERS
    }
    mistake = shop.mistake()
    deleted = {change.key for change in mistake.changes if change.table is ORDERS}
    assert deleted == {key for key, value in status.items() if value not in (None, "cancelled")}
    blanked = [change.row for change in mistake.changes if change.table is CUSTOMERS]
    assert blanked and all(row is not None and row["email"] == "" for row in blanked)


def test_pitr_reads_every_line_and_keeps_every_digit(shop: Shop) -> None:
    lines = ndjson([*stream(shop), shop.mistake()])
    decoded = decode_lines(b"".join(lines), format="native", position_first=0)
    assert not decoded.quarantined
    for line, after in zip(lines, decoded.changes.column("after").to_pylist(), strict=True):
        sent = bytes(msgspec.json.decode(line, type=dict[str, msgspec.Raw])["after"])
        assert after == (None if sent == b"null" else sent.decode())


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
