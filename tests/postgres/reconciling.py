"""What tests of ``pitr reconcile`` share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from pitr.adapters.clock import SystemClock, new_uid
from pitr.adapters.postgres.attached import AttachedDatabase
from pitr.domain.log import Source
from pitr.domain.reconcile import Compared, Reconciled
from pitr.services.append import Appender
from pitr.services.lease import Leases
from pitr.services.reconcile import Reconciler, ReconcileRequest
from pitr.services.resolve import Resolver
from tests.services.world import World

OWNER = "reconciler"
ALL = 10_000
"""Examples: all of them."""


@asynccontextmanager
async def reconciler_of(world: World, **limits: Any) -> AsyncIterator[Reconciler]:
    given, clock = replace(world.limits, skew_us=60_000_000, **limits), SystemClock()
    async with Appender(
        world.catalog, world.store, clock, log=world.log, limits=given, new_id=new_uid
    ) as appender:

        async def the_appender(_: str) -> Appender:
            return appender

        yield Reconciler(
            world.catalog,
            world.archive,
            Resolver(world.catalog, world.archive, clock),
            clock,
            connect=lambda source: AttachedDatabase(source, url=source.url),
            appender=the_appender,
            leases=Leases(world.catalog, holder="test"),
            new_id=new_uid,
            new_owner=lambda: OWNER,
            limits=given,
        )


async def reconcile(
    world: World, *collections: str, limits: dict[str, Any] | None = None, **asked: Any
) -> Reconciled:
    request = ReconcileRequest(
        log=world.log,
        collections=frozenset(collections) or None,
        **{"examples_max": ALL, "wait_us": 20_000_000, **asked},
    )
    async with reconciler_of(world, **(limits or {})) as reconciler:
        return await reconciler.reconcile(request)


async def known(world: World, source: Source) -> Source:
    """Remember an attached database in the catalog, as ``pitr attach`` does."""
    await world.catalog.add_source(world.log, source)
    return source


def of(result: Reconciled, collection: str) -> Compared:
    return next(each for each in result.collections if each.collection == collection)


def found(compared: Compared) -> dict[str, dict[str, tuple[str, ...]]]:
    """The columns of each row that was found, by kind and key."""
    assert compared.drift is not None, compared
    kinds: dict[str, dict[str, tuple[str, ...]]] = {"missing": {}, "extra": {}, "different": {}}
    for example in compared.drift.examples:
        kinds[example.kind][example.key] = example.columns
    counts = {kind: getattr(compared.drift, kind) for kind in kinds}
    assert counts == {kind: len(rows) for kind, rows in kinds.items()}
    return kinds
