"""Errors as RFC 9457 problem documents, from the one table of families and statuses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from pitr.domain.errors import (
    Busy,
    Conflict,
    DataLoss,
    InvalidRequest,
    NotFound,
    PitrError,
    TooLarge,
    Unavailable,
)
from pitr.faces.api.bodies import BodyTimeout, UnsupportedEncoding
from pitr.faces.api.models import quarantined_documents
from pitr.faces.api.responses import PROBLEM_TYPE
from pitr.faces.documents import dumps, error_document
from pitr.services.http_ingest import StrictRefused

RETRY_AFTER_S = 2
"""When to try again after an error that does not say it itself."""

STATUSES: Mapping[type[PitrError], tuple[int, str]] = {
    BodyTimeout: (408, "Request Timeout"),
    TooLarge: (413, "Content Too Large"),
    UnsupportedEncoding: (415, "Unsupported Media Type"),
    StrictRefused: (422, "Unprocessable Content"),
    Busy: (429, "Too Many Requests"),
    InvalidRequest: (400, "Invalid Request"),
    NotFound: (404, "Not Found"),
    Conflict: (409, "Conflict"),
    Unavailable: (503, "Unavailable"),
    DataLoss: (500, "Data Loss"),
    PitrError: (500, "Error"),
}
"""The status and title of each family, and of the leaves that have their own."""


class ForbiddenOrigin(InvalidRequest):
    """A page of another site sent the request through somebody's browser."""

    code = "forbidden_origin"


def status_of(error: PitrError) -> tuple[int, str]:
    """The status and title of an error: those of its nearest class in the table."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def problem(error: PitrError) -> Response:
    """The response to an error."""
    status, title = status_of(error)
    extra: dict[str, Any] = {}
    if isinstance(error, StrictRefused):
        extra["quarantined"] = quarantined_documents(error.quarantined, error.position_first)
    return problem_response(status, title, error_document(error) | extra, headers=_headers(error))


def _headers(error: PitrError) -> dict[str, str]:
    if not isinstance(error, Unavailable):
        return {}
    seconds = error.facts.get("retry_after_s", RETRY_AFTER_S)
    if not isinstance(seconds, int | float):
        seconds = RETRY_AFTER_S
    return {"Retry-After": str(max(1, math.ceil(seconds)))}


def problem_response(
    status: int, title: str, error: dict[str, Any], *, headers: Mapping[str, str] | None = None
) -> Response:
    """A problem document as a response; ``error`` has code, message, hint and facts."""
    rest = {name: value for name, value in error.items() if name != "message"}
    document = {
        "type": f"urn:pitr:error:{error['code']}",
        "title": title,
        "status": status,
        "detail": error["message"],
        **rest,
    }
    return Response(
        dumps(document),
        status_code=status,
        media_type=PROBLEM_TYPE,
        headers=dict(headers or {}),
    )


def add_problem_handlers(api: FastAPI) -> None:
    """Let every error of the API become a problem document."""
    api.add_exception_handler(PitrError, _on_pitr_error)
    api.add_exception_handler(RequestValidationError, _on_validation_error)
    api.add_exception_handler(HTTPException, _on_http_error)
    api.add_exception_handler(ClientDisconnect, _on_disconnect)
    api.add_exception_handler(Exception, _on_bug)


async def _on_pitr_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, PitrError), "registered for it"
    return problem(error)


async def _on_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for it"
    found = [
        f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()
    ]
    invalid = InvalidRequest("the request cannot be read", hint="; ".join(found), errors=found)
    return problem(invalid)


async def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for it"
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    known = {
        "code": code,
        "message": str(error.detail),
        "hint": "/openapi.json lists what there is",
        "facts": {},
    }
    return problem_response(error.status_code, str(error.detail), known, headers=error.headers)


async def _on_disconnect(_: Request, __: Exception) -> Response:
    """Nobody is left to read the answer."""
    return Response(status_code=400)


async def _on_bug(request: Request, error: Exception) -> Response:
    structlog.get_logger("pitr.api").error(
        "bug", method=request.method, path=request.url.path, error=repr(error)
    )
    known = {
        "code": "bug",
        "message": "pitr failed in a way it does not know",
        "hint": "its log holds the trace",
        "facts": {},
    }
    return problem_response(500, "Bug", known)
