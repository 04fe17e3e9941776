"""Reading logs: how they stand, the history of a row, a target against a log, quarantine."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from pitr.faces.api.context import Here
from pitr.faces.api.examples import DESCRIBE, FIND, HISTORY, LOGS, QUARANTINE, STATUS
from pitr.faces.api.models import DescribeQuery, FindQuery, HistoryQuery, QuarantineQuery
from pitr.faces.api.responses import documented, json_response
from pitr.faces.documents import (
    description_document,
    find_document,
    history_document,
    quarantine_document,
    status_document,
)
from pitr.faces.keys import key_of

router = APIRouter(prefix="/v1/logs", tags=["logs"])

_NO_LOG = "There is no such log"


@router.get(
    "",
    summary="List logs",
    response_class=Response,
    responses=documented("Every log and how it stands", LOGS),
)
async def list_logs(here: Here) -> Response:
    """Every log, by name."""
    statuses = await here.app.status.logs()
    return json_response({"logs": [status_document(status) for status in statuses]})


@router.get(
    "/{log}",
    summary="Status of a log",
    response_class=Response,
    responses=documented("How the log stands", STATUS, _404=_NO_LOG),
)
async def show_log(log: str, here: Here) -> Response:
    """Lanes, tail, segments, snapshot, gaps, quarantine."""
    return json_response(status_document(await here.app.status.status(log)))


@router.get(
    "/{log}/history",
    summary="History of a row",
    description="Who changed the row, when, from what to what; newest first. Documents are "
    "returned byte for byte as they were captured.",
    response_class=Response,
    responses=documented("The row's changes", HISTORY, _404=_NO_LOG),
)
async def show_history(log: str, here: Here, query: Annotated[HistoryQuery, Query()]) -> Response:
    """A row that never was has no changes."""
    key = key_of(query.key)
    changes = await here.app.history.history(log, query.collection, key, limit=query.limit)
    return json_response(history_document(log, query.collection, key, changes))


@router.get(
    "/{log}/describe",
    summary="A target against the log",
    description="Which changes a target takes in, and the changes and transactions on both "
    "sides of it. A target ahead of the log is in the `future`.",
    response_class=Response,
    responses=documented(
        "The target, resolved",
        DESCRIBE,
        _404="There is no such log, mark or transaction",
        _429="`busy`: too many searches wait",
    ),
)
async def describe(log: str, here: Here, query: Annotated[DescribeQuery, Query()]) -> Response:
    """Resolve a target, and look at both sides of it."""
    description = await here.app.finder.describe(log, query.target)
    return json_response(description_document(log, description))


@router.get(
    "/{log}/find",
    summary="Find the moment",
    description="Which transactions did it, when, by whom, and the target just before each. "
    "Changes that are in no transaction are listed one by one.",
    response_class=Response,
    responses=documented(
        "Transactions and changes that match",
        FIND,
        _404="There is no such log or collection",
        _429="`busy`: too many searches wait",
    ),
)
async def find(log: str, here: Here, query: Annotated[FindQuery, Query()]) -> Response:
    """Search the log."""
    wanted = query.query(now_us=here.app.clock.now_us())
    return json_response(find_document(await here.app.finder.find(log, wanted)))


@router.get(
    "/{log}/quarantine",
    summary="Input that could not be read",
    response_class=Response,
    responses=documented("Inputs, oldest first, and how many there are", QUARANTINE, _404=_NO_LOG),
)
async def list_quarantine(
    log: str, here: Here, query: Annotated[QuarantineQuery, Query()]
) -> Response:
    """``next_id`` is where the next page begins; null at the end."""
    catalog = here.app.catalog
    await catalog.log(log)
    found = await catalog.quarantine(
        log,
        status=None if query.status == "all" else query.status,
        id_first=query.id_first,
        limit=query.limit + 1,
    )
    shown = found[: query.limit]
    return json_response(
        {
            "log": log,
            "counts": await catalog.quarantine_counts(log),
            "items": [quarantine_document(item) for item in shown],
            "next_id": found[query.limit].quarantine_id if len(found) > query.limit else None,
        }
    )
