"""Whose turn it is to follow a source: one process does, and others wait until it is gone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from pitr.domain.log import LaneState

SILENT_US: Final = 10_000_000
"""A lane may be taken when its owner has said nothing for so long."""


@dataclass(slots=True)
class Turns:
    """Decides for one owner whether it may take a lane; the catalog sees to it that one has it.

    ``is_gone`` tells of an owner whether it has ended for certain.
    """

    owner: str
    is_gone: Callable[[str], bool]
    _said: tuple[str, int | None] | None = field(default=None, init=False)
    _since_us: int = field(default=0, init=False)

    def may_take(self, lane: LaneState | None, *, now_us: int, passed_us: int) -> bool:
        """Tell whether nobody else works on the lane.

        The other one's clock may go wrong: who has said nothing new while we looked on is silent
        too, whatever time it said.

        Args:
            now_us: The time.
            passed_us: A clock that only measures, and never goes back.
        """
        if lane is None or lane.owner in (None, self.owner) or self.is_gone(lane.owner or ""):
            return True
        said = (lane.owner or "", lane.seen_us)
        if said != self._said:
            self._said, self._since_us = said, passed_us
        silent_us = max(now_us - (lane.seen_us or 0), passed_us - self._since_us)
        return silent_us > SILENT_US
