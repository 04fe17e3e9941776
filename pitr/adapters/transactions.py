"""Transactions of asyncpg whose rollback ends, also after a COPY that was cut off.

asyncpg 0.32 asks the server to cancel a COPY when its output or its source raises, and the next
command waits until the server is ready for one. If the server had said so already, with the last
piece or with an error of its own, it will not say so again: that wait has no end
(``protocol.pyx``: ``copy_out``, ``copy_in``, ``_request_cancel``). To cancel the task from the
output instead is no way out: the next piece may come before asyncpg sees the cancellation, and the
connection is of no use then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

ROLLBACK_S: Final = 10.0
"""Longest wait for a rollback. What a COPY left in the sockets is read in that time, too."""


@asynccontextmanager
async def transaction(connection: asyncpg.Connection, **options: Any) -> AsyncIterator[None]:
    """A transaction like ``connection.transaction``, whose rollback takes ``ROLLBACK_S`` at most.

    The error of the body comes out; the connection may be ended by then.
    """
    begun = connection.transaction(**options)
    await begun.start()
    try:
        yield
    except BaseException:
        await roll_back(connection, begun)
        raise
    await begun.commit()


async def roll_back(connection: asyncpg.Connection, begun: Any) -> None:
    """Roll a transaction back; if that is not answered, end the connection, which does it too."""
    try:
        async with asyncio.timeout(ROLLBACK_S):
            await begun.rollback()
    except TimeoutError:
        connection.terminate()
