"""A lock on a file that the kernel frees when its holder dies, however it dies (flock(2))."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

POLL_S = 0.02


class FileLock:
    """One holder's handle on a lock file; nothing is held until a ``try_`` method says so.

    The lock belongs to the open file, not to the process: a child that inherits ``descriptor``
    holds it too, and it is free only when every copy is closed.
    """

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def try_shared(self) -> bool:
        """Take the lock beside other sharers; False when somebody has it exclusively."""
        return self._try(fcntl.LOCK_SH)

    def try_exclusive(self) -> bool:
        """Take the lock alone; False when anybody else has it.

        A share held before is given up in either case: flock cannot upgrade in one step.
        """
        return self._try(fcntl.LOCK_EX)

    def exclusive_within(self, wait_s: float) -> bool:
        """Take the lock alone, waiting at most ``wait_s``; False when the time is up. Blocking."""
        end_s = time.monotonic() + wait_s
        while not self.try_exclusive():
            if time.monotonic() > end_s:
                return False
            time.sleep(POLL_S)
        return True

    def close(self) -> None:
        """Let go; a second time does nothing."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            os.close(descriptor)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def _try(self, kind: int) -> bool:
        try:
            fcntl.flock(self.descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
