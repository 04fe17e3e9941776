"""Processes that run for long wait for a catalog that is away; others say so at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pitr.domain.errors import InvalidRequest, PitrError, Unavailable
from pitr.faces.starting import patiently
from pitr.services import tasks
from pitr.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "BACKOFF_S", (0.0, 0.001))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data=tmp_path, catalog_url="postgresql://db/pitr")


class Start:
    """Fails so many times, then works."""

    def __init__(self, failures: int, error: PitrError | None = None) -> None:
        self.left = failures
        self.error = error or Unavailable("the catalog does not answer")

    async def __call__(self) -> str:
        if self.left:
            self.left -= 1
            raise self.error
        return "started"


async def test_a_catalog_that_is_away_is_waited_for(settings: Settings) -> None:
    assert await patiently(Start(50), settings, asyncio.Event()) == "started"


async def test_our_own_catalog_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await patiently(Start(1), load_settings(data=tmp_path), asyncio.Event())


async def test_what_is_wrong_is_said_at_once(settings: Settings) -> None:
    start = Start(1, InvalidRequest("the catalog refuses the connection"))
    with pytest.raises(InvalidRequest):
        await patiently(start, settings, asyncio.Event())


async def test_the_wait_ends_with_the_process(settings: Settings) -> None:
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_refused(settings, stop))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        stop.set()


async def _refused(settings: Settings, stop: asyncio.Event) -> None:
    with pytest.raises(Unavailable):
        await patiently(Start(1_000_000), settings, stop)
