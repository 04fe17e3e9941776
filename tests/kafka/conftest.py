"""Fixtures that hand out real brokers: ``broker`` runs a test once on each that can be had.

``PITR_TEST_KAFKA_BOOTSTRAP=host:port`` adds any broker. Apache Kafka is used when ``CI`` is set
or ``PITR_TEST_APACHE_KAFKA=1``; with that ``1`` a machine that cannot run it fails the tests.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Protocol
from uuid import uuid4

import pytest
from aiokafka.errors import KafkaError

from tests.kafka import brokers
from tests.kafka.brokers import Broker

# Nobody misses an external broker that was not named; any other that is missing is a skip.
TESTED = [name for name in brokers.NAMES if name != "external" or not brokers.absent(name)]


@pytest.fixture(scope="session", params=TESTED)
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Broker]:
    """A running broker, started when the first test needs it and shared by a worker's tests."""
    name = request.param
    reason = brokers.absent(name)
    if reason is not None:
        if name == "apache" and os.environ.get(brokers.APACHE) == "1":
            pytest.fail(f"{brokers.APACHE}=1 asks for Apache Kafka, but {reason}")
        pytest.skip(f"NOT TESTED ON {name.upper()}: {reason}")
    with brokers.running(name, tmp_path_factory.mktemp(name)) as started:
        print(f"kafka {name}: {started}")
        yield started


@pytest.fixture(autouse=True)
def _healed(request: pytest.FixtureRequest) -> Iterator[None]:
    """A broker that a test stopped or paused runs again for the next one."""
    yield
    if "broker" in request.fixturenames:
        request.getfixturevalue("broker").heal()


class TopicFactory(Protocol):
    """Makes a topic whose name nobody else has."""

    async def __call__(
        self, partitions: int = 1, *, name: str = "t", config: Mapping[str, str] | None = None
    ) -> str: ...


@pytest.fixture
async def topic(broker: Broker) -> AsyncIterator[TopicFactory]:
    """``await topic(3, config={"cleanup.policy": "compact"})``; deleted when the test is over."""
    made: list[str] = []

    async def make(
        partitions: int = 1, *, name: str = "t", config: Mapping[str, str] | None = None
    ) -> str:
        unique = f"{name}-{uuid4().hex[:12]}"
        await brokers.create_topic(broker.bootstrap, unique, partitions=partitions, config=config)
        made.append(unique)
        return unique

    yield make
    broker.heal()
    for one in made:
        with contextlib.suppress(KafkaError):  # gone with a broker that keeps nothing
            await brokers.delete_topic(broker.bootstrap, one)
