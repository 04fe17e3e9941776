"""Capture beside the HTTP API, or as processes of its own.

Those of Kafka form one consumer group; attached databases are followed by one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import structlog

from pitr.app import App
from pitr.domain.errors import InvalidRequest, PitrError, Unavailable
from pitr.faces.event_log import configure_logging
from pitr.faces.follow import attached, following
from pitr.faces.reading import Show, reading_shown
from pitr.faces.starting import opened, patiently
from pitr.faces.upkeep import upkeep
from pitr.services.capture import Capture
from pitr.settings import Settings

REFUSED_RETRY_S = 30
RESTART_S = 2.0
"""Pause before a worker process that ended is started again."""
WORKER_STOP_S = 20.0
PARENT_CHECK_S = 0.5


@contextlib.asynccontextmanager
async def capturing(app: App) -> AsyncIterator[None]:
    """Capture meanwhile, if the settings name a broker; a refusal is tried again, and said."""
    if app.settings.kafka_bootstrap is None:
        yield
        return
    capture = await app.capture()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(_capture_on(app, capture, stop))
        try:
            yield
        finally:
            stop.set()


async def _capture_on(app: App, capture: Capture, stop: asyncio.Event) -> None:
    logger = structlog.get_logger("pitr.capture")
    while True:
        try:
            await capture.run(stop)
        except PitrError as error:
            capture.problem = str(error)
            logger.error("capture_refused", error=str(error), hint=error.hint)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REFUSED_RETRY_S):
                    await stop.wait()
        if stop.is_set():
            return
        app.captures.remove(capture)
        capture = await app.capture()


async def capture(
    settings: Settings,
    *,
    kafka: bool,
    workers: int,
    ready: Callable[[Sequence[str]], None],
    show: Show | None = None,
) -> None:
    """Capture until SIGTERM or SIGINT: attached databases, and topics if there is ``kafka``.

    Topics are captured in this process or in ``workers`` processes of their own. The first process
    follows databases, seals, merges and makes snapshots. ``ready`` is told the databases' names,
    ``show`` how far their tables are read.

    Raises:
        InvalidRequest: There is nothing to capture, the settings make no sense, or Kafka refuses.
        Unavailable: The embedded catalog cannot be started; a catalog that is a service of its own
            is waited for.
    """
    configure_logging(settings.log_level)
    with _stopping() as stop:
        async with opened(settings, stop) as app:
            found = await patiently(lambda: attached(app), settings, stop)
            databases = [source.name for _, source in found]
            if not (kafka or databases):
                raise nothing_to_capture()
            await patiently(lambda: app.ensure_log(settings.log), settings, stop)
            async with (
                upkeep(app, asyncio.Event()),
                following(app),
                contextlib.AsyncExitStack() as showing,
            ):
                ready(databases)
                if show is not None:
                    await showing.enter_async_context(reading_shown(app, show))
                if not kafka:
                    await stop.wait()
                elif workers == 1:
                    await (await patiently(app.capture, settings, stop)).run(stop)
                else:
                    await _Workers(workers).run(stop)


def nothing_to_capture() -> InvalidRequest:
    """The error where neither a broker nor a database is named."""
    return InvalidRequest(
        "there is nothing to capture",
        hint="pitr attach postgresql://user@host/database, or set PITR_KAFKA_BOOTSTRAP=host:9092"
        " and PITR_KAFKA_TOPICS",
    )


async def work(settings: Settings) -> None:
    """Be one of the worker processes of ``capture``; ends when that one is gone."""
    configure_logging(settings.log_level)
    parent = os.getppid()
    with _stopping() as stop:
        async with asyncio.TaskGroup() as group, opened(settings, stop) as app:
            watching = group.create_task(_watch(parent, stop))
            await (await patiently(app.capture, settings, stop)).run(stop)
            watching.cancel()


async def _watch(parent: int, stop: asyncio.Event) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 - the kernel tells nobody
        await asyncio.sleep(PARENT_CHECK_S)
    stop.set()


class _Workers:
    """Worker processes: this command line again, and again where one ended by itself."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._logger = structlog.get_logger("pitr.capture")

    async def run(self, stop: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._count):
                group.create_task(self._keep(number, stop))

    async def _keep(self, number: int, stop: asyncio.Event) -> None:
        command = [sys.executable, "-m", "pitr", *_arguments(sys.argv[1:])]
        refused = 0
        while not stop.is_set():
            process = await asyncio.create_subprocess_exec(*command)
            self._logger.info("worker_started", worker=number, process=process.pid)
            code = await _wait(process, stop)
            if stop.is_set():
                return
            self._logger.error("worker_ended", worker=number, code=code)
            refused = refused + 1 if code == 2 else 0
            if refused == 3:
                raise Unavailable("the workers cannot start", hint="see the lines above")
            await asyncio.sleep(RESTART_S)


def _arguments(given: Sequence[str]) -> list[str]:
    return [*given, "--worker"]


async def _wait(process: asyncio.subprocess.Process, stop: asyncio.Event) -> int:
    """Wait for a worker; when asked to stop, stop it first."""
    async with asyncio.TaskGroup() as group:
        ended = group.create_task(process.wait())
        stopped = group.create_task(stop.wait())
        await asyncio.wait((ended, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await asyncio.wait((ended,), timeout=WORKER_STOP_S)
        if not ended.done():
            process.kill()
        stopped.cancel()
    return ended.result()


@contextlib.contextmanager
def _stopping() -> Iterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set; a second signal is deadly."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def on_signal() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
