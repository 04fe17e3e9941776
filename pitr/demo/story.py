"""The demo from the first order to the proof: real servers, real commands, a real mistake."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from pitr.adapters.embedded import EmbeddedPostgres
from pitr.demo.changes import Transaction
from pitr.demo.compare import TableDifference, compare, taken_ids
from pitr.demo.database import MISTAKE, copy_shop, create_shop, fetch_row, make_mistake
from pitr.demo.result import DemoResult
from pitr.demo.schema import CUSTOMERS, SCHEMA, TABLES
from pitr.demo.service import Service
from pitr.demo.shop import Shop
from pitr.demo.trade import Traded, trade
from pitr.domain.errors import Conflict, DataLoss

SEED = 20260301
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
    """One run of the demo on a shop's server and a running pitr; ``folder`` is to work in."""

    server: EmbeddedPostgres
    service: Service
    folder: Path
    steps: Steps
    changes: int
    shop: Shop = field(init=False)
    traded: Traded = field(init=False, default_factory=Traded)
    urls: dict[str, str] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.shop = Shop(seed=SEED, start_us=time.time_ns() // 1000)

    async def tell(self, *, fault: Fault | None) -> DemoResult:
        """Run the story to its end; ``fault`` may spoil the restored database before the proof."""
        business = chain(self.shop.opening(), self.shop.business())
        await self._open(business)
        await self._attach(business)
        await self._trade_on(business)
        truth = await self._copy()
        await self._mistake()
        damage = await self._damage(truth)
        await self._notice_late(business)
        target = await self._find(truth)
        await self._restore(target)
        if fault is not None:
            await fault(self.urls["shop_restored"])
        found, differences = await self._prove(truth)
        return DemoResult(
            identical=not differences,
            changes=self.traded.changes,
            transactions=self.traded.transactions,
            rows=sum(table.rows for table in found),
            seconds=time.perf_counter() - self.steps.start_s,
            steps_s=self.steps.seconds,
            lost_rows=sum(table.lost for table in damage),
            corrupted_rows=sum(table.changed for table in damage),
            target=target,
            differences=differences,
        )

    async def _trade(self, business: Iterator[Transaction], *, changes: int) -> None:
        traded = await trade(business, changes=max(1, changes), url=self.urls["shop"])
        self.traded.add(transactions=traded.transactions, changes=traded.changes)

    async def _open(self, business: Iterator[Transaction]) -> None:
        with self.steps.step("open") as said:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.service.ready())
                for name in ("shop", "shop_restored"):
                    self.urls[name] = await create_shop(self.server, name)
                await self._trade(business, changes=self.changes // 4)
            said.append(f"the shop opened: {self._so_far()}")
            said.append("    pitr serve came up meanwhile, and knows nothing of it yet")

    def _so_far(self) -> str:
        return f"{self.traded.changes:,} changes in {self.traded.transactions:,} transactions"

    async def _attach(self, business: Iterator[Transaction]) -> None:
        with self.steps.step("attach") as said:
            url = self.urls["shop"]
            async with asyncio.TaskGroup() as group:
                attaching = group.create_task(self.service.command("attach", url))
                group.create_task(self._trade(business, changes=self.changes // 4))
            said.append("pitr was attached to the shop's database, which was in use meanwhile")
            said.extend(_shown(attaching.result(), f"pitr attach {shlex.quote(url)}"))

    async def _trade_on(self, business: Iterator[Transaction]) -> None:
        with self.steps.step("trade") as said:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._snapshot())
                group.create_task(self.service.copied([table.collection for table in TABLES]))
                rest = self.changes - self.traded.changes
                group.create_task(self._trade(business, changes=rest))
            said.append(f"the shop traded on: {self._so_far()} by now")
            said.append("    pitr read the rows that were there, followed, and took a snapshot")

    async def _snapshot(self) -> None:
        await self.service.reached(self.changes // 8)
        await self.service.command("snapshot")

    async def _copy(self) -> str:
        with self.steps.step("copy") as said:
            file = self.folder / "shop_before.sql"
            url = await copy_shop(self.server, self.urls["shop"], "shop_before", file=file)
            self.urls["shop_before"] = url
            said.append("pg_dump copied the shop: the truth to compare with")
        return url

    async def _mistake(self) -> None:
        with self.steps.step("mistake") as said:
            answers = await make_mistake(self.server, self.urls["shop"])
            self.traded.add(transactions=1, changes=len(self.shop.mistake()))
            said.append("an operator made a mistake, in psql:")
            for statement, answer in zip(MISTAKE, answers, strict=True):
                said.extend((f"    shop=# {statement};", f"    {answer}"))

    async def _damage(self, truth: str) -> list[TableDifference]:
        with self.steps.step("damage") as said:
            damage = await compare(truth, self.urls["shop"], schema=SCHEMA)
            lost, changed = sum(t.lost for t in damage), sum(t.changed for t in damage)
            said.append(f"the shop is damaged: {lost:,} rows lost, {changed:,} corrupted")
        return damage

    async def _notice_late(self, business: Iterator[Transaction]) -> None:
        with self.steps.step("trade_on") as said:
            before = self.traded.changes
            await self._trade(business, changes=int(self.changes * LATER_SHARE))
            said.append(f"nobody noticed yet: {self.traded.changes - before:,} changes more")
        with self.steps.step("capture") as said:
            (now,) = await fetch_row(self.urls["shop"], "SELECT clock_timestamp()")
            await self.service.captured(now)
            said.append("pitr has all of that, too")

    async def _find(self, truth: str) -> str:
        """Find the moment before the mistake, from the history of one row that it spoiled."""
        victim, email = await fetch_row(truth, _VICTIM)
        with self.steps.step("find") as said:
            said.append("what happened to one customer's e-mail address?")
            row = (CUSTOMERS.collection, victim)
            history = await self.service.asked("history", collection=row[0], key=row[1])
            spoilt = {"name": "email", "before": email, "after": ""}
            found = [change for change in history["changes"] if spoilt in change["fields"]]
            if not found:
                raise DataLoss("no change in the history emptied the address", key=victim)
            target = f"before-tx:{found[0]['tx']}"
            commands = (("status",), ("history", *row), ("describe", target))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._check(target))
                asked = [group.create_task(self.service.command(*command)) for command in commands]
            for command, task in zip(commands, asked, strict=True):
                said.extend(_shown(task.result(), f"pitr {' '.join(command)}"))
        return target

    async def _check(self, target: str) -> None:
        """Name the moment by time as well: it must lie between the same changes."""
        by_tx = await self.service.asked("describe", target=target)
        by_time = await self.service.asked("describe", target=by_tx["previous"]["at"])
        if (by_time["previous"], by_time["next"]) != (by_tx["previous"], by_tx["next"]):
            raise Conflict("time and transaction differ", at=by_tx["previous"]["at"], target=target)

    async def _restore(self, target: str) -> None:
        with self.steps.step("restore") as said:
            into = self.urls["shop_restored"]
            told = await self.service.command("restore", "--to", target, "--into", into, "--yes")
            said.append("pitr restored the moment before into a database with empty tables")
            command = f"pitr restore --to {target} --into {shlex.quote(into)} --yes"
            said.extend(_shown(told, command))

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


_VICTIM = (
    "SELECT id::text, email FROM shop.customers WHERE email <> '' ORDER BY joined_at DESC LIMIT 1"
)


def _shown(output: str, command: str) -> list[str]:
    lines = output.rstrip().splitlines()
    rest = len(lines) - SHOWN_LINES_MAX
    more = [f"… {rest} lines more"] if rest > 0 else []
    shown = [_cut(line) for line in lines[:SHOWN_LINES_MAX]]
    return [f"  $ {command}", *(f"    {line}" for line in shown + more)]


def _cut(line: str) -> str:
    return line if len(line) <= SHOWN_CHARS_MAX else line[: SHOWN_CHARS_MAX - 1] + "…"
