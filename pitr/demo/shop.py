"""The demo's shop: what its customers and staff do, as a seeded stream of transactions.

The same seed and clock give the same stream. Nothing here knows of a database or of pitr.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from decimal import Context, Decimal
from random import Random
from uuid import UUID

from pitr.demo.books import Books
from pitr.demo.changes import RowChange, Transaction, moment
from pitr.demo.goods import ODD_SKUS, WAREHOUSES, Goods
from pitr.demo.schema import CUSTOMERS, ORDER_LINES, ORDERS, PAYMENTS, PRODUCTS, STOCK, Row

PRODUCT_COUNT = 120
CUSTOMER_COUNT = 200
CURRENCIES = ("EUR", "USD", "JPY")
_EXACT = Context(prec=200)


class Shop:
    """A shop that opens at ``start_us``, µs UTC."""

    def __init__(self, *, seed: int, start_us: int) -> None:
        self._random = Random(seed)
        self._goods = Goods(self._random)
        self._books = Books(self._random, start_us)
        self._order_id = 100_000
        self._lines: dict[int, list[Row]] = {}
        self._payments: dict[int, UUID] = {}
        self._buyers: set[UUID] = set()
        self._sold: set[str] = set()
        self._doings: dict[Callable[[], Transaction | None], int] = {
            self._check_out: 100,
            self._pay: 25,
            self._ship: 20,
            self._cancel: 15,
            self._restock: 15,
            self._edit_customer: 25,
            self._sign_up: 15,
            self._announce_product: 3,
            self._edit_product: 5,
            self._erase_order: 5,
            self._close_account: 3,
            self._rename_product: 3,
        }

    def opening(self) -> Iterator[Transaction]:
        """Fill the shelves, and sign the first customers up."""
        for place in range(PRODUCT_COUNT):
            self._add_product(ODD_SKUS[place] if place < len(ODD_SKUS) else self._fresh_sku())
            yield self._books.commit("ops:import", "opening of the shop")
        for _ in range(CUSTOMER_COUNT):
            yield self._sign_up()

    def business(self) -> Iterator[Transaction]:
        """Do business, for ever."""
        doings, weights = list(self._doings), list(self._doings.values())
        while True:
            (doing,) = self._random.choices(doings, weights)
            if (transaction := doing()) is not None:
                yield transaction

    def mistake(self) -> tuple[RowChange, ...]:
        """Take in, and return, what ``database.MISTAKE`` does to the tables."""
        for order in list(self._books.rows[ORDERS].values()):
            if order["status"] != "cancelled":
                self._delete_order(order["id"])
        for key in list(self._books.rows[CUSTOMERS]):
            self._books.update(CUSTOMERS, key, email="", newsletter=False)
        return self._books.taken()

    def _check_out(self) -> Transaction | None:
        customer = self._books.some(CUSTOMERS)
        if customer is None:
            return None
        self._order_id += 1
        lines = self._lines[self._order_id] = self._drawn_lines(self._order_id)
        self._buyers.add(customer["id"])
        self._sold.update(line["sku"] for line in lines)
        total = _sum(line["amount"] for line in lines)
        paid = self._random.random() < 0.5
        self._books.create(
            ORDERS,
            id=self._order_id,
            customer_id=customer["id"],
            status="paid" if paid else "open",
            total=total,
            note=self._goods.note(),
            context=json.dumps({"ip": "2001:db8::7", "cart": [line["sku"] for line in lines]}),
            placed_at=moment(self._books.now_us),
        )
        for line in lines:
            self._books.create(ORDER_LINES, **line)
            self._move_stock(line["sku"], -line["quantity"])
        if paid:
            self._put_payment(self._order_id, total)
        self._books.update(
            CUSTOMERS, (customer["id"],), points=customer["points"] // 2 + len(lines)
        )
        return self._commit_as(customer["id"], "POST /checkout")

    def _drawn_lines(self, order_id: int) -> list[Row]:
        lines: list[Row] = []
        for place in range(1, self._random.randrange(2, 6)):
            product = self._books.some(PRODUCTS, active=True)
            assert product is not None, "some products are always active"
            quantity = self._random.randrange(1, 9)
            lines.append(
                {
                    "order_id": order_id,
                    "line": place,
                    "sku": product["sku"],
                    "quantity": quantity,
                    "unit_price": product["price"],
                    "amount": _EXACT.multiply(product["price"], quantity),
                }
            )
        return lines

    def _pay(self) -> Transaction | None:
        order = self._books.some(ORDERS, status="open")
        if order is None:
            return None
        self._books.update(ORDERS, (order["id"],), status="paid")
        self._put_payment(order["id"], order["total"])
        return self._commit_as(order["customer_id"], "POST /payments")

    def _ship(self) -> Transaction | None:
        order = self._books.some(ORDERS, status="paid")
        if order is None:
            return None
        self._books.update(ORDERS, (order["id"],), status="shipped", note=self._goods.note())
        return self._books.commit("job:shipping", "label printed")

    def _cancel(self) -> Transaction | None:
        order = self._books.some(ORDERS, status="open")
        if order is None:
            return None
        self._books.update(ORDERS, (order["id"],), status="cancelled")
        for line in self._lines[order["id"]]:
            self._move_stock(line["sku"], line["quantity"])
        return self._commit_as(order["customer_id"], "POST /orders/cancel")

    def _restock(self) -> Transaction | None:
        for _ in range(self._random.randrange(1, 8)):
            stock = self._books.some(STOCK)
            if stock is not None:
                self._move_stock(stock["sku"], self._random.randrange(10, 100))
        return self._books.commit("job:restock", "delivery arrived")

    def _edit_customer(self) -> Transaction | None:
        customer = self._books.some(CUSTOMERS)
        if customer is None:
            return None
        goods = self._goods
        values: dict[str, object] = {
            "name": goods.name(),
            "email": goods.email(),
            "tags": goods.tags(),
        }
        values |= {"address": goods.jsonb(), "credit": goods.credit(), "photo": goods.photo()}
        some = dict(self._random.sample(list(values.items()), 2))
        self._books.update(CUSTOMERS, (customer["id"],), **some)
        return self._commit_as(customer["id"], "PATCH /account")

    def _sign_up(self) -> Transaction:
        goods, uid = self._goods, self._uuid()
        self._books.create(
            CUSTOMERS,
            id=uid,
            name=goods.name(),
            email=goods.email(),
            tags=goods.tags(),
            address=goods.jsonb(),
            newsletter=goods.newsletter(),
            points=goods.points(),
            credit=goods.credit(),
            joined_at=moment(self._books.now_us),
            photo=goods.photo(),
        )
        return self._commit_as(uid, "POST /sign-up")

    def _announce_product(self) -> Transaction | None:
        """Add a product that is not for sale yet."""
        self._add_product(self._fresh_sku(), active=False)
        return self._books.commit("ops:kim", "announce a product")

    def _edit_product(self) -> Transaction | None:
        product = self._books.some(PRODUCTS)
        if product is None:
            return None
        key, active = (product["sku"],), self._random.random() < 0.8
        self._books.update(PRODUCTS, key, price=self._goods.price(), active=active)
        return self._books.commit("ops:kim", "price list")

    def _erase_order(self) -> Transaction | None:
        order = self._books.some(ORDERS, status="cancelled")
        if order is None:
            return None
        self._delete_order(order["id"])
        return self._books.commit("ops:kim", "erase a cancelled order")

    def _close_account(self) -> Transaction | None:
        """Delete a customer who never ordered; who did is kept for the tax office."""
        customer = self._books.some(CUSTOMERS)
        if customer is None or customer["id"] in self._buyers:
            return None
        self._books.delete(CUSTOMERS, (customer["id"],))
        return self._commit_as(customer["id"], "DELETE /account")

    def _rename_product(self) -> Transaction | None:
        """Give a product that was never sold another key: a delete and a create."""
        product = self._books.some(PRODUCTS, active=False)
        if product is None or product["sku"] in self._sold:
            return None
        self._add_product(self._fresh_sku(), active=False)
        for warehouse in WAREHOUSES:
            self._books.delete(STOCK, (product["sku"], warehouse))
        self._books.delete(PRODUCTS, (product["sku"],))
        return self._books.commit("ops:kim", "rename a product")

    def _fresh_sku(self) -> str:
        while ((sku := self._goods.sku()),) in self._books.rows[PRODUCTS]:
            pass
        return sku

    def _add_product(self, sku: str, *, active: bool = True) -> None:
        goods = self._goods
        self._books.create(
            PRODUCTS,
            sku=sku,
            name=goods.name(),
            price=goods.price(),
            weight_kg=goods.weight(),
            attributes=goods.json(),
            labels=goods.labels(),
            sold_from=goods.day(),
            active=active,
        )
        for warehouse in WAREHOUSES:
            counted_at = moment(self._books.now_us)
            self._books.create(
                STOCK, sku=sku, warehouse=warehouse, quantity=500, counted_at=counted_at
            )

    def _move_stock(self, sku: str, quantity: int) -> None:
        key = (sku, self._random.choice(WAREHOUSES))
        left = self._books.rows[STOCK][key]["quantity"] + quantity
        self._books.update(STOCK, key, quantity=left, counted_at=moment(self._books.now_us))

    def _put_payment(self, order_id: int, amount: Decimal) -> None:
        uid = self._uuid()
        self._payments[order_id] = uid
        self._books.create(
            PAYMENTS,
            id=uid,
            order_id=order_id,
            amount=amount,
            currency=self._random.choice(CURRENCIES),
            authorisation=self._goods.blob(),
            receipt=self._goods.json(),
            paid_at=moment(self._books.now_us),
        )

    def _delete_order(self, order_id: int) -> None:
        for line in self._lines.pop(order_id):
            self._books.delete(ORDER_LINES, (order_id, line["line"]))
        if (payment := self._payments.pop(order_id, None)) is not None:
            self._books.delete(PAYMENTS, (payment,))
        self._books.delete(ORDERS, (order_id,))

    def _commit_as(self, customer_id: UUID, reason: str) -> Transaction:
        return self._books.commit(f"user:{customer_id}", reason)

    def _uuid(self) -> UUID:
        return UUID(int=self._random.getrandbits(128), version=4)


def _sum(amounts: Iterable[Decimal]) -> Decimal:
    total = Decimal(0)
    for amount in amounts:
        total = _EXACT.add(total, amount)
    return total
