"""pitr as the shop's operator runs it: `pitr serve` as a process, and commands beside it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from pitr.adapters.embedded import EmbeddedPostgres
from pitr.domain.errors import Unavailable

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
COMMAND_TIMEOUT_S = 300
POLL_S = 0.02
STDERR_CHARS_MAX = 2000
SNAPSHOT_CHANGES_MIN = 20_000
"""Small enough for the demo's log to have snapshots, segments and a tail."""


@dataclass(slots=True, kw_only=True)
class Service:
    """A `pitr serve` in ``folder``; ``url`` is known when it is ready."""

    folder: Path
    process: asyncio.subprocess.Process
    url: str = ""

    @property
    def data(self) -> Path:
        """What `--data` would be."""
        return self.folder / "data"

    @property
    def pid(self) -> int:
        return self.process.pid

    async def ready(self) -> None:
        """Wait for the service to say where it listens.

        Raises:
            Unavailable: It did not come up; the facts carry the end of its log.
        """
        answer = self.folder / "serve.json"
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while self.process.returncode is None:
                    line, end, _ = (await asyncio.to_thread(answer.read_text)).partition("\n")
                    if end and (url := json.loads(line).get("url")):
                        self.url = url
                        return
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            pass
        log = await asyncio.to_thread((self.folder / "serve.log").read_text, errors="replace")
        raise Unavailable("pitr serve did not come up", log=log[-STDERR_CHARS_MAX:])

    async def command(self, *arguments: str) -> str:
        """Run a pitr command in a process of its own and return what it wrote to stdout.

        Raises:
            Unavailable: It failed; the facts say how.
        """
        process = await asyncio.create_subprocess_exec(
            *_program(*arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(self.data),
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                stdout, stderr = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise Unavailable(
                f"pitr {arguments[0]} failed",
                exit_code=process.returncode,
                stderr=stderr.decode(errors="replace")[-STDERR_CHARS_MAX:],
            )
        return stdout.decode()

    async def document(self, *arguments: str) -> Any:
        """Run a pitr command with ``--json`` and return its document."""
        return json.loads(await self.command(*arguments, "--json"))


@asynccontextmanager
async def serving(folder: Path, *, keep: bool) -> AsyncIterator[Service]:
    """Run `pitr serve` in ``folder``; ``keep`` leaves it running if all is well."""
    data = folder / "data"
    data.mkdir(parents=True)
    with (folder / "serve.json").open("wb") as stdout, (folder / "serve.log").open("wb") as stderr:
        # A session of its own: Ctrl-C is for the demo, which then stops the service in order.
        process = await asyncio.create_subprocess_exec(
            *_program("serve", "--json"),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment(data),
            start_new_session=True,
        )
    done = False
    try:
        yield Service(folder=folder, process=process)
        done = True
    finally:
        if not (keep and done):
            await _stop(process, data)


def environment(data: Path) -> dict[str, str]:
    """The environment of the service and its commands: no settings but the demo's own."""
    own = {
        "PITR_DATA": str(data),
        "PITR_PORT": "0",
        "PITR_SNAPSHOT_CHANGES_MIN": str(SNAPSHOT_CHANGES_MIN),
        "NO_COLOR": "1",
        "COLUMNS": "110",
    }
    return {name: value for name, value in os.environ.items() if name[:5] != "PITR_"} | own


def _program(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "pitr", *arguments)


async def _stop(process: asyncio.subprocess.Process, data: Path) -> None:
    """Stop the service, and its PostgreSQL even where the service could not."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
    catalog = data / "postgres"
    if (catalog / "data" / "postmaster.pid").exists():
        await (await EmbeddedPostgres.start(catalog)).stop()


class Sender:
    """Sends changes to one lane of a log, in order, over one connection."""

    def __init__(self, url: str, *, log: str = "main", lane: str = "shop") -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=60)
        self._path = f"/v1/logs/{log}/changes"
        self._query: dict[str, str | int] = {"lane": lane, "format": "native", "strict": True}
        self.position = 0

    async def __aenter__(self) -> Sender:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def send(self, lines: bytes, *, count: int) -> None:
        """Store ``count`` changes; durable on return. Sending the same again stores nothing twice.

        Raises:
            Unavailable: The service did not take all of them.
        """
        try:
            answer = await self._client.post(
                self._path,
                params=self._query | {"position": self.position},
                content=lines,
                headers={"Content-Type": "application/x-ndjson"},
            )
        except httpx.HTTPError as error:
            raise Unavailable("pitr did not answer", error=repr(error)) from error
        if answer.is_error:
            raise Unavailable("pitr refused changes", status=answer.status_code, answer=answer.text)
        self.position += count
