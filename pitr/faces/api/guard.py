"""Refuses what a page of another site sends through somebody's browser.

A service on 127.0.0.1 is in reach of every page that its user opens. Browsers name the page's site
in the Origin header of each request that may change something; nothing else sends that header.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pitr.faces.api.problems import ForbiddenOrigin, problem

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class SameOrigin:
    """ASGI middleware: a request with an Origin must come from this very host and port."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in _SAFE:
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                refusal = problem(
                    ForbiddenOrigin("a page of another site sent this request", origin=origin)
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)
