"""Makes the HTTP API over an open app. It starts and stops nothing."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

from pitr.app import App
from pitr.faces.api import routes_health, routes_ingest, routes_logs, routes_marks
from pitr.faces.api.bodies import Bodies
from pitr.faces.api.context import Context
from pitr.faces.api.guard import SameOrigin
from pitr.faces.api.metrics import Measured, Metrics
from pitr.faces.api.models import Problem, StrictProblem
from pitr.faces.api.problems import add_problem_handlers
from pitr.services.http_ingest import HttpIngest

API_VERSION = "1"


def make_api(app: App) -> FastAPI:
    """Return the API as an ASGI application.

    It serves ``/openapi.json`` but no page for it: those load their code from elsewhere.
    """
    bodies = Bodies(bytes_max=max(app.limits.append_queue_bytes_max, app.limits.body_bytes_max))
    metrics = Metrics(bodies)
    api = FastAPI(
        title="pitr",
        summary="Changelog and point-in-time recovery",
        version=API_VERSION,
        docs_url=None,
        redoc_url=None,
    )
    api.state.context = Context(
        app=app, ingest=HttpIngest(app.appender), bodies=bodies, metrics=metrics
    )
    for routes in (routes_ingest, routes_logs, routes_marks, routes_health):
        api.include_router(routes.router)
    add_problem_handlers(api)
    api.add_middleware(SameOrigin)
    api.add_middleware(Measured, metrics=metrics)
    api.openapi = lambda: _openapi(api)  # type: ignore[method-assign]
    return api


def _openapi(api: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the schemas that problems refer to; made once."""
    if api.openapi_schema is None:
        document = get_openapi(
            title=api.title, summary=api.summary, version=api.version, routes=api.routes
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (Problem, StrictProblem):
            schemas |= _schema(model)
        api.openapi_schema = document
    return api.openapi_schema


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), model.__name__: schema}
