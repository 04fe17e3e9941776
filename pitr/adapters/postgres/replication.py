"""The replication stream of a source: pgoutput messages, from a position on, at the caller's pace.

Source: PostgreSQL documentation, "Streaming Replication Protocol" and "Logical Streaming
Replication Protocol". libpq is driven through ``psycopg.pq``: asyncpg has no replication.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, Self

import psycopg
from psycopg.pq import ExecStatus

from pitr.adapters.postgres.replication_errors import Said, refused
from pitr.adapters.postgres.replication_session import CLOSE_TIMEOUT_S, QUIET_ROUNDS, Session
from pitr.domain.errors import InvalidRequest, PitrError, Unavailable
from pitr.domain.pgoutput.lost import SlotLost
from pitr.domain.pgoutput.model import lsn_of, lsn_text

__all__ = ["STATUS_EVERY_S", "ReplicationStream", "SlotLost", "StreamPoll", "System"]

STATUS_EVERY_S: Final = 5.0
"""How often the server is told where we are, at least; more often if it waits for less long."""

STATUS_PAUSE_S: Final = 0.02
"""The least time between two confirmations; one that comes sooner waits for it."""

ASK_EVERY_S: Final = 1.0
"""How often a poll that finds nothing asks the server whether there is nothing."""

KEEPALIVES_FREE: Final = 16
"""A server that is busy with other tables sends a keepalive for each of their commits. After so
many in one poll each next look waits ``KEEPALIVE_PAUSE_S``."""
KEEPALIVE_PAUSE_S: Final = 0.01

ROUNDS_IN_ROW: Final = 16
"""Reads of some 16 KiB each before others on the event loop have their turn."""

_EPOCH_US: Final = 946_684_800_000_000  # PostgreSQL counts from 2000
_STATUS: Final = struct.Struct(">cQQQqB")
_KEEPALIVE: Final = struct.Struct(">xQqB")
_XLOG_DATA: Final = ord("w")
_COMMIT: Final = ord("C")
_HEADER_BYTES: Final = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Which database cluster it is, and how far its WAL goes."""

    identifier: str
    timeline: int
    lsn: int
    database: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPoll:
    """What has come in.

    ``server_lsn`` is the farthest position that the server has named; it can be confirmed.

    ``idle_lsn``: at ``idle_us`` (µs since 1970 on the server's clock) the server had read its WAL
    up to there, and every transaction that ends at or before it is in this poll or an earlier one;
    None if messages came after that, or nothing was said. This alone does not mean that the WAL
    went no further at that time: a server may lag behind itself. What does is the server's
    ``pg_current_wal_flush_lsn()``, asked for earlier, that is not past ``idle_lsn``.

    ``notices`` are warnings of the server.
    """

    messages: list[bytes]
    size_bytes: int
    server_lsn: int
    idle_lsn: int | None
    idle_us: int | None
    notices: tuple[str, ...] = ()


class ReplicationStream:
    """A connection to one slot; one task polls it. ``start`` comes after whatever else is asked.

    Nothing is read but by ``poll``: what the caller does not want yet stays in the socket, and
    stops the server. The server is told all the same that we live.
    """

    def __init__(
        self, session: Session, *, slot: str, publications: tuple[str, ...], lsn: int
    ) -> None:
        self._session = session
        self._pgconn = session.pgconn
        self._slot, self._publications, self._lsn = slot, publications, lsn
        self._loop = asyncio.get_running_loop()
        self._started = self._streaming = self._closed = False
        self._failure: PitrError | None = None

        self._messages: list[bytes] = []
        self._size_bytes = 0
        self._server_lsn = lsn
        self._idle: tuple[int, int, int] | None = None  # LSN, µs, number of messages before it
        self._keepalives = 0

        self._confirmed = 0
        self._timer: asyncio.TimerHandle | None = None
        self._status_every_s = STATUS_EVERY_S
        self._status_s = self._asked_s = float("-inf")
        self._status_wanted = False
        self._clock = (0, 0.0)

    @classmethod
    async def open(
        cls, url: str, *, slot: str, publication: str | tuple[str, ...], lsn: int = 0
    ) -> Self:
        """Connect. ``lsn`` is where ``start`` begins; 0 is where the slot stands.

        Args:
            publication: One or several.

        Raises:
            Unavailable: The server does not answer, or has no room.
            InvalidRequest: It refuses user, password, database or replication.
        """
        session = await Session.open(url, slot=slot)
        publications = (publication,) if isinstance(publication, str) else publication
        return cls(session, slot=slot, publications=publications, lsn=lsn)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave, within some seconds; the server lets go of the slot, if it answers."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._session.wake()
        await asyncio.sleep(0)  # the poll is the first to leave the socket
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._leave()
        except (psycopg.Error, PitrError, OSError, TimeoutError):
            pass  # the server notices by itself, a little later
        finally:
            await self._session.close()

    async def _leave(self) -> None:
        if not self._streaming or self._failure is not None:
            return
        self._pgconn.put_copy_data(self._status(ask=False))
        self._pgconn.put_copy_end()
        await self._session.flush()
        while (size := self._pgconn.get_copy_data(1)[0]) >= 0:
            if size == 0:
                await self._session.read()
        while await self._session.result() is not None:
            pass

    # Before the stream --------------------------------------------------------------------------

    async def identify(self) -> System:
        """Return which cluster and database this is."""
        identifier, timeline, lsn, database = (await self._rows("IDENTIFY_SYSTEM"))[0]
        return System(
            identifier=identifier, timeline=int(timeline), lsn=lsn_of(lsn), database=database
        )

    async def timeline_history(self, timeline: int) -> list[tuple[int, int]]:
        """Return the timelines that this one came from, each with the position where it ended."""
        if timeline == 1:
            return []  # it has no history, and no file of it
        text = (await self._rows(f"TIMELINE_HISTORY {timeline}"))[0][1]
        lines = (line.split("\t") for line in text.splitlines() if line[:1].isdigit())
        return [(int(line[0]), lsn_of(line[1])) for line in lines]

    async def create_slot(
        self,
        name: str,
        *,
        temporary: bool = False,
        failover: bool = False,
        snapshot: Literal["nothing", "export"] = "nothing",
    ) -> tuple[int, str | None]:
        """Make a slot; return its first position, and the snapshot that shows the data there.

        It waits for transactions that are under way, however long they are. The snapshot can be
        taken over until the next command or the end of this connection.

        Raises:
            Conflict: There is a slot of that name.
            InvalidRequest: The server cannot have logical slots, or no more of them.
        """
        version = self._pgconn.server_version
        if failover and version < 170000:
            raise InvalidRequest(
                "the source is too old for slots that survive a failover",
                hint="make the slot without failover",
                server_version=version,
            )
        options = f"(SNAPSHOT '{snapshot}'{', FAILOVER true' if failover else ''})"
        if version < 150000:
            options = "EXPORT_SNAPSHOT" if snapshot == "export" else "NOEXPORT_SNAPSHOT"
        kind = "TEMPORARY LOGICAL" if temporary else "LOGICAL"
        command = f"CREATE_REPLICATION_SLOT {self._session.identifier(name)} {kind} pgoutput "
        _, point, exported, _ = (await self._rows(command + options, slot=name, timeout_s=None))[0]
        self._server_lsn = max(self._server_lsn, lsn_of(point))
        return lsn_of(point), exported

    async def start(self) -> None:
        """Begin to stream.

        Raises:
            SlotLost: There is no such slot, or the server has no WAL from the position on.
            Unavailable: The server is away, or another consumer has the slot.
            InvalidRequest: There is no such publication, or the slot is for something else.
        """
        await self._look()
        session = self._session
        # A list of names in which each is an identifier, as a literal of the replication grammar:
        # a backslash is itself in it, and E'' is unknown.
        names = ",".join(map(session.identifier, self._publications)).replace("'", "''")
        self._ready_for_commands()
        await session.run(
            f"START_REPLICATION SLOT {session.identifier(self._slot)} LOGICAL "
            f"{lsn_text(self._lsn)} "
            f"(proto_version '1', publication_names '{names}', messages 'true')",
            slot=self._slot,
        )
        self._started = self._streaming = True
        self._tell()

    async def _look(self) -> None:
        """Find out what the server would pass over in silence, and what we need of it."""
        system = await self.identify()
        if self._lsn > system.lsn:
            raise SlotLost(
                "the source's WAL ends before the position to go on from",
                hint="it was restored from a backup, or a standby that lagged behind took over",
                slot=self._slot,
                lsn=lsn_text(self._lsn),
                end=lsn_text(system.lsn),
            )
        names = ", ".join(map(self._session.literal, self._publications))
        there = await self._rows(
            f"SELECT pubname FROM pg_catalog.pg_publication WHERE pubname IN ({names})"
        )
        for publication in self._publications:
            if [publication] not in there:
                raise InvalidRequest(
                    "the source has no such publication",
                    hint=f"CREATE PUBLICATION {self._session.identifier(publication)} FOR …",
                    publication=publication,
                    database=system.database,
                )
        found = await self._rows(
            "SELECT s.setting, (extract(epoch FROM clock_timestamp()) * 1000000)::int8, "
            "(SELECT confirmed_flush_lsn FROM pg_catalog.pg_replication_slots "
            f"WHERE slot_name = {self._session.literal(self._slot)}) "
            "FROM pg_catalog.pg_settings s WHERE s.name = 'wal_sender_timeout'"
        )
        patience_ms, now_us, slot_lsn = found[0]
        if int(patience_ms):
            self._status_every_s = min(STATUS_EVERY_S, int(patience_ms) / 3_000)
        self._clock = int(now_us), self._loop.time()
        if slot_lsn is not None:
            self._server_lsn = max(self._server_lsn, lsn_of(slot_lsn))

    async def _rows(self, command: str, **about: Any) -> list[list[Any]]:
        self._ready_for_commands()
        return await self._session.rows(command, **about)

    def _ready_for_commands(self) -> None:
        if self._closed or self._started:
            raise RuntimeError("there are no commands once the stream runs")

    # What the server sends ----------------------------------------------------------------------

    async def poll(self, *, bytes_max: int, timeout_s: float) -> StreamPoll:
        """Return the messages that are there, waiting at most ``timeout_s`` for the first.

        They are as many as make up ``bytes_max``, and one more rather than less. A poll that is
        cancelled loses nothing: the next one returns what it had taken.

        Raises:
            Unavailable: The server is away, or ended the stream.
            SlotLost: It has no longer what it should send.
            InvalidRequest: It cannot send what was asked for.
        """
        if not self._started:
            raise RuntimeError("the stream was not started")
        end_s = self._loop.time() + timeout_s
        while True:
            await self._receive(bytes_max)
            if self._closed:
                raise Unavailable("the stream was closed", slot=self._slot)
            if self._messages:
                return self._taken()
            if self._failure is not None:
                raise self._failure
            if self._loop.time() >= end_s:
                return self._taken()
            await self._wait(end_s)

    async def _wait(self, end_s: float) -> None:
        """Wait for the server, and ask it now and then whether there is nothing."""
        now_s = self._loop.time()
        if now_s - self._asked_s >= ASK_EVERY_S:
            self._asked_s = now_s
            self._tell(ask=True)
        if self._keepalives > KEEPALIVES_FREE:
            await asyncio.sleep(min(KEEPALIVE_PAUSE_S, end_s - now_s))
        if not self._closed:
            until_s = min(end_s, self._asked_s + ASK_EVERY_S)
            await self._session.ready(max(0.0, until_s - self._loop.time()))

    async def _receive(self, bytes_max: int) -> None:
        """Take what has come in, and let others have their turn now and then."""
        rounds = quiet = 0
        try:
            while self._failure is None and not self._closed:
                quiet = 0 if self._take(bytes_max) else quiet + 1
                if quiet > QUIET_ROUNDS or self._size_bytes >= bytes_max:
                    break
                self._pgconn.consume_input()
                rounds += 1
                if rounds % ROUNDS_IN_ROW == 0:
                    await asyncio.sleep(0)
        except psycopg.Error as error:
            self._failure = self._session.broken(str(error))
        if self._status_wanted and not self._closed:
            self._status_wanted = False
            self._tell()

    def _take(self, bytes_max: int) -> bool:
        """Take over what libpq has read; whether there was anything. The hot loop."""
        get, keep = self._pgconn.get_copy_data, self._messages.append
        size_bytes, commit, found = self._size_bytes, None, False
        try:
            while size_bytes < bytes_max:
                size, data = get(1)
                if size <= 0:
                    if size < 0:
                        self._ended()
                    break
                found = True
                if data[0] == _XLOG_DATA:
                    keep(bytes(data[_HEADER_BYTES:]))
                    size_bytes += size
                    if data[_HEADER_BYTES] == _COMMIT:
                        commit = data
                else:
                    self._hear(data)
        finally:
            self._size_bytes = size_bytes
            if commit is not None:  # its header has the end of its transaction
                self._server_lsn = max(self._server_lsn, int.from_bytes(commit[9:17]))
        return found

    def _hear(self, data: memoryview) -> None:
        """Read a keepalive."""
        lsn, sent_us, wants_status = _KEEPALIVE.unpack(data)
        self._keepalives += 1
        self._asked_s = self._loop.time()
        self._status_wanted |= bool(wants_status)
        # At the start it names positions that we had long ago.
        if lsn >= self._server_lsn:
            self._server_lsn = lsn
            self._idle = lsn, sent_us + _EPOCH_US, len(self._messages)

    def _taken(self) -> StreamPoll:
        lsn = us = None
        if self._idle is not None and self._idle[2] == len(self._messages):
            lsn, us, _ = self._idle
        polled = StreamPoll(
            messages=self._messages,
            size_bytes=self._size_bytes,
            server_lsn=self._server_lsn,
            idle_lsn=lsn,
            idle_us=us,
            notices=self._session.warned(),
        )
        self._messages, self._size_bytes = [], 0
        self._idle, self._keepalives = None, 0
        return polled

    def _ended(self) -> None:
        """Find out why the server sends no more; it has said so already."""
        self._streaming = False
        result = self._pgconn.get_result()
        if result is not None and result.status == ExecStatus.FATAL_ERROR:
            self._failure = refused(Said.of(result), slot=self._slot, streaming=True)
        else:
            self._failure = self._session.broken("the server ended the stream")

    # What the server is told --------------------------------------------------------------------

    def confirm(self, lsn: int) -> None:
        """Tell the server that everything before ``lsn`` is durable here; it may forget it.

        It leaves at once, or within ``STATUS_PAUSE_S``.
        """
        if lsn > self._server_lsn:
            raise ValueError(f"{lsn_text(lsn)} is past all that the server has named")
        if lsn <= self._confirmed:
            return
        self._confirmed = lsn
        due_s = self._status_s + STATUS_PAUSE_S - self._loop.time()
        if due_s <= 0:
            self._tell()
        elif self._streaming and not self._closed:
            self._tell_in(due_s)

    def _tell(self, *, ask: bool = False) -> None:
        """Send where we are. If it cannot leave, whoever reads finds out why."""
        if self._closed or not self._streaming:
            return
        self._status_s = self._loop.time()
        try:
            if self._pgconn.flush() == 0:  # else one has not left yet
                self._pgconn.put_copy_data(self._status(ask=ask))
                self._pgconn.flush()
        except psycopg.Error:
            self._session.wake()
        else:
            self._tell_in(self._status_every_s)

    def _tell_in(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self._tell)

    def _status(self, *, ask: bool) -> bytes:
        then_us, then_s = self._clock
        now_us = then_us + round((self._loop.time() - then_s) * 1_000_000) - _EPOCH_US
        return _STATUS.pack(b"r", self._confirmed, self._confirmed, self._confirmed, now_us, ask)
