"""What the demo did and found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """The proof, with figures; ``steps_s`` are the seconds of each step, in order.

    ``rows`` were compared; ``lost_rows`` and ``corrupted_rows`` are what the mistake did to the
    shop. ``folder``, ``urls`` and ``commands`` are only given when everything was kept.
    """

    identical: bool
    changes: int
    transactions: int
    rows: int
    seconds: float
    steps_s: Mapping[str, float]
    lost_rows: int
    corrupted_rows: int
    target: str
    differences: Sequence[str] = ()
    folder: str | None = None
    urls: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()

    def document(self) -> dict[str, Any]:
        """The result as `pitr demo --json` shows it."""
        return {
            "identical": self.identical,
            "changes": self.changes,
            "transactions": self.transactions,
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "steps_s": {name: round(seconds, 3) for name, seconds in self.steps_s.items()},
            "lost_rows": self.lost_rows,
            "corrupted_rows": self.corrupted_rows,
            "target": self.target,
            "differences": list(self.differences),
            "folder": self.folder,
            "urls": dict(self.urls),
            "commands": list(self.commands),
        }
