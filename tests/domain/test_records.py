"""Records of a pulled source as changes: times, headers, markers, quarantine."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.documents import members
from pitr.domain.records import (
    Headers,
    Reading,
    Records,
    _meta,
    decode_records,
    digest_of,
    header_json,
    is_marker,
    joined,
)
from tests.conftest import START_US

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
header_lists = st.lists(st.tuples(texts, st.none() | st.binary(max_size=6)), max_size=6)
anything = st.none() | st.binary(max_size=8)
rows = st.lists(
    st.tuples(anything, anything, st.none() | st.integers(0, 2**50), header_lists), max_size=6
)


def records(
    *values: bytes | None,
    keys: Sequence[bytes | None] | None = None,
    times_us: Sequence[int | None] | None = None,
    headers: list[Headers] | None = None,
    positions: Sequence[int] | None = None,
) -> Records:
    placed = list(positions if positions is not None else range(len(values)))
    return Records(
        lane="kafka:t:0",
        position_first=placed[0] if placed else 0,
        position_end=placed[-1] + 1 if placed else 0,
        positions=placed,
        values=list(values),
        keys=list(keys if keys is not None else [None] * len(values)),
        times_us=list(times_us if times_us is not None else [START_US] * len(values)),
        headers=headers,
        size_bytes=sum(len(value or b"") for value in values),
    )


def change(number: int, **more: object) -> bytes:
    row = {"key": {"id": number}, "op": "update", "after": {"id": number}}
    return json.dumps(row | more).encode()


READING = Reading(collection="t")


# Joining ----------------------------------------------------------------------------------------


@given(st.lists(rows, min_size=1, max_size=5))
def test_joined_parts_are_the_whole(parts: list[list[tuple[Any, Any, Any, Any]]]) -> None:
    made, first = [], 0
    for part in parts:
        positions = range(first, first + len(part))
        some = records(
            *(value for _, value, _, _ in part),
            keys=[key for key, _, _, _ in part],
            times_us=[at for _, _, at, _ in part],
            headers=[h for _, _, _, h in part] if any(h for _, _, _, h in part) else None,
            positions=positions,
        )
        made.append(some)
        first += len(part) + 1  # a hole after each
    whole = joined(made)
    flat = [row for part in parts for row in part]
    assert whole.keys == [row[0] for row in flat]
    assert whole.values == [row[1] for row in flat]
    assert whole.times_us == [row[2] for row in flat]
    assert [list(h) for h in whole.headers or [()] * len(flat)] == [row[3] for row in flat]
    assert whole.positions == sorted(set(whole.positions))
    assert (whole.position_first, whole.position_end) == (
        made[0].position_first,
        made[-1].position_end,
    )
    assert whole.size_bytes == sum(part.size_bytes for part in made)


# Digests ----------------------------------------------------------------------------------------


@given(anything, anything, anything, anything)
def test_digests_tell_records_apart(
    key: bytes | None, value: bytes | None, key2: bytes | None, value2: bytes | None
) -> None:
    same = (key, value) == (key2, value2)
    assert (digest_of(key, value) == digest_of(key2, value2)) is same


def test_digests_tell_nothing_from_empty_and_key_from_value() -> None:
    parts: list[bytes | None] = [None, b"", b"-", b"+", b"+0:", b"a", b"+1:a"]
    digests = [digest_of(key, value) for key in parts for value in parts]
    assert len(set(digests)) == len(digests)
    assert {len(digest) for digest in digests} == {16}


# Headers ----------------------------------------------------------------------------------------


@given(header_lists)
def test_headers_can_be_read_back(headers: list[tuple[str, bytes | None]]) -> None:
    def back(value: Any) -> bytes | None:
        if isinstance(value, dict):
            return base64.b64decode(value["base64"])
        return None if value is None else value.encode()

    found: dict[str, list[bytes | None]] = {}
    for name, value in json.loads(header_json(headers)).items():
        found[name] = [back(one) for one in (value if isinstance(value, list) else [value])]
    wanted: dict[str, list[bytes | None]] = {}
    for name, value in headers:
        wanted.setdefault(name, []).append(value)
    assert found == wanted
    assert list(found) == list(wanted)


@pytest.mark.parametrize(
    "meta",
    [
        "{}",
        '{"n":1.10,"big":1234567890123456789012345678901234567890}',
        ' { "a" : "\\u00e9" , "b":[1, 2] } ',
        '{"headers":{"mine":1}}',
        '{"headers":1,"record_headers":2}',
    ],
)
def test_headers_are_added_to_meta_and_its_bytes_stay(meta: str) -> None:
    merged = _meta(meta, [("h", b"v")])
    before, after = members(meta.encode()), members(merged.encode())
    added = {name: value for name, value in after.items() if name not in before}
    assert {name: after[name] for name in before} == before
    assert list(added.values()) == [b'{"h":"v"}']
    assert list(json.loads(merged)) == [*before, *added]


@given(
    st.dictionaries(texts, st.integers() | texts | st.none() | st.lists(st.integers())),
    header_lists.filter(bool),
)
def test_any_meta_keeps_its_members(
    meta: dict[str, Any], headers: list[tuple[str, bytes | None]]
) -> None:
    text = json.dumps(meta, ensure_ascii=False)
    merged = _meta(text, headers)
    after = members(merged.encode())
    before = members(text.encode())
    assert {name: after.get(name) for name in before} == before
    assert len(after) == len(before) + 1


def test_a_meta_that_is_no_object_and_none_at_all() -> None:
    assert _meta("[1.10]", [("h", None)]) == '{"meta":[1.10],"headers":{"h":null}}'
    assert _meta(None, [("h", b"v")]) == '{"headers":{"h":"v"}}'


# Decoding ---------------------------------------------------------------------------------------


def test_the_time_of_a_record_dates_a_change_that_has_none() -> None:
    dated = change(2, at="2026-03-01T10:00:00Z")
    given = records(change(1), dated, change(3), times_us=[5, 6, None], positions=[3, 7, 9])
    decoded = decode_records(given, READING)
    assert decoded.changes["commit_us"].to_pylist() == [5, START_US + 1_800_000_000, None]
    assert decoded.changes["position"].to_pylist() == [3, 7, 9]
    assert decoded.changes["collection"].to_pylist() == ["t"] * 3


def test_both_changes_of_a_row_that_moved_have_time_and_headers() -> None:
    source = {"schema": "s", "table": "t"}
    moved = {"op": "u", "source": source, "before": {"id": 1}, "after": {"id": 2}}
    given = records(json.dumps(moved).encode(), keys=[b'{"id":2}'], headers=[[("h", b"v")]])
    changes = decode_records(given, READING).changes
    assert changes["op"].to_pylist() == ["delete", "create"]
    assert changes["commit_us"].to_pylist() == [START_US] * 2
    metas = [json.loads(meta) for meta in changes["meta"].to_pylist()]
    assert metas == [{"source": source, "headers": {"h": "v"}}] * 2


def test_no_records_at_all_are_no_changes() -> None:
    empty = decode_records(records(), READING)
    assert (empty.changes.num_rows, empty.quarantined) == (0, ())


@given(st.lists(st.tuples(anything, anything, header_lists), min_size=1, max_size=8))
def test_no_bytes_make_decoding_fail(
    sent: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]],
) -> None:
    """Invariant 13: every record is a change, in quarantine, or known to be none."""
    given = records(
        *(value for _, value, _ in sent),
        keys=[key for key, _, _ in sent],
        headers=[headers for _, _, headers in sent],
    )
    for reading in (READING, Reading(format="native"), Reading(format="debezium")):
        for flawed in decode_records(given, reading).quarantined:
            assert flawed.meta is not None
            meta = json.loads(flawed.meta)
            key, value, headers = sent[flawed.position]
            assert (meta["lane"], meta["position"]) == ("kafka:t:0", flawed.position)
            assert (value or b"") in flawed.body
            assert ("key" in meta) is (key is not None)
            assert ("headers" in meta) is bool(headers)


def test_quarantine_tells_where_a_record_came_from() -> None:
    given = records(
        change(1),
        b"{",
        keys=[None, b"\xff"],
        times_us=[1, 2],
        headers=[(), [("h", b"\xff")]],
        positions=[4, 9],
    )
    (flawed,) = decode_records(given, READING).quarantined
    assert json.loads(flawed.meta or b"") == {
        "lane": "kafka:t:0",
        "position": 9,
        "time_us": 2,
        "key": {"base64": "/w=="},
        "headers": {"h": {"base64": "/w=="}},
    }


BEGIN = b'{"status":"BEGIN","id":"571","event_count":null,"data_collections":null,"ts_ms":1}'


@pytest.mark.parametrize("format", ["auto", "debezium"])
@pytest.mark.parametrize(
    "value",
    [
        b'{"ts_ms":1}',
        BEGIN,
        b'{"schema":{},"payload":' + BEGIN + b"}",
        b'{"schema":{},"payload":{"ts_ms":1}}',
        None,
        b"null",
    ],
)
def test_markers_are_passed_over(value: bytes | None, format: Any) -> None:
    decoded = decode_records(records(value, keys=[b"k"]), Reading(format=format))
    assert (decoded.changes.num_rows, decoded.quarantined) == (0, ())


@pytest.mark.parametrize("format", ["auto", "native", "debezium"])
def test_a_row_with_an_id_and_a_status_is_no_marker(format: Any) -> None:
    """A flattened row without Debezium's fields: nobody may lose it silently."""
    row = b'{"id":42,"status":"paid"}'
    (flawed,) = decode_records(records(row), Reading(format=format)).quarantined
    assert flawed.body == row


def test_a_marker_is_known_by_all_of_its_members() -> None:
    assert is_marker(BEGIN)
    for value in (None, b"", b"null", b"[]", b"\xff", b'{"status":"BEGIN","id":"1"}', b"{}"):
        assert not is_marker(value)


def test_a_topic_full_of_poison_takes_no_longer_than_it_must() -> None:
    given = records(*[b"x"] * 30_000, headers=[[("h", b"v")]] * 30_000)
    began = time.process_time()
    assert len(decode_records(given, READING).quarantined) == 30_000
    assert time.process_time() - began < 10
