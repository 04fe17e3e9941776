"""Where the following of one database stands; its tasks share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pitr.domain.admission import AT_US_MIN
from pitr.domain.pgoutput.notes import Notes


@dataclass(slots=True)
class Following:
    """One lane that is ours. ``position`` and ``notes`` are what is stored.

    Everything that was committed up to ``reached`` is stored. The source's WAL went up to
    ``ends[0]`` at ``ends[1]``, µs on its own clock. ``warning`` is what may stop the lane soon.
    ``estimates`` say about how many rows tables have that are being read, by collection; ``copied``
    counts the rows that were read of them.
    """

    lane: str
    position: int = 0
    at_us: int = AT_US_MIN
    notes: Notes = field(default_factory=Notes)
    claimed: bool = False
    problem: str | None = "starting"
    warning: str | None = None
    failures: int = 0
    stored: int = 0
    stored_before: int = 0
    reached: int = 0
    ends: tuple[int, int] | None = None
    completed_us: int | None = None
    estimates: Mapping[str, int] = field(default_factory=dict)
    copied: int = 0

    def begin(self, *, position: int, at_us: int, notes: Notes) -> None:
        """Stand where the catalog says."""
        self.position, self.at_us, self.notes = position, at_us, notes
        self.reached, self.claimed = notes.lsn or 0, True
        self.ends = self.completed_us = None

    @property
    def complete_us(self) -> int | None:
        """The time, on the source's clock, up to which everything is stored; None if not known."""
        is_there = self.ends is not None and self.reached >= self.ends[0]
        return self.ends[1] if self.ends is not None and is_there else self.completed_us

    def measured(self, lsn: int, now_us: int) -> None:
        """Note how far the source's WAL goes."""
        self.completed_us = self.complete_us
        self.ends = lsn, now_us

    @property
    def lag_bytes(self) -> int | None:
        """WAL of the source that is not in the log yet."""
        return None if self.ends is None else max(0, self.ends[0] - self.reached)

    def moved(self, position_end: int, notes: Notes) -> None:
        """Note what was stored."""
        self.stored += position_end - self.position
        self.position, self.notes = position_end, notes
        self.problem, self.failures = None, 0
