"""The contract of ``RewindSink`` on PostgreSQL, for tables of an attached database."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import asyncpg
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pitr.adapters.sinks.postgres.rewind import stage
from pitr.adapters.sinks.postgres.rewind.database import PostgresRewind
from pitr.domain.columnar.changed import CHANGED_SCHEMA
from pitr.domain.columnar.difference import STATE_SCHEMA, differences
from pitr.domain.errors import Conflict, InvalidRequest
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.rewind.columns import ColumnRules, Work
from pitr.domain.rewind.ports import Rewound, Says
from pitr.domain.rewind.sight import OnConflict
from tests.fakes import table_schema

Rows = Mapping[int, str]
NAME = "public.t"


def work(
    folder: Path,
    *,
    now: Rows,
    then: Rows,
    schema_then: TableSchema | None = None,
    schema_now: TableSchema | None = None,
    first_op: str = "update",
) -> Work:
    """Rows by their ``id``, as documents, on both sides."""
    keys = sorted(now.keys() | then.keys())
    path = folder / "changed.parquet"
    columns = [[NAME] * len(keys), [f'{{"id":{key}}}' for key in keys], [first_op] * len(keys)]
    pq.write_table(pa.table(columns, schema=CHANGED_SCHEMA), path)

    def state(rows: Rows) -> list[pa.RecordBatch]:
        found = [(NAME, f'{{"id":{key}}}', text) for key, text in sorted(rows.items())]
        columns = list(zip(*found, strict=True)) or [[], [], []]
        arrays = [pa.array(column, pa.string()) for column in columns]
        return [pa.record_batch(arrays, schema=STATE_SCHEMA)]

    found = differences(path, state(then), state(now), folder=folder)
    return Work(difference=found[NAME], schema_then=schema_then, schema_now=schema_now)


async def rewind(
    url: str, given: Work, rules: ColumnRules | None = None, *, on_conflict: OnConflict = "refuse"
) -> Rewound:
    return await PostgresRewind(url).rewind(
        [given],
        rules or ColumnRules(),
        on_conflict=on_conflict,
        says=Says(reason="rewind:test"),
        check=lambda _: None,
    )


async def rows(sql: asyncpg.Connection) -> list[object]:
    found = await sql.fetch("SELECT row_to_json(t)::text FROM t ORDER BY id")
    return [orjson.loads(row[0]) for row in found]


@pytest.mark.parametrize(("rule", "kept"), [("keep", "live"), ("default", "d")])
async def test_a_column_that_came_later_goes_by_its_rule(
    database: str, sql: asyncpg.Connection, tmp_path: Path, rule: str, kept: str
) -> None:
    await sql.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text, u int UNIQUE,"
        " later text NOT NULL DEFAULT 'd');"
        "INSERT INTO t VALUES (1, 'x', 1, 'live'), (2, 'x', 20, 'live')"
    )
    given = work(
        tmp_path,
        now={
            1: '{"id":1,"v":"x","u":1,"later":"live"}',
            2: '{"id":2,"v":"x","u":20,"later":"live"}',
        },
        then={n: f'{{"id":{n},"v":"a","u":{n},"old":1}}' for n in (1, 2, 3)},
        schema_then=table_schema("t", "id", "v", "u", former=["old"]),
        schema_now=table_schema("t", "id", "v", "u", "later", former=["old"]),
    )
    with pytest.raises(InvalidRequest, match="one side only"):
        await rewind(database, given, ColumnRules(added="refuse"))
    done = await rewind(database, given, ColumnRules(added=rule))  # type: ignore[arg-type]
    assert (done.written[NAME].inserted, done.written[NAME].updated) == (1, 2)
    assert await rows(sql) == [
        {"id": 1, "v": "a", "u": 1, "later": kept},
        {"id": 2, "v": "a", "u": 2, "later": kept},
        {"id": 3, "v": "a", "u": 3, "later": "d"},
    ]


async def test_equal_values_of_another_text_are_not_what_the_log_says(
    database: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    await sql.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n numeric, i interval);"
        "INSERT INTO t VALUES (1, 1.00, '30 days')"
    )
    schema = table_schema("t", "id", "n", "i")
    given = work(
        tmp_path,
        now={1: '{"id":1,"n":1.0,"i":"1 mon"}'},
        then={1: '{"id":1,"n":2,"i":"1 mon"}'},
        schema_then=schema,
        schema_now=schema,
    )
    with pytest.raises(Conflict, match=r"changed \(n, i\)"):
        await rewind(database, given)
    done = await rewind(database, given, on_conflict="overwrite")
    [conflict] = done.conflicts
    assert orjson.loads(conflict.live or "") == {"id": 1, "n": 1.0, "i": "30 days"}
    assert await rows(sql) == [{"id": 1, "n": 2, "i": "1 mon"}]


async def test_rows_without_a_key_are_refused(
    database: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    await sql.execute("CREATE TABLE t (id int)")
    schema = table_schema("t", "id")
    keyless = replace(schema, identity="f", identity_columns=(), primary_key=None)
    given = work(tmp_path, now={}, then={1: '{"id":1}'}, schema_then=keyless, schema_now=keyless)
    with pytest.raises(InvalidRequest, match="no key"):
        await rewind(database, given)


async def test_a_row_of_which_the_past_is_not_known_is_left(tmp_path: Path) -> None:
    """It was read after the moment: it may have been there, as it may not."""
    given = work(tmp_path, now={1: '{"id":1}', 2: '{"id":2}'}, then={}, first_op="read")
    assert (given.difference.unknown, given.difference.count) == (2, 0)


async def test_what_keeps_a_row_from_being_written_is_told(
    database: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    await sql.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v text CHECK (v <> 'bad'));"
        "INSERT INTO t VALUES (1, 'x');"
        "CREATE RULE nothing AS ON UPDATE TO t DO INSTEAD NOTHING"
    )
    given = work(tmp_path, now={1: '{"id":1,"v":"x"}'}, then={1: '{"id":1,"v":"a"}'})
    await rewind(database, given)  # ordinary rules rest like ordinary triggers
    await sql.execute(
        "ALTER TABLE t ENABLE ALWAYS RULE nothing; SET session_replication_role=replica"
    )
    given = work(tmp_path, now={1: '{"id":1,"v":"a"}'}, then={1: '{"id":1,"v":"b"}'})
    with pytest.raises(InvalidRequest, match="rule") as caught:
        await rewind(database, given)
    assert "DISABLE RULE" in (caught.value.hint or "")
    await sql.execute("ALTER TABLE t DISABLE RULE nothing")
    given = work(tmp_path, now={1: '{"id":1,"v":"a"}'}, then={1: '{"id":1,"v":"bad"}'})
    with pytest.raises(InvalidRequest, match="constraint"):
        await rewind(database, given)
    assert await rows(sql) == [{"id": 1, "v": "a"}]


async def test_many_rows_go_by_several_copies_and_the_one_that_does_not_fit_is_named(
    database: str, sql: asyncpg.Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "COPY_ROWS", 300)
    monkeypatch.setattr(stage, "SLICE_ROWS", 100)
    await sql.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v int NOT NULL DEFAULT 7, note text);"
        "INSERT INTO t SELECT n, 0, 'x' FROM generate_series(1001, 2000) n"
    )
    now = {n: f'{{"id":{n},"v":0,"note":"x"}}' for n in range(1001, 2001)}
    then = {n: f'{{"id":{n}{"" if n % 3 else f""","v":{n}"""},"note":"y"}}' for n in now}
    for odd, why in (('1,"note":"\\u0000"', "U[+]0000"), ("99999999999", "out of range")):
        with pytest.raises(InvalidRequest, match=why) as caught:  # found here, and there
            bad = then | {1777: f'{{"id":1777,"v":{odd}}}'}
            await rewind(database, work(tmp_path, now=now, then=bad))
        assert caught.value.facts["key"] == '{"id":1777}'
    await rewind(database, work(tmp_path, now=now, then=then))
    assert await rows(sql) == [{"id": n, "v": 7 if n % 3 else n, "note": "y"} for n in now]


async def test_a_connection_is_kept_while_that_is_wanted_and_made_anew_if_it_broke(
    database: str, sql: asyncpg.Connection, tmp_path: Path
) -> None:
    await sql.execute("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'x')")
    given = work(tmp_path, now={1: '{"id":1,"v":"x"}'}, then={1: '{"id":1,"v":"a"}'})
    sink = PostgresRewind(database)

    async def others() -> list[int]:
        rows = await sql.fetch(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        return [row["pid"] for row in rows]

    async def gone(pid: int) -> None:
        async with asyncio.timeout(30):
            while pid in await others():
                await asyncio.sleep(0.01)

    async with sink.kept():
        place, _ = await sink.position()
        [kept] = await others()
        sight = await sink.look([given], ColumnRules())
        assert sight.place == place and await others() == [kept]
        await sql.fetchval("SELECT pg_terminate_backend($1)", kept)
        await gone(kept)
        await sink.rewind(
            [given],
            ColumnRules(),
            on_conflict="refuse",
            says=Says(reason="rewind:test"),
            check=lambda _: None,
        )
        [another] = await others()
    await gone(another)
    assert await rows(sql) == [{"id": 1, "v": "a"}]
    with pytest.raises(Conflict):
        async with sink.kept():
            await sink.position()
            [kept] = await others()
            await sink.rewind(
                [given],
                ColumnRules(),
                on_conflict="refuse",
                says=Says(reason="rewind:test"),
                check=_refuse,
            )
    await gone(kept)


def _refuse(_: object) -> None:
    raise Conflict("the plan does not hold any more")
