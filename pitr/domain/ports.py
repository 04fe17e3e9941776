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
from pitr.domain.outlook import Outline, Outlook
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.pgoutput.sequence_log import SampledSequence
from pitr.domain.records import Peeked, Reading, Records

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

    async def decode_records(self, records: Records, reading: Reading) -> Decoded:
        """Decode records of a pulled source; see ``records.decode_records``."""
        ...


class FeedListener(Protocol):
    """Told by a feed which lanes are this worker's. Neither call may take long or raise."""

    async def assigned(self, lanes: Sequence[str]) -> None:
        """These lanes are ours now; each gives nothing until ``Feed.seek``."""
        ...

    async def revoked(self, lanes: Sequence[str]) -> None:
        """These lanes go to others once this returns."""
        ...


class Feed(Protocol):
    """Lanes of a pulled source, shared out among workers: a Kafka consumer group.

    All raise ``Unavailable`` when the source does not answer; ``poll`` waits instead.
    """

    async def start(self, listener: FeedListener) -> None:
        """Join the other workers.

        Raises:
            InvalidRequest: The source refuses: credentials, rights, names.
        """
        ...

    async def poll(self, lanes: Sequence[str], *, timeout_s: float) -> FeedPoll:
        """Return what came in for these lanes, waiting at most ``timeout_s``.

        Must be called all the time, or the other workers take the lanes for abandoned.
        """
        ...

    async def bounds(self, lanes: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return the first position that the source still has of each lane, and its end."""
        ...

    async def end(self, lane: str, position: int) -> int | None:
        """Return the end of a lane as seen from a position, None if the position is past it."""
        ...

    async def peek(self, lane: str, position: int) -> Peeked | None:
        """Return the first record at or after a position, None if there is none yet."""
        ...

    def seek(self, lane: str, position: int) -> None:
        """Let the lane give records from a position on."""
        ...

    async def released(self, positions: Mapping[str, int]) -> None:
        """Tell the source what is durable; only for its own tools to see."""
        ...

    async def kept_us(self, lanes: Sequence[str]) -> dict[str, int]:
        """Return how long the source keeps records, for lanes where that is known and limited."""
        ...

    async def close(self) -> None:
        """Leave the other workers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedPoll:
    """What one poll brought.

    ``idle_us`` are lanes at their end, with the time at which the source said so. ``problems``
    are lanes that cannot go on by themselves, with the reason.
    """

    records: tuple[Records, ...] = ()
    ends: Mapping[str, int] = field(default_factory=dict)
    idle_us: Mapping[str, int] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


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
    """The rows of a moment, ready to be written; collections can be read in any order.

    A plan may have read them before, so a sink that reads one twice only wastes time.
    """

    counts: Mapping[str, int]
    """Living rows by collection, names sorted; collections that exist but are empty count 0."""

    schemas: Mapping[str, TableSchema]
    """What tables were at the moment, by collection: those of an attached database."""

    sequences: Sequence[SampledSequence]
    """What the sequences of an attached database stood at."""

    whole: bool
    """Whether it is everything that there is, not only what was chosen."""

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

    async def look(self, outline: Outline) -> Outlook:
        """Say what a restore of such a state would find and do; changes nothing.

        Raises:
            InvalidRequest: It can never be written there.
            Unavailable: The sink does not answer.
        """
        ...

    async def write(self, state: RestorableState, *, progress: Progress) -> SinkReport:
        """Write the whole state in one step that can fail without a trace.

        Raises:
            SinkNotEmpty: Something is there already and force was not given.
            InvalidRequest: A value does not fit its column; facts name collection, key and column.
            Unavailable: The sink did not answer.
        """
        ...
