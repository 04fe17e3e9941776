"""Whether the service lives, is ready, and what it measures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST

from pitr.domain.errors import NotFound, PitrError
from pitr.faces.api.context import Context, Here
from pitr.faces.api.responses import json_response

router = APIRouter(tags=["health"])

READY_WAIT_S = 5
"""Longest wait for catalog and store to answer."""

_PROBE = "pitr-ready/probe"
"""The name of an object that never exists: a store that says so answers."""


@router.get("/healthz", summary="Does the process live?", response_class=Response)
async def healthz() -> Response:
    """True for as long as it answers; says nothing of what it depends on."""
    return json_response({"status": "ok"})


@router.get(
    "/readyz",
    summary="Can it work?",
    response_class=Response,
    responses={503: {"description": "Something it depends on does not answer"}},
)
async def readyz(here: Here) -> Response:
    """Ask catalog and store; tell how capture from Kafka and databases goes; 503 with reasons."""
    checks = dict(
        zip(
            ("catalog", "store"),
            await asyncio.gather(
                _answers(here.app.catalog.logs), _answers(lambda: _probe_store(here))
            ),
            strict=True,
        )
    )
    for capture in here.app.captures:
        checks["capture"] = capture.problem or "ok"
    waiting = set()
    for name, follower in sorted(here.app.followers.items()):
        checks[name] = follower.problem or "ok"
        if follower.waits:  # another process does its work, and this one is there if that ends
            waiting.add(name)
    ready = all(found == "ok" for name, found in checks.items() if name not in waiting)
    document = {"status": "ok" if ready else "unavailable", "checks": checks}
    return json_response(document, status=200 if ready else 503)


async def _answers(ask: Callable[[], Awaitable[Any]]) -> str:
    try:
        async with asyncio.timeout(READY_WAIT_S):
            await ask()
    except TimeoutError:
        return f"no answer within {READY_WAIT_S} s"
    except PitrError as error:
        return str(error)
    return "ok"


async def _probe_store(here: Context) -> None:
    try:
        await here.app.store.read(_PROBE)
    except NotFound:
        return


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(here: Here) -> Response:
    """Counters of this process and the state of every log."""
    try:
        async with asyncio.timeout(READY_WAIT_S):
            statuses = await here.app.status.logs()
    except (PitrError, TimeoutError):
        return Response(here.metrics.exposition(None), media_type=CONTENT_TYPE_LATEST)
    return Response(here.metrics.exposition(statuses), media_type=CONTENT_TYPE_LATEST)
