"""docs/http-api.md names what there is, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.metrics_core import Metric

from pitr.faces.api.problems import STATUSES
from tests.faces.conftest import Service

TEXT = (Path(__file__).parents[2] / "docs" / "http-api.md").read_text()


async def test_every_route_is_documented(service: Service) -> None:
    paths = (await service.client.get("/openapi.json")).json()["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    told = set(re.findall(r"^\| `((?:GET|POST|DELETE) [^`?]+)", TEXT, re.M))
    assert told == routes


async def test_every_parameter_is_documented(service: Service) -> None:
    paths = (await service.client.get("/openapi.json")).json()["paths"]
    for path, methods in paths.items():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                assert parameter["name"].lower() in TEXT.lower(), (path, parameter["name"])


async def test_every_metric_is_documented(service: Service) -> None:
    await service.client.get("/metrics")
    collected: list[Metric] = list(service.api.state.context.metrics.registry.collect())
    names = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in collected
        if metric.name.startswith("pitr_")
    }
    told = set(re.findall(r"`(pitr_[a-z_]+)`", TEXT))
    assert told == names


def test_every_status_is_documented() -> None:
    told = {int(status) for status in re.findall(r"^\| (\d{3}) \|", TEXT, re.M)}
    assert told == {status for status, _ in STATUSES.values()} | {405}
