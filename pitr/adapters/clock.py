"""The real clock and real ids; everything else is handed them."""

from __future__ import annotations

import time
import uuid


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        """Return the present, µs since 1970-01-01 UTC."""
        return time.time_ns() // 1_000


def new_uid() -> str:
    """Return a fresh random id, 32 hex digits."""
    return uuid.uuid4().hex
