"""A connection that broke, told in one way whatever the event loop calls it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

UVLOOP_SAYS: Final = "handler is closed"
"""In the ``RuntimeError`` of uvloop's transports that are written to after they were closed.

asyncpg writes rows of a COPY one after the other without looking, so it gets that far.
"""


@contextmanager
def broken_connections() -> Iterator[None]:
    """Raise ConnectionResetError where uvloop raises RuntimeError; asyncio's loop does by itself.

    Raises:
        ConnectionResetError: The other side is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if UVLOOP_SAYS not in str(error):
            raise
        raise ConnectionResetError(str(error)) from error
