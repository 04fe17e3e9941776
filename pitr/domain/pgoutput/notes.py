"""What a lane remembers of its slot; it is stored with the changes that it speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pitr.domain.pgoutput.copying import CopyState
from pitr.domain.pgoutput.model import Transaction, lsn_of, lsn_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """Where a lane stands in its source's WAL.

    ``lsn`` is the end of the last transaction that is stored whole; None before the first start.
    ``open`` is the transaction of which a piece is stored. ``system`` and ``timeline`` say which
    cluster it was. ``lost`` is why it cannot go on from there: a gap, until all is read anew.
    """

    lsn: int | None = None
    open: Transaction | None = None
    copy: CopyState = field(default_factory=CopyState)
    system: str | None = None
    timeline: int | None = None
    lost: str | None = None

    @classmethod
    def of_json(cls, state: Mapping[str, Any]) -> Notes:
        """Read them from a lane's state."""
        lsn, transaction = state.get("lsn"), state.get("open")
        return cls(
            lsn=None if lsn is None else lsn_of(lsn),
            open=None if transaction is None else Transaction(**transaction),
            copy=CopyState.of_json(state.get("copy")),
            system=state.get("system"),
            timeline=state.get("timeline"),
            lost=state.get("lost"),
        )

    def as_json(self) -> dict[str, Any]:
        """Write them for a lane's state; ``open_tx`` is what the catalog looks at."""
        return {
            "lsn": None if self.lsn is None else lsn_text(self.lsn),
            "open": None if self.open is None else asdict(self.open),
            "open_tx": None if self.open is None else self.open.tx,
            "copy": self.copy.as_json(),
            "system": self.system,
            "timeline": self.timeline,
            "lost": self.lost,
        }
