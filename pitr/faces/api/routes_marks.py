"""Marks: named moments."""

from __future__ import annotations

from urllib.parse import quote

from fastapi import APIRouter
from fastapi.responses import Response

from pitr.faces.api.context import Context, Here
from pitr.faces.api.examples import MARK, MARKS
from pitr.faces.api.models import MarkBody
from pitr.faces.api.responses import documented, json_response, problem_documented
from pitr.faces.documents import mark_document

router = APIRouter(prefix="/v1/logs/{log}/marks", tags=["marks"])


@router.post(
    "",
    summary="Name a moment",
    description="By default the present: every change that is stored by now. With a `target`, "
    "the moment it means; that is decided now and does not move.",
    status_code=201,
    response_class=Response,
    responses=documented(
        "The mark",
        MARK,
        status=201,
        _404="There is no such log, mark or transaction",
        _409="The name is taken, or the target is ahead of the log",
    ),
)
async def set_mark(log: str, mark: MarkBody, here: Here) -> Response:
    """Resolve the target and name it."""
    seq_end, at_us = await _moment(here, log, mark.target)
    made = await here.app.catalog.put_mark(
        log,
        mark.name,
        seq_end=seq_end,
        at_us=at_us,
        created_us=here.app.clock.now_us(),
        actor=mark.actor,
        reason=mark.reason,
    )
    place = {"Location": f"/v1/logs/{quote(log)}/marks/{quote(mark.name)}"}
    return json_response(mark_document(made), status=201, headers=place)


async def _moment(here: Context, log: str, target: str) -> tuple[int | None, int | None]:
    """The seq and time of a target; the present is left to the catalog, which knows it exactly."""
    if target == "latest":
        return None, None
    resolution = await here.app.resolver.resolve(await here.app.archive.view(log), target)
    return resolution.cut.seq_end, resolution.target.at_us


@router.get(
    "",
    summary="List marks",
    response_class=Response,
    responses=documented("Marks, oldest first", MARKS, _404="There is no such log"),
)
async def list_marks(log: str, here: Here) -> Response:
    """Every mark of the log."""
    await here.app.catalog.log(log)
    marks = await here.app.catalog.marks(log)
    return json_response({"log": log, "marks": [mark_document(mark) for mark in marks]})


@router.get(
    "/{name}",
    summary="One mark",
    response_class=Response,
    responses=documented("The mark", MARK, _404="There is no such log or mark"),
)
async def show_mark(log: str, name: str, here: Here) -> Response:
    """One mark."""
    return json_response(mark_document(await here.app.catalog.mark(log, name)))


@router.delete(
    "/{name}",
    summary="Forget a mark",
    status_code=204,
    response_class=Response,
    responses={
        404: problem_documented("There is no such log or mark"),
        "default": problem_documented("Any other error"),
    },
)
async def delete_mark(log: str, name: str, here: Here) -> Response:
    """The changes it named stay."""
    await here.app.catalog.delete_mark(log, name)
    return Response(status_code=204)
