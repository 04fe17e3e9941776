"""What became of rewinds whose processes were killed, or cut off at the commit.

Right before a rewind commits it records the id of its transaction, and what it did. Whether it was
committed then, the database itself knows (PostgreSQL: ``pg_xact_status``). So the next one who
plans or applies into that database asks, and records the answer. Nothing is left in the database
for that, and nothing is guessed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pitr.domain.catalog import Catalog
from pitr.domain.errors import NotFound
from pitr.domain.lease import sink_text
from pitr.domain.rewind.plan import LANE_PREFIX, RewindPlan
from pitr.domain.rewind.ports import RewindSink
from pitr.domain.rewind.sight import Place
from pitr.services.lease import Leases
from pitr.services.rewind.log import captured_by
from pitr.services.rewind.record import told_document

LOOKED_AT: Final = 1_000
"""How many of the newest operations of a log are looked through."""


class Aftermath:
    """Settles what killed rewinds left open."""

    def __init__(self, catalog: Catalog, leases: Leases) -> None:
        self._catalog = catalog
        self._leases = leases

    async def settle(self, log: str, sink: RewindSink) -> list[str]:
        """Record how rewinds of a database ended that did not say so; return notes on them.

        Raises:
            Unavailable: The database or the catalog does not answer.
        """
        found = await self._leases.operations(log, limit=LOOKED_AT)
        unsettled = [each for each in found if _is_open(each)]
        if not unsettled:
            return []
        place, _ = await sink.position()
        here, notes = sink_text(place.identity), []
        for each in unsettled:
            if here is not None and sink_text(each["detail"]["sink"]) == here:
                outcome = await sink.outcome(each["detail"]["xid"])
                note = await self._settled(log, place, each, outcome)
                notes += [note] if note else []
        return notes

    async def _settled(
        self, log: str, place: Place, operation: Mapping[str, Any], outcome: str | None
    ) -> str | None:
        name = f"{operation['kind']} {operation['operation_id']}, which was killed,"
        if outcome == "aborted" and operation["outcome"] == "failed":
            await self._end(operation, "failed", {"settled_as": outcome})
            return None
        if outcome == "aborted":
            why = "it was ended before its commit; nothing was changed"
            await self._end(operation, "failed", {"settled_as": outcome, "why": why})
            with contextlib.suppress(NotFound):
                await self._catalog.delete_mark(log, operation["detail"]["mark"])
            return f"{name} changed nothing"
        if outcome == "committed":
            told = await self._told(log, place, operation)
            await self._end(operation, "done", {"settled_as": outcome} | told)
            if not told["untold"]:
                return f"{name} was done: the database says so"
            return (
                f"{name} was done, but the log was not told of {', '.join(told['untold'])}: take"
                " the same target once more, which finds the rows as they are to be, and tells it"
            )
        if outcome == "in progress":
            return f"{name} is still at work in the database"
        why = "the database does not know any more whether it was committed; look at its rows"
        await self._end(operation, "failed", {"settled_as": "unknown", "why": why})
        return f"of {name} the database does not know any more whether it was done"

    async def _told(self, log: str, place: Place, operation: Mapping[str, Any]) -> dict[str, Any]:
        """Tell by which lanes its changes come into the log, and of which they never will."""
        captured = await captured_by(self._catalog, log, place)
        own = f"{LANE_PREFIX}{operation['operation_id']}"
        _, lane = await self._catalog.head(log, own)
        is_told = lane is not None and lane.state.get("open_tx") is None
        rows = operation["detail"]["rows"]
        lanes = {name: captured.get(name, own) for name in rows}
        wrote = [name for name, counts in rows.items() if any(counts.values())]
        untold = [name for name in wrote if lanes[name] == own and not is_told]
        appended = lane.change_count if lane is not None else 0
        return told_document(lanes, appended) | {"untold": untold}

    async def _end(
        self, operation: Mapping[str, Any], outcome: str, detail: Mapping[str, Any]
    ) -> None:
        await self._catalog.end_operation(
            operation["operation_id"],
            outcome=outcome,
            ended_us=operation["ended_us"] or operation["detail"]["committing_us"],
            detail=detail,
        )


def _is_open(operation: Mapping[str, Any]) -> bool:
    """Whether nobody knows if an operation was committed: it was about to be."""
    detail = operation["detail"]
    ended_badly = operation["outcome"] in ("lost", "failed")
    return ended_badly and "xid" in detail and "settled_as" not in detail


def noted(plan: RewindPlan, notes: Sequence[str]) -> RewindPlan:
    """The plan with more to tell its reader."""
    if not notes:
        return plan
    return replace(plan, seen={**plan.seen, "notes": [*notes, *plan.seen["notes"]]})
