"""Debezium records become changes that mean the same, exactly, or are quarantined with a reason."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.domain.batch import Decoded
from pitr.domain.formats import decode_lines, decode_one, decode_values
from pitr.domain.formats.decode import Items, _table_at_once

POSTGRES = {
    "version": "2.7.0.Final",
    "connector": "postgresql",
    "name": "shop",
    "ts_ms": 1772357400250,
    "snapshot": "false",
    "db": "shop",
    "sequence": '["24023119","24023128"]',
    "ts_us": 1772357400250001,
    "ts_ns": 1772357400250001999,
    "schema": "public",
    "table": "orders",
    "txId": 555,
    "lsn": 24023128,
    "xmin": None,
}
MYSQL = {
    "version": "2.7.0.Final",
    "connector": "mysql",
    "name": "shop",
    "ts_ms": 1772357400000,
    "snapshot": "false",
    "db": "inventory",
    "sequence": None,
    "table": "customers",
    "server_id": 223344,
    "gtid": "3e11fa47-71ca-11e1-9e33-c80aa9429562:23",
    "file": "mysql-bin.000003",
    "pos": 484,
    "row": 0,
    "thread": 7,
    "query": None,
}
MONGO = {
    "version": "2.7.0.Final",
    "connector": "mongodb",
    "name": "shop",
    "ts_ms": 1772357400000,
    "snapshot": "false",
    "db": "inventory",
    "collection": "customers",
    "ord": 31,
    "txnNumber": 1,
}
SCHEMA = {"type": "struct", "fields": [{"field": "a", "type": "int32"}, {"field": "b"}]}
KEY = {"id": 1}
PLACEHOLDER = "__debezium_unavailable_value"


def text(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def envelope(op: str = "u", source: Any = POSTGRES, **fields: Any) -> dict[str, Any]:
    whole = {
        "before": None,
        "after": {"id": 1, "status": "paid"},
        "source": source,
        "transaction": None,
        "op": op,
        "ts_ms": 1772357400300,
    } | fields
    return {name: value for name, value in whole.items() if value is not ...}


def decode(value: Any, key: Any = KEY, **hints: Any) -> Decoded:
    """Decode one record in every form it may come in, all of which must give the same."""
    body = value if isinstance(value, bytes) else text(value)
    raw_key = None if key is None else text(key)
    alone = decode_one(body, format="debezium", position=7, key=raw_key, **hints)
    assert decode_one(body, format="auto", position=7, key=raw_key, **hints).changes.equals(
        alone.changes
    )
    if key is not None:
        keyed = b'{"key":' + (raw_key or b"null") + b',"value":' + body + b"}"
        for wanted in ("debezium", "auto"):
            in_line = decode_one(keyed, format=wanted, position=7, **hints)
            assert in_line.changes.equals(alone.changes)
            assert [q.code for q in in_line.quarantined] == [q.code for q in alone.quarantined]
        schemed = b'{"schema":' + text(SCHEMA) + b',"payload":' + body + b"}"
        schemed_key = b'{"schema":null,"payload":' + (raw_key or b"null") + b"}"
        with_schema = decode_one(schemed, format="debezium", position=7, key=schemed_key, **hints)
        assert with_schema.changes.equals(alone.changes)
    for count in (2, 5):
        many = decode_values(
            [body] * count,
            format="debezium",
            positions=[7] * count,
            keys=None if raw_key is None else [raw_key] * count,
            **hints,
        )
        assert many.changes.to_pylist() == alone.changes.to_pylist() * count
        assert many.quarantined == alone.quarantined * count
    return alone


def row(value: Any, key: Any = KEY, **hints: Any) -> dict[str, Any]:
    decoded = decode(value, key, **hints)
    assert decoded.quarantined == ()
    (found,) = decoded.changes.to_pylist()
    return found


def flaw(value: Any, key: Any = KEY, **hints: Any) -> tuple[str, str]:
    decoded = decode(value, key, **hints)
    assert decoded.changes.num_rows == 0
    (quarantined,) = decoded.quarantined
    assert quarantined.format == "debezium"
    return quarantined.code, quarantined.reason


def test_a_postgres_update() -> None:
    assert row(envelope()) == {
        "collection": "public.orders",
        "key": '{"id":1}',
        "op": "update",
        "after": '{"id":1,"status":"paid"}',
        "before": None,
        "unchanged": None,
        "commit_us": 1772357400250001,
        "position": 7,
        "tx": "555",
        "actor": None,
        "reason": None,
        "meta": '{"source":' + text(POSTGRES).decode() + "}",
    }


def test_a_mysql_update() -> None:
    found = row(envelope(source=MYSQL, before={"id": 1, "status": "open"}))
    assert found["collection"] == "inventory.customers"
    assert found["commit_us"] == 1772357400000000
    assert found["tx"] == MYSQL["gtid"]
    assert found["before"] == '{"id":1,"status":"open"}'


def test_a_mongo_document_is_taken_out_of_its_string() -> None:
    document = '{"_id": {"$oid": "596e"},"n": 1.10,"x": {"$numberLong": "9007199254740993"}}'
    key = {"id": '{"$oid":"596e"}'}
    found = row(envelope("c", MONGO, after=document), key)
    assert found["collection"] == "inventory.customers"
    assert found["after"] == document
    assert found["key"] == r'{"id":"{\"$oid\":\"596e\"}"}'
    assert flaw(envelope("c", MONGO, after='{"a":1,"a":2}'), key)[0] == "duplicate_name"
    assert flaw(envelope("c", MONGO, after='{"a":'), key)[0] == "not_json"
    assert flaw(envelope("c", MONGO, after="text"), key)[0] == "wrong_type"


@pytest.mark.parametrize("field", ["updateDescription", "patch"])
def test_a_mongo_update_without_its_document_cannot_be_resolved(field: str) -> None:
    code, reason = flaw(envelope("u", MONGO, after=None, **{field: {"updatedFields": "{}"}}))
    assert code == "unresolvable"
    assert "change_streams_update_full" in reason


@pytest.mark.parametrize(
    ("op", "fields", "expected"),
    [
        ("c", {}, "create"),
        ("r", {}, "read"),
        ("u", {}, "update"),
        ("d", {"after": None, "before": {"id": 1}}, "delete"),
        ("d", {"after": ..., "before": None}, "delete"),
        ("t", {"after": None}, "truncate"),
    ],
)
def test_ops(op: str, fields: dict[str, Any], expected: str) -> None:
    found = row(envelope(op, **fields))
    assert found["op"] == expected
    assert found["key"] == ("" if op == "t" else '{"id":1}')
    assert (found["after"] is None) == (op in "dt")


@pytest.mark.parametrize("value", [b"", b"null", b" null ", b'{"payload":null}'])
def test_a_tombstone_is_nothing(value: bytes) -> None:
    for body in (value, b'{"schema":null,"payload":null}', b'{"key":{"id":1},"value":null}'):
        decoded = decode_one(body, format="debezium", position=0, key=b'{"id":1}')
        assert (decoded.changes.num_rows, decoded.quarantined) == (0, ())
    values = [None, text(envelope()), None]
    decoded = decode_values(values, format="auto", positions=[0, 1, 2], keys=[b"1"] * 3)
    assert decoded.changes["position"].to_pylist() == [1]
    assert decoded.quarantined == ()


@pytest.mark.parametrize(
    ("value", "code", "word"),
    [
        (envelope("m", message={"prefix": "p", "content": "eA=="}), "not_a_change", "op"),
        ({"status": "BEGIN", "id": "571:1", "ts_ms": 1}, "marker", "status"),
        ({"source": MYSQL, "databaseName": "x", "ddl": "DROP TABLE t"}, "not_a_change", "ddl"),
        ({"ts_ms": 1}, "marker", "ts_ms"),
        (envelope("x"), "unknown_op", "op"),
        (envelope(op=5), "wrong_type", "op"),  # type: ignore[arg-type]
        (envelope(source=None), "wrong_type", "source"),
        (envelope(source={"ts_ms": 1}), "missing_field", "source.table"),
        (envelope(source=POSTGRES | {"table": None}), "missing_field", "source.table"),
        (envelope(source=POSTGRES | {"table": 1}), "wrong_type", "source.table"),
        (envelope(source=POSTGRES | {"table": "\0"}), "bad_text", "collection"),
        (envelope(source=POSTGRES | {"table": "x" * 600}), "collection_too_long", "collection"),
        (envelope(source=POSTGRES | {"ts_us": "soon"}), "wrong_type", "source.ts_us"),
        (envelope(source=POSTGRES | {"ts_us": 10**18}), "bad_time", "source.ts_us"),
        (envelope(source=POSTGRES | {"ts_us": 10**30}), "wrong_type", "source.ts_us"),
        (envelope("u", after=None), "missing_field", "after"),
        (envelope("c", after=...), "missing_field", "after"),
        (envelope("d"), "unexpected_field", "after"),
        (envelope(after=[1]), "wrong_type", "after"),
        (envelope(before=1), "wrong_type", "before"),
        (envelope(transaction="x"), "wrong_type", "transaction"),
        ({"hello": 1}, "missing_field", "op, source"),
        ({"payload": 1, "schema": None}, "wrong_type", "payload"),
    ],
)
def test_a_flaw_has_a_code_and_names_its_field(value: Any, code: str, word: str) -> None:
    decoded = decode_one(text(value), format="debezium", position=0, key=b'{"id":1}')
    (quarantined,) = decoded.quarantined
    assert (quarantined.code, decoded.changes.num_rows) == (code, 0)
    assert quarantined.reason.startswith(f"{word}:")
    good = text(envelope())
    among = decode_values(
        [good, text(value), good, good],
        format="debezium",
        positions=range(4),
        keys=[b'{"id":1}'] * 4,
    )
    assert [q.code for q in among.quarantined] == [code]
    assert among.changes["position"].to_pylist() == [0, 2, 3]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (text(envelope())[:-5], "not_json"),
        (b"\xff", "not_utf8"),
        (b"42", "not_an_object"),
        (text(envelope()).replace(b'"id":1', b'"id":1,"id":2'), "duplicate_name"),
        (text(envelope()).replace(b'"lsn"', b'"txId"'), "duplicate_name"),
        (text(envelope()).replace(b'"ts_ms":1772357400300', b'"op":"c"'), "duplicate_name"),
        (b'{"schema":{"a":1,"a":1},"payload":' + text(envelope()) + b"}", "duplicate_name"),
        (text(envelope()).replace(b"paid", rb"\ud800"), "bad_unicode"),
    ],
)
def test_what_is_no_good_json_object_is_quarantined(body: bytes, code: str) -> None:
    for count in (1, 4):
        decoded = decode_values(
            [body] * count, format="debezium", positions=range(count), keys=[b"1"] * count
        )
        assert [q.code for q in decoded.quarantined] == [code] * count


def test_a_quarantined_record_keeps_its_key_and_can_be_read_again() -> None:
    bad = text(envelope(op="x"))
    (quarantined,) = decode_one(bad, format="auto", position=0, key=b'{"id":1}').quarantined
    assert quarantined.body == b'{"key":{"id":1},"value":' + bad + b"}"
    fixed = quarantined.body.replace(b'"op":"x"', b'"op":"u"')
    assert decode_one(fixed, format="auto", position=0).changes["key"].to_pylist() == ['{"id":1}']


@pytest.mark.parametrize(
    ("key", "canonical"),
    [
        ({"id": 1}, '{"id":1}'),
        ({"b": "x", "a": 2}, '{"a":2,"b":"x"}'),
        (5, '{"id":5}'),
        ("x", '{"id":"x"}'),
        ({"schema": SCHEMA, "payload": {"id": 3}}, '{"id":3}'),
        ({"n": {"scale": 2, "value": "AQ=="}}, '{"n":{"scale":2,"value":"AQ=="}}'),
    ],
)
def test_keys(key: Any, canonical: str) -> None:
    decoded = decode_one(text(envelope()), format="debezium", position=0, key=text(key))
    assert decoded.changes["key"].to_pylist() == [canonical]


@pytest.mark.parametrize(
    ("key", "code"),
    [
        (None, "missing_key"),
        (b"null", "missing_key"),
        (b'{"schema":null,"payload":null}', "missing_key"),
        (b"Struct{id=1}", "not_json"),
        (b'{"id":', "not_json"),
        (b'{"id":1,"id":1}', "duplicate_name"),
        (b'{"id":null}', "wrong_type"),
    ],
)
def test_a_record_without_a_usable_key_is_quarantined(key: bytes | None, code: str) -> None:
    for count in (1, 4):
        decoded = decode_values(
            [text(envelope())] * count,
            format="debezium",
            positions=range(count),
            keys=[key] * count,
        )
        assert [q.code for q in decoded.quarantined] == [code] * count


def test_key_columns_make_the_key_of_a_record_without_one() -> None:
    columns = ("status", "id")
    found = row(envelope(), None, key_columns=columns)
    assert found["key"] == '{"id":1,"status":"paid"}'
    deleted = envelope("d", after=None, before={"id": 1, "status": "x"})
    assert row(deleted, None, key_columns=columns)["key"] == '{"id":1,"status":"x"}'
    assert row(envelope(), {"id": 9}, key_columns=("id",))["key"] == '{"id":9}'
    for after in ({"id": None}, {"x": 1}, {"id": PLACEHOLDER}):
        assert flaw(envelope(after=after), None, key_columns=("id",))[0] == "missing_key"
    assert flaw(envelope("d", after=None), None, key_columns=("id",))[0] == "missing_key"


def test_the_transaction_is_the_same_for_all_changes_of_a_transaction() -> None:
    """Debezium's PostgreSQL connector appends each change's own LSN to ``transaction.id``."""

    def transaction(name: str) -> dict[str, Any]:
        return {"id": name, "total_order": 2, "data_collection_order": 1}

    first = row(envelope(transaction=transaction("555:24023128")))
    second = row(envelope(transaction=transaction("555:24023256")))
    assert first["tx"] == second["tx"] == "555"
    assert json.loads(second["meta"])["transaction"]["total_order"] == 2
    mysql = transaction("3e11fa47-71ca-11e1-9e33-c80aa9429562:24")
    assert row(envelope(source=MYSQL, transaction=mysql))["tx"] == mysql["id"]


def test_rows_of_an_initial_copy_are_in_no_transaction() -> None:
    assert row(envelope("r"))["tx"] is None
    assert row(envelope("r", transaction={"id": "7"}))["tx"] == "7"


@pytest.mark.parametrize(
    ("source", "fields", "commit_us"),
    [
        ({"ts_us": 5, "ts_ns": 7000, "ts_ms": 9}, {}, 5),
        ({"ts_ns": 7999, "ts_ms": 9}, {}, 7),
        ({"ts_ns": 999}, {}, 0),
        ({"ts_ns": -1}, {}, -1),
        ({"ts_ms": 9}, {}, 9000),
        ({"ts_us": None, "ts_ms": 9}, {}, 9000),
        ({"ts_us": 0, "ts_ms": 0}, {"ts_ms": 8}, 8000),
        ({}, {"ts_ms": 8, "ts_us": 8001}, 8001),
        ({}, {"ts_ms": None}, None),
        ({}, {"ts_ms": ...}, None),
    ],
)
def test_the_commit_time_is_the_sources(
    source: dict[str, Any], fields: dict[str, Any], commit_us: int | None
) -> None:
    found = row(envelope(source={"schema": "s", "table": "t"} | source, **fields))
    assert found["commit_us"] == commit_us


def test_numbers_in_rows_keep_their_text() -> None:
    body = text(envelope()).replace(
        b'"paid"', b"[1.10,1E400,123456789012345678901234567890.123456789012345678901234567890]"
    )
    assert row(body)["after"].encode() in body


# --------------------------------------------------------------------------- stand-ins

encoded = base64.b64encode(PLACEHOLDER.encode()).decode()
name_uuid = str(
    uuid.UUID(bytes=hashlib.md5(PLACEHOLDER.encode(), usedforsecurity=False).digest(), version=3)
)
geometry = bytes.fromhex("0101000020E6100000000000FC83D797C1000000FC83D797C1")
STAND_INS: list[Any] = [
    PLACEHOLDER,
    encoded,
    encoded.rstrip("="),
    PLACEHOLDER.encode().hex(),
    name_uuid,
    [PLACEHOLDER],
    [encoded],
    [PLACEHOLDER, PLACEHOLDER],
    [name_uuid],
    list(PLACEHOLDER.encode()),
    {PLACEHOLDER: PLACEHOLDER},
    '{"' + PLACEHOLDER + '":"' + PLACEHOLDER + '"}',
    {"wkb": base64.b64encode(geometry).decode(), "srid": 4326},
]


@pytest.mark.parametrize("stand_in", STAND_INS)
@pytest.mark.parametrize("op", ["u", "c", "r"])
def test_a_stand_in_means_unchanged_in_every_form(stand_in: Any, op: str) -> None:
    after = {"id": 1, "big": stand_in, "price": "1.10", "other": stand_in}
    found = row(envelope(op, after=after))
    assert found["op"] == "patch"
    assert found["after"] == '{"id":1,"price":"1.10"}'
    assert json.loads(found["unchanged"]) == ["big", "other"]


@pytest.mark.parametrize("stand_in", STAND_INS)
def test_a_stand_in_in_before_is_left_out(stand_in: Any) -> None:
    found = row(envelope(before={"id": 1, "big": stand_in}))
    assert (found["op"], found["before"], found["unchanged"]) == ("update", '{"id":1}', None)


@pytest.mark.parametrize(
    "value",
    [
        "x" + PLACEHOLDER,
        [PLACEHOLDER, "x"],
        [],
        {},
        {PLACEHOLDER: "x"},
        {"x": PLACEHOLDER},
        {"a": {"b": PLACEHOLDER}},
        [*PLACEHOLDER.encode(), 1],
        [95, 95, 100],
    ],
)
def test_what_only_holds_a_stand_in_is_a_value(value: Any) -> None:
    found = row(envelope(after={"id": 1, "v": value}))
    assert found["op"] == "update"
    assert json.loads(found["after"])["v"] == value


# --------------------------------------------------------------------------- moved rows


def test_an_update_that_moves_a_row_is_a_delete_and_a_create() -> None:
    decoded = decode(envelope(before={"id": 1, "v": "a"}, after={"id": 2, "v": "b"}), key={"id": 2})
    deleted, created = decoded.changes.to_pylist()
    assert (deleted["op"], deleted["key"], deleted["after"]) == ("delete", '{"id":1}', None)
    assert deleted["before"] == '{"id":1,"v":"a"}'
    assert (created["op"], created["key"], created["after"]) == (
        "create",
        '{"id":2}',
        '{"id":2,"v":"b"}',
    )
    assert created["before"] is None
    for name in ("position", "commit_us", "tx", "meta", "collection"):
        assert deleted[name] == created[name]


def test_a_moved_row_takes_what_was_not_sent_from_before() -> None:
    before = {"id": 1, "big": "kept", "lost": PLACEHOLDER}
    after = {"id": 2, "big": PLACEHOLDER, "lost": PLACEHOLDER}
    _, created = decode(envelope(before=before, after=after), {"id": 2}).changes.to_pylist()
    assert (created["op"], created["after"]) == ("patch", '{"id":2,"big":"kept"}')
    assert created["unchanged"] == '["lost"]'
    del before["lost"], after["lost"]
    _, created = decode(envelope(before=before, after=after), {"id": 2}).changes.to_pylist()
    assert (created["op"], created["after"]) == ("create", '{"id":2,"big":"kept"}')


@pytest.mark.parametrize("before", [{"id": None}, {"x": 1}, {"id": 1}, {"id": PLACEHOLDER}])
def test_a_row_whose_old_key_is_not_known_or_the_same_did_not_move(before: Any) -> None:
    assert row(envelope(before=before))["op"] == "update"


def test_spelling_does_not_move_a_row() -> None:
    body = text(envelope(before={"id": "A"}, after={"id": "A"}))
    found = row(body.replace(b'"id":"A"', rb'"id":"\u0041"', 1), {"id": "A"})
    assert found["op"] == "update"


# --------------------------------------------------------------------- flattened records


def test_a_flattened_record() -> None:
    value = {
        "id": 1,
        "__op": "u",
        "price": "1.10",
        "__v": 3,
        "__table": "orders",
        "__source_schema": "public",
        "__source_ts_ms": 1772357400250,
        "__lsn": 24023128,
        "__source_txId": 555,
        "__deleted": "false",
    }
    found = row(value)
    assert found["op"] == "update"
    assert found["collection"] == "public.orders"
    assert found["after"] == '{"id":1,"price":"1.10","__v":3}'
    assert found["commit_us"] == 1772357400250000
    assert found["tx"] == "555"
    assert json.loads(found["meta"]) == {
        name: value[name] for name in value if name.startswith("__") and name != "__v"
    }


@pytest.mark.parametrize(
    ("added", "op"),
    [
        ({"__op": "c"}, "create"),
        ({"__op": "r"}, "read"),
        ({"__op": "u", "__deleted": "false"}, "update"),
        ({"__op": "d", "__deleted": "true"}, "delete"),
        ({"__deleted": "true"}, "delete"),
        ({"__deleted": True}, "delete"),
        ({"__deleted": "false"}, "update"),
        ({"__op": "d"}, "delete"),
    ],
)
def test_the_op_of_a_flattened_record(added: dict[str, Any], op: str) -> None:
    found = row({"id": 1, "v": 2, "__table": "t", "__db": "d"} | added)
    assert (found["op"], found["collection"]) == (op, "d.t")
    image = "before" if op == "delete" else "after"
    assert found[image] == '{"id":1,"v":2}'


def test_a_flattened_record_without_a_table_needs_a_collection() -> None:
    value = {"id": 1, "__op": "u"}
    assert flaw(value)[0] == "missing_field"
    assert row(value, collection="public.t")["collection"] == "public.t"
    assert row(value | {"__table": "t"}, collection="public.t")["collection"] == "t"


def test_source_fields_of_a_flattened_record_come_first() -> None:
    value = {"id": 1, "__table": "a", "__source_table": "b", "__txId": 1, "__source_txId": 2}
    found = row(value)
    assert (found["collection"], found["tx"]) == ("b", "2")


def test_a_flattened_record_with_a_stand_in_is_a_patch() -> None:
    found = row({"id": 1, "big": PLACEHOLDER, "__op": "u", "__table": "t"})
    assert (found["op"], found["after"], found["unchanged"]) == ("patch", '{"id":1}', '["big"]')


def test_a_flattened_record_can_have_its_key_in_its_columns() -> None:
    assert row({"id": 1, "__table": "t"}, None, key_columns=("id",))["key"] == '{"id":1}'
    assert flaw({"id": 1, "__table": "t"}, None)[0] == "missing_key"


# ---------------------------------------------------------------- fast and slow are the same

small = st.dictionaries(
    st.sampled_from(["id", "a", "é"]),
    st.integers(0, 2) | st.text(max_size=2) | st.none() | st.sampled_from(STAND_INS[:6]),
    max_size=3,
)
sources = st.fixed_dictionaries(
    {"table": st.sampled_from(["t", "t", "t", None, 5, ""])},
    optional={
        "schema": st.sampled_from(["s", None, ""]),
        "db": st.sampled_from(["d", None]),
        "collection": st.sampled_from(["c", None]),
        "ts_us": st.sampled_from([0, 5, -5, None, 10**18, 2**70, 1.5, "5"]),
        "ts_ns": st.sampled_from([0, 5, 5000, None]),
        "ts_ms": st.sampled_from([0, 5, None]),
        "txId": st.sampled_from([0, 7, "7:1", None, True, 1.0, "\0"]),
        "gtid": st.sampled_from(["a:1", None]),
        "sequence": st.just('["1":"2"]'),
    },
)
transactions = st.sampled_from([None, None, {"id": "7:8"}, {"id": 5}, {"id": None}, {}, "x"])
good = st.fixed_dictionaries(
    {
        "before": st.none() | st.just({"id": 1}),
        "after": st.fixed_dictionaries({"id": st.just(1), "v": st.text(max_size=2)}),
        "source": st.just({"schema": "s", "table": "t", "ts_ms": 5, "txId": 7}),
        "op": st.sampled_from(["c", "u", "r"]),
    },
    optional={"transaction": transactions, "ts_ms": st.integers(0, 9)},
)
strange = st.fixed_dictionaries(
    {"op": st.sampled_from(list("cudrtmx")), "source": sources},
    optional={
        "before": st.none() | small | st.just('{"id":1}'),
        "after": st.none() | small | st.just('{"id":1}'),
        "transaction": transactions,
        "ts_ms": st.sampled_from([0, 5, None, "x"]),
        "ts_us": st.sampled_from([0, 5, None]),
        "other": small,
    },
)


@st.composite
def records(draw: st.DrawFn) -> tuple[bytes | None, bytes | None]:
    kind = draw(st.integers(0, 9))
    if kind == 9:
        return draw(st.sampled_from([None, b"null", b"{", b'{"collection":"c"}'])), b"1"
    value = text(draw(good if kind < 6 else strange))
    if kind == 8:
        value = value.replace(b'"op":', draw(st.sampled_from([b'"op" :', b'"op":1,"op":', b","])))
    key = draw(st.sampled_from([b'{"id":1}', b'{"id": 1}', b"1", b'{"id":2}', None, b"x"]))
    return value, key


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[bytes | None], list[bytes | None] | None]:
    """Records of one topic: with schema or without, with their keys beside or inside."""
    many = draw(st.lists(records(), min_size=1, max_size=9))
    values, keys = [value for value, _ in many], [key for _, key in many]
    if draw(st.booleans()):
        schema = draw(st.sampled_from([b'{"a":1,"b":{"a":1}}', b"null", b'{"a":1,"a":1}']))
        values = [
            None if value is None else b'{"schema":' + schema + b',"payload":' + value + b"}"
            for value in values
        ]
    if draw(st.booleans()):
        return [
            b'{"key":' + (key or b"null") + b',"value":' + (value or b"null") + b"}"
            for value, key in zip(values, keys, strict=True)
        ], None
    return values, keys


@settings(deadline=None, max_examples=400)
@given(batches(), st.sampled_from(["debezium", "auto"]), st.sampled_from([None, ("id",)]))
def test_many_at_once_give_what_each_gives(
    batch: tuple[list[bytes | None], list[bytes | None] | None],
    wanted: Any,
    key_columns: tuple[str, ...] | None,
) -> None:
    values, keys = batch
    together = decode_values(
        values, format=wanted, positions=range(len(values)), keys=keys, key_columns=key_columns
    )
    rows, quarantined = [], []
    for position, value in enumerate(values):
        one = decode_values(
            [value],
            format=wanted,
            positions=[position],
            keys=None if keys is None else [keys[position]],
            key_columns=key_columns,
        )
        rows += one.changes.to_pylist()
        quarantined += one.quarantined
    assert together.changes.to_pylist() == rows
    assert list(together.quarantined) == quarantined


@pytest.mark.parametrize("schema", [False, True])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("before", [None, {"id": 1, "v": "old"}])
def test_good_records_are_read_at_once(schema: bool, inside: bool, before: Any) -> None:
    """Else the fast way is never taken, and the test above compares the slow way with itself."""
    for source in (POSTGRES, MYSQL):
        value = text(envelope(source=source, before=before))
        if schema:
            value = text({"schema": SCHEMA, "payload": json.loads(value)})
        keys: list[bytes | None] | None = [b'{"id":1}'] * 4
        if inside:
            value, keys = b'{"key":{"id":1},"value":' + value + b"}", None
        items = Items([value] * 4, range(4), keys)
        assert _table_at_once(items, "auto") is not None


def test_lines_of_both_formats_and_both_forms_in_one_body() -> None:
    lines = [
        b'{"collection":"c","key":1,"after":{"id":1}}',
        b'{"key":{"id":1},"value":' + text(envelope()) + b"}",
        b'{"key":{"id":1},"value":null}',
        text({"id": 2, "__table": "t", "__op": "c"}),
        b"null",
        text({"collection": "c", "key": 1, "op": "c", "after": {"id": 1}}),
    ]
    decoded = decode_lines(b"\n".join(lines), format="auto", position_first=0, key_columns=("id",))
    assert decoded.changes["position"].to_pylist() == [0, 1, 3]
    assert [(q.position, q.format, q.code) for q in decoded.quarantined] == [
        (5, "native", "unknown_op")
    ]
