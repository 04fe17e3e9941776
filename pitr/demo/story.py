"""The demo from the first order to the proof: real servers, real commands, a real mistake."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain

from pitr.adapters.embedded import EmbeddedPostgres
from pitr.demo.books import STEPS_MAX
from pitr.demo.changes import Transaction
from pitr.demo.compare import TableDifference, compare, taken_ids
from pitr.demo.database import MISTAKE, ShopDatabase, copy_shop, create_shop, fetch_value
from pitr.demo.pump import Sent, pump, send
from pitr.demo.result import DemoResult
from pitr.demo.schema import CUSTOMERS, SCHEMA
from pitr.demo.service import Sender, Service
from pitr.demo.shop import Shop
from pitr.domain.errors import Conflict

SEED = 20260301
SPAN_US = 2 * 3_600_000_000
"""How long the shop has been open when the demo begins, on its own clock."""

LATER_SHARE = 0.02
"""Business after the mistake, as a share of that before."""

SHOWN_LINES_MAX = 16
SHOWN_CHARS_MAX = 110

Report = Callable[[str], None]
Fault = Callable[[str], Awaitable[None]]


@dataclass(slots=True)
class Steps:
    """Tells each step as it ends, with its seconds."""

    report: Report
    seconds: dict[str, float] = field(default_factory=dict)
    start_s: float = field(default_factory=time.perf_counter)

    @contextmanager
    def step(self, name: str) -> Iterator[list[str]]:
        """Time a step; what is put into the list is told when it has ended well."""
        said: list[str] = []
        start_s = time.perf_counter()
        yield said
        self.seconds[name] = time.perf_counter() - start_s
        for place, line in enumerate(said):
            took = f"{self.seconds[name]:6.1f} s" if place == 0 else " " * 8
            self.report(f"{took}  {line}")


@dataclass(slots=True, kw_only=True)
class Story:
    """One run of the demo on a shop's server and a running pitr."""

    server: EmbeddedPostgres
    service: Service
    steps: Steps
    changes: int
    shop: Shop = field(init=False)
    sent: Sent = field(init=False, default_factory=Sent)
    urls: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        start_us = time.time_ns() // 1000 - SPAN_US
        steps = int(self.changes * (1 + LATER_SHARE)) + 4 * STEPS_MAX
        self.shop = Shop(seed=SEED, start_us=start_us, step_us=SPAN_US // steps)

    async def tell(self, *, fault: Fault | None) -> DemoResult:
        """Run the story to its end; ``fault`` may spoil the restored database before the proof."""
        await self._prepare()
        async with Sender(self.service.url) as sender:
            business = chain(self.shop.opening(), self.shop.business())
            await self._trade(business, sender)
            truth = await self._copy()
            mistake = await self._mistake(sender)
            damage = await self._damage(truth)
            await self._trade_on(business, sender)
        target = await self._find(truth, mistake)
        await self._restore(target)
        if fault is not None:
            await fault(self.urls["shop_restored"])
        found, differences = await self._prove(truth)
        return DemoResult(
            identical=not differences,
            changes=self.sent.changes,
            transactions=self.sent.transactions,
            rows=sum(table.rows for table in found),
            seconds=time.perf_counter() - self.steps.start_s,
            steps_s=self.steps.seconds,
            lost_rows=sum(table.lost for table in damage),
            corrupted_rows=sum(table.changed for table in damage),
            target=target,
            differences=differences,
        )

    async def _prepare(self) -> None:
        for name in ("shop", "shop_restored"):
            self.urls[name] = await create_shop(self.server, name)

    async def _trade(self, business: Iterator[Transaction], sender: Sender) -> None:
        with self.steps.step("trade") as said:
            await self._pump(business, sender, changes=self.changes // 2)
            async with asyncio.TaskGroup() as group:
                group.create_task(self.service.command("snapshot"))
                rest = self.changes - self.sent.changes
                group.create_task(self._pump(business, sender, changes=rest))
            said.append(
                f"the shop traded: {self.sent.changes:,} changes in {self.sent.transactions:,} "
                "transactions, into its tables and into pitr"
            )
            said.append("    pitr took a snapshot meanwhile")

    async def _pump(self, business: Iterator[Transaction], sender: Sender, *, changes: int) -> None:
        async with ShopDatabase(self.urls["shop"]) as shop:
            sent = await pump(business, changes=changes, shop=shop, sender=sender)
        self.sent.transactions += sent.transactions
        self.sent.changes += sent.changes

    async def _copy(self) -> str:
        with self.steps.step("copy") as said:
            self.urls["shop_before"] = await copy_shop(self.server, "shop", "shop_before")
            said.append("PostgreSQL copied the shop: the truth to compare with")
        return self.urls["shop_before"]

    async def _mistake(self, sender: Sender) -> Transaction:
        with self.steps.step("mistake") as said:
            async with ShopDatabase(self.urls["shop"]) as shop:
                await shop.make_mistake()
            mistake = self.shop.mistake()
            await send([mistake], sender)
            self.sent.add([mistake])
            said.append(f"an operator ran, and {len(mistake.changes):,} changes reached pitr:")
            said.extend(f"    {statement};" for statement in MISTAKE)
        return mistake

    async def _damage(self, truth: str) -> list[TableDifference]:
        with self.steps.step("damage") as said:
            damage = await compare(truth, self.urls["shop"], schema=SCHEMA)
            lost, changed = sum(t.lost for t in damage), sum(t.changed for t in damage)
            said.append(f"the shop is damaged: {lost:,} rows lost, {changed:,} corrupted")
        return damage

    async def _trade_on(self, business: Iterator[Transaction], sender: Sender) -> None:
        with self.steps.step("trade_on") as said:
            before = self.sent.changes
            await self._pump(business, sender, changes=max(1, int(self.changes * LATER_SHARE)))
            said.append(f"nobody noticed yet: {self.sent.changes - before:,} changes more")

    async def _find(self, truth: str, mistake: Transaction) -> str:
        """Find the moment before the mistake, from the history of one row that it spoiled."""
        victim = str(await fetch_value(truth, _VICTIM))
        with self.steps.step("find") as said:
            said.append("what happened to one customer's e-mail address?")
            status, history, document = await asyncio.gather(
                self.service.command("status"),
                self.service.command("history", CUSTOMERS.collection, victim),
                self.service.asked("history", collection=CUSTOMERS.collection, key=victim),
            )
            said.extend(_shown(status, "pitr status"))
            said.extend(_shown(history, f"pitr history {CUSTOMERS.collection} {victim}"))
            spoiling = max(document["changes"], key=lambda change: int(change["seq"]))
            if spoiling["tx"] != mistake.tx:
                raise Conflict("the history names another transaction", tx=spoiling["tx"])
            target = f"before-tx:{spoiling['tx']}"
            said.extend(_shown(await self._describe(target), f"pitr describe {target}"))
        return target

    async def _describe(self, target: str) -> str:
        """Name the moment twice, by transaction and by time: both must mean the same."""
        told, by_tx = await asyncio.gather(
            self.service.command("describe", target), self.service.asked("describe", target=target)
        )
        by_time = await self.service.asked("describe", target=by_tx["previous"]["at"])
        if (by_time["previous"], by_time["next"]) != (by_tx["previous"], by_tx["next"]):
            raise Conflict("time and transaction differ", at=by_tx["previous"]["at"], target=target)
        return told

    async def _restore(self, target: str) -> None:
        with self.steps.step("restore") as said:
            into = self.urls["shop_restored"]
            told = await self.service.command("restore", "--to", target, "--into", into)
            said.append("pitr restored the moment before into an empty database")
            said.extend(_shown(told, f"pitr restore --to {target} --into {shlex.quote(into)}"))

    async def _prove(self, truth: str) -> tuple[list[TableDifference], list[str]]:
        with self.steps.step("compare") as said:
            restored = self.urls["shop_restored"]
            found = await compare(truth, restored, schema=SCHEMA)
            differences = [line for table in found for line in table.examples]
            differences += await taken_ids(restored, schema=SCHEMA)
            verdict = "identical" if not differences else "DIFFERENT"
            rows = sum(table.rows for table in found)
            said.append(f"{verdict}: {rows:,} rows of {len(found)} tables compared, every column")
            said.extend(f"    {line}" for line in differences)
        return found, differences


_VICTIM = "SELECT id FROM shop.customers WHERE email <> '' ORDER BY joined_at DESC LIMIT 1"


def _shown(output: str, command: str) -> list[str]:
    lines = output.rstrip().splitlines()
    rest = len(lines) - SHOWN_LINES_MAX
    more = [f"… {rest} lines more"] if rest > 0 else []
    shown = [_cut(line) for line in lines[:SHOWN_LINES_MAX]]
    return [f"  $ {command}", *(f"    {line}" for line in shown + more)]


def _cut(line: str) -> str:
    return line if len(line) <= SHOWN_CHARS_MAX else line[: SHOWN_CHARS_MAX - 1] + "…"
