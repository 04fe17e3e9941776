"""How a rewind is recorded: its mark, its begin and its end, who and why."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from pitr.domain.catalog import Catalog
from pitr.domain.errors import Conflict, InvalidRequest, PitrError
from pitr.domain.lease import sink_text
from pitr.domain.log import LogState
from pitr.domain.ports import Clock
from pitr.domain.rewind.plan import MARK_PREFIX, RewindPlan
from pitr.domain.rewind.ports import Rewound
from pitr.domain.rewind.sight import OnConflict
from pitr.domain.times import rfc3339
from pitr.services.operations import Begun


@dataclass(frozen=True, slots=True)
class Run:
    """One rewind under way; ``says`` is the reason of its changes."""

    plan: RewindPlan
    operation_id: str
    on_conflict: OnConflict
    actor: str | None
    reason: str | None
    says: str

    @property
    def mark(self) -> str:
        """The mark of the moment before it."""
        return f"{MARK_PREFIX}{self.operation_id}"


def begun(run: Run, state: LogState, started_us: int) -> Begun:
    """A rewind as it is recorded when it begins."""
    scope, sink = run.plan.scope, run.plan.does["sink"]
    return Begun(
        state=state,
        operation_id=run.operation_id,
        kind=scope.kind,
        actor=run.actor,
        reason=run.reason,
        started_us=started_us,
        sink=sink_text(sink),
        detail={
            "plan": run.plan.hash,
            "mark": run.mark,
            "seq_end": scope.then.seq_end,
            "at": None if scope.then.at_us is None else rfc3339(scope.then.at_us),
            "without_tx": sorted(scope.then.torn),
            "collections": None if scope.collections is None else sorted(scope.collections),
            "undoes": scope.operation,
            "on_conflict": run.on_conflict,
            "sink": dict(sink),
            "into": run.plan.seen.get("into"),
            "where": run.plan.seen.get("where"),
            "target": (run.plan.seen.get("target") or {}).get("asked"),
            "tx": scope.tx,
        },
    )


@asynccontextmanager
async def marked(catalog: Catalog, clock: Clock, run: Run) -> AsyncIterator[None]:
    """Set the mark of the moment before a rewind. One that was refused leaves no mark."""
    log = run.plan.scope.log
    await catalog.put_mark(
        log,
        run.mark,
        seq_end=None,
        at_us=None,
        created_us=clock.now_us(),
        actor=run.actor,
        reason=run.says,
    )
    try:
        yield
    except (Conflict, InvalidRequest):
        with contextlib.suppress(PitrError):  # it does no harm
            await catalog.delete_mark(log, run.mark)
        raise


def rewound_document(rewound: Rewound) -> dict[str, Any]:
    """What is recorded of a rewind right before its commit: what it comes to."""
    return {
        "rows": {name: asdict(each) for name, each in rewound.written.items()},
        "settled": dict(rewound.settled),
        "conflicts": len(rewound.conflicts),
    }


def told_document(lanes: Mapping[str, str], appended: int) -> dict[str, Any]:
    """What is recorded at the end besides: how it comes into the log."""
    return {"lanes": dict(lanes), "appended": appended}
