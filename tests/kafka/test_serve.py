"""``pitr serve`` captures too, and says how that goes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import TopicPartition

from tests.kafka.brokers import Broker
from tests.kafka.conftest import TopicFactory
from tests.kafka.test_brokers import produce

WAIT_S = 40.0


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Services that end with the test."""
    services: list[subprocess.Popen[str]] = []
    yield services
    for service in services:
        service.kill()
        service.wait()


async def until(client: httpx.AsyncClient, path: str, wanted: Any) -> dict[str, Any]:
    """Ask until the answer is as wanted."""
    found: Any = None
    try:
        async with asyncio.timeout(WAIT_S):
            while True:
                found = (await client.get(path)).json()
                if wanted(found):
                    return dict(found)
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"{path}: {found}")


async def test_serve_captures_and_tells(
    broker: Broker,
    topic: TopicFactory,
    short_folder: Path,
    tmp_path: Path,
    started: list[subprocess.Popen[str]],
) -> None:
    name = await topic(1, name="served")
    partition = TopicPartition(name, 0)
    await produce(broker, partition, b'{"key":1,"after":{"id":1}}', b"poison")
    environment = {key: value for key, value in os.environ.items() if "PITR_" not in key}
    environment |= {
        "PITR_DATA": str(short_folder / f"served-{broker.name}"),
        "PITR_PORT": "0",
        "PITR_KAFKA_BOOTSTRAP": broker.bootstrap,
        "PITR_KAFKA_PATTERN": "served-.*",
        "PITR_LATENESS_S": "0",
    }
    with (tmp_path / "said").open("w") as said:
        service = subprocess.Popen(
            [sys.executable, "-m", "pitr", "serve", "--json"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    started.append(service)
    assert service.stdout is not None
    url = json.loads(await asyncio.to_thread(service.stdout.readline))["url"]
    lane = f"kafka:{name}:0"

    def captured(status: dict[str, Any]) -> bool:
        lanes = {each["lane"]: each for each in status.get("lanes", ())}
        ours = lanes.get(lane, {})
        return ours.get("position") == 2 and ours.get("lag") == 0 and bool(ours["complete_to"])

    async with httpx.AsyncClient(base_url=url) as client:
        status = await until(client, "/v1/logs/main", captured)
        assert status["change_count"] == 1
        assert status["quarantine"]["waiting"] == 1
        ready = await until(client, "/readyz", lambda found: found["status"] == "ok")
        assert ready["checks"]["capture"] == "ok"
        metrics = (await client.get("/metrics")).text
        assert f'pitr_lane_lag{{lane="{lane}",log="main"}} 0.0' in metrics
        if broker.ours:
            broker.pause()
            ready = await until(client, "/readyz", lambda found: found["status"] != "ok")
            assert "Kafka" in ready["checks"]["capture"]
            broker.resume()
            await until(client, "/readyz", lambda found: found["status"] == "ok")
    service.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(service.wait, 30) == 0
    lines = (tmp_path / "said").read_text()
    assert "Traceback" not in lines
