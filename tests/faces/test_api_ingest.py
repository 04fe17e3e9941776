"""Changes over HTTP: stored once, within bounds, and nothing is dropped silently."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest
import zstandard

from pitr.domain.errors import Busy
from pitr.domain.plan import check_coverage
from pitr.faces.api import bodies
from pitr.faces.api.models import IngestAnswerBody
from tests.faces.conftest import Opener, Service, change, ndjson

BAD = b'{"collection" 1}'


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that a response is that problem; return its document."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["code"] == code
    assert document["type"] == f"urn:pitr:error:{code}"
    assert document["title"] and document["detail"]
    assert isinstance(document["facts"], dict)
    return document


def stored(response: httpx.Response) -> dict[str, Any]:
    """Check that a response is an answer of the documented form; return it."""
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    assert IngestAnswerBody.model_validate(document).model_dump() == document
    return document


async def test_lines_are_stored_in_order(service: Service) -> None:
    answer = stored(await service.post([change(1), change(2), change(3)]))
    assert answer == {
        "log": service.log,
        "lane": "http",
        "stored": 3,
        "seq_first": 1,
        "seq_end": 4,
        "position_end": 3,
        "duplicate": False,
        "quarantined": [],
        "quarantined_count": 0,
        "clamped_count": 0,
    }
    assert [(row["seq"], row["key"]) for row in await service.rows()] == [
        (1, '{"id":1}'),
        (2, '{"id":2}'),
        (3, '{"id":3}'),
    ]


@pytest.mark.parametrize(
    "body",
    [b"[%s,%s]" % (orjson.dumps(change(1)), orjson.dumps(change(2))), orjson.dumps(change(1))],
    ids=["array", "object"],
)
async def test_json_is_an_array_or_one_change(service: Service, body: bytes) -> None:
    kind = {"content-type": "application/json; charset=utf-8"}
    answer = stored(await service.post(body, headers=kind))
    assert answer["stored"] == answer["position_end"] == len(await service.rows())
    assert answer["stored"] == (2 if body.startswith(b"[") else 1)


async def test_a_pretty_object_is_one_change(service: Service) -> None:
    body = orjson.dumps(change(1), option=orjson.OPT_INDENT_2)
    assert stored(await service.post(body, headers={"content-type": "application/json"}))["stored"]


@pytest.mark.parametrize("body", [b"[1,", ndjson([change(1), change(2)]), b"\xff"])
async def test_json_that_is_none_is_refused_whole(service: Service, body: bytes) -> None:
    response = await service.post(body, headers={"content-type": "application/json"})
    assert "x-ndjson" in problem(response, 400, "invalid_request")["hint"]
    assert not await service.rows()


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_packed_bodies_are_unpacked(service: Service, encoding: str) -> None:
    body = ndjson([change(n) for n in range(5_000)])
    packed = pack(encoding, body[:1000]) + pack(encoding, body[1000:])
    answer = stored(await service.post(packed, headers={"content-encoding": encoding}))
    assert answer["stored"] == 5_000


def pack(encoding: str, body: bytes) -> bytes:
    return gzip.compress(body) if encoding == "gzip" else zstandard.compress(body)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("damage", ["cut", "junk after", "junk"])
async def test_damaged_packed_bodies_store_nothing(
    service: Service, encoding: str, damage: str
) -> None:
    body = pack(encoding, ndjson([change(n) for n in range(1_000)]))
    bad = {"cut": body[:-3], "junk after": body + b"junk", "junk": b"junk" + body}[damage]
    response = await service.post(bad, headers={"content-encoding": encoding})
    problem(response, 400, "invalid_request")
    assert not await service.rows()


async def test_an_unknown_encoding_is_refused(service: Service) -> None:
    response = await service.post(b"x", headers={"content-encoding": "br"})
    assert problem(response, 415, "unsupported_encoding")["facts"] == {"encoding": "br"}


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_bomb_is_refused_without_taking_memory(opener: Opener, encoding: str) -> None:
    bomb = pack(encoding, b"\n" * 2**28)
    async with opener(body_bytes_max=2**20) as service:
        tracemalloc.start()
        response = await service.post(bomb, headers={"content-encoding": encoding})
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    problem(response, 413, "too_large")
    assert peak_bytes < 48 * 2**20


async def test_a_body_that_says_it_is_too_long_is_not_read(opener: Opener) -> None:
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield b"\n" * 2000

    async with opener(body_bytes_max=1000) as service:
        response = await service.post(body(), headers={"content-length": "2000"})
    assert problem(response, 413, "too_large")["facts"] == {"bytes_max": 1000}
    assert read == 0


async def test_a_body_of_unknown_length_is_read_up_to_the_bound(opener: Opener) -> None:
    async with opener(body_bytes_max=1000) as service:
        good = await service.post(chunks(b"\n" * 500, b"\n" * 500))
        assert stored(good)["position_end"] == 1000
        problem(await service.post(chunks(b"\n" * 500, b"\n" * 501)), 413, "too_large")


async def test_a_position_makes_a_repeated_body_harmless(service: Service) -> None:
    where = {"lane": "shop-1", "position": 1000}
    first = stored(await service.post([change(1), change(2)], params=where))
    again = stored(await service.post([change(1), change(2)], params=where))
    assert (first["stored"], first["duplicate"], first["position_end"]) == (2, False, 1002)
    assert (again["stored"], again["duplicate"], again["position_end"]) == (0, True, 1002)
    assert again["seq_first"] is None
    assert len(await service.rows()) == 2


async def test_a_body_that_overlaps_stores_only_the_rest(service: Service) -> None:
    where = {"lane": "shop-1", "position": 0}
    stored(await service.post([change(1), change(2)], params=where))
    more = stored(await service.post([change(1), change(2), change(3)], params=where))
    assert (more["stored"], more["duplicate"], more["position_end"]) == (1, False, 3)
    assert [row["key"] for row in await service.rows()] == ['{"id":1}', '{"id":2}', '{"id":3}']


async def test_a_body_past_the_lane_is_a_conflict_that_says_where(service: Service) -> None:
    stored(await service.post([change(1)], params={"lane": "a", "position": 5}))
    ahead = await service.post([change(2)], params={"lane": "a", "position": 9})
    found = problem(ahead, 409, "position_conflict")
    assert found["facts"] == {"lane": "a", "expected": 6, "got": 9}


async def test_blank_and_bad_lines_have_positions(service: Service) -> None:
    body = ndjson([change(1), b"", BAD, change(2)]) + orjson.dumps(change(3))
    answer = stored(await service.post(body, params={"lane": "a", "position": 10}))
    assert (answer["position_end"], answer["stored"]) == (15, 3)
    (bad,) = answer["quarantined"]
    assert (bad["position"], bad["line"], bad["code"]) == (12, 3, "not_json")
    assert [row["position"] for row in await service.rows()] == [10, 13, 14]
    (item,) = await service.app.catalog.quarantine(service.log)
    assert (item.lane, item.position, item.body) == ("a", 12, BAD)


async def test_a_repeated_body_names_its_bad_lines_again(service: Service) -> None:
    where = {"lane": "a", "position": 0}
    first = stored(await service.post([change(1), BAD], params=where))
    again = stored(await service.post([change(1), BAD], params=where))
    assert again["quarantined"] == first["quarantined"] != []
    assert again["quarantined_count"] == 1
    assert len(await service.app.catalog.quarantine(service.log)) == 1


async def test_unnumbered_bad_lines_have_the_place_they_got(service: Service) -> None:
    stored(await service.post([change(1), change(2)]))
    answer = stored(await service.post([change(3), BAD]))
    assert [(bad["position"], bad["line"]) for bad in answer["quarantined"]] == [(3, 2)]
    assert [item.position for item in await service.app.catalog.quarantine(service.log)] == [3]


async def test_the_list_of_bad_lines_is_bounded(service: Service) -> None:
    answer = stored(await service.post([BAD] * 250))
    assert (answer["quarantined_count"], len(answer["quarantined"])) == (250, 100)


async def test_a_key_makes_a_repeated_body_harmless(service: Service) -> None:
    key = {"idempotency-key": "order-1"}
    first = stored(await service.post([change(1), BAD], headers=key))
    stored(await service.post([change(9)]))
    again = stored(await service.post([change(1), BAD], headers=key))
    assert again == first | {"duplicate": True}
    assert len(await service.rows()) == 2


async def test_a_key_is_of_one_body_and_one_reading_of_it(service: Service) -> None:
    key = {"idempotency-key": "order-1"}
    stored(await service.post([change(1)], headers=key))
    problem(await service.post([change(2)], headers=key), 409, "idempotency_conflict")
    other = await service.post([change(1)], headers=key, params={"format": "native"})
    problem(other, 409, "idempotency_conflict")


async def test_without_lane_or_key_a_repeated_body_is_stored_twice(service: Service) -> None:
    for _ in range(2):
        stored(await service.post([change(1)]))
    assert len(await service.rows()) == 2


@pytest.mark.parametrize(
    ("params", "headers"),
    [
        ({"lane": "a"}, {}),
        ({"position": 1}, {}),
        ({"lane": "a", "position": 1}, {"idempotency-key": "k"}),
        ({"lane": "a", "position": -1}, {}),
        ({"lane": "a", "position": 2**63}, {}),
        ({"lane": "a", "position": "x"}, {}),
        ({"lane": "", "position": 1}, {}),
        ({"lane": "a" * 201, "position": 1}, {}),
        ({"lane": "a\nb", "position": 1}, {}),
        ({"lane": "file:1234", "position": 1}, {}),
        ({"lane": "http", "position": 1}, {}),
        ({"lane": "quarantine", "position": 1}, {}),
        ({"format": "avro"}, {}),
        ({"postion": 1}, {}),
        ({}, {"idempotency-key": ""}),
        ({}, {"idempotency-key": "k" * 201}),
        ({}, {"idempotency-key": b"\xc3\xa9"}),
    ],
)
async def test_wrong_requests_are_refused(
    service: Service, params: dict[str, Any], headers: dict[str, str]
) -> None:
    problem(await service.post([change(1)], params=params, headers=headers), 400, "invalid_request")
    assert not await service.rows()


async def test_strict_stores_all_or_nothing(service: Service) -> None:
    params = {"strict": "true", "lane": "a", "position": 7}
    refused = await service.post([change(1), BAD, b"[]"], params=params)
    found = problem(refused, 422, "strict_refused")
    assert [(bad["position"], bad["line"]) for bad in found["quarantined"]] == [(8, 2), (9, 3)]
    assert not await service.rows()
    assert not await service.app.catalog.quarantine(service.log)
    assert not await service.app.catalog.lanes(service.log)
    assert stored(await service.post([change(1)], params=params))["stored"] == 1


@pytest.mark.parametrize("kind", ["application/x-ndjson", "application/json"])
async def test_an_empty_body_stores_nothing(service: Service, kind: str) -> None:
    answer = stored(await service.post(b"", headers={"content-type": kind}))
    assert (answer["stored"], answer["seq_first"], answer["duplicate"]) == (0, None, False)
    empty = b"[]" if kind == "application/json" else b""
    params = {"lane": "a", "position": 4}
    at = stored(await service.post(empty, params=params, headers={"content-type": kind}))
    assert (at["stored"], at["position_end"]) == (0, 4)


async def test_a_log_is_made_by_its_first_change(service: Service) -> None:
    name = f"{service.log}-new"
    response = await service.client.post(f"/v1/logs/{name}/changes", content=ndjson([change(1)]))
    assert stored(response)["seq_end"] == 2
    assert (await service.client.get(f"/v1/logs/{name}")).json()["change_count"] == 1


@pytest.mark.parametrize("name", ["Main", "a.b", "-a", "a" * 64])
async def test_a_wrong_name_makes_no_log(service: Service, name: str) -> None:
    response = await service.client.post(f"/v1/logs/{name}/changes", content=ndjson([change(1)]))
    problem(response, 400, "invalid_request")


async def test_bodies_beyond_the_room_are_refused_before_they_are_read(opener: Opener) -> None:
    going_on, read = asyncio.Event(), 0

    async def slow() -> AsyncIterator[bytes]:
        yield b"\n" * 500
        await going_on.wait()
        yield b"\n" * 400

    async def unread() -> AsyncIterator[bytes]:
        nonlocal read
        read += 1
        yield b"\n" * 200

    async with opener(body_bytes_max=1000, queue_bytes_max=1000) as service:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(service.post(slow(), headers={"content-length": "900"}))
            await asyncio.sleep(0.05)
            busy = await service.post(unread(), headers={"content-length": "200"})
            going_on.set()
        found = problem(busy, 429, "busy")
        assert int(busy.headers["retry-after"]) >= 1 and found["facts"]["retry_after_s"] == 1
        assert read == 0
        assert stored(first.result())["position_end"] == 900
        assert stored(await service.post(b"\n" * 1000))["position_end"] == 1900


async def test_a_body_that_does_not_end_is_given_up(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"\n"
        await asyncio.sleep(60)

    monkeypatch.setattr(bodies, "BODY_WAIT_S", 0.05)
    problem(await service.post(endless()), 408, "body_timeout")
    context = service.api.state.context
    assert (context.bodies.count, context.bodies.size_bytes) == (0, 0)


async def test_too_many_bodies_at_once_are_refused() -> None:
    room = bodies.Bodies(bytes_max=100, count_max=2)
    with room.room(), room.room(), pytest.raises(Busy), room.room():
        pass
    assert room.count == 0


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_body_of_countless_parts_is_refused(service: Service, encoding: str) -> None:
    body = pack(encoding, b"") * (bodies.PARTS_MAX + 2)
    response = await service.post(body, headers={"content-encoding": encoding})
    problem(response, 400, "invalid_request")


async def test_a_body_of_countless_lines_is_refused(service: Service) -> None:
    problem(await service.post(b"\n" * 500_001), 413, "too_large")
    array = b"[" + b"0," * (8 * 2**20) + b"0]"
    response = await service.post(array, headers={"content-type": "application/json"})
    problem(response, 413, "too_large")


async def test_a_catalog_that_is_away_is_said_so(service: Service) -> None:
    stored(await service.post([change(1)]))
    await service.app.catalog.close()
    response = await service.post([change(2)])
    problem(response, 503, "unavailable")
    assert int(response.headers["retry-after"]) >= 1


async def test_many_producers_at_once_leave_no_holes(opener: Opener) -> None:
    async with opener(segment_rows_min=50) as service:
        sizes = [1, 3, 60, 7, 120] * 8

        async def send(number: int, size: int) -> dict[str, Any]:
            lines: list[Any] = [change(n, tx=f"{number}") for n in range(size)]
            kind: dict[str, Any] = {"params": {"lane": f"p{number}", "position": 0}}
            if number % 2:
                kind = {"headers": {"idempotency-key": f"k{number}"}}
            return stored(await service.post(lines, **kind))

        answers = await asyncio.gather(*(send(n, size) for n, size in enumerate(sizes)))
        taken = sorted((answer["seq_first"], answer["seq_end"]) for answer in answers)
        assert [end for _, end in taken[:-1]] == [first for first, _ in taken[1:]]
        assert taken[-1][1] == sum(sizes) + 1
        check_coverage(await service.app.catalog.view(service.log))
