"""How far the first reading of a source's tables is, for people who wait for it."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.domain.log import LaneState
from pitr.domain.pgoutput.copying import CopyState


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyProgress:
    """Tables and rows that were read, of how many. ``rate`` is in rows a second.

    ``rows_expected`` is an estimate while tables are left; ``rate`` and ``rows_expected`` are None
    where they are not known. ``begun`` says that it is known which tables there are.
    """

    begun: bool
    tables_done: int
    tables_count: int
    rows_read: int
    rows_expected: int | None
    rate: float | None = None

    @property
    def complete(self) -> bool:
        """Whether everything is read."""
        return self.begun and not self.tables_left

    @property
    def tables_left(self) -> int:
        """Tables that are not read to their end."""
        return self.tables_count - self.tables_done

    @property
    def rows_left(self) -> int | None:
        """About how many rows are not read yet; None if that is not known."""
        return None if self.rows_expected is None else self.rows_expected - self.rows_read

    @property
    def seconds_left(self) -> float | None:
        """About how long it goes on at this rate; None if that is not known."""
        if self.complete:
            return 0.0
        if self.rows_left is None or not self.rate:
            return None
        return self.rows_left / self.rate


def progress_of(lane: LaneState | None) -> CopyProgress:
    """Tell how far a lane is that follows a database; None is one that nobody has followed yet."""
    if lane is None:
        return copy_progress(CopyState())
    return copy_progress(CopyState.of_json(lane.state.get("copy")), rate=lane.copy_rate)


def copy_progress(copy: CopyState, *, rate: float | None = None) -> CopyProgress:
    """Add up the tables of a source."""
    expected = [table.expected for table in copy.tables]
    known = [count for count in expected if count is not None]
    return CopyProgress(
        begun=copy.looked,
        tables_done=len(copy.tables) - len(copy.to_do),
        tables_count=len(copy.tables),
        rows_read=sum(table.rows for table in copy.tables),
        rows_expected=sum(known) if len(known) == len(expected) else None,
        rate=rate if copy.to_do else None,
    )
