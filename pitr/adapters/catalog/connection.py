"""The catalog's pool of connections, and the one place that translates asyncpg's errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import asyncpg
import orjson

from pitr.adapters.broken import broken_connections
from pitr.adapters.cancelled import cancelled_first
from pitr.domain.errors import Conflict, InvalidRequest, Unavailable

CONNECTIONS_MAX = 8
"""Connections of one process to the catalog."""

ACQUIRE_TIMEOUT_S = 30.0
"""Longest wait for a free connection."""

COMMAND_TIMEOUT_S = 120.0
"""Longest wait for one statement."""

TIMEOUTS = {"idle_in_transaction_session_timeout": "15s", "tcp_user_timeout": "15s"}
"""A process that stands still in the middle of an append holds the log's lock; not for long."""

_UNAVAILABLE = (
    asyncpg.InternalClientError,  # what a connection that died in the middle may say
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InsufficientResourcesError,
    asyncpg.QueryCanceledError,
    asyncpg.InterfaceError,
    OSError,
    asyncio.TimeoutError,
)

_REFUSED = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


@contextmanager
def translated() -> Iterator[None]:
    """Turn what asyncpg raises into pitr's families; anything else is a bug and stays itself."""
    try:
        with cancelled_first(), broken_connections():
            yield
    except (asyncpg.SerializationError, asyncpg.DeadlockDetectedError) as error:
        raise Conflict("another writer of the catalog won", cause=error) from error
    except _REFUSED as error:
        raise InvalidRequest(
            "the catalog refuses the connection", hint="check PITR_CATALOG_URL", cause=error
        ) from error
    except asyncpg.DataError as error:
        raise InvalidRequest("the catalog cannot hold a value", cause=error) from error
    except _UNAVAILABLE as error:
        raise Unavailable(
            "the catalog does not answer", cause=f"{type(error).__name__}: {error}"
        ) from error


async def _prepare(connection: Any) -> None:
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=lambda value: orjson.dumps(value).decode(),
        decoder=orjson.loads,
    )


async def _leave(connection: Any) -> None:
    """Release a connection as it is: no statement of the catalog changes its session.

    asyncpg's own reset is a round trip after every use; it has rolled back by now what was open.
    """


class Connected:
    """A catalog with a pool; the parts of the catalog are mixed into it."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        with translated():
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                yield connection

    @asynccontextmanager
    async def _transaction(self, *, read_only: bool = False) -> AsyncIterator[Any]:
        """One transaction: read committed to write, one frozen view to read."""
        isolation = "repeatable_read" if read_only else "read_committed"
        async with (
            self._connection() as connection,
            connection.transaction(isolation=isolation, readonly=read_only),
        ):
            yield connection

    async def close(self) -> None:
        """Close every connection, waiting for running statements a few seconds.

        One that cannot be closed is ended: why whoever closes it is on the way out counts more.
        """
        try:
            async with asyncio.timeout(5):
                await self._pool.close()
        except (*_UNAVAILABLE, asyncpg.PostgresError):
            self._pool.terminate()


async def open_pool(url: str) -> Any:
    """Connect to the catalog's database.

    Raises:
        Unavailable: It does not answer.
        InvalidRequest: It refuses user, password or database.
    """
    with translated():
        return await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=CONNECTIONS_MAX,
            command_timeout=COMMAND_TIMEOUT_S,
            timeout=20,
            init=_prepare,
            reset=_leave,
            server_settings={
                "application_name": "pitr",
                "timezone": "UTC",
                "jit": "off",
                **TIMEOUTS,
            },
        )
