"""The object store on a directory: obstore writes and lists, this module makes a put durable.

obstore's directory store neither syncs files nor folders, so each put stages, syncs and links by
itself. Objects are never opened for writing after that; reads check their digest first.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, InvalidPathError
from obstore.store import LocalStore

from pitr.adapters.staging import STAGING_FOLDER, Staging
from pitr.domain.errors import Conflict, DataLoss, InvalidRequest, NotFound, PitrError, Unavailable
from pitr.domain.manifest import ObjectRef

VERIFIED_FILES_MAX: Final = 65_536
"""Checked files that are remembered; the one checked longest ago is forgotten first."""

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]|#[0-9]+$")
_Listing = list[tuple[str, int]]
_FileState = tuple[int, int, int, int, int]


class DirectoryStore:
    """Objects as files below ``folder``, which is made if it does not exist.

    A put is in four steps: staged, synced, linked under its name (never over another), folders
    synced. A crash between any two leaves at most a staged file, which is never listed and which
    ``clean`` removes once its process is gone.
    """

    def __init__(self, folder: Path) -> None:
        with _translated(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
            self._folder = folder.resolve()
            self._store = LocalStore(self._folder)
            self._staging = Staging(self._folder / STAGING_FOLDER)
            _sync_folder(self._folder.parent)
        self._synced_folders: set[Path] = set()
        self._verified: OrderedDict[Path, tuple[_FileState, str]] = OrderedDict()
        self._verified_lock = threading.Lock()

    async def put_new(self, name: str, source: bytes | Path, *, sha256: str) -> None:
        """Store an object under a name that is free; durable on return.

        The staged copy is hashed before it gets its name, so what is listed is what was meant.

        Raises:
            Conflict: The name holds other bytes.
            DataLoss: The bytes do not have the digest that was given with them.
            InvalidRequest: The name is no relative path of plain parts.
            Unavailable: The directory cannot be written: full, read-only, forbidden.
        """
        check_name(name)
        await asyncio.to_thread(self._put_new, name, source, sha256)

    async def verified(self, ref: ObjectRef, *, again: bool = False) -> Path:
        """Return the object's file after checking its size and SHA-256.

        A file that passed is not read again by this process while its inode, size and times stay
        the same: the next call costs one ``stat``. Damage that leaves those alone (a failing disk)
        shows only with ``again``, which reads the bytes in any case: ``pitr verify`` uses it.

        Raises:
            DataLoss: The object is missing, damaged or another one; facts name it and its range.
            Unavailable: The directory cannot be read.
        """
        check_name(ref.name)
        if not again and (path := self._known_path(ref)) is not None:
            return path
        return await asyncio.to_thread(self._verified_path, ref, again)

    async def read(self, name: str) -> bytes:
        """Return a small object whole.

        Raises:
            NotFound: There is none.
        """
        check_name(name)
        with _translated(name):
            return bytes(await (await obstore.get_async(self._store, name)).bytes_async())

    async def list(self, prefix: str) -> list[tuple[str, int]]:
        """Return (name, bytes) of every object in the folder ``prefix`` and below, by name."""
        if prefix.strip("/"):
            check_name(prefix.strip("/"))
        return await asyncio.to_thread(self._list, prefix.strip("/"))

    async def delete(self, name: str) -> None:
        """Delete an object; one that is gone already is no error."""
        check_name(name)
        await asyncio.to_thread(self._delete, name)

    async def clean(self) -> int:
        """Remove what dead processes staged and never linked; return how many files."""
        with _translated(STAGING_FOLDER):
            return await asyncio.to_thread(self._staging.clean)

    def _put_new(self, name: str, source: bytes | Path, sha256: str) -> None:
        target = self._folder / name
        with _translated(name), self._staging.name() as staged:
            path = self._folder / STAGING_FOLDER / staged
            # Durable under its own name, then linked, then the folders: a crash before the link
            # leaves nothing that is listed, a crash after it an object that is whole.
            obstore.put(self._store, f"{STAGING_FOLDER}/{staged}", source)
            if _digest_synced(path) != sha256:
                raise DataLoss("the bytes do not have the digest they came with", object=name)
            try:
                obstore.rename(self._store, f"{STAGING_FOLDER}/{staged}", name, overwrite=False)
            except (AlreadyExistsError, FileExistsError):
                if _digest_synced(target) != sha256:
                    raise Conflict("the name holds other bytes", object=name) from None
            self._sync_folders(target.parent)

    def _sync_folders(self, folder: Path) -> None:
        """Sync ``folder``, and those above it that this process has not synced since they came."""
        _sync_folder(folder)
        while folder != self._folder and folder not in self._synced_folders:
            self._synced_folders.add(folder)
            folder = folder.parent
            _sync_folder(folder)

    def _known_path(self, ref: ObjectRef) -> Path | None:
        """The file if it passed before and did not change; one ``stat``, not worth a thread."""
        path = self._folder / ref.name
        try:
            return path if self._is_remembered(path, _state(path.stat()), ref.sha256) else None
        except OSError:
            return None

    def _verified_path(self, ref: ObjectRef, again: bool) -> Path:
        path = self._folder / ref.name
        with _translated(ref.name):
            try:
                state = _state(path.stat())
                if again or not self._is_remembered(path, state, ref.sha256):
                    self._check(path, ref)
            except FileNotFoundError as error:
                raise _loss("an object is missing from the store", ref) from error
        return path

    def _check(self, path: Path, ref: ObjectRef) -> None:
        with path.open("rb") as file:
            before = _state(os.fstat(file.fileno()))
            if before[2] != ref.size_bytes:
                raise _loss("an object has the wrong size", ref, found_bytes=before[2])
            found = hashlib.file_digest(file, "sha256").hexdigest()
            after = _state(os.fstat(file.fileno()))
        if found != ref.sha256:
            with self._verified_lock:
                self._verified.pop(path, None)
            raise _loss("an object does not have its digest", ref, found_sha256=found)
        if before == after:
            self._remember(path, after, found)

    def _is_remembered(self, path: Path, state: _FileState, sha256: str) -> bool:
        with self._verified_lock:
            return self._verified.get(path) == (state, sha256)

    def _remember(self, path: Path, state: _FileState, sha256: str) -> None:
        with self._verified_lock:
            self._verified[path] = (state, sha256)
            self._verified.move_to_end(path)
            if len(self._verified) > VERIFIED_FILES_MAX:
                self._verified.popitem(last=False)

    def _list(self, prefix: str) -> _Listing:
        with _translated(prefix):
            found = [
                (meta["path"], int(meta["size"]))
                for chunk in obstore.list(self._store, prefix=prefix or None)
                for meta in chunk
            ]
        return sorted(pair for pair in found if not pair[0].startswith(f"{STAGING_FOLDER}/"))

    def _delete(self, name: str) -> None:
        path = self._folder / name
        with self._verified_lock:
            self._verified.pop(path, None)
        with _translated(name):
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                _sync_folder(path.parent)


def check_name(name: str) -> None:
    """Refuse a name that is not a relative path of plain parts.

    Raises:
        InvalidRequest: It is empty or absolute, has an empty, ``.`` or ``..`` part, a control
            character or a backslash, ends like a staged file, or lies in the staging folder.
    """
    parts = name.split("/")
    plain = all(part not in ("", ".", "..") for part in parts)
    if not plain or parts[0] == STAGING_FOLDER or any(_FORBIDDEN.search(part) for part in parts):
        raise InvalidRequest("the name cannot name an object", object=repr(name))


def _state(stat: os.stat_result) -> _FileState:
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _digest_synced(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _loss(message: str, ref: ObjectRef, **facts: object) -> DataLoss:
    named = {"object": ref.name, "seq_first": ref.seq_first, "seq_end": ref.seq_end}
    if ref.collection is not None:
        named["collection"] = ref.collection
    return DataLoss(message, hint="restore the file from a copy of the store", **named, **facts)


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Turn what obstore and the system raise into the five families; the only place that does."""
    try:
        yield
    except PitrError:
        raise
    except FileNotFoundError as error:
        raise NotFound("there is no such object", object=name) from error
    except (InvalidPathError, ValueError) as error:
        raise InvalidRequest("the name cannot name an object", object=name) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InvalidRequest("the name is too long for a file", object=name) from error
        if error.errno == errno.EIO:
            raise DataLoss("the disk cannot read or write the object", object=name) from error
        reason = error.strerror or str(error)
        raise Unavailable("the store cannot be used", object=name, reason=reason) from error
    except BaseError as error:
        reason = str(error).partition("\n")[0]
        raise Unavailable("the store cannot be used", object=name, reason=reason) from error
