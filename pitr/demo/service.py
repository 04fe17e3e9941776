"""pitr as the shop's operator runs it: `pitr serve` as a process, and commands beside it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from pitr.adapters.embedded import EmbeddedPostgres
from pitr.demo.programs import STDERR_CHARS_MAX, output_of, plain_environment
from pitr.domain.errors import Unavailable

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
POLL_S = 0.02
LOOK_S = 0.1
REQUEST_TIMEOUT_S = 60
STALL_TIMEOUT_S = 60
"""How long to wait for capture without one change more in the log."""

LOG = "main"


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
        env, name = environment(self.data), f"pitr {arguments[0]}"
        return await output_of(*_program(*arguments), env=env, name=name)

    async def asked(self, path: str, **query: str) -> Any:
        """Ask the HTTP API about the log and return its document.

        Raises:
            Unavailable: It did not answer, or refused.
        """
        async with self._client() as client:
            return await _answer(client, f"/v1/logs/{LOG}/{path}", **query)

    async def reached(self, changes: int) -> None:
        """Wait until the log has so many changes.

        Raises:
            Unavailable: It comes no further.
        """
        await self._until(lambda status: status["change_count"] >= changes)

    async def copied(self, collections: Collection[str]) -> None:
        """Wait until the log has the rows that were there when the database was attached.

        Raises:
            Unavailable: It comes no further.
        """
        await self._until(lambda status: _healed(status).issuperset(collections))

    async def captured(self, at: datetime) -> None:
        """Wait until the log has all that was committed up to ``at``.

        Raises:
            Unavailable: It comes no further.
        """
        await self._until(lambda status: datetime.fromisoformat(status["watermark"]) >= at)

    async def _until(self, is_so: Callable[[Any], bool]) -> None:
        seen, end_s = None, 0.0
        async with self._client() as client:
            while not is_so(status := await _answer(client, f"/v1/logs/{LOG}")):
                if status["change_count"] != seen:
                    seen, end_s = status["change_count"], time.monotonic() + STALL_TIMEOUT_S
                elif time.monotonic() > end_s:
                    problems = [lane["problem"] for lane in status["lanes"]]
                    raise Unavailable("pitr comes no further", changes=seen, problems=problems)
                await asyncio.sleep(LOOK_S)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, timeout=REQUEST_TIMEOUT_S)


def _healed(status: Any) -> set[str]:
    """The tables that were read in full: until then the log says that they have a gap."""
    open_gaps = {gap["collection"] for gap in status["gaps"] if gap["healed_seq_end"] is None}
    return {gap["collection"] for gap in status["gaps"]} - open_gaps


async def _answer(client: httpx.AsyncClient, path: str, **query: str) -> Any:
    try:
        answer = await client.get(path, params=query)
    except httpx.HTTPError as error:
        raise Unavailable("pitr did not answer", error=repr(error)) from error
    if answer.is_error:
        raise Unavailable("pitr refused", status=answer.status_code, answer=answer.text)
    return answer.json()


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
        "PITR_LATENESS_S": "0",  # what the shop commits is waited for
        "NO_COLOR": "1",
        "COLUMNS": "110",
    }
    return plain_environment() | own


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
