"""Targets and cuts: which changes belong to the state of a moment."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The resolved form of every target: exactly the changes that are in the state.

    A change is inside when ``seq < seq_end``, and ``at_us <= self.at_us`` unless that is None,
    and its ``tx`` is not one of ``without_tx`` (transactions that the target would tear in two
    stay out whole: invariant 5).
    """

    seq_end: int
    at_us: int | None = None
    without_tx: frozenset[str] = field(default_factory=frozenset)

    def holds(self, *, seq: int, at_us: int, tx: str | None) -> bool:
        """Tell whether the change is in the state."""
        in_time = self.at_us is None or at_us <= self.at_us
        return seq < self.seq_end and in_time and (tx is None or tx not in self.without_tx)
