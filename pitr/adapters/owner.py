"""Names of those who own lanes, which tell whether their process still lives."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path
from typing import Final

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_PIDS: Final = Path("/proc/self/ns/pid")
_DEAD: Final = ("Z", "X", "x")


def new_owner(uid: str) -> str:
    """Name an owner in this process: ``host/pid/place-started-uid``.

    ``place`` stands for what a pid means something in: one boot of one kernel, and there one
    namespace of pids, as each container has its own (Linux, pid_namespaces(7)). ``started`` tells
    a process from a later one with its pid. Where the system tells neither they are ``0``.
    """
    pid = os.getpid()
    return f"{socket.gethostname()}/{pid}/{_place() or 0}-{_started(pid) or 0}-{uid[:8]}"


def is_gone(owner: str) -> bool:
    """Tell whether the process of an owner has certainly ended; False where that is not known."""
    try:
        _, pid_text, made = owner.rsplit("/", 2)
        place, started, _ = made.split("-")
        pid = int(pid_text)
    except ValueError:  # named by something else
        return False
    if place != _place() or started in ("", "0") or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:  # it is somebody else's: it lives
        pass
    now = _started(pid)
    return now is not None and now != started


def _place() -> str | None:
    try:
        text = f"{_BOOT_ID.read_text()} {_PIDS.readlink()}"
    except OSError:
        return None
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _started(pid: int) -> str | None:
    """When a process began, in clock ticks since boot, ``dead`` if it only waits to be buried.

    None where it cannot be told. Source: proc(5), ``/proc/pid/stat``, fields 3 and 22.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "dead" if fields[0] in _DEAD else fields[19]
