"""Temporary names that tell whether their maker still lives; nothing here is ever listed.

Each process holds a lock file in the staging folder for as long as it runs. The kernel drops the
lock with the process, however it ends, so a staged file is garbage exactly if its lock is free.
This holds between containers that share a volume, where process ids do not.
"""

from __future__ import annotations

import fcntl
import itertools
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Final

STAGING_FOLDER: Final = ".tmp"

_LOCK_SUFFIX: Final = ".lock"


class Staging:
    """Temporary names in ``folder``, each ``<owner>.<number>``; the lock is ``<owner>.lock``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._owner: str | None = None
        self._lock_file: IO[bytes] | None = None
        self._owner_lock = threading.Lock()
        self._numbers = itertools.count(1)

    @contextmanager
    def name(self) -> Iterator[str]:
        """Lend a name that no other process uses; the file is removed if it is still there."""
        name = f"{self._own()}.{next(self._numbers)}"
        try:
            yield name
        finally:
            (self._folder / name).unlink(missing_ok=True)

    def clean(self) -> int:
        """Remove the files of owners that are gone; return how many."""
        if not self._folder.is_dir():
            return 0
        # Listed before the locks are tried: a file made later belongs to someone who lives.
        staged: dict[str, list[Path]] = {}
        for path in sorted(self._folder.iterdir(), key=_lock_last):
            staged.setdefault(path.name.partition(".")[0], []).append(path)
        return sum(self._cleaned(owner, paths) for owner, paths in staged.items())

    def _cleaned(self, owner: str, paths: list[Path]) -> int:
        """Remove ``paths`` if their owner is gone; its lock is held meanwhile, and goes last."""
        lock = self._folder / f"{owner}{_LOCK_SUFFIX}"
        with ExitStack() as held:
            try:
                file = held.enter_context(lock.open("r+b"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except FileNotFoundError:
                pass
            except BlockingIOError:
                return 0
            for path in paths:
                path.unlink(missing_ok=True)
        return sum(1 for path in paths if path != lock)

    def _own(self) -> str:
        with self._owner_lock:
            while self._owner is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                file = tempfile.NamedTemporaryFile(  # noqa: SIM115 (held as long as this lives)
                    dir=self._folder, prefix="", suffix=_LOCK_SUFFIX, delete=False
                )
                fcntl.flock(file, fcntl.LOCK_EX)
                # A cleaner may have taken the file for a dead owner's before it was locked.
                if Path(file.name).exists():
                    self._lock_file = file
                    self._owner = Path(file.name).name.removesuffix(_LOCK_SUFFIX)
            return self._owner


def _lock_last(path: Path) -> tuple[str, bool, str]:
    return (path.name.partition(".")[0], path.name.endswith(_LOCK_SUFFIX), path.name)
