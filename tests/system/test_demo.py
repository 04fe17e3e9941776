"""The demo on real servers: it proves a right restore, notices a wrong one, and leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import httpx
import psutil
import pytest

from pitr.demo import DemoResult, run
from pitr.domain.errors import InvalidRequest

CHANGES = 3_000


@pytest.fixture
def place() -> Iterator[Path]:
    """A short folder of its own that the account of a server can pass through."""
    base = Path(tempfile.mkdtemp(prefix="pitr-test-"))
    base.chmod(0o711)
    yield base
    for process in processes_of(base):
        process.kill()
    shutil.rmtree(base, ignore_errors=True)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every process that works in ``folder`` or was started for it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == psutil.Process().pid:
                continue
            data = process.environ().get("PITR_DATA", "")
            if any(str(folder) in text for text in (process.cwd(), data, *process.cmdline())):
                found.append(process)
    return found


async def demo(folder: Path, **options: object) -> tuple[DemoResult, str]:
    lines: list[str] = []
    result = await run(changes=CHANGES, folder=folder, report=lines.append, **options)  # type: ignore[arg-type]
    return result, "\n".join(lines)


async def test_the_restore_is_identical_and_nothing_is_left(place: Path) -> None:
    result, said = await demo(place / "demo")
    assert result.identical, result.differences
    assert result.changes > CHANGES
    assert result.rows > 500
    assert result.lost_rows > 100
    assert result.corrupted_rows > 100
    assert "identical" in said
    assert "pitr attach" in said
    assert result.target.removeprefix("before-tx:") in said
    document = result.document()
    assert document["identical"] is True
    assert document["folder"] is None
    assert not (place / "demo").exists()
    assert processes_of(place) == []


FAULTS = (
    "UPDATE shop.customers SET credit = credit + 0.0000000001 WHERE id ="
    " (SELECT max(id::text)::uuid FROM shop.customers)",
    "DELETE FROM shop.order_lines WHERE (order_id, line) ="
    " (SELECT order_id, line FROM shop.order_lines ORDER BY random() LIMIT 1)",
    "SELECT setval('shop.orders_id_seq', 100000)",
)
FOUND = ("shop.orders.id: the next value", "order_lines", "customers")


@pytest.mark.slow
async def test_every_wrong_row_is_noticed(place: Path) -> None:
    async def spoil(url: str) -> None:
        connection = await asyncpg.connect(url)
        for statement in FAULTS:
            assert (await connection.execute(statement)).endswith(" 1")
        await connection.close()

    result, said = await demo(place / "demo", fault=spoil)
    assert not result.identical
    assert len(result.differences) == len(FAULTS)
    for found in FOUND:
        assert len([line for line in result.differences if found in line]) == 1
    assert "DIFFERENT" in said
    assert processes_of(place) == []


async def test_a_demo_that_is_cancelled_clears_up(place: Path) -> None:
    """In the middle of it: pitr follows the shop's database, and the shop writes into it."""
    attached = asyncio.Event()

    def report(line: str) -> None:
        if "pitr attach" in line:
            attached.set()

    running = asyncio.create_task(run(changes=CHANGES, folder=place / "demo", report=report))
    await asyncio.wait_for(attached.wait(), timeout=60)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not (place / "demo").exists()
    assert processes_of(place) == []


@pytest.mark.slow
async def test_what_is_kept_runs_until_it_is_stopped(place: Path) -> None:
    result, said = await demo(place / "demo", keep=True)
    assert result.identical
    assert result.folder is not None
    assert result.commands[-1] in said
    async with httpx.AsyncClient(base_url=result.urls["pitr"]) as client:
        assert (await client.get("/healthz")).status_code == 200
        log = (await client.get("/v1/logs/main")).json()
        row = {"collection": "shop.orders", "key": "100001"}
        order = (await client.get("/v1/logs/main/history", params=row)).json()
    connection = await asyncpg.connect(result.urls["shop_restored"])
    assert await connection.fetchval("SELECT count(*) FROM shop.orders") > 0
    await connection.close()
    assert [lane["lane"] for lane in log["lanes"]] == ["postgres:shop"]
    # It was there before the database was attached, and the mistake took it away.
    assert order["changes"][-1]["op"] == "read"
    assert f"before-tx:{order['changes'][0]['tx']}" == result.target
    assert (order["changes"][0]["op"], order["changes"][0]["actor"]) == ("delete", None)
    tried = f'. {result.folder}/env && psql "$SHOP" -Atc "SELECT 1" && pitr status'
    shell = await asyncio.create_subprocess_exec("sh", "-c", tried, stdout=asyncio.subprocess.PIPE)
    output, _ = await shell.communicate()
    assert shell.returncode == 0
    assert output.decode().startswith("1\n")
    assert "postgres:shop" in output.decode()
    stop = await asyncio.create_subprocess_exec("sh", f"{result.folder}/stop")
    # The script waits for the service, and only its parent can bury it.
    assert await asyncio.wait_for(stop.wait(), timeout=60) == 0
    assert not (place / "demo").exists()
    assert processes_of(place) == []


async def test_a_folder_in_use_is_refused(place: Path) -> None:
    (place / "mine").write_text("mine")
    with pytest.raises(InvalidRequest):
        await demo(place)
    assert (place / "mine").read_text() == "mine"


async def test_too_few_changes_are_refused(place: Path) -> None:
    with pytest.raises(InvalidRequest):
        await run(changes=10, folder=place / "demo", report=lambda _: None)
