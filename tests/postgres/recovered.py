"""A source as PostgreSQL itself rebuilds it: a base backup and the WAL up to a chosen commit."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pitr.adapters.embedded_account import Account, server_account
from tests.postgres import servers
from tests.postgres.servers import ENVIRONMENT, HOST, SUPERUSER, Server, Source

REPLAY_S = 60.0
KEEP_WAL = {"wal_keep_size": "16GB"}
"""A source with this setting still has all WAL since its backup when it is replayed."""


@dataclass(frozen=True)
class Recovered:
    """A copy of ``source`` as it was at one commit or another, later ones after earlier ones."""

    source: Server
    server: Server

    def url(self, database: str) -> str:
        return f"postgresql://{SUPERUSER}@{HOST}:{self.server.port}/{database}"

    def go_to(self, lsn: str) -> None:
        """Replay up to and with the commit record at ``lsn``, and stand still there."""
        self.server.kill()  # asked to stop, one that stands still takes a second to hear it
        self.server.start(
            hot_standby="on",
            restore_command=f'cp "{self.source.data}/pg_wal/%f" "%p"',
            recovery_target_lsn=lsn,
            recovery_target_inclusive="on",
            recovery_target_action="pause",
        )
        url = self.url(SUPERUSER)
        end_s = time.monotonic() + REPLAY_S
        while servers.fetch(url, "SELECT pg_get_wal_replay_pause_state()") != [("paused",)]:
            assert time.monotonic() < end_s, f"not at {lsn}: {self.server.log.read_text()[-4_000:]}"
            time.sleep(0.01)
        # It stands right behind that record, which is a few hundred bytes long.
        ((ahead,),) = servers.fetch(url, "SELECT pg_last_wal_replay_lsn() - %s::pg_lsn", [lsn])
        assert 0 < ahead < 16 * 1024, (lsn, ahead)


@contextlib.contextmanager
def backup_of(source: Source) -> Iterator[Recovered]:
    """Take a base backup of a server at work, for as long as the block; it needs ``KEEP_WAL``."""
    assert source.server is not None, "it is ours"
    account = server_account(Path("/nonexistent"))
    with tempfile.TemporaryDirectory(prefix="pitr-rec-", dir="/tmp") as name:
        folder = Path(name)
        account.own(folder)
        let_replicate(source)
        base_backup(source, folder / "data", account)
        (folder / "data" / "recovery.signal").touch()
        server = Server(source.server.programs, folder=folder, account=account)
        try:
            yield Recovered(source.server, server)
        finally:
            server.kill()


def let_replicate(source: Source) -> None:
    """Let base backups be taken; that is a right of its own in pg_hba.conf."""
    assert source.server is not None, "it is ours"
    with (source.server.data / "pg_hba.conf").open("a") as file:
        file.write(f"host replication {SUPERUSER} {HOST}/32 trust\n")
    servers.execute(source.url(), "SELECT pg_reload_conf()")


def base_backup(source: Source, data: Path, account: Account) -> None:
    assert source.server is not None, "it is ours"
    end_s = time.monotonic() + REPLAY_S
    while True:  # the settings take a moment to be read again
        done = subprocess.run(
            [
                *(source.server.programs / "pg_basebackup", "-D", data, "-d", source.url()),
                *("-c", "fast", "-X", "none", "--no-sync", "--no-manifest"),
            ],
            env=ENVIRONMENT,
            cwd=data.parent,
            capture_output=True,
            text=True,
            **servers._as(account),
        )
        if done.returncode == 0:
            return
        assert "no pg_hba.conf entry" in done.stderr and time.monotonic() < end_s, done.stderr
