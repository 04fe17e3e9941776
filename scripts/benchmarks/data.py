"""Makes the input of every benchmark: seeded shop changes of about 450 bytes a line."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_US = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z; a change follows every 500 µs."""

STEP_US = 500
_POOL = 4_096
_WORDS = [
    "fast",
    "parcel",
    "gift",
    "wrap",
    "leave",
    "at",
    "door",
    "ring",
    "twice",
    "fragile",
    "handle",
    "with",
    "care",
    "express",
    "standard",
    "deliver",
    "before",
    "noon",
    "invoice",
    "enclosed",
    "no",
    "signature",
    "return",
    "label",
    "inside",
    "second",
    "floor",
    "customer",
    "called",
    "address",
    "changed",
    "voucher",
    "applied",
    "stock",
    "reserved",
    "partial",
    "shipment",
    "backorder",
]


@dataclass(frozen=True, slots=True)
class Sample:
    """``count`` changes over ``rows`` rows; each row is written ``count / rows`` times or so."""

    count: int
    rows: int

    def lines(self) -> Iterator[bytes]:
        """The changes as native NDJSON, in time order, ten to a transaction."""
        random_ = random.Random(7)
        notes = [" ".join(random_.choices(_WORDS, k=9)) for _ in range(_POOL)]
        streets = [f"{random_.randint(1, 250)} {w.title()} Street" for w in _WORDS * 60]
        statuses = ["new", "paid", "packed", "shipped", "delivered", "returned"]
        choice, integer = random_.choice, random_.randrange
        for number in range(self.count):
            row = number * 2_654_435_761 % self.rows if number >= self.rows else number
            op = "create" if number < self.rows else "update"
            at_us = START_US + number // 10 * STEP_US * 10
            seconds, micros = divmod(at_us - START_US, 1_000_000)
            days, rest = divmod(seconds, 86_400)
            hours, rest = divmod(rest, 3_600)
            at = f"2026-01-{days + 1:02}T{hours:02}:{rest // 60:02}:{rest % 60:02}.{micros:06}Z"
            yield (
                f'{{"collection":"shop.orders","key":{{"id":{row}}},"op":"{op}","after":{{"id":{row},'
                f'"customer_id":{integer(200_000)},"status":"{choice(statuses)}",'
                f'"total":{integer(1, 90_000)}.{integer(100):02},"currency":"EUR",'
                f'"ship_to":"{choice(streets)}","note":"{choice(notes)}","updated_at":"{at}",'
                f'"paid":{"true" if number & 1 else "false"},"items":{integer(1, 9)}}},'
                f'"at":"{at}","tx":"{1_000_000 + number // 10}","actor":"user:{integer(5_000)}",'
                f'"reason":"POST /checkout"}}\n'
            ).encode()

    def write(self, path: Path) -> int:
        """Write the lines to a file; return its size in bytes."""
        with path.open("wb", buffering=1 << 20) as file:
            file.writelines(self.lines())
        return path.stat().st_size
