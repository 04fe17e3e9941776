"""Carries the shop's transactions to its database, a batch of statements at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import asyncpg

from pitr.demo.changes import Transaction
from pitr.demo.sql import script

BATCH_CHANGES = 2_000
"""A batch is full when it has so many changes; its last transaction is in it whole."""

# The customers of a real shop share the disk's flushes. Here one connection stands for them all and
# would wait for each, so there is one at the end.
_SETTINGS = {"synchronous_commit": "off"}
_FLUSH = "SELECT pg_logical_emit_message(false, 'demo', '', true)"


@dataclass(slots=True)
class Traded:
    """How much was written."""

    transactions: int = 0
    changes: int = 0

    def add(self, *, transactions: int, changes: int) -> None:
        """Count more."""
        self.transactions += transactions
        self.changes += changes


async def trade(transactions: Iterator[Transaction], *, changes: int, url: str) -> Traded:
    """Write transactions with at least ``changes`` changes, each committed; durable on return."""
    traded = Traded()
    scripts: asyncio.Queue[str | None] = asyncio.Queue(maxsize=2)
    async with asyncio.TaskGroup() as group:
        group.create_task(_write_all(scripts, url))
        while traded.changes < changes:
            wanted = min(BATCH_CHANGES, changes - traded.changes)
            batch = await asyncio.to_thread(_batch, transactions, wanted)
            traded.add(transactions=batch.transactions, changes=batch.changes)
            await scripts.put(batch.text)
        await scripts.put(None)
    return traded


@dataclass(frozen=True, slots=True)
class _Batch:
    text: str
    transactions: int
    changes: int


def _batch(transactions: Iterator[Transaction], wanted: int) -> _Batch:
    batch: list[Transaction] = []
    changes = 0
    while changes < wanted:
        batch.append(next(transactions))
        changes += len(batch[-1].changes)
    return _Batch(script(batch), len(batch), changes)


async def _write_all(scripts: asyncio.Queue[str | None], url: str) -> None:
    connection = await asyncpg.connect(url, server_settings=_SETTINGS)
    try:
        while (text := await scripts.get()) is not None:
            await connection.execute(text)
        await connection.execute(_FLUSH)
    finally:
        await connection.close()
