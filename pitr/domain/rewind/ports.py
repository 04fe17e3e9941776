"""The database of a rewind, as services see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pitr.domain.rewind.columns import ColumnRules, Work
from pitr.domain.rewind.sight import OnConflict, RowConflict, Sight, Written


@dataclass(frozen=True, slots=True, kw_only=True)
class Says:
    """What the transaction says of itself, for whoever captures it."""

    reason: str
    actor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewound:
    """What was done. ``conflicts`` are the rows that were overwritten or skipped.

    ``settled`` counts the rows that were as they were to be, already; ``settled_rows`` are the
    first ``CONFLICTS_MAX`` of them, by collection and key.
    """

    written: Mapping[str, Written]
    settled: Mapping[str, int] = field(default_factory=dict)
    settled_rows: Sequence[tuple[str, str]] = ()
    conflicts: Sequence[RowConflict] = ()
    notes: Sequence[str] = ()


class RewindSink(Protocol):
    """A database whose rows are taken back, in one transaction."""

    async def look(self, works: Sequence[Work], rules: ColumnRules) -> Sight:
        """See what a rewind would find; changes nothing.

        Raises:
            InvalidRequest: A table is not there, has no such key, or its columns do not fit.
            Unavailable: The database does not answer.
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
    ) -> Rewound:
        """Take the rows back, all of them or none.

        Args:
            works: What to do.
            rules: For columns that exist on one side only.
            on_conflict: What to do with rows that are not what the log says.
            says: Told to whoever captures the database, with the changes.
            check: Called with what is seen, once the tables are locked; what it raises ends it.

        Raises:
            Conflict: Rows are not what the log says, or would refer to rows that are not there.
            InvalidRequest: A row does not fit its table.
            Unavailable: The database did not answer, or a table is locked by somebody else.
        """
        ...
