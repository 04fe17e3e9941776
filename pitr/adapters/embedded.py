"""The embedded PostgreSQL: a server of its own for who has none, from the programs of a wheel.

It knows how to start, share and stop one server per folder. It never listens on the network and
keeps no list of processes: three locks that the kernel frees say who starts, who uses, what runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import asyncpg

from pitr.adapters.embedded_account import server_account
from pitr.adapters.embedded_files import PORT, Layout, program
from pitr.adapters.embedded_server import (
    INIT_TIMEOUT_S,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    SUPERUSER,
    Server,
)
from pitr.adapters.file_lock import FileLock
from pitr.domain.errors import Conflict, InvalidRequest, Unavailable

CONNECT_TIMEOUT_S = 10
TURN_TIMEOUT_S = INIT_TIMEOUT_S + START_TIMEOUT_S + STOP_TIMEOUT_S
"""How long to wait for whoever starts or stops the server just now."""


class EmbeddedPostgres:
    """A share in the server of a folder; the server runs as long as any process has one.

    A process that is killed loses its share. The server then goes on alone, and the next
    ``start`` joins it.
    """

    def __init__(self, layout: Layout, users: FileLock, sockets: Path) -> None:
        self._layout = layout
        self._users: FileLock | None = users
        self._sockets = sockets

    @classmethod
    async def start(cls, folder: Path) -> EmbeddedPostgres:
        """Take a share in the server of ``folder``: make, start, recover or join it as needed.

        Raises:
            InvalidRequest: The folder is something else, of another major version, or out of reach.
            Conflict: A server that somebody started by hand uses the data.
            Unavailable: The server did not come up in time; facts carry the tail of its log.
        """
        loop = asyncio.get_running_loop()
        taking = loop.run_in_executor(None, cls._take, folder)
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            # A thread cannot be cancelled: wait for what it takes, then give it back.
            with contextlib.suppress(Conflict, InvalidRequest, Unavailable):
                await (await taking).stop()
            raise

    async def stop(self) -> None:
        """Give the share back; the last one stops the server. A second time does nothing.

        Raises:
            Unavailable: The server did not stop in time; the share is given back all the same.
        """
        leaving = asyncio.get_running_loop().run_in_executor(None, self._leave)
        try:
            await asyncio.shield(leaving)
        except asyncio.CancelledError:
            await leaving
            raise

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database, for asyncpg and for every program that uses libpq."""
        name, host = quote(database, safe=""), quote(str(self._sockets), safe="")
        return f"postgresql://{SUPERUSER}@/{name}?host={host}&port={PORT}"

    async def ensure_database(self, name: str) -> str:
        """Create the database if there is none of that name, and return its URL.

        Raises:
            Unavailable: The server did not answer.
        """
        try:
            connection = await asyncpg.connect(self.url(), timeout=CONNECT_TIMEOUT_S)
            try:
                await _create_database(connection, name)
            finally:
                await connection.close(timeout=CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Unavailable(
                "the embedded PostgreSQL did not answer", cause=error, log=self._layout.log_tail()
            ) from error
        return self.url(name)

    @property
    def folder(self) -> Path:
        """The folder that ``start`` was given."""
        return self._layout.folder

    @property
    def socket_folder(self) -> Path:
        """Where the socket is; what psql takes as ``--host``."""
        return self._sockets

    @property
    def bin_folder(self) -> Path:
        """Where psql, pg_dump and the other programs are."""
        return program("postgres").parent

    @classmethod
    def _take(cls, folder: Path) -> EmbeddedPostgres:
        layout = Layout(folder.resolve())
        with _translated(layout.folder):
            account = server_account(layout.data)
            layout.prepare(account)
            with _turn(layout):
                users = FileLock(layout.users_lock)
                assert users.try_shared(), "only who holds start.lock may exclude users"
                try:
                    return cls(layout, users, Server(layout, account).up())
                except BaseException:
                    users.close()
                    raise

    def _leave(self) -> None:
        users, self._users = self._users, None
        if users is None:
            return
        # The share must be gone before the turn is: whoever is next may not find it.
        try:
            with _translated(self._layout.folder), _turn(self._layout), users:
                if users.try_exclusive():
                    self._stop_server()
        finally:
            users.close()

    def _stop_server(self) -> None:
        Server(self._layout, server_account(self._layout.data)).down()
        if self._sockets != self._layout.sockets_inside:
            shutil.rmtree(self._sockets, ignore_errors=True)


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """Hold a share in the server of ``folder`` for the length of a block; errors as ``start``."""
    server = await EmbeddedPostgres.start(folder)
    try:
        yield server
    finally:
        await server.stop()


# $1::text is quoted by the server: a name cannot become a statement.
_CREATE_DATABASE = "SELECT format('CREATE DATABASE %I TEMPLATE template0', $1::text)"
_DATABASE_EXISTS = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)"


async def _create_database(connection: asyncpg.Connection, name: str) -> None:
    if await connection.fetchval(_DATABASE_EXISTS, name):
        return
    # Two at once: the second one's failure is as good as its success.
    with contextlib.suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):
        await connection.execute(await connection.fetchval(_CREATE_DATABASE, name))


@contextlib.contextmanager
def _turn(layout: Layout) -> Iterator[None]:
    with FileLock(layout.start_lock) as lock:
        if not lock.exclusive_within(TURN_TIMEOUT_S):
            raise Unavailable(
                "another process takes too long to start or stop the embedded PostgreSQL",
                lock=layout.start_lock,
            )
        yield


@contextlib.contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise InvalidRequest(
            "the folder of the embedded PostgreSQL cannot be used",
            hint="name another folder, or run pitr as its owner",
            folder=folder,
            cause=error,
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(
            "the embedded PostgreSQL cannot use its folder", folder=folder, cause=error
        ) from error
