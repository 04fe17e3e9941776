"""A replication connection on the event loop: commands, waiting, warnings."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final, Self

import orjson
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Escaping, ExecStatus
from psycopg.pq.abc import PGresult

from pitr.adapters.postgres.replication_errors import Said, not_connected, refused, text_of, unfit
from pitr.domain.errors import InvalidRequest, PitrError, Unavailable
from pitr.domain.pgoutput.model import SESSION

COMMAND_TIMEOUT_S: Final = 60.0
CLOSE_TIMEOUT_S: Final = 1.5
NOTICES_MAX: Final = 100

QUIET_ROUNDS: Final = 2
"""Reads that bring no whole message, after which there is none.

One may leave the end of a TLS record behind, which the socket does not show: it met the head of a
message that is longer than the room there was. The second has the room.
"""

CONNECTION: Final = {
    "application_name": "pitr",
    "connect_timeout": "15",
    # A server that is gone without a word is noticed by the kernel: it acknowledges nothing.
    # One that decodes a huge transaction is silent for minutes, and alive.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
"""Parameters of the connection where the URL has none of its own."""

PINNED: Final = {
    **SESSION,
    "client_min_messages": "warning",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "transaction_timeout": "0",
    "idle_session_timeout": "0",
}
"""Settings that a role or database may have otherwise; older servers lack some of the last."""


class Session:
    """A connection to a source that takes replication commands and SQL, one at a time.

    ``pgconn`` is for whoever streams; its errors are psycopg's. Everything else raises pitr's.
    """

    def __init__(self, connection: psycopg.AsyncConnection[Any], slot: str) -> None:
        self.pgconn = connection.pgconn
        self._connection = connection  # it finishes libpq's when it is collected
        self._socket = connection.pgconn.socket
        self._slot = slot
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] | None = None
        self._busy = self._closed = False
        self._notices: deque[str] = deque(maxlen=NOTICES_MAX)
        connection.add_notice_handler(self._note)

    @classmethod
    async def open(cls, url: str, *, slot: str) -> Self:
        """Connect and pin the settings; ``slot`` is for messages.

        Raises:
            Unavailable: The server does not answer, or has no room.
            InvalidRequest: It refuses user, password, database or replication.
        """
        session = cls(await _connected(url), slot)
        try:
            await session._pin()
        except BaseException:
            await session.close()
            raise
        return session

    async def _pin(self) -> None:
        """Pin the settings by a statement.

        What the start of a connection sets is outranked by what libpq takes from the environment:
        PGTZ, PGDATESTYLE.
        """
        pairs = (f"({self.literal(name)}, {self.literal(text)})" for name, text in PINNED.items())
        await self.rows(
            "SELECT set_config(s.name, v.value, false) "
            f"FROM (VALUES {', '.join(pairs)}) v(name, value) "
            "JOIN pg_catalog.pg_settings s ON lower(s.name) = v.name"
        )

    async def close(self) -> None:
        """End the connection; a command that runs is cancelled. Never raises."""
        if self._closed:
            return
        self._closed = True
        self.wake()
        await asyncio.sleep(0)  # whoever waits is the first to leave the socket
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._cancel()
        except (psycopg.Error, PitrError, OSError, TimeoutError):
            pass  # the server notices by itself, a little later
        finally:
            self._unwatch()
            self.pgconn.finish()

    async def _cancel(self) -> None:
        """A new slot would wait on, for transactions under way, when we have gone already."""
        if self._busy:
            await self._connection.cancel_safe(timeout=CLOSE_TIMEOUT_S)
            await self.result()

    # Commands -----------------------------------------------------------------------------------

    async def rows(
        self, command: str, *, slot: str | None = None, timeout_s: float | None = COMMAND_TIMEOUT_S
    ) -> list[list[Any]]:
        """Run a command and return its rows as text, None for null; ``slot`` as in ``run``."""
        result = await self.run(command, slot=slot, timeout_s=timeout_s)
        return [
            [text_of(result.get_value(row, column)) for column in range(result.nfields)]
            for row in range(result.ntuples)
        ]

    async def run(
        self, command: str, *, slot: str | None = None, timeout_s: float | None = COMMAND_TIMEOUT_S
    ) -> PGresult:
        """Run a command; ``slot`` is the one that it is about.

        Raises:
            Unavailable: The server is away, or another consumer has the slot.
            SlotLost: There is no such slot any more, or it cannot go on.
            InvalidRequest: The server refuses; the hint says what to do.
            Conflict: The slot is there already.
        """
        try:
            async with asyncio.timeout(timeout_s):
                result = await self._answer(command)
        except TimeoutError as error:
            raise self.broken(f"no answer in {timeout_s} s") from error
        except psycopg.Error as error:
            raise self.broken(str(error)) from error
        if result.status != ExecStatus.FATAL_ERROR:
            return result
        said = Said.of(result)
        if slot is not None and said.state == "55000":
            raise await self._unfit(said, slot)
        raise refused(said, slot=slot or self._slot)

    async def _unfit(self, said: Said, slot: str) -> PitrError:
        found = await self.rows(
            "SELECT current_setting('wal_level'), (SELECT to_jsonb(s) "
            f"FROM pg_catalog.pg_replication_slots s WHERE slot_name = {self.literal(slot)})"
        )
        level, row = found[0]
        return unfit(said, slot=slot, wal_level=level, row=row and orjson.loads(row))

    async def _answer(self, command: str) -> PGresult:
        self._busy = True
        self.pgconn.send_query(command.encode())
        await self.flush()
        last = await self.result()
        while last is not None and last.status != ExecStatus.COPY_BOTH:
            result = await self.result()
            if result is None:
                break
            last = result
        self._busy = False
        if last is None:
            raise psycopg.OperationalError("the server said nothing")
        return last

    async def result(self) -> PGresult | None:
        """Wait for the next result of a command; None after the last."""
        while self.pgconn.is_busy():
            await self.read()
        return self.pgconn.get_result()

    async def flush(self) -> None:
        """Wait until the server has taken what was put."""
        while self.pgconn.flush():
            await self.ready(writing=True)

    async def read(self) -> None:
        """Wait until something comes, and have libpq read it."""
        await self.ready()
        for _ in range(QUIET_ROUNDS):
            self.pgconn.consume_input()

    def identifier(self, name: str) -> str:
        """Quote a name."""
        return Escaping(self.pgconn).escape_identifier(name.encode()).decode()

    def literal(self, text: str) -> str:
        """Quote a text."""
        return Escaping(self.pgconn).escape_literal(text.encode()).decode()

    # Waiting ------------------------------------------------------------------------------------

    async def ready(self, timeout_s: float | None = None, *, writing: bool = False) -> None:
        """Wait until the server has sent something, or takes more, or the time is over."""
        if self._woken is not None:
            raise RuntimeError("another task waits for the server")
        self._woken = self._loop.create_future()
        timer = None if timeout_s is None else self._loop.call_later(timeout_s, self.wake)
        watch = self._loop.add_writer if writing else self._loop.add_reader
        watch(self._socket, self.wake)
        try:
            await self._woken
        finally:
            if timer is not None:
                timer.cancel()
            self._unwatch()

    def wake(self) -> None:
        """End the waiting, if somebody waits."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def _unwatch(self) -> None:
        """Leave the socket alone, once: its number may be another's later."""
        if self._woken is not None:
            self._woken = None
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)

    # What there is to say -----------------------------------------------------------------------

    def broken(self, reason: str) -> Unavailable:
        """The error for a connection that is lost."""
        return Unavailable(
            "the source does not answer", slot=self._slot, reason=" ".join(reason.split())
        )

    def warned(self) -> tuple[str, ...]:
        """Return the server's warnings since the last time."""
        warned = tuple(self._notices)
        self._notices.clear()
        return warned

    def _note(self, said: psycopg.errors.Diagnostic) -> None:
        if said.severity_nonlocalized == "WARNING":
            told = (said.message_primary, said.message_detail)
            self._notices.append(": ".join(filter(None, told)))


async def _connected(url: str) -> psycopg.AsyncConnection[Any]:
    try:
        given = conninfo_to_dict(url)
        for port in str(given.get("port") or "").split(","):
            int(port or 0)
    except (psycopg.ProgrammingError, ValueError):
        # libpq's words may quote the password.
        raise InvalidRequest(
            "the database URL cannot be used",
            hint="postgresql://user:password@host:5432/database; special characters as %40",
        ) from None
    wanted = {**CONNECTION, **given, "replication": "database", "client_encoding": "UTF8"}
    try:
        return await psycopg.AsyncConnection.connect(make_conninfo("", **wanted), autocommit=True)
    except (psycopg.Error, OSError) as error:
        raise not_connected(str(error)) from error
