"""What a rewind finds in the database: tables, conflicts, sequences; and what it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pitr.domain.rewind.columns import ColumnPlan

CONFLICTS_SHOWN: Final = 20
"""Conflicts of a collection that a plan or an error names."""

CONFLICTS_MAX: Final = 10_000
"""Most conflicts that can be overwritten or skipped at once: they are kept in memory."""

UNKNOWN_SHOWN: Final = 20
"""Rows of a scanned table that a plan names because the log knows nothing of them."""

REFERENCES_SHOWN: Final = 20
"""References of a foreign key that a plan names."""

OnConflict = Literal["refuse", "overwrite", "skip"]
ConflictKind = Literal["changed", "gone", "appeared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowConflict:
    """A row of the database that is not what the log says it is now.

    It ``changed`` in ``columns``, is ``gone``, or ``appeared``. ``live`` is the row as it is, JSON,
    where that was asked for.
    """

    collection: str
    key: str
    kind: ConflictKind
    columns: tuple[str, ...] = ()
    live: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which database it is. ``system`` is its cluster's identifier, None if that is not told."""

    url: str
    system: str | None
    database: str
    database_oid: int

    @property
    def identity(self) -> dict[str, Any]:
        """What makes it this database; its URL only where its cluster does not say which it is."""
        named = {"database": self.database, "database_oid": self.database_oid}
        return {"system": self.system, **named} if self.system else {"url": self.url, **named}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanSight:
    """What a whole table has otherwise than the state; ``sha256`` is over those rows.

    ``unknown`` of the rows that are deleted the log knows nothing of; the first of their keys.
    """

    inserts: int
    updates: int
    deletes: int
    unknown: int
    unknown_keys: tuple[str, ...]
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSight:
    """A table of the database as a rewind sees it; ``scan`` if it was compared as a whole."""

    collection: str
    table: str
    columns: ColumnPlan
    scan: ScanSight | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSight:
    """A sequence that is moved, because a row that is put back has a value past it."""

    sequence: str
    table: str
    column: str
    to: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingParent:
    """A row that would not be there, and one of the ``rows`` to be that refer to it.

    ``parent`` is its collection, None if the log has none of its table; ``values`` are what it is
    referred to by, as the database writes them.
    """

    collection: str
    key: str
    constraint: str
    columns: tuple[str, ...]
    values: tuple[str, ...]
    parent_table: str
    parent_columns: tuple[str, ...]
    parent: str | None = None
    rows: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StayingRow:
    """A row that would be there no more, and the ``rows`` of a table that refer to it and stay.

    ``row`` is one of these: the columns of its primary key, or those that refer, as JSON.
    """

    collection: str
    key: str
    constraint: str
    table: str
    row: str
    rows: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a rewind sees in a database before it changes anything.

    ``tables`` come parents first. ``conflicts`` are some of those there are, ``conflict_counts``
    all of them by collection. ``settled`` rows are as they were already. Sequences and conflicts
    are only looked at for a plan, and so are references: ``missing`` and ``staying`` are some of
    those that the rewind would break, ``missing_count`` and ``staying_count`` all of them.
    """

    place: Place
    tables: tuple[TableSight, ...]
    conflicts: tuple[RowConflict, ...] = ()
    conflict_counts: Mapping[str, int] = field(default_factory=dict)
    settled: Mapping[str, int] = field(default_factory=dict)
    sequences: tuple[SequenceSight, ...] = ()
    missing: tuple[MissingParent, ...] = ()
    missing_count: int = 0
    staying: tuple[StayingRow, ...] = ()
    staying_count: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Rows of one collection that were written."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0

    @property
    def count(self) -> int:
        """All of them."""
        return self.inserted + self.updated + self.deleted
