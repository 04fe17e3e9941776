"""How a rewind is recorded: its mark, its begin and its end, who and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pitr.domain.catalog import Catalog
from pitr.domain.errors import Conflict, InvalidRequest, PitrError
from pitr.domain.log import LogView
from pitr.domain.ports import Clock
from pitr.domain.rewind.plan import MARK_PREFIX, RewindPlan
from pitr.domain.rewind.ports import Rewound
from pitr.domain.rewind.sight import OnConflict, Written
from pitr.domain.times import rfc3339


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


class Recorded:
    """Records a rewind: its mark, its begin and its end. Without an effect, there is no mark."""

    def __init__(
        self, catalog: Catalog, clock: Clock, view: LogView, run: Run, started_us: int
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._view = view
        self._run = run
        self._started_us = started_us
        self._ended: dict[str, Any] = {}

    async def __aenter__(self) -> dict[str, Any]:
        run, scope = self._run, self._run.plan.scope
        detail = {
            "plan": run.plan.hash,
            "mark": run.mark,
            "seq_end": scope.then.seq_end,
            "at": None if scope.then.at_us is None else rfc3339(scope.then.at_us),
            "without_tx": sorted(scope.then.torn),
            "collections": None if scope.collections is None else sorted(scope.collections),
            "undoes": scope.operation,
            "on_conflict": run.on_conflict,
            "sink": dict(run.plan.does["sink"]),
        }
        await self._catalog.begin_operation(
            self._view.state,
            operation_id=run.operation_id,
            kind=scope.kind,
            actor=run.actor,
            reason=run.reason,
            started_us=self._started_us,
            detail=detail,
        )
        try:
            await self._catalog.put_mark(
                scope.log,
                run.mark,
                seq_end=None,
                at_us=None,
                created_us=self._clock.now_us(),
                actor=run.actor,
                reason=run.says,
            )
        except BaseException as error:
            await self._end(error)
            raise
        return self._ended

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._end(error)

    async def _end(self, error: BaseException | None) -> None:
        run = self._run
        outcome, detail = "done", self._ended
        if error is not None:
            outcome = "failed"
            detail = {"error": getattr(error, "code", type(error).__name__), "why": str(error)}
        try:
            await self._catalog.end_operation(
                run.operation_id, outcome=outcome, ended_us=self._clock.now_us(), detail=detail
            )
            if isinstance(error, Conflict | InvalidRequest):
                await self._catalog.delete_mark(run.plan.scope.log, run.mark)
        except PitrError:
            return  # what was done stands; that its end is not recorded undoes nothing


def end_document(rewound: Rewound, lanes: Mapping[str, str], appended: int) -> dict[str, Any]:
    def counts(written: Written) -> dict[str, int]:
        return asdict(written)

    return {
        "rows": {name: counts(each) for name, each in rewound.written.items()},
        "settled": dict(rewound.settled),
        "conflicts": len(rewound.conflicts),
        "lanes": dict(lanes),
        "appended": appended,
    }
