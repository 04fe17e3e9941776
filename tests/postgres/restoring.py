"""What tests of restores share: databases to restore into, a restorer, and a table bit for bit."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator
from typing import Any

from pitr.adapters.clock import SystemClock, new_uid
from pitr.adapters.sinks.postgres import PostgresSink
from pitr.domain.ports import Sink
from pitr.services.lease import Leases
from pitr.services.resolve import Resolver
from pitr.services.restore import Restorer, RestoreReport, RestoreRequest
from tests.postgres.following import App, app_of
from tests.postgres.servers import Source
from tests.services.world import World


def database_of(url: str) -> str:
    return url.rpartition("/")[2]


@contextlib.asynccontextmanager
async def twin_of(server: Source, database: str | None = None) -> AsyncIterator[str]:
    """The URL of a copy of a database that nobody uses: its types have the same oids.

    Without one, it is an empty database.
    """
    name = f"twin_{new_uid()[:12]}"
    async with app_of(server.url()) as admin:
        await admin.run(f'CREATE DATABASE "{name}" TEMPLATE "{database or "template1"}"')
    try:
        yield server.url(name)
    finally:
        server.drop_database(name)


async def restore(
    world: World,
    into: str | Sink,
    target: str = "latest",
    *,
    collections: frozenset[str] | None = None,
    accept_gaps: bool = False,
    **options: Any,
) -> RestoreReport:
    """Restore into a database, or another sink; ``options`` are those of ``PostgresSink``."""
    clock = SystemClock()
    resolver = Resolver(world.catalog, world.archive, clock)
    leases = Leases(world.catalog, holder="test")
    restorer = Restorer(
        world.catalog, world.archive, resolver, clock, leases=leases, new_id=new_uid
    )
    plan = await restorer.plan(
        RestoreRequest(
            log=world.log, target=target, collections=collections, accept_gaps=accept_gaps
        )
    )
    sink = PostgresSink(into, **options) if isinstance(into, str) else into
    return await restorer.restore(plan, sink)


async def binary(app: App, query: str) -> bytes:
    """What COPY writes of a query, bit for bit."""
    out = io.BytesIO()
    await app.connection.copy_from_query(query, output=out, format="binary")
    return out.getvalue()
