"""Reading logs: how they stand, the history of a row, a target against a log, quarantine."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from pitr.faces.api.context import Here
from pitr.faces.api.examples import DESCRIBE, HISTORY, LOGS, QUARANTINE, STATUS
from pitr.faces.api.models import DescribeQuery, HistoryQuery, QuarantineQuery
from pitr.faces.api.responses import documented, json_response
from pitr.faces.documents import (
    history_document,
    quarantine_document,
    resolution_document,
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
    description="Which changes a target takes in, and the commits on both sides of it.",
    response_class=Response,
    responses=documented(
        "The target, resolved",
        DESCRIBE,
        _404="There is no such log, mark or transaction",
        _409="`target_beyond_watermark`: the target is ahead of the log",
    ),
)
async def describe(log: str, here: Here, query: Annotated[DescribeQuery, Query()]) -> Response:
    """Resolve a target."""
    view = await here.app.archive.view(log)
    resolution = await here.app.resolver.resolve(view, query.target)
    return json_response(resolution_document(log, resolution))


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
