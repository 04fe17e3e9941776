"""Fixtures that every suite shares: real PostgreSQL, real folders, one clock that stands still."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings

from pitr.adapters.catalog import PostgresCatalog
from pitr.adapters.embedded import EmbeddedPostgres
from pitr.adapters.migrations_folder import migrations_folder
from pitr.adapters.objects import DirectoryStore
from pitr.domain.manifest import GENESIS_HASH
from tests.kafka import brokers
from tests.postgres import servers

# Whoever runs the tests in the background may ignore Ctrl-C; the programs under test must not.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tests of one process share a catalog, and Hypothesis makes a log for each example.
os.environ["PITR_LOGS_MAX"] = "1000000"

settings.register_profile(
    "dev", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "ci", max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_report_header() -> list[str]:
    """Say which brokers and databases the tests will use, and why they will not use one."""
    return [*brokers.describe(), *servers.describe()]


LONG = (
    "tests/kafka/test_chaos.py",
    "tests/postgres/test_chaos.py",
    "tests/postgres/test_restore_kill.py",
    "tests/services/test_machine.py",
    "tests/system/",
    "tests/kafka/test_sink_kafka.py",
    "tests/postgres/test_random_sql.py",
    "tests/domain/columnar/test_memory.py",
)
"""Tests that take long, or wait long."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no process works alone at the end."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


START_US = 1_772_357_400_000_000
"""2026-03-01T09:30:00Z"""


class ManualClock:
    """A clock that moves when it is told to."""

    def __init__(self, now_us: int = START_US) -> None:
        self.us = now_us

    def now_us(self) -> int:
        return self.us

    def advance(self, us: int) -> None:
        self.us += us


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder with a short path: sockets have room for about a hundred bytes."""
    folder = Path(tempfile.mkdtemp(prefix="pitr-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(short_folder: Path) -> Iterator[EmbeddedPostgres]:
    """One PostgreSQL server for the whole run of a worker."""
    server = asyncio.run(EmbeddedPostgres.start(short_folder / "pg"))
    yield server
    asyncio.run(server.stop())


@pytest.fixture(scope="session")
def catalog_url(postgres: EmbeddedPostgres) -> str:
    """The catalog's database; ``PITR_TEST_CATALOG_URL`` names another PostgreSQL to test on."""
    given = os.environ.get("PITR_TEST_CATALOG_URL")
    return given or asyncio.run(postgres.ensure_database("pitr_test"))


@pytest.fixture
async def catalog(catalog_url: str) -> AsyncIterator[PostgresCatalog]:
    opened = await PostgresCatalog.open(catalog_url, migrations=migrations_folder())
    yield opened
    await opened.close()


@pytest.fixture
async def log(catalog: PostgresCatalog) -> str:
    """A fresh log of its own."""
    name = f"log-{uuid4().hex[:12]}"
    await catalog.create_log(name, uid=uuid4().hex, created_us=START_US, manifest_hash=GENESIS_HASH)
    return name


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")
