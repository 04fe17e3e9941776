"""What services need from the world, as protocols; each has a suite in tests/contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from pitr.domain.batch import Decoded
from pitr.domain.formats import Format
from pitr.domain.manifest import ObjectRef

Progress = Callable[[int], None]
"""Told how many rows were done since the last call."""


class Clock(Protocol):
    """The only source of the present."""

    def now_us(self) -> int:
        """Return the present, µs since 1970-01-01 UTC."""
        ...


class Decoder(Protocol):
    """Decodes beside the event loop; ``domain.formats`` says how."""

    async def decode_lines(
        self,
        body: bytes,
        *,
        format: Format,
        position_first: int,
        key_columns: tuple[str, ...] | None = None,
    ) -> Decoded:
        """Decode NDJSON; see ``formats.decode_lines``."""
        ...


class ObjectStore(Protocol):
    """Immutable objects by name; a put is durable when it returns."""

    async def put_new(self, name: str, source: bytes | Path, *, sha256: str) -> None:
        """Store an object under a name that is free; durable on return (fsync of file and folder).

        Putting the same bytes again is no error, so a retry after a crash is safe.

        Raises:
            Conflict: The name holds other bytes.
            Unavailable: The store did not answer.
        """
        ...

    async def verified(self, ref: ObjectRef, *, again: bool = False) -> Path:
        """Return a local file with the object's bytes, after checking size and SHA-256.

        A file that this process checked before and that did not change since is trusted, unless
        ``again`` asks for its bytes to be hashed anew.

        Raises:
            DataLoss: The object is missing, damaged or another one; facts name it and its range.
            Unavailable: The store did not answer.
        """
        ...

    async def read(self, name: str) -> bytes:
        """Return a small object (a manifest entry) whole.

        Raises:
            NotFound: There is none.
        """
        ...

    async def list(self, prefix: str) -> list[tuple[str, int]]:
        """Return (name, bytes) of every object below ``prefix``, sorted by name."""
        ...

    async def delete(self, name: str) -> None:
        """Delete an object; one that is gone already is no error."""
        ...

    async def clean(self) -> int:
        """Remove temporary files that a crash left behind; return how many."""
        ...


class RestorableState(Protocol):
    """The rows of a moment, ready to be written; each collection can be read once, in any order."""

    counts: Mapping[str, int]
    """Living rows by collection, names sorted; collections that exist but are empty count 0."""

    def rows(self, collection: str, *, documents_only: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield the collection's rows in key order; batches have ``CHANGE_SCHEMA``.

        With ``documents_only`` the order is any, and only collection, key, op and ``after`` count:
        less is read. Blocking: call it in a thread.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkReport:
    """What a sink wrote: rows by collection, and where."""

    rows: Mapping[str, int]
    where: str
    notes: Sequence[str] = field(default_factory=tuple)


class Sink(Protocol):
    """Where a restore is written: completely, or not at all (invariant 12)."""

    async def write(self, state: RestorableState, *, progress: Progress) -> SinkReport:
        """Write the whole state in one step that can fail without a trace.

        Raises:
            SinkNotEmpty: Something is there already and force was not given.
            InvalidRequest: A value does not fit its column; facts name collection, key and column.
            Unavailable: The sink did not answer.
        """
        ...
