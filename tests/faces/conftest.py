"""The real API in this process: real catalog, real store, no mocks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest
from fastapi import FastAPI

from pitr.app import App, open_app
from pitr.faces.api import make_api
from pitr.settings import load_settings


@dataclass(slots=True)
class Service:
    """An open app, its API, and a log of its own."""

    app: App
    api: FastAPI
    client: httpx.AsyncClient
    log: str

    @property
    def path(self) -> str:
        return f"/v1/logs/{self.log}"

    async def post(self, body: Any, **kwargs: Any) -> httpx.Response:
        """Post changes: bytes or an async generator as they are, a list as NDJSON."""
        content = ndjson(body) if isinstance(body, list) else body
        return await self.client.post(f"{self.path}/changes", content=content, **kwargs)

    async def rows(self) -> list[dict[str, Any]]:
        """Every change of the log that is still in the tail, in order of seq."""
        view = await self.app.catalog.view(self.log)
        rows: list[dict[str, Any]] = view.tail.to_pylist()
        return rows


def ndjson(changes: list[Any]) -> bytes:
    """One JSON document a line; bytes are taken as they are."""
    return b"".join(
        (line if isinstance(line, bytes) else orjson.dumps(line)) + b"\n" for line in changes
    )


def change(key: int | str = 1, **fields: Any) -> dict[str, Any]:
    """A change in the native format."""
    return {"collection": "shop.orders", "key": key, "after": {"id": key}} | fields


Opener = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture
def opener(catalog_url: str, tmp_path: Path) -> Opener:
    """Opens services; keyword arguments are settings."""

    @asynccontextmanager
    async def opened(**given: Any) -> AsyncIterator[Service]:
        log = f"log-{uuid4().hex[:12]}"
        settings = load_settings(data=tmp_path, catalog_url=catalog_url, log=log, **given)
        async with open_app(settings) as app:
            await app.ensure_log(log)
            api = make_api(app)
            transport = httpx.ASGITransport(app=api)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://pitr.test", timeout=30
            ) as client:
                yield Service(app, api, client, log)

    return opened


@pytest.fixture
async def service(opener: Opener) -> AsyncIterator[Service]:
    async with opener() as opened:
        yield opened
