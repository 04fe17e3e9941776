"""Connections to a source for questions and DDL: pinned settings, errors as the five families."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import asyncpg

from pitr.adapters.broken import broken_connections
from pitr.adapters.cancelled import cancelled_first
from pitr.domain.errors import Conflict, InvalidRequest, NotFound, PitrError, Unavailable
from pitr.domain.pgoutput.model import SESSION

CONNECTIONS_MAX: Final = 4
"""Connections of one process to one source, besides the stream."""

CONNECT_TIMEOUT_S: Final = 15
ACQUIRE_TIMEOUT_S: Final = 30
COMMAND_TIMEOUT_S: Final = 120
LOCK_TIMEOUT: Final = "800ms"
"""Longest wait for a lock on a table of the app: whoever waits makes others wait.

Less than PostgreSQL's usual ``deadlock_timeout``, so that in a deadlock with the app (a TRUNCATE of
many tables) it is pitr that gives way."""

APPLICATION: Final = "pitr"

PINNED: Final = {
    **{name: value for name, value in SESSION.items() if name != "client_encoding"},
    "application_name": APPLICATION,
    "search_path": "pg_catalog",
    "row_security": "off",
    "standard_conforming_strings": "on",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "lock_timeout": LOCK_TIMEOUT,
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "60s",
}
"""Settings that decide what is read. asyncpg asks for UTF8 by itself; with this search path every
name outside of pg_catalog is printed with its schema."""

_POOLER: Final = "connect to PostgreSQL itself: a pooler such as PgBouncer cannot replicate"
_MAY: Final = "attach as the owner of the tables with REPLICATION, or see the plan's statements"

_STATES: Final[Mapping[str, tuple[type[PitrError], str, str | None]]] = {
    "28": (InvalidRequest, "the source refuses this user", "check user and password of its URL"),
    "3D000": (NotFound, "there is no such database", None),
    "42501": (InvalidRequest, "the role may not do this in the source", _MAY),
    "25006": (InvalidRequest, "the source is read-only", "attach its primary"),
    "42710": (Conflict, "somebody else made it meanwhile", None),
    "42P06": (Conflict, "somebody else made it meanwhile", None),
    "42704": (NotFound, "it is not there, or not any more", None),
    "42P01": (Conflict, "a table was dropped or renamed meanwhile", None),
    "55000": (InvalidRequest, "the source is not set up for this", None),
    "55006": (Conflict, "somebody uses it", None),
    "53400": (InvalidRequest, "a limit of the source is reached", None),
    "08P01": (InvalidRequest, "the source does not take our settings", _POOLER),
    "08": (Unavailable, "the connection to the source broke", None),
    "40": (Unavailable, "the source ended the transaction", None),
    "53": (Unavailable, "the source is out of resources", None),
    "55P03": (Unavailable, "somebody holds a lock that is needed", "try again when it is free"),
    "57": (Unavailable, "the source stopped the statement", None),
    "58": (Unavailable, "the source has trouble with its system", None),
    "XX": (Unavailable, "the source has trouble with itself", None),
}
"""Families by SQLSTATE, by its class where the state itself is not named (PostgreSQL manual,
appendix A); the rest are requests that the source refuses."""


_FAILS: Final = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What comes of a connection that breaks or does not answer."""


@contextmanager
def translated() -> Iterator[None]:
    """Turn what asyncpg and the socket raise into the five families; the only place that does."""
    try:
        with cancelled_first(), broken_connections():
            yield
    except PitrError:
        raise
    except asyncpg.PostgresError as error:
        raise _family(error) from error
    except _FAILS as error:
        reason = str(error) or type(error).__name__
        raise Unavailable("the source does not answer", reason=reason) from error


def _family(error: asyncpg.PostgresError) -> PitrError:
    state = error.sqlstate or ""
    refused = (InvalidRequest, "the source refuses", None)
    family, message, hint = _STATES.get(state) or _STATES.get(state[:2]) or refused
    facts: dict[str, Any] = {"reason": str(error.args[0]) if error.args else type(error).__name__}
    if error.detail:
        facts["detail"] = error.detail
    return family(message, hint=error.hint or hint, **facts, sqlstate=state)


class Pool:
    """A few connections to one source."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @classmethod
    async def open(cls, url: str) -> Pool:
        """Connect.

        Raises:
            Unavailable: It does not answer.
            InvalidRequest: It refuses user or settings, or the URL cannot be used.
            NotFound: There is no such database.
        """
        with translated():
            try:
                pool = await asyncpg.create_pool(
                    url,
                    min_size=1,
                    max_size=CONNECTIONS_MAX,
                    command_timeout=COMMAND_TIMEOUT_S,
                    timeout=CONNECT_TIMEOUT_S,
                    server_settings=PINNED,
                )
            except (asyncpg.ClientConfigurationError, ValueError) as error:
                raise InvalidRequest("the source's URL cannot be used", reason=error) from error
        return cls(pool)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """One connection, for statements that are transactions of their own."""
        with translated():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self, *, one_view: bool = False) -> AsyncIterator[Any]:
        """One transaction; with ``one_view`` it only reads, all with one snapshot."""
        isolation = "repeatable_read" if one_view else "read_committed"
        async with (
            self.connection() as connection,
            connection.transaction(isolation=isolation, readonly=one_view),
        ):
            yield connection

    async def close(self) -> None:
        """Close every connection, waiting for running statements a few seconds.

        One that cannot be closed is ended: why whoever closes it is on the way out counts more.
        """
        try:
            async with asyncio.timeout(5):
                await self._pool.close()
        except (*_FAILS, asyncpg.PostgresError):
            self._pool.terminate()
