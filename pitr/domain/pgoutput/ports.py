"""What following a database needs of it; ``adapters.postgres.attached`` has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from pitr.domain.pgoutput.copying import Chunk, Resume, Snapshot
from pitr.domain.pgoutput.messages import RawRelation
from pitr.domain.pgoutput.model import Relation
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.pgoutput.source import SequenceValue, SlotState


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Which database cluster it is: its ``lsn`` is where its WAL ends now.

    ``ancestors`` are the timelines that it came from, each with the position where it ended.
    """

    system: str
    timeline: int
    lsn: int
    ancestors: tuple[tuple[int, int], ...] = ()


class Polled(Protocol):
    """What has come in; see ``StreamPoll``."""

    @property
    def messages(self) -> list[bytes]: ...
    @property
    def server_lsn(self) -> int: ...
    @property
    def idle_lsn(self) -> int | None: ...
    @property
    def notices(self) -> tuple[str, ...]: ...


class Stream(Protocol):
    """pgoutput messages in order, at the caller's pace."""

    async def poll(self, *, bytes_max: int, timeout_s: float) -> Polled:
        """Return what is there, waiting at most ``timeout_s``."""
        ...

    def confirm(self, lsn: int) -> None:
        """Say that everything before ``lsn`` is durable."""
        ...


class Database(Protocol):
    """An attached database. All raise ``Unavailable`` when it does not answer."""

    async def cluster(self) -> Cluster:
        """Return which cluster it is."""
        ...

    async def slot(self) -> SlotState | None:
        """Return how its slot stands; None if there is none."""
        ...

    async def wal_end(self) -> tuple[int, int]:
        """Return how far the durable WAL goes, and the time on the source's clock, µs."""
        ...

    async def make_slot(self) -> int:
        """Make the slot anew; return the position from which it has every change."""
        ...

    def stream(self, lsn: int) -> AbstractAsyncContextManager[Stream]:
        """Stream what was committed from ``lsn`` on.

        Raises:
            SlotLost: The slot cannot go on from there.
        """
        ...

    async def schemas(self, relids: Sequence[int] | None = None) -> Mapping[int, TableSchema]:
        """Return tables that are captured, all or some, by relid, as they are now."""
        ...

    async def look(self, name: str) -> Mapping[int, TableSchema]:
        """Return the tables that are captured, as they are where a message comes in the stream.

        The message is of the kind ``schema`` and has ``name`` in it; nobody alters a table between
        the reading and the message.
        """
        ...

    async def sequences(self) -> Sequence[SequenceValue]:
        """Return what the app's sequences stand at."""
        ...

    async def estimated_rows(self, relids: Sequence[int]) -> Mapping[int, int]:
        """Return about how many rows tables have, by relid; those not known are left out."""
        ...

    async def relation(self, raw: RawRelation) -> Relation:
        """Return what a relation message describes, with the form of each column."""
        ...

    async def relation_of(self, schema: TableSchema) -> Relation:
        """Return a table as the stream would describe it."""
        ...

    async def chunk(self, relation: Relation, *, after: Resume | None, rows_max: int) -> Chunk:
        """Read the next rows of a table with a snapshot of their own."""
        ...

    async def snapshot(self) -> Snapshot:
        """Return what a chunk would see that was read now."""
        ...

    async def new_xid(self) -> int:
        """Give out a transaction number, lower 32 bits."""
        ...

    async def emit(self, kind: str, content: bytes) -> None:
        """Write a message of pitr's own into the stream."""
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...
