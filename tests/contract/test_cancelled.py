"""A cancelled task ends as cancelled, also where its connection fails on the way out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

import asyncpg
import pytest

from pitr.adapters.catalog.connection import translated as of_catalog
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
