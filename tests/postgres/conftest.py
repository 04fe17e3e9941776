"""Fixtures that hand out real PostgreSQL servers to capture from.

``source`` is PostgreSQL 18, ``every_source`` runs a test once on each version that can be had (in
some modules not on those that are fetched, unless ``PITR_TEST_OLD_POSTGRES=all``), and
``source_server("15")`` is the one of that version. A worker of pytest-xdist has servers of its own.
``source_db`` and ``every_source_db`` are the URL of a fresh database on them.
``PITR_TEST_SOURCE_URL=postgresql://…`` adds any server; the role must be a superuser.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest

from tests.postgres import servers
from tests.postgres.fetched import WANTED, NotFetched
from tests.postgres.servers import Source
from tests.services.conftest import world

__all__ = ["world"]

SourceServer = Callable[[str], Source]


@pytest.fixture(scope="session")
def source_server() -> Iterator[SourceServer]:
    """Gives the server of a name, started when it is first asked for and kept for the session."""
    started: dict[str, Source] = {}
    with contextlib.ExitStack() as stack:

        def get(name: str) -> Source:
            if name not in started:
                reason = servers.absent(name)
                if reason is not None:
                    pytest.skip(f"NOT TESTED ON POSTGRESQL {name.upper()}: {reason}")
                try:
                    started[name] = stack.enter_context(servers.running(name))
                except NotFetched as error:
                    pytest.skip(f"NOT TESTED ON POSTGRESQL {name.upper()}: {error}")
                print(f"postgres {name}: {started[name]}")
            return started[name]

        yield get


@pytest.fixture(scope="session")
def source(source_server: SourceServer) -> Source:
    """PostgreSQL 18."""
    return source_server(servers.WHEEL)


LONG = ("test_chunks", "test_replication", "test_sequences")
"""Two or three versions are enough for these."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "every_source" in metafunc.fixturenames:
        name = metafunc.module.__name__.rpartition(".")[2]
        every = name not in LONG or os.environ.get(WANTED) == "all"
        names = servers.names(every=every)
        metafunc.parametrize("every_source", names, indirect=True, scope="session")


@pytest.fixture(scope="session")
def every_source(request: pytest.FixtureRequest, source_server: SourceServer) -> Source:
    """Each version that can be had, one after the other."""
    return source_server(request.param)


@pytest.fixture
def source_db(source: Source) -> Iterator[str]:
    """The URL of a fresh database on ``source``; dropped with its slots when the test is over."""
    with _database(source) as url:
        yield url


@pytest.fixture
def every_source_db(every_source: Source) -> Iterator[str]:
    """The URL of a fresh database on ``every_source``."""
    with _database(every_source) as url:
        yield url


@contextlib.contextmanager
def _database(source: Source) -> Iterator[str]:
    source.heal()
    name = f"src_{uuid4().hex[:12]}"
    try:
        yield source.make_database(name)
    finally:
        source.heal()
        source.drop_database(name)
