"""Plans in the records: what was planned, by whom, and why; or why there is no plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pitr.domain.catalog import Catalog
from pitr.domain.errors import PitrError
from pitr.domain.ports import Clock
from pitr.domain.restore_plan import Plan, PlannedRestore, kind_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who plans or applies, and why."""

    actor: str | None = None
    reason: str | None = None


class Kept(Protocol):
    """A plan that was made, and whether it was applied at once."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        ...

    @property
    def applied(self) -> bool:
        """Whether it was tried."""
        ...


class PlanRecord:
    """A plan in the records: what was planned, by whom; or why not."""

    def __init__(
        self,
        catalog: Catalog,
        clock: Clock,
        operation_id: str,
        *,
        kind: str,
        log: str,
        told: Mapping[str, Any],
        who: Who,
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self.operation_id = operation_id
        self._kind = kind
        self._log = log
        self._told = dict(told)
        self._who = who
        self._started_us = clock.now_us()
        self._kept: Kept | None = None
        self._forgotten = False

    async def keep(self, opened: Kept) -> None:
        """Take a plan that was made."""
        self._kept = opened
        self._ended_us = self._clock.now_us()

    def forget(self) -> None:
        """What comes now is recorded by others."""
        self._forgotten = True

    async def shown(self) -> None:
        """Record a plan that was made, and not applied right away."""
        if self._kept is None or self._kept.applied or self._forgotten:
            return
        plan = self._kept.plan
        await self._put("done", self._ended_us, self._told | plan_detail(plan))

    async def refused(self, error: PitrError) -> None:
        """Record why there is no plan. That applying one failed is recorded by who does it."""
        if self._forgotten or (self._kept is not None and self._kept.applied):
            return
        detail = self._told | {"error": error.code, "why": str(error)}
        await self._put("failed", self._clock.now_us(), detail)

    async def _put(self, outcome: str, ended_us: int, detail: Mapping[str, Any]) -> None:
        try:
            state = await self._catalog.log(self._log)
            await self._catalog.begin_operation(
                state,
                operation_id=self.operation_id,
                kind=self._kind,
                actor=self._who.actor,
                reason=self._who.reason,
                started_us=self._started_us,
                detail=detail,
            )
            await self._catalog.end_operation(
                self.operation_id, outcome=outcome, ended_us=ended_us, detail={}
            )
        except PitrError:
            return  # the plan is shown all the same, and what failed says why


def plan_detail(plan: Plan) -> dict[str, Any]:
    """What the records keep of a plan."""
    detail: dict[str, Any] = {"plan": plan.hash, "of": kind_of(plan), "row_count": plan.row_count}
    if isinstance(plan, PlannedRestore):
        target, detail["rows"] = plan.does["target"], _restored_rows(plan)
        detail |= {"problems": list(plan.seen["problems"])}
    else:
        target = plan.does["scope"]["then"]
        detail["rows"] = {
            each["collection"]: {name: each[name] for name in ("insert", "update", "delete")}
            for each in plan.does["collections"]
        }
        detail["conflicts"] = sum(plan.seen["conflicts"]["counts"].values())
    return detail | {
        "seq_end": target["seq_end"],
        "at": target["at"],
        "where": plan.seen["where"],
        "into": plan.seen["into"],
    }


def _restored_rows(plan: PlannedRestore) -> dict[str, int]:
    return {each["collection"]: each["rows"] for each in plan.does["tables"]}
