"""One connection for one restore: pinned settings, and asyncpg's errors as the five families."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from pitr.adapters.broken import broken_connections
from pitr.domain.errors import Conflict, InvalidRequest, NotFound, PitrError, Unavailable

CONNECT_TIMEOUT_S: Final = 15

PINNED: Final = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "xmloption": "content",
    "array_nulls": "on",
    "standard_conforming_strings": "on",
    "search_path": "pg_catalog, public",
    "row_security": "off",
    "synchronous_commit": "on",
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
"""Settings that a role or database may set otherwise, and that would change what is written, or
whether it is durable. ``client_encoding`` is UTF8, which asyncpg asks for by itself."""

_LINE: Final = re.compile(r"^COPY .+?, line (\d+)(?:, column (.+?))?(?:: .*)?$", re.M)

Where = Callable[[int], Mapping[str, object]]
"""Facts about the n-th line of the COPY under way, from 1."""


async def connect(url: str) -> asyncpg.Connection:
    """Connect; whoever does so terminates the connection."""
    with translated():
        try:
            return await asyncpg.connect(url, timeout=CONNECT_TIMEOUT_S, statement_cache_size=0)
        except ValueError as error:
            raise asyncpg.ClientConfigurationError(str(error)) from error


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect; the connection is closed at the end whatever happened."""
    connection = await connect(url)
    try:
        yield connection
    finally:
        connection.terminate()


_PIN = """
SELECT set_config(name, pinned.value, true)
FROM unnest($1::text[], $2::text[]) AS pinned (name, value) JOIN pg_settings USING (name)
"""


async def pin_settings(connection: asyncpg.Connection, *, lock_timeout_s: float) -> None:
    """Pin the settings of the transaction that is open; older servers lack some of them."""
    pinned = {**PINNED, "lock_timeout": f"{lock_timeout_s}s"}
    await connection.execute(_PIN, list(pinned), list(pinned.values()))


def shown(url: str) -> str:
    """The URL without user, password and options, for reports."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@contextmanager
def translated(where: Where | None = None) -> Iterator[None]:
    """Turn what asyncpg and the socket raise into the five families; the only place that does."""
    try:
        with broken_connections():
            yield
    except PitrError:
        raise
    except asyncpg.PostgresError as error:
        raise _family(error, where) from error
    except asyncpg.ClientConfigurationError as error:
        raise InvalidRequest("the database URL cannot be used", reason=error) from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError) as error:
        reason = str(error) or type(error).__name__
        raise Unavailable("the database does not answer", reason=reason) from error


_STATES: Final[Mapping[str, tuple[type[PitrError], str]]] = {
    "28": (InvalidRequest, "the database refuses this user"),
    "3D000": (NotFound, "there is no such database"),
    "42501": (InvalidRequest, "the role may not do this; restore as the owner of the tables"),
    "23503": (Conflict, "rows refer to rows that are not there"),
    "42P06": (Conflict, "the schema was made by somebody else meanwhile"),
    "42P07": (Conflict, "the table was made by somebody else meanwhile"),
    "22": (InvalidRequest, "a value does not fit its column"),
    "23": (InvalidRequest, "a row breaks a constraint of its table"),
    "54": (InvalidRequest, "a row is past a limit of the database"),
    "08": (Unavailable, "the connection to the database broke"),
    "40": (Unavailable, "the database ended the transaction"),
    "53": (Unavailable, "the database is out of resources"),
    "55P03": (Unavailable, "somebody else holds a lock on a table"),
    "57": (Unavailable, "the database stopped the restore"),
    "58": (Unavailable, "the database has trouble with its system"),
    "XX": (Unavailable, "the database has trouble with itself"),
}
"""Families by SQLSTATE, by its class where the state itself is not named (PostgreSQL manual,
appendix A); the rest are requests that the database refuses."""


def _family(error: asyncpg.PostgresError, where: Where | None) -> PitrError:
    state = error.sqlstate or ""
    refused = (InvalidRequest, "the database refuses")
    family, message = _STATES.get(state) or _STATES.get(state[:2]) or refused
    facts: dict[str, Any] = _facts(error, where)
    return family(message, **facts)


def _facts(error: asyncpg.PostgresError, where: Where | None) -> dict[str, object]:
    """The place first, then what the server says, in its words."""
    facts: dict[str, object] = {}
    line = _LINE.search(getattr(error, "context", None) or "")
    if line and where:
        facts.update(where(int(line[1])))
    column = getattr(error, "column_name", None) or (line[2] if line else None)
    named = {"column": column, "constraint": getattr(error, "constraint_name", None)}
    facts.update({name: value for name, value in named.items() if value})
    facts["reason"] = str(error.args[0]) if error.args else type(error).__name__
    if error.detail:
        facts["detail"] = error.detail
    facts["sqlstate"] = error.sqlstate
    return facts
