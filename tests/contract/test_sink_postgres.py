"""The contract of ``Sink`` on PostgreSQL: exact, in one transaction, with the app's rules kept."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from decimal import Decimal
from urllib.parse import urlsplit

import asyncpg
import orjson
import pyarrow as pa
import pytest

from pitr.adapters.sinks.postgres import PostgresSink
from pitr.adapters.sinks.postgres.exclusive import exclude_others
from pitr.domain.documents import members
from pitr.domain.errors import Conflict, DataLoss, InvalidRequest, SinkNotEmpty, Unavailable
from pitr.domain.ports import SinkReport
from tests.fakes import FakeState, table_schema

Rows = list[tuple[object, object]]


def ignore(_rows: int) -> None:
    """Nobody watches the progress."""


async def restore(url: str, state: FakeState, **options: object) -> SinkReport:
    return await PostgresSink(url, **options).write(state, progress=ignore)  # type: ignore[arg-type]


def by_id(*documents: str) -> Rows:
    return [(f'{{"id":{members(text.encode())["id"].decode()}}}', text) for text in documents]


def numbered(count: int) -> Rows:
    return [({"id": n}, {"id": n, "name": f"row {n}"}) for n in range(count)]


async def fails(url: str, state: FakeState, **options: object) -> dict[str, object]:
    with pytest.raises(InvalidRequest) as caught:
        await restore(url, state, **options)
    return caught.value.facts


# Every type, bit for bit -------------------------------------------------------------------------

TYPES = {
    "smallint": ["-32768", "32767"],
    "integer": ["-2147483648", "0"],
    "bigint": ["9223372036854775807", "-9223372036854775808"],
    "numeric": ["'1234567890123456789012345678901234567.890'", "'NaN'", "'-Infinity'", "'0.000'"],
    "numeric(10,2)": ["12.50", "-99999999.99"],
    "numeric(5,-2)": ["'12300'"],
    "real": ["'3.4028235e38'", "'1e-45'", "'NaN'", "0.1"],
    "double precision": ["0.1", "'-0'", "'Infinity'", "'5e-324'", "1e300", "123456789.123456789"],
    "money": ["'12.34'"],
    "boolean": ["true", "false"],
    "text": [r"E'a\tb\nc\rd\\e\\N\\.'", "''", "'é漢𝄞😀'", "E'\\u2028 \"q\" ''s'", "'null'"],
    "varchar(5)": ["'abc  '", "''"],
    "char(5)": ["'abc'"],
    '"char"': ["'x'"],
    "name": ["'name'"],
    "bytea": [r"'\x'", r"'\x00ff5c6e'"],
    "date": ["'2026-03-01'", "'infinity'", "'0044-03-15 BC'", "'5874897-12-31'"],
    "time": ["'24:00:00'", "'09:30:00.250001'"],
    "time(3)": ["'09:30:00.25'"],
    "timetz": ["'09:30:00.250001+05:30'"],
    "timestamp": ["'2026-03-01 09:30:00.250001'", "'-infinity'", "'294276-12-31 23:59:59.999999'"],
    "timestamp(3)": ["'2026-03-01 09:30:00.25'"],
    "timestamptz": ["'2026-03-01 09:30:00.250001+02'", "'infinity'", "'0044-03-15 12:00+00 BC'"],
    "interval": ["'1 year 2 mons -3 days 04:05:06.789'", "'-1 microsecond'"],
    "uuid": ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"],
    "json": ['\'{ "b": 1.10,\n "a" : [1, 2] }\'', "'[1e400]'", "'12345678901234567890.10'"],
    "jsonb": ['\'{"b": 1.10, "a": [1, {"x": "\\\\ \\" \\n"}]}\'', "'\"text\"'", "'true'"],
    "inet": ["'192.168.0.1/24'", "'::1'"],
    "cidr": ["'10.0.0.0/8'"],
    "macaddr": ["'08:00:2b:01:02:03'"],
    "bit(3)": ["B'101'"],
    "bit varying": ["B''", "B'10101'"],
    "point": ["'(1.5,-2)'"],
    "box": ["'(3,4),(1,2)'"],
    "polygon": ["'((0,0),(1,1),(2,0))'"],
    "tsvector": ["'''a'':1 ''b c'':2A'"],
    "tsquery": ["'a & !b'"],
    "int4range": ["'[1,5)'", "'empty'"],
    "nummultirange": ["'{[1.5,2],(3,)}'"],
    "pg_lsn": ["'16/B374D848'"],
    "oid": ["4294967295"],
    "integer[]": ["'{1,NULL,3}'", "'{}'", "'{{1,2},{3,4}}'"],
    "text[]": [r"""ARRAY['a"b\c', 'NULL', '', NULL, '{x,y}', E'n\nl']"""],
    "numeric(10,2)[]": ["'{1.50,2.00}'"],
    "timestamptz[]": ["'{2026-03-01 09:30:00+00}'"],
    "jsonb[]": [r"""ARRAY['{"a": [1, 2]}', '[1]']::jsonb[]"""],
    "bytea[]": [r"""ARRAY['\x00ff'::bytea]"""],
    "boolean[]": ["'{t,f,NULL}'"],
    "mood": ["'so so'", "'\"it''s\"'"],
    "mood[]": ["'{\"so so\"}'"],
    "price": ["12.34"],
    "nonempty": ["'x'"],
}


async def test_every_type_comes_back_bit_for_bit(database: str, sql: asyncpg.Connection) -> None:
    """Documents as PostgreSQL writes its own rows; the same text of each value comes back."""
    await sql.execute(
        """
        CREATE TYPE mood AS ENUM ('so so', '"it''s"');
        CREATE DOMAIN price AS numeric(10, 2) CHECK (VALUE > 0);
        CREATE DOMAIN nonempty AS text NOT NULL CHECK (VALUE <> '');
        """
    )
    expected, collections = {}, {}
    for number, (type_, values) in enumerate(TYPES.items()):
        table = f"t{number}"
        await sql.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, v {type_})")
        rows = [*values, *(["NULL"] if type_ != "nonempty" else [])]
        for identity, value in enumerate(rows):
            await sql.execute(f"INSERT INTO {table} VALUES ({identity}, {value})")
        documents = [
            row[0] for row in await sql.fetch(f"SELECT row_to_json(r)::text FROM {table} r")
        ]
        collections[f"public.{table}"] = by_id(*documents)
        expected[type_] = await sql.fetch(f"SELECT id, v::text FROM {table} ORDER BY id")
        await sql.execute(f"DELETE FROM {table}")
    await restore(database, FakeState(collections))
    for number, type_ in enumerate(TYPES):
        found = await sql.fetch(f"SELECT id, v::text FROM t{number} ORDER BY id")
        assert found == expected[type_], type_


async def test_what_debezium_writes_is_read(database: str, sql: asyncpg.Connection) -> None:
    await sql.execute(
        """
        CREATE TABLE d (id int PRIMARY KEY, day date, ms timestamp(3), us timestamp, at time,
            at_ms time(3), zoned timestamptz, doc jsonb, scalar jsonb, body bytea, n numeric,
            flag bit(1), span interval, forever timestamp)
        """
    )
    document = (
        '{"id":1,"day":20513,"ms":1772357400250,"us":1772357400250001,"at":34200250001,'
        '"at_ms":34200250,"zoned":"2026-03-01T09:30:00.250001Z","doc":"{\\"a\\": 1.10}",'
        '"scalar":"text","body":"AP9cbg==","n":{"scale":3,"value":"AZA="},"flag":true,'
        '"span":3600000000,"forever":9223372036825200000}'
    )
    await restore(database, FakeState({"d": by_id(document)}))
    row = await sql.fetchrow(
        """
        SELECT day::text, ms::text, us::text, at::text, at_ms::text,
            zoned = '2026-03-01 09:30:00.250001+00' AS zoned,
            doc::text, scalar::text, body::text, n::text, flag::text, span::text, forever::text
        FROM d
        """
    )
    assert dict(row) == {
        "day": "2026-03-01",
        "ms": "2026-03-01 09:30:00.25",
        "us": "2026-03-01 09:30:00.250001",
        "at": "09:30:00.250001",
        "at_ms": "09:30:00.25",
        "zoned": True,
        "doc": '{"a": 1.10}',
        "scalar": '"text"',
        "body": "\\x00ff5c6e",
        "n": "0.400",
        "flag": "1",
        "span": "01:00:00",
        "forever": "infinity",
    }


@pytest.mark.parametrize(
    ("json_strings", "expected"),
    [
        ("auto", ['"123"', '{"a": 1}']),
        ("text", ["123", '{"a": 1}']),
        ("value", ['"123"', '"{\\"a\\":1}"']),
    ],
)
async def test_a_string_in_a_json_column_is_what_the_caller_says(
    database: str, sql: asyncpg.Connection, json_strings: str, expected: list[str]
) -> None:
    await sql.execute("CREATE TABLE j (id int PRIMARY KEY, v jsonb)")
    rows = by_id('{"id":1,"v":"123"}', '{"id":2,"v":"{\\"a\\":1}"}')
    await restore(database, FakeState({"j": rows}), json_strings=json_strings)
    assert [row[0] for row in await sql.fetch("SELECT v::text FROM j ORDER BY id")] == expected


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        ("smallint", "32768"),
        ("bigint", "9223372036854775808"),
        ("bigint", "1.5"),
        ("integer", '"abc"'),
        ("numeric(10,2)", "1.234"),
        ("numeric(10,2)", '"1.234"'),
        ("numeric(10,2)", "1e-3"),
        ("numeric(3,2)", "10"),
        ("real", "1e39"),
        ("varchar(3)", '"abcd"'),
        ("varchar(3)", '"abc "'),
        ("text", '"a\\u0000b"'),
        ("boolean", '"maybe"'),
        ("timestamptz", '"2026-03-01T09:30:00"'),
        ("timestamptz", '"2026-03-01"'),
        ("timestamptz", "1772357400250001"),
        ("timestamp", '"2026-03-01T09:30:00+02:00"'),
        ("date", '"2026-03-01T09:30:00Z"'),
        ("date", '"2026-02-30"'),
        ("date", "99999999999"),
        ("uuid", '"a0eebc99"'),
        ("bytea", '"not base64!"'),
        ("jsonb", '"{"'.replace('"{"', '{"a":"\\u0000"}')),
        ("integer[]", '[1,"x"]'),
        ("integer[]", "[[1],[2,3]]"),
        ("mood", '"furious"'),
        ("price", "-1"),
        ("integer NOT NULL", "null"),
        ("integer CHECK (v > 5)", "1"),
    ],
)
async def test_a_value_that_does_not_fit_is_named_and_nothing_is_written(
    database: str, sql: asyncpg.Connection, type_: str, value: str
) -> None:
    await sql.execute("CREATE TYPE mood AS ENUM ('calm')")
    await sql.execute("CREATE DOMAIN price AS numeric(10, 2) CHECK (VALUE > 0)")
    await sql.execute(f"CREATE TABLE t (id int PRIMARY KEY, v {type_})")
    good = {"mood": '"calm"', "price": "1"}.get(type_, "null")
    good = "7" if "NOT NULL" in type_ or "CHECK" in type_ else good
    documents = [f'{{"id":{n},"v":{value if n == 5 else good}}}' for n in range(9)]
    facts = await fails(database, FakeState({"public.t": by_id(*documents)}))
    assert (facts["collection"], facts["key"]) == ("public.t", '{"id":5}')
    assert facts.get("column", "v") == "v" and ("column" in facts or "constraint" in facts)
    assert await sql.fetchval("SELECT count(*) FROM t") == 0


async def test_texts_that_stand_for_the_same_moment_are_accepted(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE t (id int PRIMARY KEY, day date, naive timestamp, n int)")
    document = '{"id":1,"day":"2026-03-01T00:00:00.000Z","naive":"2026-03-01T09:30:00Z","n":"42"}'
    await restore(database, FakeState({"t": by_id(document)}))
    row = await sql.fetchrow("SELECT day::text, naive::text, n FROM t")
    assert tuple(row) == ("2026-03-01", "2026-03-01 09:30:00", 42)


# Columns -----------------------------------------------------------------------------------------


async def test_absent_members_take_the_key_the_default_or_null(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        """
        CREATE TABLE t (id int PRIMARY KEY, made text NOT NULL DEFAULT 'by default',
            maybe text DEFAULT 'not asked for', n int GENERATED ALWAYS AS IDENTITY,
            twice int GENERATED ALWAYS AS (id * 2) STORED)
        """
    )
    rows = [
        ({"id": 1}, "{}"),
        ({"id": 2}, '{"id":2,"made":"m","maybe":"x","n":70,"twice":99}'),
        ({"id": 3}, '{"id":3,"made":"m","n":5}'),
    ]
    await restore(database, FakeState({"t": rows}))
    assert [tuple(row) for row in await sql.fetch("SELECT * FROM t ORDER BY id")] == [
        (1, "by default", None, 1, 2),
        (2, "m", "x", 70, 4),
        (3, "m", None, 5, 6),
    ]
    assert await sql.fetchval("INSERT INTO t (id) VALUES (4) RETURNING n") == 71


@pytest.mark.parametrize("drop_unknown", [False, True])
async def test_a_key_that_the_documents_lack_is_never_numbered_anew(
    database: str, sql: asyncpg.Connection, drop_unknown: bool
) -> None:
    await sql.execute("CREATE TABLE t (id serial PRIMARY KEY, name text, made int DEFAULT 3)")
    state = FakeState({"t": [({"id": n}, {"name": "x"}) for n in (7, 9)]})
    await restore(database, state, drop_unknown=drop_unknown)
    assert [row["id"] for row in await sql.fetch("SELECT id FROM t ORDER BY id")] == [7, 9]
    assert await sql.fetchval("INSERT INTO t DEFAULT VALUES RETURNING id") == 10


@pytest.mark.parametrize("document", ['{"id":1,"extra":1}', '{"id":1,"made":null,"extra":1,"x":2}'])
async def test_members_without_a_column_are_named_unless_they_are_to_be_dropped(
    database: str, sql: asyncpg.Connection, document: str
) -> None:
    await sql.execute("CREATE TABLE t (id int PRIMARY KEY, made text)")
    facts = await fails(database, FakeState({"t": by_id(document)}))
    assert "extra" in facts["members"]  # type: ignore[operator]
    await restore(database, FakeState({"t": by_id(document)}), drop_unknown=True)
    assert await sql.fetchval("SELECT id FROM t") == 1


async def test_a_key_without_a_column_is_not_lost_in_silence(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE t (number int)")
    state = FakeState({"t": [({"id": 1}, {"number": 1})]})
    assert (await fails(database, state))["members"] == ["id"]


@pytest.mark.parametrize("document", ["[1]", "1", '"text"', "null"])
@pytest.mark.parametrize("made", [True, False])
async def test_a_document_that_is_no_object_is_named(
    database: str, sql: asyncpg.Connection, document: str, made: bool
) -> None:
    if made:
        await sql.execute("CREATE TABLE t (id int)")
    assert (await fails(database, FakeState({"t": [({"id": 7}, document)]})))["key"] == '{"id":7}'


async def test_names_are_quoted_and_collections_go_to_their_tables(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute('CREATE SCHEMA "My ""Shop"""')
    await sql.execute(
        'CREATE TABLE "My ""Shop"""."Or.ders" (id int, "a ""b"": \\c" text, "select" int)'
    )
    document = '{"id":1,"a \\"b\\": \\\\c":"x","select":2}'
    state = FakeState({"orders": by_id(document), "other.plain": by_id('{"id":1}')})
    with pytest.raises(InvalidRequest):
        await restore(database, FakeState({"a.b.c": []}))
    with pytest.raises(InvalidRequest):
        await restore(database, FakeState({"orders": [], "public.orders": []}))
    await sql.execute('ALTER TABLE "My ""Shop"""."Or.ders" RENAME TO "Orders"')
    await restore(database, state, names={"orders": 'My "Shop".Orders'})
    row = await sql.fetchrow('SELECT * FROM "My ""Shop"""."Orders"')
    assert tuple(row) == (1, "x", 2)
    assert await sql.fetchval("SELECT id FROM other.plain") == 1


async def test_a_view_is_refused(database: str, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE VIEW v AS SELECT 1 AS id")
    with pytest.raises(InvalidRequest):
        await restore(database, FakeState({"v": by_id('{"id":1}')}))


async def test_a_partitioned_table_is_filled(database: str, sql: asyncpg.Connection) -> None:
    await sql.execute(
        """
        CREATE TABLE t (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
        CREATE TABLE t_low PARTITION OF t FOR VALUES FROM (0) TO (5);
        CREATE TABLE t_high PARTITION OF t FOR VALUES FROM (5) TO (100);
        """
    )
    await restore(database, FakeState({"t": numbered(10)}))
    assert await sql.fetchval("SELECT count(*) FROM t_high") == 5


# Tables that are not there yet -------------------------------------------------------------------


async def test_a_missing_table_is_made_from_the_documents(
    database: str, sql: asyncpg.Connection
) -> None:
    rows = by_id(
        '{"big":18446744073709551617,"id":1,"name":"a","ok":true,"n":1,"mixed":1,"nothing":null}',
        '{"big":1.10,"id":2,"tags":["x",  1.10],"n":-9223372036854775808,"mixed":"{\\"a\\":1}"}',
        '{"big":1234567890123456789012345678901234567890,"id":3,"n":null,"name":"é😀"}',
    )
    report = await restore(database, FakeState({"shop.made": rows, "empty": []}))
    columns = await sql.fetch(
        """
        SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = 'shop.made'::regclass AND attnum > 0 ORDER BY attnum
        """
    )
    assert dict(columns) == {
        "id": "bigint",
        "big": "numeric",
        "name": "text",
        "ok": "boolean",
        "n": "bigint",
        "mixed": "json",
        "nothing": "text",
        "tags": "json",
    }
    found = await sql.fetch("SELECT big, name, n, mixed, tags FROM shop.made ORDER BY id")
    assert [tuple(row) for row in found] == [
        (Decimal(18446744073709551617), "a", 1, "1", None),
        (Decimal("1.10"), None, -(2**63), '"{\\"a\\":1}"', '["x",  1.10]'),
        (Decimal("1234567890123456789012345678901234567890"), "é😀", None, None, None),
    ]
    with pytest.raises(asyncpg.UniqueViolationError):
        await sql.execute("INSERT INTO shop.made (id) VALUES (3)")
    assert dict(report.rows) == {"shop.made": 3, "empty": 0}
    assert any("empty" in note for note in report.notes)
    assert await sql.fetchval("SELECT to_regclass('public.empty')") is None


async def test_keys_that_are_not_alike_make_no_primary_key(
    database: str, sql: asyncpg.Connection
) -> None:
    rows: Rows = [({"id": 1}, {"id": 1}), ({"a": 1, "b": 2}, {"a": 1, "b": 2})]
    report = await restore(database, FakeState({"t": rows}))
    assert any("no primary key" in note for note in report.notes)
    mixed: Rows = [({"id": 1}, {"id": 1}), ({"id": "1"}, {"id": "1"}), ({"id": "x"}, {"v": 2})]
    await restore(database, FakeState({"m": mixed}))
    assert [row[0] for row in await sql.fetch("SELECT id FROM m ORDER BY id")] == [
        '"1"',
        '"x"',
        "1",
    ]


async def test_a_text_with_nul_is_named_also_where_the_table_is_made(database: str) -> None:
    facts = await fails(database, FakeState({"t": by_id('{"id":1,"v":"a\\u0000"}')}))
    assert (facts["key"], facts["column"]) == ('{"id":1}', "v")


@pytest.mark.parametrize("name", ["", "x" * 64, "ctid", "a\\u0000"])
async def test_a_member_that_cannot_name_a_column_is_refused(database: str, name: str) -> None:
    with pytest.raises(InvalidRequest):
        await restore(database, FakeState({"t": by_id(f'{{"id":1,"{name}":1}}')}))


async def test_an_empty_state_writes_nothing(database: str, sql: asyncpg.Connection) -> None:
    assert dict((await restore(database, FakeState({}))).rows) == {}
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert await sql.fetchval(tables) == 0


# Tables of an attached database ------------------------------------------------------------------


async def test_json_of_an_attached_database_is_its_text(
    database: str, sql: asyncpg.Connection
) -> None:
    types = "(id int PRIMARY KEY, v json, w jsonb[])"
    await sql.execute(f"CREATE TABLE known {types}; CREATE TABLE other {types}")
    texts = ["null", '"text"', "1.10", '{"a":  1}', '"{\\"a\\": 1}"']
    documents = [
        orjson.dumps({"id": n, "v": text, "w": [text, None]}).decode()
        for n, text in enumerate(texts)
    ]
    rows = by_id(*documents)
    state = FakeState(
        {"public.known": rows, "public.other": rows},
        schemas={"public.known": table_schema("known", "id", "v", "w")},
    )
    await restore(database, state)
    found = await sql.fetch("SELECT v::text, w[1]::text FROM known ORDER BY id")
    assert [row[0] for row in found] == texts
    assert [row[1] for row in found] == [text.replace("  ", " ") for text in texts]
    found = await sql.fetch("SELECT v::text FROM other ORDER BY id")
    assert [row[0] for row in found] == [
        text if text.startswith("{") else orjson.dumps(text).decode() for text in texts
    ]


async def test_columns_are_those_of_the_moment(database: str, sql: asyncpg.Connection) -> None:
    """Members that were no columns any more are left out, also where a column has that name now."""
    await sql.execute(
        """
        CREATE TABLE t (id int PRIMARY KEY, kept text, again text, added text DEFAULT 'not asked',
            later text NOT NULL DEFAULT 'by default', told text NOT NULL DEFAULT 'not told')
        """
    )
    known = table_schema("t", "id", "kept", "added", "told", former=("dropped", "again"))
    told = replace(known.columns[3], not_null=True)
    known = replace(known, columns=(*known.columns[:3], told))
    rows = by_id(
        '{"id":1,"kept":"a","dropped":"x","again":"old"}',
        '{"id":2,"kept":"b","added":"y","told":"z"}',
        '{"id":3,"kept":"c","surprise":1}',
    )
    report = await restore(database, FakeState({"public.t": rows}, schemas={"public.t": known}))
    assert [tuple(row) for row in await sql.fetch("SELECT * FROM t ORDER BY id")] == [
        (1, "a", None, None, "by default", "not told"),
        (2, "b", None, "y", "by default", "z"),
        (3, "c", None, None, "by default", "not told"),
    ]
    (note,) = report.notes
    assert note.startswith("public.t: ")
    assert note.endswith(": again, dropped, surprise")


async def test_a_column_of_the_moment_that_is_not_there_is_named(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE t (id int PRIMARY KEY)")
    rows, known = by_id('{"id":1,"kept":"a","gone":"x"}'), table_schema("t", "id", "kept")
    for drop_unknown in (False, True):
        state = FakeState({"public.t": rows}, schemas={"public.t": known})
        if drop_unknown:
            await restore(database, state, drop_unknown=True)
        else:
            assert (await fails(database, state))["members"] == ["kept"]
    assert await sql.fetchval("SELECT count(*) FROM t") == 1


async def test_a_column_that_was_null_is_not_filled_with_what_new_rows_get(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE t (id int PRIMARY KEY, v text NOT NULL DEFAULT 'new')")
    known = {"public.t": table_schema("t", "id", "v")}
    facts = await fails(database, FakeState({"public.t": by_id('{"id":1}')}, schemas=known))
    assert facts["column"] == "v"


async def test_a_missing_table_is_made_with_the_columns_of_the_moment(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TYPE mood AS ENUM ('calm')")
    types = {
        "id": "bigint",
        "at": "timestamp with time zone",
        "price": "numeric(10,2)",
        "mood": "public.mood",
        "odd": 'shop."no such"',
        "doc": "jsonb",
    }
    known = table_schema("shop.Or.ders", *types, former=("gone",), **types)
    empty = table_schema("empty", "id", id="uuid")
    row = (
        '{"id":1,"at":"2026-03-01 09:30:00+00","price":1.10,"mood":"calm","odd":["x"],'
        '"doc":"null","gone":1}'
    )
    state = FakeState(
        {"shop.Or.ders": by_id(row), "public.empty": []},
        schemas={
            "shop.Or.ders": replace(known, schema="shop", name="Or.ders"),
            "public.empty": empty,
        },
    )
    report = await restore(database, state)
    query = """
        SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = $1::text::regclass AND attnum > 0 ORDER BY attnum
    """
    assert dict(await sql.fetch(query, 'shop."Or.ders"')) == types | {"mood": "mood", "odd": "text"}
    assert dict(await sql.fetch(query, "empty")) == {"id": "uuid"}
    found = await sql.fetchrow('SELECT price::text, odd, doc::text FROM shop."Or.ders"')
    assert tuple(found) == ("1.10", '["x"]', "null")
    with pytest.raises(asyncpg.UniqueViolationError):
        await sql.execute('INSERT INTO shop."Or.ders" (id) VALUES (1)')
    made, left_out = report.notes
    assert made == 'shop.Or.ders: odd: text, as there is no type shop."no such" here'
    assert left_out == "shop.Or.ders: left out what were no columns any more: gone"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("intervalstyle", "sql_standard"),
        ("datestyle", "German, DMY"),
        ("array_nulls", "off"),
        ("timezone", "America/New_York"),
    ],
)
async def test_settings_of_the_database_alter_nothing(
    database: str, sql: asyncpg.Connection, setting: str, value: str
) -> None:
    await sql.execute(
        "CREATE TABLE t (id int PRIMARY KEY, m money, i interval, d date, a int[], z timestamptz)"
    )
    name = await sql.fetchval("SELECT current_database()")
    await sql.execute(f"ALTER DATABASE \"{name}\" SET {setting} = '{value}'")
    row = (
        '{"id":1,"m":"-$1,234.56","i":"-1 days +02:03:00","d":"2026-02-03","a":[1,null],'
        '"z":"2026-03-01 09:30:00+00"}'
    )
    await restore(database, FakeState({"t": by_id(row)}))
    await sql.execute("SET lc_monetary = 'C'")
    found = await sql.fetchrow(
        "SELECT m::text, i = '-1 day'::interval + '2:03', d, a, z = '2026-03-01 09:30+00' FROM t"
    )
    assert tuple(found) == ("-$1,234.56", True, date(2026, 2, 3), [1, None], True)


# All or nothing ----------------------------------------------------------------------------------


async def test_tables_with_rows_are_refused_and_replaced_only_with_force(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE a (id int PRIMARY KEY, name text)")
    await sql.execute("CREATE TABLE b AS SELECT 1 AS id, 'kept'::text AS name")
    await sql.execute("INSERT INTO a VALUES (500, 'old')")
    with pytest.raises(SinkNotEmpty) as caught:
        await restore(database, FakeState({"a": numbered(3), "c": numbered(1)}))
    assert caught.value.facts["tables"] == ["public.a"]
    assert await sql.fetchval("SELECT name FROM a") == "old"
    await restore(database, FakeState({"a": numbered(3)}), force=True)
    assert [row["id"] for row in await sql.fetch("SELECT id FROM a ORDER BY id")] == [0, 1, 2]
    assert await sql.fetchval("SELECT name FROM b") == "kept"
    await restore(database, FakeState({"a": []}), force=True)
    assert await sql.fetchval("SELECT count(*) FROM a") == 0


@pytest.mark.parametrize("failure", ["state", "document", "constraint"])
async def test_a_failure_in_the_last_table_changes_nothing(
    database: str, sql: asyncpg.Connection, failure: str
) -> None:
    await sql.execute("CREATE TABLE a (id int PRIMARY KEY, name text)")
    await sql.execute("CREATE TABLE z (id int PRIMARY KEY, name text CHECK (name <> 'row 7'))")
    await sql.execute("INSERT INTO a VALUES (500, 'old')")
    last = numbered(7 if failure == "constraint" else 9)
    if failure == "document":
        last[7] = ({"id": 7}, {"id": "seven"})
    if failure == "constraint":
        last += numbered(8)[7:]
    state = FakeState(
        {"a": numbered(3), "n": numbered(3), "z": last},
        fail_after=6 if failure == "state" else None,
    )
    with pytest.raises(DataLoss if failure == "state" else InvalidRequest):
        await restore(database, state, force=True)
    assert [tuple(row) for row in await sql.fetch("SELECT * FROM a")] == [(500, "old")]
    assert await sql.fetchval("SELECT count(*) FROM z") == 0
    assert await sql.fetchval("SELECT to_regclass('public.n')") is None


class Paused(FakeState):
    """Stops in the middle of the last collection until told to go on."""

    def __init__(self, collections: dict[str, Rows]) -> None:
        super().__init__(collections)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def rows(self, collection: str, *, documents_only: bool = False) -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(super().rows(collection)):
            if number == 2 and collection == max(self.counts):
                self.reached.set()
                self.go_on.wait(20)
            yield batch


async def gone(sql: asyncpg.Connection) -> None:
    """Wait until no other connection uses the database."""
    query = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()
    """
    async with asyncio.timeout(10):
        while await sql.fetchval(query):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("how", ["killed", "cancelled"])
async def test_a_connection_that_ends_in_the_middle_changes_nothing(
    database: str, sql: asyncpg.Connection, how: str
) -> None:
    await sql.execute("CREATE TABLE a (id int PRIMARY KEY, name text)")
    await sql.execute("CREATE TABLE z (id int PRIMARY KEY, name text)")
    state = Paused({"a": numbered(9), "z": numbered(9)})
    task = asyncio.create_task(restore(database, state))
    await asyncio.to_thread(state.reached.wait, 20)
    if how == "killed":
        await sql.execute(
            """
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
            """
        )
        await gone(sql)
    else:
        task.cancel()
    state.go_on.set()
    with pytest.raises(Unavailable if how == "killed" else asyncio.CancelledError):
        await task
    await gone(sql)
    assert await sql.fetchval("SELECT count(*) FROM a") == 0


async def test_readers_go_on_and_writers_wait_while_it_runs(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE z (id int PRIMARY KEY, name text)")
    await sql.execute("INSERT INTO z VALUES (500, 'old')")
    await sql.execute("SET lock_timeout = '100ms'")
    state = Paused({"z": numbered(9)})
    task = asyncio.create_task(restore(database, state, force=True))
    await asyncio.to_thread(state.reached.wait, 20)
    assert await sql.fetchval("SELECT name FROM z") == "old"
    with pytest.raises(asyncpg.LockNotAvailableError):
        await sql.execute("INSERT INTO z VALUES (501, 'lost')")
    state.go_on.set()
    await task
    assert await sql.fetchval("SELECT count(*) FROM z") == 9


async def test_a_locked_table_is_unavailable_after_the_bound(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
    async with sql.transaction():
        await sql.execute("INSERT INTO t VALUES (1, 'under way')")
        with pytest.raises(Unavailable):
            await restore(database, FakeState({"t": numbered(3)}), lock_timeout_s=1)


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await restore("postgresql://nobody@127.0.0.1:1/x", FakeState({}))
    with pytest.raises(InvalidRequest):
        await restore("postgresql://nobody@127.0.0.1:no/x", FakeState({}))


# What binds tables together ----------------------------------------------------------------------


async def shop(sql: asyncpg.Connection, on_delete: str = "") -> None:
    await sql.execute(
        f"""
        CREATE TABLE zcustomers (id serial PRIMARY KEY, boss int REFERENCES zcustomers, name text);
        CREATE TABLE orders (id bigserial PRIMARY KEY,
            customer int NOT NULL REFERENCES zcustomers {on_delete});
        """
    )


def shop_rows() -> dict[str, Rows]:
    return {
        "zcustomers": by_id('{"id":1,"boss":2,"name":"a"}', '{"id":2,"boss":null,"name":"b"}'),
        "orders": by_id('{"id":10,"customer":1}', '{"id":11,"customer":2}'),
    }


async def test_foreign_keys_in_circles_and_out_of_order_are_kept(
    database: str, sql: asyncpg.Connection
) -> None:
    await shop(sql)
    await restore(database, FakeState(shop_rows()))
    await restore(database, FakeState(shop_rows()), force=True)
    assert (
        await sql.fetchval("SELECT count(*) FROM orders JOIN zcustomers c ON c.id = customer") == 2
    )


async def test_a_row_that_refers_to_nothing_is_a_conflict_that_names_it(
    database: str, sql: asyncpg.Connection
) -> None:
    await shop(sql)
    rows = shop_rows()
    rows["orders"] += by_id('{"id":12,"customer":77}')
    with pytest.raises(Conflict) as caught:
        await restore(database, FakeState(rows))
    facts = caught.value.facts
    assert (facts["constraint"], facts["example"]) == ("orders_customer_fkey", {"customer": "77"})
    assert await sql.fetchval("SELECT count(*) FROM zcustomers") == 0


@pytest.mark.parametrize("on_delete", ["", "ON DELETE CASCADE"])
async def test_a_table_that_is_not_restored_keeps_its_rows_and_its_parents(
    database: str, sql: asyncpg.Connection, on_delete: str
) -> None:
    await shop(sql, on_delete)
    await restore(database, FakeState(shop_rows()))
    customers = {"zcustomers": shop_rows()["zcustomers"]}
    await restore(database, FakeState(customers), force=True)
    assert await sql.fetchval("SELECT count(*) FROM orders") == 2
    with pytest.raises(Conflict):
        await restore(database, FakeState({"zcustomers": customers["zcustomers"][:1]}), force=True)
    assert await sql.fetchval("SELECT count(*) FROM zcustomers") == 2


async def test_the_apps_triggers_do_not_fire_and_fire_again_afterwards(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        """
        CREATE TABLE t (id int PRIMARY KEY, name text);
        CREATE TABLE fired (name text);
        CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN INSERT INTO public.fired VALUES (TG_NAME); RETURN NEW; END $$;
        """
    )
    for mode in ("", "ALWAYS", "REPLICA"):
        await sql.execute(
            f"CREATE TRIGGER t{mode} BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION fire()"
        )
        if mode:
            await sql.execute(f"ALTER TABLE t ENABLE {mode} TRIGGER t{mode}")
    await restore(database, FakeState({"t": numbered(3)}))
    assert await sql.fetchval("SELECT count(*) FROM fired") == 0
    modes = await sql.fetch("SELECT tgname, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal")
    assert dict(modes) == {"t": "O", "talways": "A", "treplica": "R"}
    await sql.execute("INSERT INTO t VALUES (9)")
    assert {row[0] for row in await sql.fetch("SELECT name FROM fired")} == {"t", "talways"}


async def test_triggers_of_partitions_do_not_fire_and_keep_their_modes(
    database: str, sql: asyncpg.Connection
) -> None:
    """Each partition has a mode of its own, also for a trigger that came from the table above."""
    await sql.execute(
        """
        CREATE TABLE t (id int PRIMARY KEY, name text) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF t FOR VALUES FROM (0) TO (2);
        CREATE TABLE high PARTITION OF t FOR VALUES FROM (2) TO (100) PARTITION BY RANGE (id);
        CREATE TABLE higher PARTITION OF high DEFAULT;
        CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'fired'; END $$;
        CREATE TRIGGER own BEFORE INSERT ON low FOR EACH ROW EXECUTE FUNCTION fire();
        CREATE TRIGGER own BEFORE INSERT ON higher FOR EACH ROW EXECUTE FUNCTION fire();
        CREATE TRIGGER above AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION fire();
        ALTER TABLE higher ENABLE ALWAYS TRIGGER own;
        ALTER TABLE low ENABLE ALWAYS TRIGGER above;
        ALTER TABLE higher DISABLE TRIGGER above;
        """
    )
    query = """
        SELECT tgrelid::regclass::text, tgname, tgenabled::text FROM pg_trigger
        WHERE NOT tgisinternal ORDER BY 1, 2
    """
    before = [tuple(row) for row in await sql.fetch(query)]
    assert {mode for _, _, mode in before} == {"O", "A", "D"}
    await restore(database, FakeState({"t": numbered(4)}))
    assert await sql.fetchval("SELECT count(*) FROM t") == 4
    assert [tuple(row) for row in await sql.fetch(query)] == before


async def test_rows_of_tables_that_inherit_are_theirs(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        """
        CREATE TABLE t (id int PRIMARY KEY, name text);
        CREATE TABLE heir (more text) INHERITS (t);
        INSERT INTO heir VALUES (1, 'heir', 'more');
        """
    )
    await restore(database, FakeState({"t": numbered(2)}))
    await restore(database, FakeState({"t": numbered(3)}), force=True)
    assert await sql.fetchval("SELECT count(*) FROM ONLY t") == 3
    assert await sql.fetchval("SELECT more FROM heir") == "more"


async def test_two_restores_into_one_database_exclude_each_other(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
    async with sql.transaction():
        await exclude_others(sql)
        with pytest.raises(Conflict, match="another restore runs in this database"):
            await restore(database, FakeState({"t": numbered(2)}))
    await restore(database, FakeState({"t": numbered(2)}))
    assert await sql.fetchval("SELECT count(*) FROM t") == 2


async def test_a_deferrable_unique_constraint_is_checked(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE t (id int PRIMARY KEY, v int UNIQUE DEFERRABLE)")
    with pytest.raises(Conflict) as caught:
        await restore(database, FakeState({"t": by_id('{"id":1,"v":4}', '{"id":2,"v":4}')}))
    assert caught.value.facts["example"] == {"v": "4"}


async def test_sequences_move_past_what_was_restored_and_never_back(
    database: str, sql: asyncpg.Connection
) -> None:
    await shop(sql)
    await sql.execute("CREATE SEQUENCE loose START 5")
    await sql.execute("CREATE TABLE l (id int PRIMARY KEY DEFAULT nextval('loose'))")
    await sql.execute("SELECT setval('zcustomers_id_seq', 1000)")
    await restore(database, FakeState(shop_rows() | {"l": by_id('{"id":41}')}))
    assert await sql.fetchval("INSERT INTO l DEFAULT VALUES RETURNING id") == 42
    assert await sql.fetchval("INSERT INTO zcustomers (name) VALUES ('c') RETURNING id") == 1001
    assert await sql.fetchval("INSERT INTO orders (customer) VALUES (1) RETURNING id") == 12


# A role that is no superuser ---------------------------------------------------------------------


@pytest.fixture
async def owner(database: str, sql: asyncpg.Connection) -> str:
    """The URL of a role that owns the database's ``public`` schema and nothing else."""
    name = urlsplit(database).path[1:].replace("-", "_")
    await sql.execute(f"CREATE ROLE {name} LOGIN")
    await sql.execute(f"ALTER SCHEMA public OWNER TO {name}")
    return re.sub("//[^/]*@|//", f"//{name}@", database, count=1)


@pytest.fixture
async def owned(owner: str, sql: asyncpg.Connection) -> asyncpg.Connection:
    name = await sql.fetchval(
        "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname='public'"
    )
    await sql.execute(f"SET ROLE {name}")
    yield sql
    await sql.execute("RESET ROLE")
    await sql.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


async def test_an_owner_without_privileges_restores_parents_first(
    owner: str, owned: asyncpg.Connection
) -> None:
    await owned.execute(
        """
        CREATE TABLE zparents (id serial PRIMARY KEY);
        CREATE TABLE children (id int PRIMARY KEY,
            parent int REFERENCES zparents DEFERRABLE INITIALLY DEFERRED);
        CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'fired'; END $$;
        CREATE TRIGGER t BEFORE INSERT ON children FOR EACH ROW EXECUTE FUNCTION fire();
        CREATE TRIGGER off BEFORE INSERT ON children FOR EACH ROW EXECUTE FUNCTION fire();
        ALTER TABLE children DISABLE TRIGGER off;
        """
    )
    rows = {"zparents": by_id('{"id":1}'), "children": by_id('{"id":1,"parent":1}')}
    await restore(owner, FakeState(rows))
    await restore(owner, FakeState(rows), force=True)
    enabled = await owned.fetch(
        "SELECT tgname, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal"
    )
    assert dict(enabled) == {"t": "O", "off": "D"}
    rows["children"] = by_id('{"id":1,"parent":5}')
    with pytest.raises(Conflict):
        await restore(owner, FakeState(rows), force=True)
    assert await owned.fetchval("SELECT parent FROM children") == 1


async def test_an_owner_without_privileges_does_not_cascade_into_other_tables(
    owner: str, owned: asyncpg.Connection
) -> None:
    await owned.execute(
        """
        CREATE TABLE parents (id int PRIMARY KEY);
        CREATE TABLE children (parent int REFERENCES parents ON DELETE CASCADE);
        INSERT INTO parents VALUES (1);
        INSERT INTO children VALUES (1);
        """
    )
    with pytest.raises(Conflict):
        await restore(owner, FakeState({"parents": by_id('{"id":1}')}), force=True)
    assert await owned.fetchval("SELECT count(*) FROM children") == 1


async def test_a_role_that_may_not_is_told_so(owner: str, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
    facts = await fails(owner, FakeState({"t": numbered(1)}))
    assert facts["sqlstate"] == "42501"


# Large -------------------------------------------------------------------------------------------


async def test_many_rows_with_odd_ones_among_them_all_arrive(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE t (id int PRIMARY KEY, name text, made int NOT NULL DEFAULT 1)")
    rows: Rows = []
    for n in range(20_000):
        odd = f'{{"id":"{n}","name":{n}}}'
        usual = f'{{"id":{n},"name":"row\\t{n}","made":2}}'
        rows.append((f'{{"id":{n}}}', odd if n % 997 == 0 else usual))
    told: list[int] = []
    state = FakeState({"t": rows}, batch_rows=5_000)
    report = await PostgresSink(database).write(state, progress=told.append)
    assert (report.rows["t"], sum(told)) == (20_000, 20_000)
    found = await sql.fetchrow("SELECT count(*), sum(id), count(*) FILTER (WHERE made = 1) FROM t")
    assert tuple(found) == (20_000, sum(range(20_000)), 21)


async def test_a_refused_row_is_named_however_deep_it_stands(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE t (id int PRIMARY KEY, name text CHECK (name <> 'row 13777'))")
    state = FakeState({"t": numbered(20_000)}, batch_rows=5_000)
    facts = await fails(database, state)
    assert (facts["key"], facts["constraint"]) == ('{"id":13777}', "t_name_check")
