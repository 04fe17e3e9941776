"""Reading logs over HTTP: status, history, targets, marks, quarantine, health."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest

from pitr.faces.api import examples
from tests.faces.conftest import Service, change
from tests.faces.test_api_ingest import BAD, problem, stored

EXACT = b'{"id":1,"price":1.10,"big":123456789012345678901234567890,  "text":"\\u00e9\xc3\xa9"}'


def same_shape(found: Any, example: Any, *, at: str = "$") -> None:
    """Check that two documents have the same members; null fits everything."""
    if found is None or example is None:
        return
    assert type(found) is type(example), at
    if isinstance(example, dict):
        assert found.keys() == example.keys(), at
        for name in example:
            same_shape(found[name], example[name], at=f"{at}.{name}")
    elif isinstance(example, list) and example:
        for item in found:
            same_shape(item, example[0], at=f"{at}[]")


async def get(service: Service, path: str, **params: Any) -> dict[str, Any]:
    response = await service.client.get(f"{service.path}{path}", params=params)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    document: dict[str, Any] = response.json()
    return document


async def test_the_status_of_a_log_is_as_documented(service: Service) -> None:
    stored(await service.post([change(1), BAD, change(2)]))
    await service.app.sealer.seal(service.log, force=True)
    await service.app.snapshotter.snapshot(service.log)
    stored(await service.post([change(3)]))
    status = await get(service, "")
    same_shape(status, examples.STATUS)
    assert (status["change_count"], status["tail"]["change_count"]) == (3, 1)
    assert status["segments"]["count"] == status["snapshot"]["parts"] == 1
    assert status["quarantine"]["waiting"] == 1
    listed = (await service.client.get("/v1/logs")).json()["logs"]
    assert service.log in [one["log"] for one in listed]


@pytest.mark.parametrize("key", ["1", '{"id":1}', '{ "id" : 1 }'])
async def test_history_is_newest_first_and_byte_for_byte(service: Service, key: str) -> None:
    line = b'{"collection":"c","key":1,"after":%s,"actor":"user:7","at":"2026-03-01T09:30:00Z"}'
    stored(await service.post([line % b'{"id":1}', line % EXACT]))
    response = await service.client.get(
        f"{service.path}/history", params={"collection": "c", "key": key}
    )
    assert EXACT in response.content
    document = response.json()
    same_shape(document["changes"], [change_example()])
    assert [one["seq"] for one in document["changes"]] == [2, 1]
    assert document["key"] == {"id": 1}
    newest = document["changes"][0]
    assert newest["before"] == {"id": 1}
    assert [field["name"] for field in newest["fields"]] == ["price", "big", "text"]
    assert "before" not in newest["fields"][0]
    assert newest["at"] == "2026-03-01T09:30:00.000000Z"


def change_example() -> dict[str, Any]:
    example: dict[str, Any] = examples.HISTORY["changes"][0]
    return example | {"before": None, "after": None, "fields": [], "key": None}


async def test_the_history_of_a_text_key_needs_no_quotes(service: Service) -> None:
    stored(await service.post([change("a b"), change("7")]))
    for key, count in (("a b", 1), ('"a b"', 1), ('"7"', 1), ("7", 0)):
        found = await get(service, "/history", collection="shop.orders", key=key)
        assert len(found["changes"]) == count, key


async def test_history_is_bounded_by_its_limit(service: Service) -> None:
    stored(await service.post([change(1, after={"n": n}) for n in range(5)]))
    found = await get(service, "/history", collection="shop.orders", key="1", limit=2)
    assert [one["seq"] for one in found["changes"]] == [5, 4]


async def test_describe_names_both_neighbours(service: Service) -> None:
    times = ("2026-03-01T09:30:00Z", "2026-03-01T09:31:00Z")
    stored(await service.post([change(n, at=at) for n, at in enumerate(times)]))
    found = await get(service, "/describe", target="2026-03-01T09:30:30+00:00")
    same_shape(found, examples.DESCRIBE)
    assert (found["position"], found["previous"]["seq"], found["next"]["seq"]) == ("between", 1, 2)
    ahead = await get(service, "/describe", target="2999-01-01T00:00:00Z")
    assert (ahead["position"], ahead["previous"]["seq"], ahead["next"]) == ("future", 2, None)
    mark = {"name": "ahead", "target": "2999-01-01T00:00:00Z"}
    refused = await service.client.post(f"{service.path}/marks", json=mark)
    problem(refused, 409, "target_beyond_watermark")
    naive = await service.client.get(
        f"{service.path}/describe", params={"target": "2026-03-01T09:30:30"}
    )
    assert "UTC" in problem(naive, 400, "invalid_request")["hint"]


async def test_find_answers_as_on_the_command_line(service: Service) -> None:
    rows = [change(n, op="delete", after=None, tx="oops", actor="ops:jo") for n in range(5)]
    paid = change(7, after={"id": 7, "total": 12.50}, at="2026-03-01T09:30:00Z")
    stored(await service.post([paid, *rows]))
    found = await get(service, "/find")
    same_shape(found, examples.FIND)
    assert [match["target"] for match in found["matches"]] == ["before-tx:oops", "before-seq:1"]
    described = await get(service, "/describe", target="before-tx:oops")
    same_shape(described["next_transaction"], examples.FIND["matches"][0])
    assert described["next_transaction"] == found["matches"][0]
    for params, seqs in (
        ({"op": ["delete", "truncate"], "min": 5, "collection": "shop.*"}, [2]),
        ({"where": ["total > 12", "total < 12.6"]}, [1]),
        ({"since": "2026-03-01T09:30:00Z", "until": "2026-03-01T09:30:00Z"}, [1]),
        ({"order": "oldest", "limit": 1}, [1]),
        ({"key": "3", "actor": "ops:*", "tx": "oops", "lane": "http"}, [5]),
        ({"reason": "x"}, []),
    ):
        matches = (await get(service, "/find", **params))["matches"]
        assert [match["seq_first"] for match in matches] == seqs, params
    for params, status, code in (
        ({"where": "total"}, 400, "invalid_request"),
        ({"since": "yesterday"}, 400, "invalid_request"),
        ({"op": "drop"}, 400, "invalid_request"),
        ({"limit": 1_001}, 400, "invalid_request"),
        ({"columns": "x"}, 400, "invalid_request"),
        ({"key": "[1]"}, 400, "bad_key"),
        ({"collection": "nope"}, 404, "not_found"),
    ):
        problem(await service.client.get(f"{service.path}/find", params=params), status, code)


async def test_marks_are_set_once_listed_and_forgotten(service: Service) -> None:
    stored(await service.post([change(1), change(2)]))
    marks = f"{service.path}/marks"
    mark = {"name": "before-deploy-42", "actor": "user:7", "reason": "deploy 42"}
    made = await service.client.post(marks, json=mark)
    assert made.status_code == 201
    same_shape(made.json(), examples.MARK)
    assert made.json()["seq_end"] == 3
    assert (await service.client.get(made.headers["location"])).json() == made.json()
    problem(await service.client.post(marks, json=mark), 409, "conflict")
    old = await service.client.post(marks, json={"name": "old", "target": "seq:1"})
    assert old.json()["seq_end"] == 2
    listed = await get(service, "/marks")
    assert [one["name"] for one in listed["marks"]] == ["before-deploy-42", "old"]
    described = await get(service, "/describe", target="mark:old")
    assert described["seq_end"] == 2
    assert (await service.client.delete(f"{marks}/old")).status_code == 204
    problem(await service.client.delete(f"{marks}/old"), 404, "not_found")


async def test_a_mark_of_a_time_keeps_the_time(service: Service) -> None:
    stored(await service.post([change(1, at="2026-03-01T09:30:00Z")]))
    body = {"name": "t", "target": "2026-03-01T09:29:00Z"}
    made = (await service.client.post(f"{service.path}/marks", json=body)).json()
    assert made["at"] == "2026-03-01T09:29:00.000000Z"
    assert (await get(service, "/describe", target="mark:t"))["position"] == "past"


@pytest.mark.parametrize(
    "body", [{}, {"name": "a b"}, {"name": "a", "seq": 1}, {"name": "a", "target": "yesterday"}]
)
async def test_wrong_marks_are_refused(service: Service, body: dict[str, Any]) -> None:
    response = await service.client.post(f"{service.path}/marks", json=body)
    problem(response, 400, "invalid_request")


async def test_quarantine_shows_the_bytes_page_by_page(service: Service) -> None:
    stored(await service.post([BAD, b"\xff\x00", b"[1]"]))
    first = await get(service, "/quarantine", limit=2)
    same_shape(first, examples.QUARANTINE)
    assert [item["body"] for item in first["items"]] == [BAD.decode(), None]
    assert first["items"][1]["body_base64"] == "/wA="
    assert first["counts"] == {"waiting": 3, "replayed": 0, "dismissed": 0}
    second = await get(service, "/quarantine", limit=2, id_first=first["next_id"])
    assert [item["body"] for item in second["items"]] == ["[1]"]
    assert second["next_id"] is None


@pytest.mark.parametrize(
    "path",
    ["", "/history?collection=a&key=1", "/describe", "/find", "/marks", "/marks/a", "/quarantine"],
)
async def test_a_log_that_is_not_there_is_not_found(service: Service, path: str) -> None:
    problem(await service.client.get(f"/v1/logs/none{path}"), 404, "not_found")


async def test_a_key_that_is_none_is_refused(service: Service) -> None:
    params = {"collection": "c", "key": "[1]"}
    response = await service.client.get(f"{service.path}/history", params=params)
    problem(response, 400, "bad_key")


async def test_wrong_paths_and_methods_are_problems(service: Service) -> None:
    problem(await service.client.get("/nothing"), 404, "not_found")
    problem(await service.client.put(f"{service.path}/changes"), 405, "method_not_allowed")
    for page in ("/docs", "/redoc"):
        problem(await service.client.get(page), 404, "not_found")


async def test_a_page_of_another_site_cannot_write(service: Service) -> None:
    foreign = await service.post([change(1)], headers={"origin": "http://evil.example"})
    problem(foreign, 400, "forbidden_origin")
    assert not await service.rows()
    stored(await service.post([change(1)], headers={"origin": "http://pitr.test"}))


async def test_health_and_readiness(service: Service) -> None:
    assert (await service.client.get("/healthz")).json() == {"status": "ok"}
    ready = await service.client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ok")
    await service.app.catalog.close()
    away = await service.client.get("/readyz")
    assert away.status_code == 503
    assert away.json()["checks"]["catalog"] != "ok" == away.json()["checks"]["store"]
    assert (await service.client.get("/healthz")).status_code == 200


async def test_metrics_count_what_happened(service: Service) -> None:
    stored(await service.post([change(1), BAD, change(2)]))
    await service.client.get("/nothing")
    text = (await service.client.get("/metrics")).text
    log = f'{{log="{service.log}"}}'
    wanted = {
        f"pitr_changes_stored_total{log}": 2,
        f"pitr_changes_quarantined_total{log}": 1,
        f"pitr_log_tail_changes{log}": 2,
        f"pitr_log_quarantine_waiting{log}": 1,
        "pitr_append_seconds_count": 1,
        "pitr_append_waiting_bytes": 0,
        "pitr_http_bodies_bytes": 0,
        "pitr_catalog_up": 1,
        'pitr_http_requests_total{method="GET",route="none",status="404"}': 1,
        'pitr_http_requests_total{method="POST",route="/v1/logs/{log}/changes",status="200"}': 1,
    }
    assert {name: sample(text, name) for name in wanted} == wanted
    await service.app.catalog.close()
    assert sample((await service.client.get("/metrics")).text, "pitr_catalog_up") == 0


def sample(text: str, name: str) -> float | None:
    """The value of a sample in an exposition; None if there is none."""
    found = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(found[0].rsplit(" ", 1)[1]) if found else None


async def test_openapi_shows_every_route_with_an_example_and_its_problems(
    service: Service,
) -> None:
    document = (await service.client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert {"Problem", "StrictProblem", "IngestAnswerBody"} <= schemas.keys()
    assert "HTTPValidationError" not in orjson.dumps(document).decode()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if path.startswith("/v1/"):
                check_operation(f"{method} {path}", operation)
    ingest = document["paths"]["/v1/logs/{log}/changes"]["post"]
    assert "application/x-ndjson" in ingest["requestBody"]["content"]
    assert {"lane", "position", "format", "key_columns", "strict", "idempotency-key"} <= {
        parameter["name"].lower() for parameter in ingest["parameters"]
    }


def check_operation(name: str, operation: dict[str, Any]) -> None:
    assert operation["summary"], name
    responses = operation["responses"]
    good = next(shown for status, shown in responses.items() if status.startswith("2"))
    if "204" not in responses:
        assert "application/json" in good["content"], name
    assert any("application/problem+json" in r.get("content", {}) for r in responses.values()), name


def test_every_error_has_a_status() -> None:
    from pitr.domain import errors
    from pitr.faces.api.problems import status_of

    leaves = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.PitrError)
    ]
    found = {kind.code: status_of(kind("x"))[0] for kind in leaves}
    assert found == {
        "error": 500,
        "invalid_request": 400,
        "not_found": 404,
        "conflict": 409,
        "unavailable": 503,
        "data_loss": 500,
        "target_beyond_watermark": 409,
        "position_conflict": 409,
        "sequence_moved": 409,
        "idempotency_conflict": 409,
        "lane_taken": 409,
        "sink_not_empty": 409,
        "too_large": 413,
        "busy": 429,
    }


async def test_a_bug_is_a_problem_and_tells_nothing(service: Service) -> None:
    async def broken() -> list[Any]:
        raise RuntimeError("secret")

    service.app.status.logs = broken  # type: ignore[method-assign]
    transport = httpx.ASGITransport(app=service.api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://pitr.test") as client:
        response = await client.get("/v1/logs")
    problem(response, 500, "bug")
    assert "secret" not in response.text
