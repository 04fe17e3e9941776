"""Sinks that write files: a folder with a file per collection, one file, or a stream."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Literal
from urllib.parse import quote

import pyarrow as pa

from pitr.adapters.sinks.batches import Check, in_thread
from pitr.adapters.sinks.encoders import ParquetFile, ndjson_lines, write_csv, write_ndjson
from pitr.domain.errors import Conflict, InvalidRequest, PitrError, SinkNotEmpty, Unavailable
from pitr.domain.outlook import Outline, Outlook, TableOutlook
from pitr.domain.ports import Progress, RestorableState, SinkReport

FileFormat = Literal["ndjson", "csv", "parquet"]
SUFFIXES: Final = (".ndjson", ".csv", ".parquet")

_FILE_NAME_BYTES_MAX: Final = 200


@dataclass(kw_only=True)
class _Writing:
    """One write under way: where from, who is told, what was written."""

    state: RestorableState
    progress: Progress
    check: Check
    rows: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def of(self, collection: str) -> Iterator[pa.RecordBatch]:
        """Yield the collection's batches; each counts as written when the next is asked for."""
        self.rows[collection] = 0
        for batch in self.state.rows(collection):
            self.check()
            yield batch
            self.rows[collection] += batch.num_rows
            self.progress(batch.num_rows)


class FileSink:
    """A folder with one file per collection, or one file if ``path`` ends like one.

    Everything is written beside the target under a hidden name, synced, and renamed at the end.
    With ``force`` a folder of earlier files is moved aside first and removed last: whenever the
    machine stops, either the old files or the new ones are complete on the disk. ``rows_only``
    makes NDJSON lines the documents alone, without key and time. ``progress`` is called from a
    thread.
    """

    def __init__(
        self,
        path: Path,
        format: FileFormat = "ndjson",
        *,
        force: bool = False,
        rows_only: bool = False,
    ) -> None:
        self._path = path
        self._single = path.suffix in SUFFIXES
        self._format = path.suffix[1:] if self._single else format
        self._force = force
        self._rows_only = rows_only
        if rows_only and self._format != "ndjson":
            raise InvalidRequest("only ndjson can hold rows only", format=self._format)

    async def look(self, outline: Outline) -> Outlook:
        """Say which files would be written; see ``Sink.look``."""
        return await in_thread(lambda _: self._look(outline))

    def _look(self, outline: Outline) -> Outlook:
        target, problems = self._path.resolve(), []
        notes: list[str] = []
        try:
            self._check_shape(len(outline.counts))
            with _translated(self._path):
                self._check_target(target)
        except (Conflict, InvalidRequest) as error:
            problems.append(f"{error}; {error.hint}" if error.hint else str(error))
        replaces = self._force and target.exists()
        tables = []
        for collection, count in sorted(outline.counts.items()):
            path = target if self._single else target / self._file_name(collection, notes)
            tables.append(
                TableOutlook(
                    collection=collection,
                    where=str(path),
                    action="replace" if replaces else "write",
                    rows=count,
                )
            )
        return Outlook(
            where=str(target),
            identity={"path": str(target), "format": self._format},
            tables=tuple(tables),
            problems=tuple(problems),
            notes=tuple(notes),
        )

    async def write(self, state: RestorableState, *, progress: Progress) -> SinkReport:
        """Write the state to files that appear all at once.

        Raises:
            SinkNotEmpty: The target holds something and ``force`` was not given, or something
                that no restore wrote, which ``force`` does not remove either.
            InvalidRequest: The state does not fit the format.
            Unavailable: The disk is full or the folder cannot be written.
        """
        return await in_thread(
            lambda check: self._write(_Writing(state=state, progress=progress, check=check))
        )

    def _write(self, writing: _Writing) -> SinkReport:
        self._check_shape(len(writing.state.counts))
        with _translated(self._path):
            target = self._path.resolve()
            self._check_target(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            try:
                fresh = beside / "new"
                if self._single:
                    self._write_file(fresh, sorted(writing.state.counts), writing)
                else:
                    self._write_folder(fresh, writing)
                writing.check()
                self._commit(fresh, target, beside / "old")
            finally:
                if target.exists() or not (beside / "old").exists():
                    shutil.rmtree(beside, ignore_errors=True)
        return SinkReport(rows=writing.rows, where=str(target), notes=tuple(writing.notes))

    def _check_shape(self, collections: int) -> None:
        alone = self._format == "csv" or self._rows_only
        if self._single and alone and collections != 1:
            raise InvalidRequest(
                "one file of this form holds exactly one collection",
                hint="give a folder, or choose one collection",
                collections=collections,
            )

    def _check_target(self, target: Path) -> None:
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            if self._single and target.is_dir():
                raise InvalidRequest("a folder stands where the file should be", path=target)
            return
        if not self._force:
            hint = "choose another place, or replace it with --force"
            raise SinkNotEmpty("there is something already", hint=hint, path=target)
        if target.is_dir() == self._single:
            raise InvalidRequest("a file cannot replace a folder, nor a folder a file", path=target)
        strange = [] if self._single else [p.name for p in target.iterdir() if not _is_ours(p)]
        if strange:
            raise SinkNotEmpty(
                "the folder holds something that no restore wrote, so it is not replaced",
                hint="choose another folder",
                path=target,
                found=sorted(strange)[0],
            )

    def _write_folder(self, folder: Path, writing: _Writing) -> None:
        folder.mkdir()
        for collection in sorted(writing.state.counts):
            name = self._file_name(collection, writing.notes)
            self._write_file(folder / name, [collection], writing)
        _sync_folder(folder)

    def _write_file(self, path: Path, collections: list[str], writing: _Writing) -> None:
        with path.open("xb") as file:
            self._write_rows(file, collections, writing)
            file.flush()
            os.fsync(file.fileno())

    def _write_rows(self, file: IO[bytes], collections: list[str], writing: _Writing) -> None:
        if self._format == "parquet":
            parquet = ParquetFile(file)
            for collection in collections:
                parquet.add(writing.of(collection))
            parquet.close()
        elif self._format == "csv":
            if write_csv(file, writing.of(collections[0]), collection=collections[0]):
                writing.notes.append(
                    f"{collections[0]}: members absent from a document are empty fields, as nulls"
                    " are; ndjson and parquet keep the difference"
                )
        else:
            for collection in collections:
                write_ndjson(file, writing.of(collection), rows_only=self._rows_only)

    def _file_name(self, collection: str, notes: list[str]) -> str:
        name = quote(collection, safe=" ()[]{}+,;=@!$&'")
        name = f"%2E{name[1:]}" if name.startswith(".") else name
        if len(name) > _FILE_NAME_BYTES_MAX:
            digest = hashlib.sha256(collection.encode()).hexdigest()[:16]
            name = f"{name[: _FILE_NAME_BYTES_MAX - 20]}~{digest}"
            notes.append(f"{collection}: its file is {name}.{self._format}")
        return f"{name}.{self._format}"

    def _commit(self, fresh: Path, target: Path, old: Path) -> None:
        """Give the complete files their name; what had it before goes only after that."""
        if self._single:
            if self._force:
                fresh.replace(target)
            else:
                target.hardlink_to(fresh)  # unlike a rename, fails if somebody was faster
        elif self._force and target.exists():
            target.rename(old)
            try:
                fresh.rename(target)
            except OSError:
                old.rename(target)
                raise
        else:
            fresh.rename(target)
        _sync_folder(target.parent)


class StdoutSink:
    """NDJSON to an open stream; what was written before a failure cannot be called back."""

    def __init__(self, stream: IO[bytes], *, rows_only: bool = False) -> None:
        self._stream = stream
        self._rows_only = rows_only

    async def look(self, outline: Outline) -> Outlook:
        """Say what would be written; see ``Sink.look``."""
        tables = [
            TableOutlook(collection=collection, where="-", action="write", rows=count)
            for collection, count in sorted(outline.counts.items())
        ]
        return Outlook(where="-", identity={}, tables=tuple(tables))

    async def write(self, state: RestorableState, *, progress: Progress) -> SinkReport:
        """Write every row as one line; ``progress`` is called from a thread.

        Raises:
            Unavailable: The reader went away.
        """
        return await in_thread(
            lambda check: self._write(_Writing(state=state, progress=progress, check=check))
        )

    def _write(self, writing: _Writing) -> SinkReport:
        with _translated(Path("-")):
            for collection in sorted(writing.state.counts):
                for batch in writing.of(collection):
                    for lines in ndjson_lines(batch, rows_only=self._rows_only):
                        self._stream.write(lines)
            self._stream.flush()
        return SinkReport(rows=writing.rows, where="-")


def _is_ours(path: Path) -> bool:
    return path.suffix in SUFFIXES and path.is_file() and not path.is_symlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn the system's errors into the five families; the only place here that does."""
    try:
        yield
    except PitrError:
        raise
    except OSError as error:
        match error.errno:
            case errno.ENOTEMPTY | errno.EEXIST:
                raise SinkNotEmpty("there is something already", path=path) from error
            case errno.EXDEV | errno.EBUSY:
                hint = "give a folder inside it"
                raise InvalidRequest(
                    "a mount point cannot be replaced", hint=hint, path=path
                ) from error
            case _:
                reason = error.strerror or str(error)
                raise Unavailable(
                    "the files cannot be written", path=path, reason=reason
                ) from error
