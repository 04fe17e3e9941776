"""``POST /v1/logs/{log}/changes``: the way in for every app that speaks HTTP."""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from pitr.domain.batch import Batch
from pitr.faces.api.bodies import read_body
from pitr.faces.api.context import Context, Here
from pitr.faces.api.models import IngestAnswerBody, IngestQuery, ingest_answer_document
from pitr.faces.api.responses import json_response, problem_documented
from pitr.services.http_ingest import IngestAnswer, IngestRequest, check_request

router = APIRouter(prefix="/v1/logs/{log}", tags=["ingest"])

_LINES = (
    '{"collection":"shop.orders","key":{"id":42},"op":"update",'
    '"after":{"id":42,"status":"paid"},"at":"2026-03-01T09:30:00.250001Z","actor":"user:7"}\n'
    '{"collection":"shop.orders","key":{"id":41},"op":"delete","at":"2026-03-01T09:30:01Z"}\n'
)
_ONE: dict[str, Any] = {
    "collection": "shop.orders",
    "key": 42,
    "after": {"id": 42, "status": "paid"},
    "at": "2026-03-01T09:30:00.250001Z",
}
_BODY = {
    "required": True,
    "description": "Changes, in order; gzip or zstd as Content-Encoding.",
    "content": {
        "application/x-ndjson": {"schema": {"type": "string"}, "example": _LINES},
        "application/json": {
            "schema": {
                "oneOf": [{"type": "array", "items": {"type": "object"}}, {"type": "object"}]
            },
            "examples": {"array": {"value": [_ONE]}, "one": {"value": _ONE}},
        },
    },
}
_PROBLEMS = {
    400: "The request can never succeed as it stands",
    408: "The body did not arrive in time",
    409: "`position_conflict`: the lane stands elsewhere, `facts.expected` says where; "
    "`idempotency_conflict`: the key was used with another body",
    413: "The body is too long; send it in parts",
    415: "The Content-Encoding is not known",
    429: "Too much is under way; Retry-After says when to come back. Nothing was stored",
    503: "Catalog or store do not answer. It is unknown whether it was stored: send it again",
}


@router.post(
    "/changes",
    summary="Store changes",
    description="Answers when the changes are durable. With `lane` and `position`, or with an "
    "`Idempotency-Key`, a request may be sent any number of times and is stored once.",
    response_class=Response,
    responses={
        200: {"model": IngestAnswerBody, "description": "Stored, durable"},
        422: problem_documented(
            "`strict` and some line cannot be read: nothing was stored", schema="StrictProblem"
        ),
        **{status: problem_documented(text) for status, text in _PROBLEMS.items()},
    },
    openapi_extra={"requestBody": _BODY},
)
async def store_changes(
    log: str,
    request: Request,
    here: Here,
    query: Annotated[IngestQuery, Query()],
    idempotency_key: Annotated[str | None, Header(description="1 to 200 characters")] = None,
) -> Response:
    """Read, decode, store, answer."""
    asked = query.request(log, shape=_shape(request), idempotency_key=idempotency_key)
    check_request(asked)
    batch = await _batch(here, request, asked)
    answer = await _stored(here, asked, batch)
    return json_response(ingest_answer_document(log, answer))


def _shape(request: Request) -> Literal["lines", "json"]:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return "json" if media_type == "application/json" else "lines"


async def _batch(here: Context, request: Request, asked: IngestRequest) -> Batch:
    """Read and decode; the room of the body is given back when it has become a batch."""
    with here.bodies.room() as room:
        body = await read_body(request, room, bytes_max=here.app.limits.body_bytes_max)
        return await here.ingest.batch(asked, body)


async def _stored(here: Context, asked: IngestRequest, batch: Batch) -> IngestAnswer:
    started = time.perf_counter()
    with here.metrics.waiting(batch.size_bytes):
        answer = await here.ingest.store(asked, batch)
    here.metrics.appended(asked.log, answer.appended, time.perf_counter() - started)
    return answer
