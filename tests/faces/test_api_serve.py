"""The service as a process: how it starts, how it ends, what it says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from pitr.adapters.embedded import EmbeddedPostgres
from tests.faces.conftest import change, ndjson

WAIT_S = 60
HTTP = httpx.Client(
    trust_env=False, timeout=WAIT_S, limits=httpx.Limits(max_keepalive_connections=0)
)
MAIN = """
from pitr.domain.errors import PitrError
from pitr.faces.serve import run
from pitr.settings import load_settings
try:
    run(load_settings(), ready=lambda url: print(url, flush=True))
except PitrError as error:
    raise SystemExit(f"{error.code}: {error}")
"""


class Process:
    """A service that answers; ``said`` holds its stderr."""

    def __init__(self, popen: subprocess.Popen[bytes], said: Path) -> None:
        self.popen = popen
        self.said = said
        assert popen.stdout is not None
        self.url = popen.stdout.readline().decode().strip()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(WAIT_S)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.said.read_text().splitlines()]


Starter = Callable[..., Process]


@pytest.fixture
def start(tmp_path: Path, postgres: EmbeddedPostgres) -> Iterator[Starter]:
    """Starts services on one catalog and store; kills what is left of them."""
    catalog_url = asyncio.run(postgres.ensure_database(f"serve_{uuid4().hex[:12]}"))
    started: list[subprocess.Popen[bytes]] = []

    def one(**given: str) -> Process:
        settings = {
            "PITR_DATA": str(tmp_path),
            "PITR_CATALOG_URL": catalog_url,
            "PITR_PORT": "0",
        }
        said = tmp_path / f"said-{len(started)}"
        with said.open("wb") as stderr:
            popen = subprocess.Popen(
                [sys.executable, "-c", MAIN],
                env=os.environ | settings | given,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        started.append(popen)
        return Process(popen, said)

    yield one
    for popen in started:
        popen.kill()
        popen.communicate(timeout=WAIT_S)


def slow_upload(url: str, log: str, body: bytes) -> socket.socket:
    """Begin a request whose body is not all sent yet."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=WAIT_S)
    head = f"POST /v1/logs/{log}/changes HTTP/1.1\r\nHost: {host}:{port}\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:10])
    return connection


def test_a_request_under_way_is_finished_and_stored(start: Starter) -> None:
    log, body = f"log-{uuid4().hex[:12]}", ndjson([change(1)])
    service = start()
    with slow_upload(service.url, log, body) as connection:
        time.sleep(0.3)
        service.popen.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(httpx.ConnectError):
            HTTP.get(f"{service.url}/healthz")
        connection.sendall(body[10:])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert b'"stored":1' in answer
    assert service.popen.wait(WAIT_S) == 0
    again = start()
    assert HTTP.get(f"{again.url}/v1/logs/{log}").json()["change_count"] == 1
    assert again.end(signal.SIGINT) == 0


def test_a_second_signal_waits_for_nobody(start: Starter) -> None:
    service = start()
    with slow_upload(service.url, "any", b"x" * 100):
        time.sleep(0.3)
        service.popen.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert service.popen.poll() is None
        begin = time.monotonic()
        assert service.end() == 0
        assert time.monotonic() - begin < 10
    assert {event["level"] for event in service.events()} <= {"info", "warning"}


def test_a_port_in_use_is_a_conflict(start: Starter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        service = start(PITR_PORT=str(taken.getsockname()[1]))
        assert service.popen.wait(WAIT_S) == 1
    assert re.match(r"conflict: the port is in use", service.said.read_text())


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"PITR_HOST": "203.0.113.9"}, "invalid_request: pitr cannot listen there"),
        ({"PITR_HOST": "no.such.host.invalid"}, "invalid_request: pitr cannot listen there"),
        ({"PITR_LOG_LEVEL": "loud"}, "invalid_request: this is no log level"),
    ],
)
def test_what_cannot_start_says_why(start: Starter, given: dict[str, str], wanted: str) -> None:
    service = start(**given)
    assert service.popen.wait(WAIT_S) == 1
    assert service.said.read_text().startswith(wanted)


def test_a_signal_while_it_starts_ends_it_in_order(start: Starter, tmp_path: Path) -> None:
    environment = os.environ | {"PITR_DATA": str(tmp_path / "own"), "PITR_PORT": "0"}
    with (tmp_path / "said").open("wb") as stderr:
        popen = subprocess.Popen(
            [sys.executable, "-c", MAIN], env=environment, stdout=stderr, stderr=stderr
        )
    deadline = time.monotonic() + WAIT_S
    while not (tmp_path / "own" / "postgres").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    popen.send_signal(signal.SIGTERM)
    assert popen.wait(WAIT_S) == 0, (tmp_path / "said").read_text()


def test_upkeep_runs_and_the_log_is_json_without_a_line_per_request(start: Starter) -> None:
    log = f"log-{uuid4().hex[:12]}"
    service = start(PITR_SEAL_AGE_S="0.1")
    for number in range(3):
        posted = HTTP.post(f"{service.url}/v1/logs/{log}/changes", content=ndjson([change(number)]))
        assert posted.status_code == 200
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        status = HTTP.get(f"{service.url}/v1/logs/{log}").json()
        if status["manifest"]["published_version"]:
            break
        time.sleep(0.1)
    assert status["segments"]["change_count"] == 3 and status["tail"]["change_count"] == 0
    assert service.end() == 0
    assert not [event for event in service.events() if log in event.get("event", "")]
    assert all(event["level"] in ("info", "warning") for event in service.events())
