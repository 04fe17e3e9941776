"""What a comparison needs of an attached database; ``adapters.postgres`` has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from pitr.domain.pgoutput.model import Relation
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.reconcile import CapturedTable


class Frozen(Protocol):
    """A database as it is at one position: what was committed before ``lsn``, at ``at_us``."""

    @property
    def lsn(self) -> int: ...
    @property
    def at_us(self) -> int: ...
    @property
    def system(self) -> str: ...

    def locked(self, schema: TableSchema) -> AbstractAsyncContextManager[None]:
        """Keep a table as it is at the position meanwhile.

        Args:
            schema: The table as it was just now.

        Raises:
            NotFound: It was not there.
            Conflict: It is another one by now, or may not be read.
        """
        ...

    async def read(self, relation: Relation, take: Callable[[bytes], Awaitable[None]]) -> None:
        """Read all rows of a table that is locked, some megabytes of COPY's text at a time."""
        ...


class LiveDatabase(Protocol):
    """An attached database. All raise ``Unavailable`` when it does not answer."""

    async def captured(self) -> tuple[CapturedTable, ...]:
        """Return the tables that are captured now, by name."""
        ...

    async def schemas(self, relids: Sequence[int] | None = None) -> Mapping[int, TableSchema]:
        """Return tables that are captured, all or some, by relid, as they are now."""
        ...

    async def relation_of(self, schema: TableSchema) -> Relation:
        """Return a table as the stream would describe it."""
        ...

    def frozen(self, slot: str, *, wait_s: float) -> AbstractAsyncContextManager[Frozen]:
        """Hold the database as it is at one position.

        Args:
            slot: A name for a temporary slot that nobody has.
            wait_s: Longest wait for transactions that are under way.
        """
        ...

    async def emit(self, kind: str, content: bytes) -> None:
        """Write a message of pitr's own into the stream."""
        ...

    async def close(self) -> None:
        """Let go of all connections."""
        ...
