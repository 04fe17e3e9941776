"""A standby takes over: with a slot that it has, too, capture goes on; what it lacks is a gap."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pitr.adapters.embedded_account import server_account
from pitr.domain.change import Op
from pitr.domain.log import Source
from tests.postgres import servers
from tests.postgres.following import App, app_of, caught_up, following, state_of
from tests.postgres.recovered import KEEP_WAL, base_backup, let_replicate
from tests.postgres.servers import HOST, SUPERUSER, Server
from tests.postgres.servers import Source as Primary
from tests.services.world import World

STANDBY_SLOT = "standby"
SLOT = "pitr_app"
WAIT_S = 60


@dataclass(frozen=True)
class Pair:
    """A primary, and a standby that keeps its failover slots."""

    primary: Primary
    standby: Server

    @property
    def url(self) -> str:
        """Whichever of them is the primary."""
        assert self.primary.server is not None, "it is ours"
        hosts = f"{HOST}:{self.primary.server.port},{HOST}:{self.standby.port}"
        return f"postgresql://{SUPERUSER}@{hosts}/{SUPERUSER}?target_session_attrs=read-write"

    @property
    def standby_url(self) -> str:
        return f"postgresql://{SUPERUSER}@{HOST}:{self.standby.port}/{SUPERUSER}"

    def stand_by(self) -> None:
        self.standby.start(
            hot_standby="on",
            hot_standby_feedback="on",
            sync_replication_slots="on",
            primary_slot_name=STANDBY_SLOT,
            primary_conninfo=self.primary.url(),
        )

    def promote(self) -> None:
        servers.execute(self.standby_url, "SELECT pg_promote()")


@pytest.fixture
def pair() -> Iterator[Pair]:
    # No slot may send what the standby has not got (synchronized_standby_slots): else that what is
    # in the log could be more than what the new primary has.
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(servers.running(servers.WHEEL, fresh=True, **KEEP_WAL))
        assert primary.server is not None, "it is ours"
        account = server_account(Path("/nonexistent"))
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="pitr-sby-", dir="/tmp"))
        account.own(Path(name))
        let_replicate(primary)
        servers.execute(
            primary.url(), f"SELECT pg_create_physical_replication_slot('{STANDBY_SLOT}', true)"
        )
        base_backup(primary, Path(name, "data"), account)
        Path(name, "data", "standby.signal").touch()
        standby = Server(primary.server.programs, folder=Path(name), account=account)
        stack.callback(standby.kill)
        found = Pair(primary, standby)
        found.stand_by()
        yield found


async def attached(app: App, pair: Pair) -> Source:
    await app.run(
        f"CREATE PUBLICATION {SLOT} FOR ALL TABLES WITH (publish_via_partition_root = true)",
        f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput', false, false, true)",
        "CREATE TABLE rows (id int PRIMARY KEY, body text)",
        "INSERT INTO rows SELECT n, 'first' FROM generate_series(1, 100) n",
    )
    return Source(name="app", url=pair.url, slot=SLOT, publication=SLOT, created_us=1)


async def slot_is_on_the_standby(app: App, pair: Pair) -> None:
    """Wait until the standby has the slot where the primary has it by now."""
    stands = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1"
    wanted = await app.value(stands, SLOT)
    async with asyncio.timeout(WAIT_S), app_of(pair.standby_url) as standby:
        while not await standby.value(
            "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND synced"
            " AND NOT temporary AND confirmed_flush_lsn >= $2::text::pg_lsn",
            SLOT,
            wanted,
        ):
            await app.run("SELECT pg_log_standby_snapshot()")
            await asyncio.sleep(0.05)


async def losses(world: World, *, healed: bool = False) -> list[str]:
    """Why something of the whole source is missing, or was until all was read again."""
    gaps = (await world.catalog.view(world.log)).gaps
    return [
        gap.reason
        for gap in gaps
        if gap.collection is None and (not healed or gap.healed_seq_end is not None)
    ]


async def test_capture_goes_on_with_the_standby_s_slot(world: World, pair: Pair) -> None:
    async with app_of(pair.primary.url()) as app:
        source = await attached(app, pair)
        async with following(world, source):
            await caught_up(world, app, source)
            await app.run("UPDATE rows SET body = 'second' WHERE id <= 50")
            await caught_up(world, app, source)
            await slot_is_on_the_standby(app, pair)
            await asyncio.to_thread(pair.primary.kill)
            await asyncio.to_thread(pair.promote)
            async with app_of(pair.standby_url) as promoted:
                await promoted.run(
                    "DELETE FROM rows WHERE id > 90", "INSERT INTO rows VALUES (1000, 'third')"
                )
                await caught_up(world, promoted, source)
                assert await state_of(world, "public.rows") == await promoted.rows("rows")
    assert await losses(world) == []
    ops = Counter(
        change.op for change in await world.changes() if change.collection == "public.rows"
    )
    ops.pop(Op.READ, None)  # the table is new, so that it is read, too
    assert ops == {Op.CREATE: 100 + 1, Op.UPDATE: 50, Op.DELETE: 10}, "each once"


async def test_what_the_standby_lacks_is_a_gap_and_its_tables_are_read(
    world: World, pair: Pair
) -> None:
    async with app_of(pair.primary.url()) as app:
        source = await attached(app, pair)
        async with following(world, source):
            await caught_up(world, app, source)
            await slot_is_on_the_standby(app, pair)
            await asyncio.to_thread(pair.standby.kill)
            await app.run("UPDATE rows SET body = 'never here' WHERE id <= 50")
            await caught_up(world, app, source)
            await asyncio.to_thread(pair.primary.kill)
            await asyncio.to_thread(pair.stand_by)
            await asyncio.to_thread(pair.promote)
            async with app_of(pair.standby_url) as promoted:
                await promoted.run("INSERT INTO rows VALUES (1000, 'third')")
                async with asyncio.timeout(WAIT_S):
                    while not await losses(world, healed=True):
                        await asyncio.sleep(0.05)
                await caught_up(world, promoted, source)
                assert await state_of(world, "public.rows") == await promoted.rows("rows")
    assert ["took another course" in loss for loss in await losses(world)] == [True]
    assert all(gap.healed_seq_end for gap in (await world.catalog.view(world.log)).gaps)
