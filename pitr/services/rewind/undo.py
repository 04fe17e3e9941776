"""What a rewind left in the log, for whoever undoes it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pitr.domain.catalog import Catalog
from pitr.domain.columnar.traces import Traces, traces
from pitr.domain.errors import Conflict, NotFound
from pitr.domain.log import LogView
from pitr.domain.rewind.plan import reason_of
from pitr.services.archive import Archive

OPERATIONS_MAX: Final = 10_000
"""How many operations are looked through."""

KINDS: Final = ("rewind", "undo", "revert")


@dataclass(frozen=True, slots=True, kw_only=True)
class DoneOperation:
    """A rewind that was done. ``rows`` are how many it wrote of each collection that differs."""

    operation_id: str
    mark: str
    rows: Mapping[str, int]
    appended: int
    lanes: Mapping[str, str]


async def operation_of(catalog: Catalog, log: str, operation_id: str) -> DoneOperation:
    """Find a rewind among the operations of a log.

    Raises:
        NotFound: There is none of that id.
        Conflict: It is no rewind, or it did not end well.
    """
    operations = await catalog.operations(log, limit=OPERATIONS_MAX)
    found = next((each for each in operations if each["operation_id"] == operation_id), None)
    if found is None:
        raise NotFound("there is no such operation", operation=operation_id)
    if found["kind"] not in KINDS or found["outcome"] != "done":
        raise Conflict(
            "only a rewind that was done can be undone",
            operation=operation_id,
            kind=found["kind"],
            outcome=found["outcome"],
        )
    detail: Mapping[str, Any] = found["detail"]
    if detail.get("untold"):
        raise Conflict(
            "the rewind was killed before the log was told of it",
            hint="take its target once more, which tells the log; that one can be undone",
            operation=operation_id,
            collections=detail["untold"],
        )
    rows = {name: sum(counts.values()) for name, counts in detail["rows"].items()}
    return DoneOperation(
        operation_id=operation_id,
        mark=detail["mark"],
        rows=rows,
        appended=detail["appended"],
        lanes=detail["lanes"],
    )


async def traces_of(archive: Archive, view: LogView, operation: DoneOperation) -> Traces:
    """Find the changes of a rewind in the log.

    Raises:
        Conflict: They are not all there yet; or it changed nothing.
    """
    refs = [ref for ref in view.segments if not operation.rows.keys().isdisjoint(ref.ops)]
    paths = await archive.verified(refs)
    found = await asyncio.to_thread(traces, paths, view.tail, reason_of(operation.operation_id))
    missing = {
        name: count - found.rows.get(name, 0)
        for name, count in operation.rows.items()
        if found.rows.get(name, 0) < count
    }
    if missing:
        raise Conflict(
            "the log does not have all changes of the rewind yet",
            hint="let the capture of the database catch up, and try again",
            operation=operation.operation_id,
            missing=missing,
        )
    if not found.rows:
        raise Conflict("the rewind changed nothing", operation=operation.operation_id)
    return found
