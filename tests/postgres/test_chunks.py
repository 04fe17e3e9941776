"""Chunks of real tables: every kind of key, whatever the values, and what is refused."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from pitr.adapters.postgres import chunks as chunks_module
from pitr.adapters.postgres.chunk_table import open_table
from pitr.adapters.postgres.chunks import (
    current_snapshot,
    emit,
    new_xid,
    read_chunk,
)
from pitr.adapters.postgres.estimates import estimated_rows
from pitr.domain.errors import Conflict, InvalidRequest, NotFound
from pitr.domain.pgoutput.copying import CHUNK_ROWS_MIN
from tests.postgres import servers
from tests.postgres.chunked import all_chunks, as_texts, connected, described, documents

ROWS = 40


@pytest.fixture
async def db(every_source_db: str) -> AsyncIterator[Any]:
    async with connected(every_source_db) as connection:
        yield connection


@pytest.fixture
async def db18(source_db: str) -> AsyncIterator[Any]:
    async with connected(source_db) as connection:
        yield connection


# Keys -------------------------------------------------------------------------------------------

KEYS: dict[str, tuple[str, str, str]] = {
    # name: (columns, values of row i, key)
    "int": ("id int", "i - 20", "id"),
    "bigint": ("id bigint", "(i - 20) * 100000000000", "id"),
    "text": ("id text", "md5(i::text)", "id"),
    "odd text": (
        "id text",
        r"""(ARRAY['', ' ', 'a''b', E'tab\there', E'line\nbreak', E'back\\slash', E'\\N', E'\v\b',
            'é', '"', '$$', '%s', '{}', E'\x01'])[1 + i % 14] || (i / 14)::text""",
        "id",
    ),
    "varchar": ("id varchar(12)", "left(md5(i::text), 12)", "id"),
    "char": ("id char(6)", "left(md5(i::text), 1 + i % 4) || i", "id"),
    "one byte": ('id "char"', 'chr(40 + i)::"char"', "id"),
    "uuid": ("id uuid", "md5(i::text)::uuid", "id"),
    "timestamptz": (
        "id timestamptz",
        "CASE i WHEN 1 THEN 'infinity' WHEN 2 THEN '-infinity' WHEN 3 THEN '0044-03-15 BC'"
        " ELSE '2026-03-29 00:30+01'::timestamptz + i * interval '7 minutes 0.000001 s' END",
        "id",
    ),
    "date": ("id date", "CASE i WHEN 1 THEN 'infinity' ELSE date '2026-01-01' - i END", "id"),
    "interval": ("id interval", "i * interval '1 month 3 days -2 hours'", "id"),
    "numeric": (
        "id numeric",
        "CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN '-12345678901234567890.12345678901234567890'"
        " ELSE (i - 20) / 3.0 END",
        "id",
    ),
    "numeric of a scale": ("id numeric(12, 4)", "i * 1.25", "id"),
    "float8": (
        "id float8",
        "CASE i WHEN 1 THEN 'NaN' WHEN 2 THEN '-Infinity' WHEN 3 THEN 1e-300"
        " ELSE (i - 20) / 3.0::float8 END",
        "id",
    ),
    "bytea": ("id bytea", r"decode(md5(i::text), 'hex') || '\x00'::bytea", "id"),
    "bool and int": ("a bool, b int", "i % 2 = 0, i / 2", "a, b"),
    "enum": ("a mood, b int", "(ARRAY['sad','ok','happy']::mood[])[1 + i % 3], i", "a, b"),
    "domain": ("id email", "i || '@example.com'", "id"),
    "domain of a domain": ("id small", "i", "id"),
    "citext": (
        "id citext",
        "CASE i % 2 WHEN 0 THEN upper(md5(i::text)) ELSE md5(i::text) END",
        "id",
    ),
    "three": (
        'b text, c timestamptz, a "odd type"',
        "'x' || i % 3, timestamptz '2026-01-01' + (i % 4) * interval '1 day', i",
        "a, b, c",
    ),
    "three, in another order": (
        "b text, c int, a uuid",
        "'x' || i % 3, i % 4, md5((i / 12)::text)::uuid",
        "c, a, b",
    ),
    "array": ("id int[]", "ARRAY[i % 5, i]", "id"),
    "composite type": ("id pair", "(i % 5, 'x,' || i)::pair", "id"),
    "range": ("id int4range", "int4range(i, i + 5)", "id"),
    "inet": ("id inet", "'10.0.0.0'::inet + i * 13", "id"),
    "odd names": ('"a-""b" int, "select" text', "i % 4, i::text", '"select", "a-""b"'),
}

TYPES = """
CREATE SCHEMA types;
CREATE EXTENSION citext SCHEMA types;
CREATE TYPE types.mood AS ENUM ('sad', 'ok', 'happy');
CREATE DOMAIN types.email AS varchar(40) CHECK (VALUE LIKE '%@%');
CREATE DOMAIN types.tiny AS int;
CREATE DOMAIN types.small AS types.tiny CHECK (VALUE < 1000);
CREATE DOMAIN types."odd type" AS numeric(9, 2);
CREATE TYPE types.pair AS (a int, b text);
SET search_path = public, types;
"""


@pytest.mark.parametrize("name", KEYS)
async def test_every_key_gives_every_row_once_in_the_order_of_its_index(db: Any, name: str) -> None:
    columns, values, key = KEYS[name]
    await db.execute(TYPES)
    await db.execute(f"CREATE TABLE t ({columns}, v text, PRIMARY KEY ({key}))")
    await db.execute(
        f"INSERT INTO t SELECT {values}, repeat('v', i) FROM generate_series(1, {ROWS}) i"
    )
    names = [each.strip().strip('"').replace('""', '"') for each in key.split(", ")]
    table = await described(db, "public.t", *names)

    found = documents(chunks := await all_chunks(db, table), table)

    assert len(chunks) == ROWS // 7 + 1
    wanted = await as_texts(db, f"SELECT * FROM t ORDER BY {key}")
    assert [row["v"] for row in found] == [row["v"] for row in wanted]
    if name not in ("bool and int", "array"):  # JSON of their own
        assert found == wanted
    async with db.transaction():
        opened = await open_table(db, table)
        assert opened.order is not None
        query = chunks_module._next_rows(opened, opened.order, chunks[0].last, 7)
        plan = "\n".join(row[0] for row in await db.fetch(f"EXPLAIN {query}"))
    assert "Index" in plan and "Sort" not in plan and "Filter" not in plan, plan


async def test_a_chunk_of_each_size_goes_on_where_the_last_one_ended(db18: Any) -> None:
    await db18.execute("CREATE TABLE t (a int, b text, PRIMARY KEY (b, a))")
    await db18.execute(r"INSERT INTO t SELECT i, E'x\t' || i % 3 FROM generate_series(1, 10) i")
    table = await described(db18, "t", "a", "b")
    wanted = documents(await all_chunks(db18, table, rows_max=100), table)

    for size in range(1, 12):
        chunks = await all_chunks(db18, table, rows_max=size)
        assert documents(chunks, table) == wanted
        assert len(chunks) == 10 // size + 1


async def test_a_replica_identity_index_is_a_key(db: Any) -> None:
    await db.execute("CREATE TABLE t (a int NOT NULL, b int NOT NULL, v text)")
    await db.execute("ALTER TABLE t ADD CONSTRAINT t_b_a_v_key UNIQUE (b, a) INCLUDE (v)")
    await db.execute("ALTER TABLE t REPLICA IDENTITY USING INDEX t_b_a_v_key")
    await db.execute("INSERT INTO t SELECT i, i % 7, i FROM generate_series(1, 40) i")
    table = await described(db, "t", "a", "b")

    chunks = await all_chunks(db, table)

    assert chunks[0].last is not None and len(chunks[0].last["key"]) == 2
    assert documents(chunks, table) == await as_texts(db, "SELECT * FROM t ORDER BY b, a")


@pytest.mark.parametrize(
    "made",
    [
        "a int, UNIQUE (a)",  # may be null
        "a int NOT NULL; CREATE UNIQUE INDEX ON t (a) WHERE a > 0",
        "a int NOT NULL; CREATE UNIQUE INDEX ON t ((a + 0))",
        "a int NOT NULL; CREATE INDEX ON t (a)",
        "a int NOT NULL, b int NOT NULL DEFAULT 0, UNIQUE (a, b)",
    ],
)
async def test_what_is_not_exactly_the_key_is_no_order(db18: Any, made: str) -> None:
    columns, _, more = made.partition(";")
    await db18.execute(f"CREATE TABLE t ({columns}); {more}")
    await db18.execute("INSERT INTO t (a) SELECT i FROM generate_series(1, 40) i")
    if columns.startswith("a int, "):
        await db18.execute("INSERT INTO t (a) VALUES (NULL)")
    table = await described(db18, "t", "a")

    chunks = await all_chunks(db18, table)

    assert chunks[-1].last is not None and "block" in chunks[-1].last
    assert sum(chunk.rows for chunk in chunks) == await db18.fetchval("SELECT count(*) FROM t")


async def test_key_values_that_their_domain_no_longer_takes_are_places_to_go_on(
    db18: Any,
) -> None:
    await db18.execute("CREATE DOMAIN small AS int; CREATE TABLE t (id small PRIMARY KEY)")
    await db18.execute("INSERT INTO t SELECT i FROM generate_series(1, 20) i")
    await db18.execute("ALTER DOMAIN small ADD CHECK (VALUE > 15) NOT VALID")
    table = await described(db18, "t", "id")

    found = documents(await all_chunks(db18, table), table)

    assert [int(row["id"]) for row in found] == list(range(1, 21))


@pytest.fixture
async def german(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """A server with a locale of its own, made from the system's sources of locales."""
    folder = Path("/tmp") / f"pitr-locale-{tmp_path.name}"
    if shutil.which("localedef") is None or not Path("/usr/share/i18n/locales/de_DE").exists():
        pytest.skip("localedef or the sources of de_DE are not here")
    folder.mkdir()
    try:
        made = ["localedef", "-i", "de_DE", "-f", "UTF-8", folder / "de_DE.UTF-8"]
        subprocess.run(made, check=True, capture_output=True)
        monkeypatch.setitem(servers.ENVIRONMENT, "LOCPATH", str(folder))
        with servers.running(servers.WHEEL) as server:
            async with connected(server.url()) as connection:
                yield connection
    finally:
        shutil.rmtree(folder)


async def test_a_locale_decides_the_order_of_texts(german: Any) -> None:
    await german.execute("CREATE COLLATION de (provider = libc, locale = 'de_DE.UTF-8')")
    await german.execute("CREATE TABLE t (a int, id text COLLATE de, PRIMARY KEY (id, a))")
    words = ["z", "Z", "ä", "Ä", "a", "A", "ab", "a b", "a-b", "äb", "ß", "ss", "10", "9", ""]
    await german.executemany(
        "INSERT INTO t VALUES ($1, $2)", [(i, word) for word in words for i in range(2)]
    )
    table = await described(german, "t", "a", "id")

    found = [row["id"] for row in documents(await all_chunks(german, table, rows_max=3), table)]

    assert found == [word for word in sorted(words, key=found.index) for _ in range(2)]
    assert found != sorted(found)
    assert found.index("ä") < found.index("ab") < found.index("z") < len(found) - 1
    # The index has another order than the column: exact nevertheless.
    await german.execute("CREATE TABLE u (id text COLLATE de NOT NULL)")
    await german.execute('CREATE UNIQUE INDEX u_id ON u (id COLLATE "C")')
    await german.execute("ALTER TABLE u REPLICA IDENTITY USING INDEX u_id")
    await german.execute("INSERT INTO u SELECT DISTINCT id FROM t")
    other = await described(german, "u", "id")
    rows = documents(await all_chunks(german, other, rows_max=4), other)
    assert [row["id"] for row in rows] == list(dict.fromkeys(found))


async def test_a_collation_may_call_different_texts_equal(db: Any) -> None:
    try:
        await db.execute(
            "CREATE COLLATION ci (provider=icu, locale='und-u-ks-level2', deterministic=false)"
        )
    except asyncpg.FeatureNotSupportedError:
        pytest.skip("this server is built without ICU")
    await db.execute("CREATE TABLE t (id text COLLATE ci, n int, PRIMARY KEY (id, n))")
    await db.execute(
        "INSERT INTO t SELECT (ARRAY['a','A','b','B','É','é'])[1 + i % 6], i"
        " FROM generate_series(1, 40) i"
    )
    table = await described(db, "t", "id", "n")

    found = documents(await all_chunks(db, table), table)

    assert found == await as_texts(db, "SELECT * FROM t ORDER BY id, n")
    assert len(found) == 40


# Without a key ----------------------------------------------------------------------------------


async def test_a_table_without_a_key_is_read_by_its_blocks(db: Any) -> None:
    await db.execute("CREATE TABLE t (id int, v text)")
    await db.execute("INSERT INTO t SELECT i, repeat('v', 700) FROM generate_series(1, 900) i")
    await db.execute("DELETE FROM t WHERE id % 3 = 0 OR id BETWEEN 300 AND 500")
    await db.execute("UPDATE t SET id = -id WHERE id % 5 = 0")
    table = await described(db, "t")

    chunks = await all_chunks(db, table, rows_max=50)

    assert len(chunks) > 5
    assert max(chunk.rows for chunk in chunks) < 200
    found = sorted(int(row["id"]) for row in documents(chunks, table))
    assert found == [row[0] for row in await db.fetch("SELECT id FROM t ORDER BY id")]
    async with db.transaction():
        opened = await open_table(db, table)
        query = f"{opened.select} WHERE ctid >= '(1,0)' AND ctid < '(3,0)'"
        plan = "\n".join(row[0] for row in await db.fetch(f"EXPLAIN {query}"))
    assert "Tid Range Scan" in plan


async def test_blocks_are_read_from_the_first_again_when_rows_were_moved(db18: Any) -> None:
    await db18.execute("CREATE TABLE t (id int, v text)")
    await db18.execute("INSERT INTO t SELECT i, repeat('v', 700) FROM generate_series(1, 400) i")
    await db18.execute("DELETE FROM t WHERE id % 2 = 0")
    table = await described(db18, "t")
    first = await read_chunk(db18, table, after=None, rows_max=60)
    assert first.last is not None and first.last["block"] > 0 and not first.done

    # All rows that are left move into the blocks that were read already.
    await db18.execute("VACUUM FULL t")
    again = await read_chunk(db18, table, after=first.last, rows_max=5_000)

    assert again.done
    assert sorted(int(row["id"]) for row in documents([again], table)) == list(range(1, 401, 2))


async def test_a_table_with_few_rows_in_many_blocks_is_read_in_short_transactions(
    db18: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks_module, "BLOCKS_MAX", 10)
    await db18.execute("CREATE TABLE t (id int, v text)")
    await db18.execute("INSERT INTO t SELECT i, repeat('v', 700) FROM generate_series(1, 400) i")
    await db18.execute("DELETE FROM t WHERE id NOT IN (3, 397)")
    table = await described(db18, "t")

    found = []
    after, done = None, False
    while not done:
        chunk = await read_chunk(db18, table, after=after, rows_max=100)
        found.append(chunk.data[:-702])
        after, done = chunk.last, chunk.done

    assert found == [b"3", b"", b"", b"397"]


async def test_equal_rows_and_nulls_are_read_as_often_as_they_are_there(db18: Any) -> None:
    await db18.execute("CREATE TABLE t (a int, b text)")
    await db18.execute("INSERT INTO t VALUES (1, 'x'), (1, 'x'), (NULL, NULL), (2, NULL)")

    chunk = await read_chunk(db18, await described(db18, "t"), after=None, rows_max=10)

    assert sorted(chunk.data.splitlines()) == [b"1\tx", b"1\tx", b"2\t\\N", b"\\N\t\\N"]


# Tables of all sorts ----------------------------------------------------------------------------


@pytest.mark.parametrize("keyed", [True, False])
async def test_an_empty_table_is_done_at_once(db: Any, keyed: bool) -> None:
    await db.execute("CREATE TABLE t (id int PRIMARY KEY)" if keyed else "CREATE TABLE t (id int)")
    table = await described(db, "t", *(["id"] if keyed else []))

    chunk = await read_chunk(db, table, after=None, rows_max=10)

    assert (chunk.rows, chunk.data, chunk.done) == (0, b"", True)
    assert chunk.rows_max == 10


@pytest.mark.parametrize("keyed", [True, False])
async def test_partitions_are_read_through_their_root(db: Any, keyed: bool) -> None:
    key = ", PRIMARY KEY (at, id)" if keyed else ""
    await db.execute(
        f"CREATE TABLE t (id int, at date, v text{key}) PARTITION BY RANGE (at);"
        "CREATE TABLE t26 PARTITION OF t FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')"
        "    PARTITION BY HASH (id);"
        "CREATE TABLE t26a PARTITION OF t26 FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        # Columns in another order.
        "CREATE TABLE t26b (v text, at date NOT NULL, id int NOT NULL);"
        "ALTER TABLE t26 ATTACH PARTITION t26b FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        "CREATE TABLE t27 PARTITION OF t DEFAULT;"
        "INSERT INTO t SELECT i, date '2026-12-20' + i % 20, repeat('v', 500)"
        "    FROM generate_series(1, 300) i; ANALYZE t, t26a, t26b, t27"
    )
    table = await described(db, "t", *(["id", "at"] if keyed else []))

    found = documents(chunks := await all_chunks(db, table, rows_max=40), table)

    assert len(chunks) > 3
    wanted = await as_texts(db, "SELECT * FROM t ORDER BY at, id")
    if not keyed:
        found.sort(key=lambda row: (row["at"], int(row["id"])))
    assert found == wanted
    assert await estimated_rows(db, [table.relid]) == {table.relid: 300}


async def test_tables_that_inherit_are_tables_of_their_own(db18: Any) -> None:
    await db18.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u () INHERITS (t)")
    await db18.execute("INSERT INTO t VALUES (1), (3); INSERT INTO u VALUES (2)")

    chunk = await read_chunk(db18, await described(db18, "t", "id"), after=None, rows_max=9)

    assert chunk.data == b"1\n3\n"


async def test_generated_columns_are_left_out_as_the_stream_does(db18: Any) -> None:
    await db18.execute(
        "CREATE TABLE t (id int PRIMARY KEY, s int GENERATED ALWAYS AS (id * 2) STORED,"
        " v int GENERATED ALWAYS AS (id * 3) VIRTUAL, gone int, z text DEFAULT 'z');"
        "ALTER TABLE t DROP COLUMN gone; INSERT INTO t VALUES (1)"
    )

    chunk = await read_chunk(db18, await described(db18, "t", "id"), after=None, rows_max=9)

    assert chunk.data == b"1\tz\n"


async def test_odd_values_are_the_same_bytes_as_their_texts(db: Any) -> None:
    await db.execute(
        r"""CREATE TABLE t (id int PRIMARY KEY, s text, j jsonb, b bytea, a text[], x float8);
        INSERT INTO t VALUES
          (1, E'tab\tnew\nline\\ret\r\b\f\v\x01\x1f\x7f"', '{"a": "\"\\ é"}', '\x00ff', '{}',
           'NaN'),
          (2, '', 'null', '', NULL, '-Infinity'), (3, NULL, NULL, NULL, NULL, NULL),
          (4, '\N', '"\n"', '\x5c6e', ARRAY['\N', NULL, E'\t', '"'], 1e20),
          (5, '\.', '[1.10, 1e400]', NULL, '{{a,b},{c,d}}', 0.1)"""
    )
    table = await described(db, "t", "id")

    found = documents([await read_chunk(db, table, after=None, rows_max=99)], table)
    wanted = await as_texts(db, "SELECT * FROM t ORDER BY id")

    quoted = ["\\N", None, "\t", '"']
    assert [row.pop("a") for row in found] == [[], None, None, quoted, [["a", "b"], ["c", "d"]]]
    for row in wanted:
        row.pop("a")
    assert found == wanted


async def test_values_are_written_as_for_the_stream_whatever_the_session_says(
    db18: Any,
) -> None:
    await db18.execute(
        "CREATE TABLE t (id timestamptz PRIMARY KEY, f float8, b bytea, i interval, d date);"
        r"INSERT INTO t SELECT '2026-03-01 09:30+02', 0.1::float8 * 3, '\x01', '1 day 2 h',"
        "    '2026-03-01'"
    )
    for name, value in {
        "datestyle": "German",
        "timezone": "Asia/Tokyo",
        "extra_float_digits": "-5",
        "bytea_output": "escape",
        "intervalstyle": "iso_8601",
        "standard_conforming_strings": "off",
        "search_path": "nowhere",
        "statement_timeout": "5s",
    }.items():
        await db18.execute("SELECT set_config($1, $2, false)", name, value)
    table = await described(db18, "public.t", "id")

    chunk = await read_chunk(db18, table, after=None, rows_max=1)

    assert chunk.data == (
        b"2026-03-01 07:30:00+00\t0.30000000000000004\t\\\\x01\t1 day 02:00:00\t2026-03-01\n"
    )
    assert (await read_chunk(db18, table, after=chunk.last, rows_max=1)).rows == 0
    # And leaves the session as it was.
    assert await db18.fetchval("SHOW datestyle") == "German, DMY"


# Sizes ------------------------------------------------------------------------------------------


async def test_a_chunk_ends_with_the_row_that_makes_it_large_enough(db18: Any) -> None:
    await db18.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    await db18.execute("INSERT INTO t SELECT i, repeat('v', 50000) FROM generate_series(1, 300) i")
    table = await described(db18, "t", "id")

    chunks = await all_chunks(db18, table, rows_max=1_000, bytes_max=1_000_000)

    assert [int(row["id"]) for row in documents(chunks, table)] == list(range(1, 301))
    assert all(1_000_000 < len(chunk.data) < 2_000_000 for chunk in chunks[:-1])
    assert chunks[0].rows_max == 8 * 1024 * 1024 // 50_003
    # Even a row that is too large by itself.
    single = await read_chunk(db18, table, after=None, rows_max=1_000, bytes_max=10)
    assert single.rows >= 1 and not single.done


async def test_blocks_with_large_values_are_read_one_at_a_time_at_first(db18: Any) -> None:
    await db18.execute("CREATE TABLE t (id int, v text)")
    await db18.execute("ALTER TABLE t ALTER v SET STORAGE EXTERNAL")
    await db18.execute("INSERT INTO t SELECT i, repeat('v', 40000) FROM generate_series(1, 600) i")
    table = await described(db18, "t")

    chunks = await all_chunks(db18, table, rows_max=50_000)

    assert len(chunks) > 1
    assert max(len(chunk.data) for chunk in chunks) < 20 * 1024 * 1024
    assert sum(chunk.rows for chunk in chunks) == 600


async def test_the_next_chunk_has_a_size_that_fits(db18: Any) -> None:
    await db18.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    await db18.execute("INSERT INTO t SELECT i, 'v' FROM generate_series(1, 300) i")
    await db18.execute(
        "INSERT INTO t SELECT i, repeat('v', 200000) FROM generate_series(301, 310) i"
    )
    table = await described(db18, "t", "id")

    small = await read_chunk(db18, table, after=None, rows_max=200)
    large = await read_chunk(db18, table, after=small.last | {"key": ["300"]}, rows_max=200)

    assert small.rows_max == 50_000
    assert large.rows_max == CHUNK_ROWS_MIN


# What the table must be -------------------------------------------------------------------------


async def test_a_table_that_is_another_one_by_now_is_refused(db18: Any) -> None:
    await db18.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    table = await described(db18, "t", "id")

    async def refused(*statements: str) -> str:
        for statement in statements:
            await db18.execute(statement)
        with pytest.raises(Conflict) as caught:
            await read_chunk(db18, table, after=None, rows_max=9)
        return caught.value.message

    changed = "columns of the table were changed"
    another = "the table is another one by now"
    assert await refused("ALTER TABLE t ALTER v TYPE varchar") == changed
    assert await refused("ALTER TABLE t DROP COLUMN v") == changed
    assert await refused("ALTER TABLE t RENAME TO u; CREATE TABLE t (id int, v text)") == another
    assert await refused("DROP TABLE u") == another
    assert await refused("DROP TABLE t; CREATE VIEW t AS SELECT 1 AS id, 'x' AS v") == another
    await db18.execute("DROP VIEW t")
    with pytest.raises(NotFound):
        await read_chunk(db18, table, after=None, rows_max=9)
    # The connection is as good as before.
    assert not db18.is_in_transaction() and await db18.fetchval("SELECT 1") == 1


async def test_a_key_with_another_order_is_read_from_its_beginning(db18: Any) -> None:
    await db18.execute("CREATE TABLE t (id int PRIMARY KEY, v text NOT NULL)")
    await db18.execute("INSERT INTO t SELECT i, i FROM generate_series(1, 20) i")
    first = await read_chunk(db18, await described(db18, "t", "id"), after=None, rows_max=9)
    assert first.last is not None and first.last["key"] == ["9"]

    await db18.execute("ALTER TABLE t ALTER id TYPE text")
    table = await described(db18, "t", "id")
    again = await read_chunk(db18, table, after=first.last, rows_max=30)

    assert again.rows == 20 and again.last is not None and again.last["key"] == ["9"]


async def test_rights_that_are_missing_are_said(db18: Any) -> None:
    await db18.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'x')")
    table = await described(db18, "t", "id")
    role = f"reader_{table.relid}_{await db18.fetchval('SELECT current_database()')}"
    await db18.execute(f"CREATE ROLE {role}")
    try:
        await db18.execute(f"SET ROLE {role}")
        with pytest.raises(InvalidRequest) as caught:
            await read_chunk(db18, table, after=None, rows_max=9)
        assert "GRANT SELECT" in (caught.value.hint or "")
        await db18.execute("RESET ROLE; ALTER TABLE t ENABLE ROW LEVEL SECURITY")
        await db18.execute(f"GRANT SELECT ON t TO {role}; SET ROLE {role}")
        # Not an empty table.
        with pytest.raises(InvalidRequest) as caught:
            await read_chunk(db18, table, after=None, rows_max=9)
        assert "BYPASSRLS" in (caught.value.hint or "")
    finally:
        await db18.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("keyed", [True, False])
async def test_a_table_that_is_being_written_anew_is_never_empty(
    source_db: str, keyed: bool
) -> None:
    key = "PRIMARY KEY" if keyed else ""
    async with connected(source_db) as db, connected(source_db) as other:
        await db.execute(f"CREATE TABLE t (id int {key}); INSERT INTO t VALUES (1), (2)")
        table = await described(db, "t", *(["id"] if keyed else []))
        async with other.transaction():
            # Its rows will all have been made by this transaction.
            await other.execute("ALTER TABLE t ADD COLUMN r float8 DEFAULT random()")
            reading = asyncio.create_task(read_chunk(db, table, after=None, rows_max=9))
            while not await other.fetchval(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 't'::regclass"
            ):
                await asyncio.sleep(0.01)
        chunk = await reading

        assert chunk.data == b"1\n2\n"


# Snapshots and messages -------------------------------------------------------------------------


async def test_a_chunk_tells_what_it_saw(source_db: str) -> None:
    async with connected(source_db) as db, connected(source_db) as other:
        await db.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
        table = await described(db, "t", "id")
        transaction = other.transaction()
        await transaction.start()
        await other.execute("INSERT INTO t VALUES (2)")
        mine = int(await other.fetchval("SELECT pg_current_xact_id()::text"))
        later = await new_xid(db)

        before = await read_chunk(db, table, after=None, rows_max=9)
        assert before.data == b"1\n"
        assert not before.snapshot.sees(mine % 2**32)
        assert before.snapshot.sees(later)
        assert before.snapshot.unfinished_before(later) == (mine,)
        await transaction.commit()

        after = await read_chunk(db, table, after=None, rows_max=9)
        assert after.data == b"1\n2\n"
        assert after.snapshot.sees(mine % 2**32)
        assert await current_snapshot(db) == after.snapshot
        assert after.snapshot.unfinished_before(later) == ()


async def test_messages_come_through_the_stream(db: Any) -> None:
    await db.fetchval("SELECT pg_create_logical_replication_slot(current_database(), 'pgoutput')")
    await db.execute("CREATE PUBLICATION p")
    await emit(db, "copy", b'{"id":"1"}')

    found = await db.fetch(
        "SELECT data FROM pg_logical_slot_get_binary_changes(current_database(), NULL, NULL,"
        " 'proto_version', '1', 'publication_names', 'p', 'messages', 'true')"
    )

    kinds = [row["data"][:1] for row in found]
    assert kinds == [b"B", b"M", b"C"]
    assert b"pitr.copy\0" in found[1]["data"] and found[1]["data"].endswith(b'{"id":"1"}')
