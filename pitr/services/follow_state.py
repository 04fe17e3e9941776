"""Where the following of one database stands; its tasks share it."""

from __future__ import annotations

from dataclasses import dataclass, field

from pitr.domain.admission import AT_US_MIN
from pitr.domain.pgoutput.notes import Notes


@dataclass(slots=True)
class Following:
    """One lane that is ours. ``position`` and ``notes`` are what is stored.

    ``idle_us``: at that time, on the source's clock, everything was stored. ``lag_bytes`` is the
    WAL that the source has written since. ``warning`` is what may stop the lane soon.
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
    idle_us: int | None = None
    lag_bytes: int | None = None

    def begin(self, *, position: int, at_us: int, notes: Notes) -> None:
        """Stand where the catalog says."""
        self.position, self.at_us, self.notes = position, at_us, notes
        self.idle_us, self.claimed = None, True

    def moved(self, position_end: int, notes: Notes) -> None:
        """Note what was stored."""
        self.stored += position_end - self.position
        self.position, self.notes = position_end, notes
        self.problem, self.failures = None, 0
