"""pitr as the shop's operator runs it: `pitr serve` as a process, and commands beside it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable
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
REQUEST_TIMEOUT_S = 60
LOG, LANE = "main", "shop"
STDERR_CHARS_MAX = 2000


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

    async def asked(self, path: str, **query: str) -> Any:
        """Ask the HTTP API about the log and return its document.

        Raises:
            Unavailable: It did not answer, or refused.
        """
        async with httpx.AsyncClient(base_url=self.url, timeout=REQUEST_TIMEOUT_S) as client:
            return (await answered(client.get(f"/v1/logs/{LOG}/{path}", params=query))).json()


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


async def answered(request: Awaitable[httpx.Response]) -> httpx.Response:
    """Wait for a good answer.

    Raises:
        Unavailable: There was none, or it was an error.
    """
    try:
        answer = await request
    except httpx.HTTPError as error:
        raise Unavailable("pitr did not answer", error=repr(error)) from error
    if answer.is_error:
        raise Unavailable("pitr refused", status=answer.status_code, answer=answer.text)
    return answer


class Sender:
    """Sends changes to one lane of a log, in order, over one connection."""

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_S)
        self._position = 0

    async def __aenter__(self) -> Sender:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def send(self, lines: bytes, *, count: int) -> None:
        """Store ``count`` changes; durable on return. The position makes it safe to send again.

        Raises:
            Unavailable: They were not stored, or one of them cannot be read.
        """
        lane: dict[str, str | int] = {"lane": LANE, "position": self._position}
        await answered(
            self._client.post(
                f"/v1/logs/{LOG}/changes",
                params=lane | {"format": "native", "strict": True},
                content=lines,
                headers={"Content-Type": "application/x-ndjson"},
            )
        )
        self._position += count
