"""Which system account the embedded PostgreSQL runs as, and how that account reaches its files.

PostgreSQL refuses to run as root. An ordinary user runs it as itself and nothing here has an
effect; root runs it as somebody without privileges and opens exactly the way to the files.
"""

from __future__ import annotations

import logging
import os
import pwd
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pitr.domain.errors import InvalidRequest

UNPRIVILEGED = ("pitr", "postgres", "nobody")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """The system account of the server; ``borrowed`` when it is not the one pitr runs as."""

    name: str
    uid: int
    gid: int
    borrowed: bool

    def own(self, place: Path) -> None:
        """Give a file or folder to the account; links are not followed."""
        if self.borrowed:
            os.chown(place, self.uid, self.gid, follow_symlinks=False)

    def own_tree(self, folder: Path) -> None:
        """Give a folder with all that is in it to the account, unless it has it already."""
        if self.borrowed and folder.stat().st_uid != self.uid:
            for place in (*folder.rglob("*"), folder):
                self.own(place)


def server_account(data: Path) -> Account:
    """Return the account for the server whose data folder is, or will be, ``data``.

    Root takes the owner of the data, so that pitr run by root and by that owner share one server;
    for new data, the first of ``UNPRIVILEGED`` that exists.

    Raises:
        InvalidRequest: There is no account PostgreSQL would run as.
    """
    if os.geteuid() != 0:
        entry = _by_uid(os.geteuid())
        if entry is None:
            raise InvalidRequest(
                "PostgreSQL runs only as a named system account",
                hint="add the user to /etc/passwd, or use a PostgreSQL service: PITR_CATALOG_URL",
                uid=os.geteuid(),
            )
        return _account(entry, borrowed=False)
    owner_uid = data.stat().st_uid if data.exists() else 0
    owner = _by_uid(owner_uid) if owner_uid else None
    for entry in (owner, *map(_by_name, UNPRIVILEGED)):
        if entry is not None:
            return _account(entry, borrowed=True)
    raise InvalidRequest(
        "PostgreSQL does not run as root, and there is no other account for it",
        hint="run pitr as an ordinary user, or create the system account: useradd --system pitr",
    )


def grant_traversal(folder: Path, account: Account) -> None:
    """Let the account pass through ``folder`` and all above it, without being able to list them.

    Raises:
        InvalidRequest: The way is closed and cannot be opened.
    """
    if not account.borrowed:
        return
    for place in (folder, *folder.parents):
        status = place.stat()
        missing = _access_bits(status, account, execute=True) & ~status.st_mode
        if missing:
            _add_mode(place, missing)
            log.warning("let %s pass through %s (chmod o+x)", account.name, place)


def grant_reading(tree: Path, account: Account) -> None:
    """Let the account read and run the files of ``tree``: programs that hold no secret.

    Raises:
        InvalidRequest: They cannot be opened for it.
    """
    if not account.borrowed:
        return
    grant_traversal(tree.parent, account)
    if _closed((tree, tree / "bin", tree / "bin" / "postgres"), account):
        log.warning("let %s read the programs in %s (chmod -R o+rX)", account.name, tree)
        for place in (tree, *tree.rglob("*")):
            status = place.stat()
            runs = place.is_dir() or bool(status.st_mode & stat.S_IXUSR)
            _add_mode(place, _access_bits(status, account, execute=runs, read=True))


def _account(entry: pwd.struct_passwd, *, borrowed: bool) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, borrowed)


def _by_uid(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def _by_name(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _closed(places: Iterable[Path], account: Account) -> bool:
    statuses = [place.stat() for place in places]
    return any(
        _access_bits(status, account, execute=True, read=True) & ~status.st_mode
        for status in statuses
    )


def _access_bits(
    status: os.stat_result, account: Account, *, execute: bool, read: bool = False
) -> int:
    bits = (stat.S_IXOTH if execute else 0) | (stat.S_IROTH if read else 0)
    if status.st_uid == account.uid:
        return bits << 6
    return bits << 3 if status.st_gid == account.gid else bits


def _add_mode(place: Path, bits: int) -> None:
    try:
        place.chmod(stat.S_IMODE(place.stat().st_mode) | bits)
    except OSError as error:
        raise InvalidRequest(
            "the account of the embedded PostgreSQL cannot reach its files",
            hint="choose a folder it can reach, or run pitr as an ordinary user",
            path=place,
        ) from error
