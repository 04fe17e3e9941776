"""Runs the service: the API, the scheduled upkeep, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import structlog
import uvicorn
from fastapi import FastAPI

from pitr.domain.errors import Conflict, InvalidRequest
from pitr.faces.api import make_api
from pitr.faces.capture import capturing
from pitr.faces.event_log import configure_logging
from pitr.faces.follow import following
from pitr.faces.starting import opened
from pitr.faces.upkeep import upkeep
from pitr.settings import Settings

REQUEST_WAIT_S = 30
"""How long running requests may go on after the signal to end."""

CONNECTIONS_WAITING_MAX = 1024
"""Connections that the kernel keeps until they are accepted."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

Ready = Callable[[str], None]


def run(settings: Settings, *, ready: Ready) -> None:
    """Run the service on the fastest event loop there is; see ``serve``."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(settings, ready=ready))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def serve(settings: Settings, *, ready: Ready) -> None:
    """Serve until SIGTERM or SIGINT; ``ready`` is told the URL once requests are answered.

    The first signal ends in order: no new requests, then the running ones and the running jobs
    finish, then what waits is stored. A second one cuts the waiting short. A third is deadly.

    Raises:
        Conflict: The port is in use.
        InvalidRequest: The address is none of this machine.
        Unavailable: The embedded catalog cannot be started; one that is a service of its own is
            waited for.
    """
    configure_logging(settings.log_level)
    with _listening(settings.host, settings.port) as listener, _Ending() as ending, _frozen():
        async with ending.starting(), opened(settings, asyncio.Event()) as app:
            server = _server(make_api(app), on_ready=lambda: ready(_url(listener)))
            await app.ensure_log(settings.log)
            async with (
                upkeep(app, ending.forced),
                capturing(app),
                following(app, ending.forced),
            ):
                ending.serving(server)
                await server.serve(sockets=[listener])
            structlog.get_logger("pitr.serve").info("ending")


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """Keep the modules out of garbage collections, which would walk them in vain for 50 ms."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket; port 0 lets the system choose one."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address[:2], family=family, backlog=CONNECTIONS_WAITING_MAX)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    with listener:
        yield listener


def _cannot_listen(host: str, port: int, error: OSError) -> Conflict | InvalidRequest:
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            "the port is in use",
            hint="end the other program, or set PITR_PORT (0 picks a free one)",
            host=host,
            port=port,
        )
    return InvalidRequest(
        "pitr cannot listen there", hint="check PITR_HOST", host=host, port=port, cause=error
    )


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn, without its own way with signals, and with a call when it answers."""

    def __init__(self, config: uvicorn.Config, *, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    def end(self) -> None:
        """Accept nothing more, finish what runs."""
        self.should_exit = True

    def cut_short(self) -> None:
        """Wait for nobody. What a request has handed over is stored all the same."""
        self.should_exit = self.force_exit = True
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _server(api: FastAPI, *, on_ready: Callable[[], None]) -> _Server:
    config = uvicorn.Config(
        api,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=REQUEST_WAIT_S,
    )
    return _Server(config, on_ready=on_ready)


class _Ending:
    """Turns signals into the end of the service; the first may come while it still starts."""

    def __init__(self) -> None:
        self.forced = asyncio.Event()
        self._requested = False
        self._starting: asyncio.Task[object] | None = None
        self._server: _Server | None = None

    def __enter__(self) -> _Ending:
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()

    def _let_go(self) -> None:
        for number in _SIGNALS:
            asyncio.get_running_loop().remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self._requested:
            self._let_go()
            self.forced.set()
            if self._server is not None:
                self._server.cut_short()
        elif self._server is not None:
            self._server.end()
        elif self._starting is not None:
            self._starting.cancel()
        self._requested = True

    @contextlib.asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Let a signal stop what starts in here; that is an end in order, no error."""
        self._starting = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            if not self._requested or self._starting is None:
                raise
            self._starting.uncancel()

    def serving(self, server: _Server) -> None:
        """From here on a signal ends ``server``."""
        self._server, self._starting = server, None
        if self._requested:
            server.end()
