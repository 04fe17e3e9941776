"""What the routes share; made once for each API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from pitr.app import App
from pitr.faces.api.bodies import Bodies
from pitr.faces.api.metrics import Metrics
from pitr.services.http_ingest import HttpIngest


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The app and what this face adds to it."""

    app: App
    ingest: HttpIngest
    bodies: Bodies
    metrics: Metrics


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Here = Annotated[Context, Depends(_context)]
