"""A cancelled task ends as cancelled, also where its connection fails on the way out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

import asyncpg
import pytest

from pitr.adapters.catalog.connection import Connected
from pitr.adapters.catalog.connection import translated as of_catalog
from pitr.adapters.postgres.connection import Pool
from pitr.adapters.postgres.connection import translated as of_source
from pitr.domain.errors import Unavailable

Translated = Callable[[], AbstractContextManager[None]]


@pytest.mark.parametrize("translated", [of_catalog, of_source])
async def test_an_error_on_the_way_out_does_not_take_the_place_of_a_cancellation(
    translated: Translated,
) -> None:
    tries = 0

    async def goes_on_after_errors() -> None:
        nonlocal tries
        while tries < 3:
            tries += 1
            try:
                with translated():
                    try:
                        await asyncio.sleep(60)
                    finally:
                        raise asyncpg.InterfaceError("the underlying connection is closed")
            except Unavailable:
                continue

    task = asyncio.ensure_future(goes_on_after_errors())
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait([task])
    assert task.cancelled() and tries == 1


@pytest.mark.parametrize("translated", [of_catalog, of_source])
async def test_an_error_is_an_error_otherwise(translated: Translated) -> None:
    with pytest.raises(Unavailable), translated():
        raise asyncpg.InterfaceError("the underlying connection is closed")


@pytest.mark.parametrize("translated", [of_catalog, of_source])
@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InternalClientError("on a free connection holder"),
        asyncpg.NoActiveSQLTransactionError("there is no transaction"),
        asyncpg.DataError("bad"),
        asyncpg.InvalidAuthorizationSpecificationError("no"),
        asyncio.InvalidStateError("it has a result"),
        AttributeError("'NoneType' object has no attribute 'terminate'"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_a_driver_raises_a_cancelled_task_ends_as_cancelled(
    translated: Translated, error: Exception
) -> None:
    async def cut_off() -> None:
        with translated():
            try:
                await asyncio.sleep(60)
            finally:
                raise error

    task = asyncio.ensure_future(cut_off())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


class Unclosable:
    """A pool that fails as it is closed; asyncpg's has ended all connections by then."""

    def __init__(self) -> None:
        self.ended = False

    async def close(self) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 11; another operation (2)")

    def terminate(self) -> None:
        self.ended = True


@pytest.mark.parametrize("closed", [Connected, Pool])
async def test_a_pool_that_cannot_be_closed_is_ended(closed: type[Connected | Pool]) -> None:
    """Whoever closes it is on the way out: with a cancellation, or with the error that counts."""
    pool = Unclosable()
    await closed(pool).close()
    assert pool.ended
