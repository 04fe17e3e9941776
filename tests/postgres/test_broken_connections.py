"""PostgreSQL dies while rows are copied into it: unavailable, under either event loop.

asyncpg writes on without looking; asyncio's transport swallows that, uvloop's raises RuntimeError.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import uvloop

from pitr.adapters.broken import broken_connections
from pitr.adapters.catalog import PostgresCatalog, rows
from pitr.adapters.migrations_folder import migrations_folder
from pitr.adapters.sinks.postgres import PostgresSink
from pitr.domain.errors import Unavailable
from pitr.domain.manifest import GENESIS_HASH
from tests.changes import batch, draft
from tests.conftest import START_US
from tests.fakes import FakeState
from tests.postgres.servers import Source, fetch

ROWS = 20_000
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    def given(scenario: Callable[[], Any]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(scenario())

    return given


def test_a_catalog_that_dies_in_a_copy(
    source: Source, source_db: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, log = rows.change_records, f"log-{uuid4().hex[:12]}"

    def dying(*given: Any) -> Iterator[Any]:
        for number, record in enumerate(real(*given)):
            if number == ROWS // 4:
                source.kill()
            yield record

    async def scenario() -> None:
        catalog = await PostgresCatalog.open(source_db, migrations=migrations_folder())
        await catalog.create_log(
            log, uid=uuid4().hex, created_us=START_US, manifest_hash=GENESIS_HASH
        )
        one = batch([draft(n, f'{{"id":{n},"pad":"{"x" * 80}"}}') for n in range(ROWS)])
        with monkeypatch.context() as patched:
            patched.setattr(rows, "change_records", dying)
            with pytest.raises(Unavailable):
                await catalog.append(log, [one], recorded_us=START_US, skew_us=1)
        await asyncio.to_thread(source.start)
        assert (await catalog.log(log)).seq_next == 1
        await catalog.append(log, [one], recorded_us=START_US, skew_us=1)
        assert (await catalog.log(log)).seq_next == ROWS + 1
        await catalog.close()

    run(scenario)


def test_a_sink_that_dies_in_a_copy(source: Source, source_db: str, run: Any) -> None:
    documents = [([n], {"id": n, "pad": "x" * 80}) for n in range(ROWS)]

    def dying(_: int) -> None:
        if source.server is not None and source.server.pid is not None:
            source.kill()

    async def scenario() -> None:
        state = FakeState({"public.t": documents}, batch_rows=ROWS // 10)
        with pytest.raises(Unavailable):
            await PostgresSink(source_db).write(state, progress=dying)

    run(scenario)
    source.start()
    assert fetch(source_db, "SELECT to_regclass('t')") == [(None,)]


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="planted"), broken_connections():
        raise RuntimeError("planted")
