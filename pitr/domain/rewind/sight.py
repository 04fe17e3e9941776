"""What a rewind finds in the database: tables, conflicts, sequences; and what it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pitr.domain.rewind.columns import ColumnPlan

CONFLICTS_SHOWN: Final = 20
"""Conflicts of a collection that a plan or an error names."""

CONFLICTS_MAX: Final = 10_000
"""Most conflicts that can be overwritten or skipped at once: they are kept in memory."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSight:
    """A table of the database as a rewind sees it."""

    collection: str
    table: str
    columns: ColumnPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSight:
    """A sequence that is moved, because a row that is put back has a value past it."""

    sequence: str
    table: str
    column: str
    to: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a rewind sees in a database before it changes anything.

    ``tables`` come parents first. ``conflicts`` are some of those there are, ``conflict_counts``
    all of them by collection. ``settled`` rows are as they were already. Sequences and conflicts
    are only looked at for a plan.
    """

    place: Place
    tables: tuple[TableSight, ...]
    conflicts: tuple[RowConflict, ...] = ()
    conflict_counts: Mapping[str, int] = field(default_factory=dict)
    settled: Mapping[str, int] = field(default_factory=dict)
    sequences: tuple[SequenceSight, ...] = ()
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
