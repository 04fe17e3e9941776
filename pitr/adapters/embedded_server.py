"""Starting and stopping the server process of the embedded PostgreSQL; blocking, run in a thread.

It trusts locks, never process ids: a server and all its children inherit ``server.lock``, so the
lock is free exactly when no process of the server is left, whoever was killed and however.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pitr.adapters.embedded_account import Account, grant_reading
from pitr.adapters.embedded_files import (
    PORT,
    SOCKET_NAME,
    Layout,
    make_private,
    program,
    program_tree,
)
from pitr.adapters.file_lock import FileLock
from pitr.domain.errors import Conflict, Unavailable

SUPERUSER = "postgres"
INIT_TIMEOUT_S = 120
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 60
ANSWER_TIMEOUT_S = 10
POLL_S = 0.02

# Nothing of pitr's own environment, which may hold secrets or PG* variables.
ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath, "TZ": "UTC"}


@dataclass(frozen=True, slots=True)
class Server:
    """The server of a folder, for the one who holds start.lock; every method blocks."""

    layout: Layout
    account: Account

    def up(self) -> Path:
        """Return the socket folder of a server that answers, after starting it if none runs."""
        end_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end_s:
            with FileLock(self.layout.server_lock) as lock:
                if lock.try_exclusive():
                    return self._started(lock)
            # Somebody's server runs, comes up, recovers or goes down: look again.
            sockets = self._answering()
            if sockets is not None:
                return sockets
            time.sleep(POLL_S)
        raise Unavailable(
            "the embedded PostgreSQL runs but does not answer",
            hint="it may still be recovering from a crash; try again",
            log=self.layout.log_tail(),
        )

    def down(self) -> None:
        """Stop the server and wait until none of its processes is left."""
        postmaster = self._postmaster()
        if postmaster is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                postmaster.send_signal(signal.SIGINT)  # "fast": ends sessions, loses nothing
        with FileLock(self.layout.server_lock) as lock:
            if not lock.exclusive_within(STOP_TIMEOUT_S):
                raise Unavailable(
                    "the embedded PostgreSQL did not stop", log=self.layout.log_tail()
                )

    def _started(self, lock: FileLock) -> Path:
        # With the lock in hand no process of this server is left, so what a killed one left behind
        # is stale, whoever has its process id today. Only a server started by hand can be there.
        stranger = self._postmaster()
        if stranger is not None:
            raise Conflict(
                "a server that was started by hand uses the data folder",
                hint=f"stop it: pg_ctl stop -D {self.layout.data}",
                pid=stranger.pid,
            )
        grant_reading(program_tree(), self.account)
        if self.layout.data.exists():
            self.account.own_tree(self.layout.data)
        else:
            self._initialize(lock)
        self.layout.refuse_other_major()
        sockets = self.layout.sockets(self.account)
        stale = (self.layout.data / "postmaster.pid", sockets / f"{SOCKET_NAME}.lock")
        for path in stale:
            path.unlink(missing_ok=True)
        self.layout.write_settings(sockets, self.account)
        self._launch(lock)
        return sockets

    def _initialize(self, lock: FileLock) -> None:
        shutil.rmtree(self.layout.unfinished, ignore_errors=True)
        make_private(self.layout.unfinished, self.account)
        arguments = ["-D", self.layout.unfinished.name, "-U", SUPERUSER, "-E", "UTF8"]
        arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        arguments += ["--auth=peer", "--data-checksums", "--no-instructions"]
        self._run("initdb", arguments, lock, timeout_s=INIT_TIMEOUT_S)
        self.layout.unfinished.rename(self.layout.data)
        _fsync_folder(self.layout.folder)

    def _launch(self, lock: FileLock) -> None:
        # Names relative to the working folder, because pg_ctl hands them to a shell.
        self.layout.start_log.unlink(missing_ok=True)
        start_log = self.layout.start_log.relative_to(self.layout.folder)
        arguments = ["start", "-D", self.layout.data.name, "-l", str(start_log)]
        arguments += ["--silent", "--wait", "--timeout", str(START_TIMEOUT_S)]
        self._run("pg_ctl", arguments, lock, timeout_s=START_TIMEOUT_S + ANSWER_TIMEOUT_S)

    def _run(
        self, name: str, arguments: Sequence[str], lock: FileLock, *, timeout_s: float
    ) -> None:
        """Run a program as the server's account, away from the terminal, with the lock inherited.

        pg_ctl leaves the server behind, and the server keeps the lock until its last process ends.
        """
        borrowed = self.account.borrowed
        try:
            done = subprocess.run(
                [program(name), *arguments],
                cwd=self.layout.folder,
                env=ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(lock.descriptor,),
                start_new_session=True,
                umask=0o077,
                user=self.account.uid if borrowed else None,
                group=self.account.gid if borrowed else None,
                extra_groups=() if borrowed else None,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise self._failed(name, f"no end after {timeout_s:.0f} s") from error
        if done.returncode != 0:
            lines = done.stdout.decode("utf-8", "replace").splitlines()[-5:]
            raise self._failed(name, " | ".join(line.strip() for line in lines))

    def _failed(self, name: str, said: str) -> Unavailable:
        return Unavailable(
            f"{name} of the embedded PostgreSQL failed", said=said, log=self.layout.log_tail()
        )

    def _answering(self) -> Path | None:
        lines = self._pid_lines()
        if len(lines) < 5 or not lines[4]:
            return None
        asking = [str(program("pg_isready")), "-q", "-t", "2", "-h", lines[4], "-p", str(PORT)]
        answer = subprocess.run(asking, check=False, env=ENVIRONMENT, timeout=ANSWER_TIMEOUT_S)
        return Path(lines[4]) if answer.returncode == 0 else None

    def _postmaster(self) -> psutil.Process | None:
        """Return the process that postmaster.pid names, if it is a server in this data folder.

        A process id alone proves nothing: after a crash it may be anybody's. A server works in its
        data folder and runs as the owner of it, so one that cannot be looked into is another.
        """
        lines = self._pid_lines()
        if not lines or not lines[0].isdigit():
            return None
        try:
            process = psutil.Process(int(lines[0]))
            ours = process.name().startswith("postgres")
            return process if ours and Path(process.cwd()).samefile(self.layout.data) else None
        except (psutil.Error, FileNotFoundError):
            return None

    def _pid_lines(self) -> list[str]:
        """Return the lines of postmaster.pid; the fifth is the socket folder."""
        try:
            text = (self.layout.data / "postmaster.pid").read_text("utf-8")
        except FileNotFoundError:
            return []
        return [line.strip() for line in text.splitlines()]


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
