"""PostgreSQL servers to capture from: 18 of the wheel, what Debian installed or Maven fetches.

A server is a process of its own on a port that it keeps when it is stopped and started again, and
ends with the process that started it. Its data folder is a copy of one that was initialized once.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import psutil
import psycopg
from psycopg import sql

from pitr.adapters.embedded_account import Account, grant_reading, server_account
from pitr.adapters.embedded_files import program_tree
from tests.kafka.brokers import free_port
from tests.postgres import fetched

HOST = "127.0.0.1"
SUPERUSER = "postgres"
LOCKED_OUT = "locked_out"
"""A role of that name needs a password over TCP; everybody else is trusted."""

EXTERNAL = "PITR_TEST_SOURCE_URL"
WHEEL = "18"
OLD = "15"
DEBIAN = Path("/usr/lib/postgresql")

READY_S = 60.0
STOP_S = 20.0
INIT_S = 120.0

SETTINGS = {
    "wal_level": "logical",
    "max_replication_slots": "20",
    "max_wal_senders": "20",
    "max_connections": "50",
    "shared_buffers": "32MB",
    # A test kills processes, it cuts no power.
    "fsync": "off",
    "full_page_writes": "off",
    "log_min_messages": "warning",
    "log_timezone": "UTC",
}

HBA = f"""\
local all all trust
host all {LOCKED_OUT} all scram-sha-256
host all all {HOST}/32 trust
"""

ENVIRONMENT = {"LC_ALL": "C", "PATH": os.defpath, "TZ": "UTC"}


# What a test is handed --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Source:
    """A server that answers. The methods block: ``await asyncio.to_thread(source.restart)``."""

    name: str
    major: int
    base_url: str
    server: Server | None = field(default=None, repr=False, compare=False)
    """Its process, if it is ours."""

    @property
    def ours(self) -> bool:
        """Whether it may be stopped and killed."""
        return self.server is not None

    def url(self, database: str = SUPERUSER, *, user: str | None = None, unix: bool = False) -> str:
        """A URL of one of its databases: over TCP, or over its socket in the file system."""
        if unix:
            server = self._server()
            place = f"host={quote(str(server.sockets), safe='')}&port={server.port}"
            return f"postgresql://{user or SUPERUSER}@/{quote(database)}?{place}"
        parts = urlsplit(self.base_url)
        place = parts.netloc
        if user is not None:
            place = f"{quote(user)}@{place.rpartition('@')[2]}"
        return urlunsplit(parts._replace(netloc=place, path=f"/{quote(database)}"))

    def start(self, **settings: str) -> None:
        """Start it on the same port and folder; these settings last until it is stopped."""
        self._server().start(**settings)

    def stop(self) -> None:
        """Stop it as its operator does ("fast"); it waits for whoever streams from it."""
        self._server().stop()

    def kill(self) -> None:
        """End all its processes as a power cut does."""
        self._server().kill()

    def restart(self, **settings: str) -> None:
        """Stop it at once and start it, so that it recovers as after a crash."""
        self._server().kill()
        self._server().start(**settings)

    def heal(self) -> None:
        """Undo whatever a test did: it runs with its usual settings, if it is ours."""
        if self.server is not None:
            if self.server.altered:
                self.server.kill()
            self.server.start()

    def make_database(self, name: str) -> str:
        """Make a database and return its URL."""
        execute(self.url(), sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database with its slots, whoever uses them."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            end_s = time.monotonic() + STOP_S
            while slots := connection.execute(_SLOTS, [name]).fetchall():
                for slot, pid in slots:
                    _drop_slot(connection, slot, pid)
                if time.monotonic() > end_s:
                    raise RuntimeError(f"the slots of {name} are still in use: {slots}")
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            connection.execute(drop.format(sql.Identifier(name)))

    def _server(self) -> Server:
        if self.server is None:
            raise RuntimeError(f"{self.name} is not ours to stop or start")
        return self.server


_SLOTS = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s"


def _drop_slot(connection: psycopg.Connection[Any], slot: str, pid: int | None) -> None:
    if pid is not None:
        connection.execute("SELECT pg_terminate_backend(%s)", [pid])
        time.sleep(0.02)
    # Gone, or taken, since we looked: the caller looks again.
    with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
        connection.execute("SELECT pg_drop_replication_slot(%s)", [slot])


class Server:
    """The processes of a server: they can be started as often as they were stopped."""

    def __init__(self, programs: Path, *, folder: Path, account: Account) -> None:
        self.programs = programs
        self.data = folder / "data"
        self.sockets = folder
        self.log = folder / "server.log"
        self.port = free_port()
        self.altered = False
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None
        self._watch: subprocess.Popen[bytes] | None = None
        self._lock = threading.RLock()

    @property
    def pid(self) -> int | None:
        """None while it is down."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process is not None and running else None

    def start(self, **settings: str) -> None:
        """Start it and wait until it answers; nothing if it runs."""
        with self._lock:
            if self.pid is not None:
                return
            self._ended()
            self.altered = bool(settings)
            place = {
                "port": str(self.port),
                "listen_addresses": HOST,
                "unix_socket_directories": str(self.sockets),
            }
            given = {**SETTINGS, **place, **settings}
            options = [f"--{name}={value}" for name, value in given.items()]
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [self.programs / "postgres", "-D", self.data, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self.data,
                    env=ENVIRONMENT,
                    start_new_session=True,
                    **_as(self._account),
                )
            # This pipe is closed when we are gone, however that came, and the server goes too.
            self._watch = subprocess.Popen(
                ["/bin/sh", "-c", 'read -r _; kill -QUIT "$1"', "sh", str(self._process.pid)],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
            self._await_ready()

    def stop(self) -> None:
        """SIGINT ("fast"), and SIGKILL if that takes too long; nothing if it is down."""
        with self._lock:
            if self._process is not None and self.pid is not None:
                self._process.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_S)
            self.kill()

    def kill(self) -> None:
        """SIGKILL for every process of it; nothing if it is down."""
        with self._lock:
            if self._process is not None and self.pid is not None:
                postmaster = psutil.Process(self._process.pid)
                postmaster.suspend()  # it starts no more of them
                family = [*postmaster.children(recursive=True), postmaster]
                for process in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                self._process.wait()
                end_s = time.monotonic() + STOP_S
                while any(map(_lives, family)) and time.monotonic() < end_s:
                    time.sleep(0.005)
            self._ended()

    def _ended(self) -> None:
        """Nobody may end a pid that has become another's."""
        if self._watch is not None and self._watch.stdin is not None:
            self._watch.kill()
            self._watch.wait()
            self._watch.stdin.close()
        self._process = self._watch = None

    def _await_ready(self) -> None:
        end_s = time.monotonic() + READY_S
        asking = [program_tree() / "bin/pg_isready", "-q", "-U", SUPERUSER, "-d", SUPERUSER]
        asking += ["-h", self.sockets, "-p", str(self.port)]
        while self.pid is not None and time.monotonic() < end_s:
            if subprocess.run(asking, env=ENVIRONMENT).returncode == 0:
                return
            time.sleep(0.02)
        reason = "is not ready" if self.pid is not None else "ended at once"
        self.kill()
        tail = self.log.read_text(errors="replace")[-4_000:]
        raise RuntimeError(f"the server {reason}: {self.programs}\n{tail}")


def _lives(process: psutil.Process) -> bool:
    """False for a zombie, too, which only waits for init to notice."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


# Which there are --------------------------------------------------------------------------------


@functools.cache
def installed() -> dict[str, Path]:
    """The folders of programs by major version, newest first; the wheel's 18 is always there."""
    found = {
        path.parent.parent.name: path.parent
        for path in DEBIAN.glob("*/bin/postgres")
        if path.parent.parent.name.isdigit()
    }
    found[WHEEL] = program_tree() / "bin"
    return {name: found[name] for name in sorted(found, key=int, reverse=True)}


def names(*, every: bool = True) -> list[str]:
    """What tests run on, present or missed: 18 and 15, what else there is, the one named.

    Args:
        every: Those that are fetched, too.
    """
    fetch = fetched.MAJORS if every else ()
    known = sorted({WHEEL, OLD, *installed(), *fetch}, key=int, reverse=True)
    # Nobody misses an external server that was not named.
    return [*known, *(["external"] if os.environ.get(EXTERNAL) else [])]


def absent(name: str) -> str | None:
    """Why the server of that name cannot be had; None if it can. Starts nothing."""
    if name == "external":
        return None if os.environ.get(EXTERNAL) else f"{EXTERNAL} names no server"
    if name in installed():
        return None
    return fetched.absent() if name in fetched.MAJORS else f"no {DEBIAN / name / 'bin/postgres'}"


def _programs(name: str) -> Path:
    return installed()[name] if name in installed() else fetched.programs(name)


def describe() -> list[str]:
    """A line for each server: what the tests will use, or why they will not."""
    lines = []
    for name in dict.fromkeys([*names(), "external"]):
        reason = absent(name)
        if reason is not None:
            lines.append(f"postgres {name}: NO, {reason}")
        elif name == "external":
            place = urlsplit(os.environ[EXTERNAL]).netloc.rpartition("@")[2]
            lines.append(f"postgres external: at {place}")
        elif name in installed():
            lines.append(f"postgres {name}: {_version(installed()[name])}, {installed()[name]}")
        else:
            lines.append(f"postgres {name}: fetched by Maven")
    return lines


def _version(programs: Path) -> str:
    told = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True)
    found = re.search(r"\d+[.\w]*", told.stdout)
    return found[0] if found else "of unknown version"


# How they are started ---------------------------------------------------------------------------


@contextlib.contextmanager
def running(name: str, *, fresh: bool = False, **settings: str) -> Iterator[Source]:
    """The server of that name, with these settings until it is stopped.

    Two servers are copies of one cluster, with one system identifier, unless one is ``fresh``.
    """
    if name == "external":
        url = os.environ[EXTERNAL]
        with psycopg.connect(url) as connection:
            major = connection.info.server_version // 10_000
        yield Source(name=name, major=major, base_url=url)
        return
    programs = _programs(name)
    with _folder(_account_of(programs)) as (folder, account):
        if fresh:
            _initialize(programs, folder / "data", account)
        else:
            _copy(template(programs), folder / "data")
        server = Server(programs, folder=folder, account=account)
        try:
            server.start(**settings)
            url = f"postgresql://{SUPERUSER}@{HOST}:{server.port}/{SUPERUSER}"
            yield Source(name=name, major=int(name), base_url=url, server=server)
        finally:
            server.kill()


@functools.cache
def template(programs: Path) -> Path:
    """A data folder to copy; it is made once in a process, and removed with it."""
    account = _account_of(programs)
    kept = contextlib.ExitStack()
    atexit.register(kept.close)
    folder, _ = kept.enter_context(_folder(account))
    _initialize(programs, folder / "data", account)
    return folder / "data"


def _account_of(programs: Path) -> Account:
    account = server_account(Path("/nonexistent"))
    if programs.is_relative_to(program_tree()):
        grant_reading(program_tree(), account)
    elif not programs.is_relative_to(DEBIAN):
        grant_reading(programs.parent, account)
    return account


@contextlib.contextmanager
def _folder(account: Account) -> Iterator[tuple[Path, Account]]:
    """A folder that the account owns, with a path short enough for a socket in it."""
    folder = Path(tempfile.mkdtemp(prefix="pitr-src-", dir="/tmp"))
    account.own(folder)
    try:
        yield folder, account
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _initialize(programs: Path, data: Path, account: Account) -> None:
    arguments = ["-D", data, "-U", SUPERUSER, "-E", "UTF8", "--locale=C", "--auth=trust"]
    done = subprocess.run(
        [programs / "initdb", *arguments, "--no-sync", "--no-instructions"],
        cwd=data.parent,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=INIT_S,
        **_as(account),
    )
    if done.returncode != 0:
        raise RuntimeError(f"initdb failed: {done.stdout.decode(errors='replace')[-4_000:]}")
    (data / "pg_hba.conf").write_text(HBA)


def _copy(template: Path, data: Path) -> None:
    subprocess.run(["cp", "-a", template, data], check=True)


def _as(account: Account) -> dict[str, Any]:
    """How to start a program as the account, with nobody else reading its files."""
    if not account.borrowed:
        return {"umask": 0o077}
    return {"umask": 0o077, "user": account.uid, "group": account.gid, "extra_groups": ()}


# Short ways to a database -----------------------------------------------------------------------


def execute(url: str, *statements: str | sql.Composable) -> None:
    """Run statements, each in a transaction of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


def fetch(url: str, query: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(query, values).fetchall()
