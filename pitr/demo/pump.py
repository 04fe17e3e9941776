"""Carries the shop's transactions, in batches, to its database and to pitr at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from pitr.demo.changes import Transaction, ndjson
from pitr.demo.database import ShopDatabase
from pitr.demo.service import Sender

BATCH_CHANGES = 2_000
"""A batch is full when it has so many changes; its last transaction is in it whole."""

QUEUE_BATCHES_MAX = 4
SLICE_CHANGES_MAX = 20_000
"""Changes in one HTTP body; a transaction may go over several."""


@dataclass(slots=True)
class Sent:
    """How much went through."""

    transactions: int = 0
    changes: int = 0

    def add(self, batch: list[Transaction]) -> None:
        """Count a batch."""
        self.transactions += len(batch)
        self.changes += sum(len(transaction.changes) for transaction in batch)


async def pump(
    transactions: Iterator[Transaction], *, changes: int, shop: ShopDatabase, sender: Sender
) -> Sent:
    """Carry transactions until at least ``changes`` changes are in both places, durably."""
    sent = Sent()
    to_shop: asyncio.Queue[list[Transaction] | None] = asyncio.Queue(QUEUE_BATCHES_MAX)
    to_pitr: asyncio.Queue[list[Transaction] | None] = asyncio.Queue(QUEUE_BATCHES_MAX)
    async with asyncio.TaskGroup() as group:
        group.create_task(_write_all(to_shop, shop))
        group.create_task(_send_all(to_pitr, sender))
        while sent.changes < changes:
            wanted = min(BATCH_CHANGES, changes - sent.changes)
            batch = await asyncio.to_thread(_batch, transactions, wanted)
            sent.add(batch)
            await to_shop.put(batch)
            await to_pitr.put(batch)
        await to_shop.put(None)
        await to_pitr.put(None)
    return sent


def _batch(transactions: Iterator[Transaction], wanted: int) -> list[Transaction]:
    batch: list[Transaction] = []
    while wanted > 0:
        batch.append(next(transactions))
        wanted -= len(batch[-1].changes)
    return batch


async def _write_all(batches: asyncio.Queue[list[Transaction] | None], shop: ShopDatabase) -> None:
    while (batch := await batches.get()) is not None:
        await shop.write(batch)


async def _send_all(batches: asyncio.Queue[list[Transaction] | None], sender: Sender) -> None:
    while (batch := await batches.get()) is not None:
        await send(batch, sender)


async def send(batch: Iterable[Transaction], sender: Sender) -> None:
    """Send every change of the batch to pitr, in order."""
    lines = iter(await asyncio.to_thread(ndjson, batch))
    while part := list(islice(lines, SLICE_CHANGES_MAX)):
        await sender.send(b"".join(part), count=len(part))
