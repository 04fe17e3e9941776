"""The database of a rewind, as services see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.rewind.columns import ColumnRules, Schemas, Work
from pitr.domain.rewind.sight import (
    REFERENCES_SHOWN,
    OnConflict,
    Place,
    RowConflict,
    Sight,
    Written,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Says:
    """What the transaction says of itself, for whoever captures it."""

    reason: str
    actor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewound:
    """What was done. ``conflicts`` are the rows that were overwritten or skipped.

    ``settled`` counts the rows that were as they were to be, already; ``settled_rows`` are the
    first ``CONFLICTS_MAX`` of them, by collection and key. ``found`` are files of tables that were
    scanned, with the rows that were written as they were before (``columnar.scanned``).
    """

    written: Mapping[str, Written]
    settled: Mapping[str, int] = field(default_factory=dict)
    settled_rows: Sequence[tuple[str, str]] = ()
    conflicts: Sequence[RowConflict] = ()
    notes: Sequence[str] = ()
    found: Mapping[str, Path] = field(default_factory=dict)


Committing = Callable[[str, Rewound], Awaitable[None]]
"""Told that a transaction of this id is about to be committed, and what it did."""


async def nobody(xid: str, rewound: Rewound) -> None:
    """Where no one has to be told."""


class HeldRewind(Protocol):
    """A rewind that was looked at under locks: it needs no other look."""

    @property
    def sight(self) -> Sight:
        """What was seen."""
        ...

    async def rewind(
        self,
        *,
        on_conflict: OnConflict,
        says: Says,
        committing: Committing = nobody,
        folder: Path | None = None,
    ) -> Rewound:
        """Take the rows back, as ``RewindSink.rewind`` does; once, and then it is over.

        Raises:
            Conflict: Rows are not what the log says, or would refer to rows that are not there.
            InvalidRequest: A row does not fit its table.
            Unavailable: The database did not answer.
        """
        ...


class LockedTables(Protocol):
    """Tables that nobody else writes to, as long as they are locked."""

    async def look(
        self,
        works: Sequence[Work],
        rules: ColumnRules,
        *,
        known: Mapping[str, TableSchema | None] | None = None,
        references_max: int = REFERENCES_SHOWN,
    ) -> HeldRewind:
        """See what a rewind of some of them finds, to do it there and then; once.

        Args:
            works: What is to be done.
            rules: For columns that exist on one side only.
            known: All collections of the log, with what their tables are.
            references_max: How many broken references of a foreign key are named.

        Raises:
            InvalidRequest: A table is not there, has no such key, or its columns do not fit.
            Unavailable: The database does not answer.
        """
        ...


class RewindSink(Protocol):
    """A database whose rows are taken back, in one transaction."""

    def kept(self) -> AbstractAsyncContextManager[None]:
        """Keep the connection from one call to the next meanwhile: each of its own costs time."""
        ...

    async def warm(self) -> None:
        """Let the database read of its catalogs what it needs, while nobody waits for it.

        Raises:
            Unavailable: The database does not answer.
        """
        ...

    async def position(self) -> tuple[Place, int | None]:
        """Tell which database it is, and where its WAL ends; None if it has no WAL of its own.

        Whoever captures it is sent a message, so that an idle lane moves on.

        Raises:
            Unavailable: The database does not answer.
        """
        ...

    async def look(
        self,
        works: Sequence[Work],
        rules: ColumnRules,
        *,
        known: Mapping[str, TableSchema | None] | None = None,
        references_max: int = REFERENCES_SHOWN,
    ) -> Sight:
        """See what a rewind would find; changes nothing.

        Args:
            works: What would be done.
            rules: For columns that exist on one side only.
            known: All collections of the log, with what their tables are.
            references_max: How many broken references of a foreign key are named.

        Raises:
            InvalidRequest: A table is not there, has no such key, or its columns do not fit.
            Unavailable: The database does not answer.
        """
        ...

    def locking(self, tables: Mapping[str, Schemas]) -> AbstractAsyncContextManager[LockedTables]:
        """Lock the tables of collections, so that what is seen of them stays so.

        Nobody else writes to them meanwhile, so nobody should be asked meanwhile. It ends without
        a trace if nothing is done. What is no table is found out by ``LockedTables.look``.

        Raises:
            Conflict: Another restore runs in the database.
            InvalidRequest: The role may not do it.
            Unavailable: The database does not answer, or a table is locked by somebody else.
        """
        ...

    async def rewind(
        self,
        works: Sequence[Work],
        rules: ColumnRules,
        *,
        on_conflict: OnConflict,
        says: Says,
        check: Callable[[Sight], None],
        committing: Committing = nobody,
        folder: Path | None = None,
    ) -> Rewound:
        """Take the rows back, all of them or none.

        Args:
            works: What to do.
            rules: For columns that exist on one side only.
            on_conflict: What to do with rows that are not what the log says.
            says: Told to whoever captures the database, with the changes.
            check: Called with what is seen, once the tables are locked; what it raises ends it.
            committing: Called right before the commit, with the transaction's id and with what it
                did; what it raises ends it.
            folder: Where to write down what was found in tables that are scanned.

        Raises:
            Conflict: Rows are not what the log says, or would refer to rows that are not there.
            InvalidRequest: A row does not fit its table.
            Unavailable: The database did not answer, or a table is locked by somebody else.
        """
        ...

    async def outcome(self, xid: str) -> str | None:
        """Tell what became of a transaction: ``committed``, ``aborted`` or ``in progress``.

        None if it was too long ago for the database to know.

        Raises:
            Unavailable: The database does not answer.
        """
        ...
