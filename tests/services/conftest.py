"""A fresh world for every test of a service."""

from __future__ import annotations

from pathlib import Path

import pytest

from pitr.adapters.catalog import PostgresCatalog
from pitr.adapters.objects import DirectoryStore
from tests.conftest import ManualClock
from tests.services.world import World


@pytest.fixture
def world(
    catalog: PostgresCatalog, store: DirectoryStore, clock: ManualClock, log: str, tmp_path: Path
) -> World:
    return World(catalog, store, clock, log, tmp_path / "scratch")
