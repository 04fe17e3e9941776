"""A source that cannot go on where the log stands."""

from __future__ import annotations

from pitr.domain.errors import DataLoss


class SlotLost(DataLoss):
    """The slot cannot go on from where we stand: changes between may be gone for good."""
