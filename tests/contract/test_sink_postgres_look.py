"""What a look at a database says is what the restore then does; the look itself changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from pitr.adapters.sinks.postgres import PostgresSink
from pitr.adapters.sinks.postgres.exclusive import exclude_others
from pitr.domain.errors import InvalidRequest, PitrError
from pitr.domain.outlook import Outline, Outlook
from pitr.domain.pgoutput.schema import ForeignKey, UsedType
from pitr.domain.pgoutput.sequence_log import SampledSequence
from tests.fakes import FakeState, table_schema

Rows = list[tuple[object, object]]


def outline(state: FakeState, members: Mapping[str, frozenset[str]] | None = None) -> Outline:
    return Outline(
        counts=state.counts,
        schemas=state.schemas,
        sequences=state.sequences,
        whole=state.whole,
        members=members or {},
    )


async def looked(url: str, state: FakeState, members: Any = None, **options: Any) -> Outlook:
    return await PostgresSink(url, **options).look(outline(state, members))


async def write(url: str, state: FakeState, **options: Any) -> Any:
    sink: Any = PostgresSink(url, **options)
    return await sink.write(state, progress=lambda _: None)


def rows(*names: str) -> Rows:
    return [({"id": n}, {"id": n, **dict.fromkeys(names, "x")}) for n in (1, 2)]


def shop() -> FakeState:
    """Two tables that refer to each other's rows, of an attached database."""
    key = ForeignKey(
        name="fk",
        columns=("id",),
        schema="public",
        table="z_parents",
        referenced=("id",),
        on_update="NO ACTION",
        on_delete="NO ACTION",
        definition="FOREIGN KEY (id) REFERENCES public.z_parents(id)",
    )
    mood = UsedType(kind="enum", schema="feel", name="mood", oid=1, labels=("x", "y"))
    child = table_schema("a_children", "id", "mood", "ext", mood="feel.mood[]", ext="public.ltree")
    child = replace(child, foreign_keys=(key,), types=(mood,))
    schemas = {each.collection: each for each in (child, table_schema("z_parents", "id", "name"))}
    documents: dict[str, Rows] = {
        "public.a_children": [({"id": "1"}, {"id": "1", "mood": ["x"], "ext": "a.b"})],
        "public.z_parents": [({"id": "1"}, {"id": "1", "name": "n"})],
        "plain": rows("v"),
        "empty": [],
    }
    return FakeState(documents, schemas=schemas)


async def test_what_would_be_made_is_made(database: str, sql: asyncpg.Connection) -> None:
    members = {"plain": frozenset(("id", "v"))}
    found = await looked(database, shop(), members)
    assert found.problems == ()
    assert [(t.collection, t.where, t.action, t.made_from, t.rows) for t in found.tables] == [
        ("public.z_parents", "public.z_parents", "make", "schema", 1),
        ("public.a_children", "public.a_children", "make", "schema", 1),
        ("empty", "public.empty", "skip", None, 0),
        ("plain", "public.plain", "make", "documents", 2),
    ]
    assert [each.columns for each in found.tables] == [
        ("id", "name"),
        ("id", "mood", "ext"),
        (),
        ("id", "v"),
    ]
    assert found.tables[1].unfit == ("ext: text, as there is no type public.ltree here",)
    assert found.notes == ("type feel.mood is made",)
    system = await sql.fetchval("SELECT system_identifier::text FROM pg_control_system()")
    name, oid = urlsplit(database).path[1:], "SELECT oid::int FROM pg_database WHERE datname = $1"
    assert dict(found.identity) == {
        "system": system,
        "database": name,
        "oid": await sql.fetchval(oid, name),
    }
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert await sql.fetchval(tables) == 0
    report = await write(database, shop())
    assert report.notes[0] == f"public.a_children: {found.tables[1].unfit[0]}"
    assert await sql.fetchval(tables) == 3
    assert await sql.fetchval("SELECT mood::text FROM a_children") == "{x}"


async def test_what_would_be_filled_or_replaced(database: str, sql: asyncpg.Connection) -> None:
    """Parents first; without force the rows there are a problem, and the restore is refused."""
    await sql.execute(
        """
        CREATE TABLE z_parents (id serial PRIMARY KEY, name text);
        CREATE TABLE a_children (id int PRIMARY KEY REFERENCES z_parents, name text);
        INSERT INTO z_parents VALUES (1, 'p');
        """
    )
    state = FakeState({"a_children": rows("name"), "z_parents": rows("name")})
    found = await looked(database, state)
    assert [(each.where, each.action) for each in found.tables] == [
        ("public.z_parents", "replace"),
        ("public.a_children", "fill"),
    ]
    assert found.sequences == ("public.z_parents_id_seq",)
    (problem,) = found.problems
    assert problem.startswith("public.z_parents has rows")
    with pytest.raises(PitrError):
        await write(database, state)
    assert (await looked(database, state, force=True)).problems == ()
    await write(database, state, force=True)
    assert await sql.fetchval("SELECT last_value FROM z_parents_id_seq") == 2


async def test_columns_that_do_not_fit_are_said_as_they_are_dealt_with(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute(
        """
        CREATE TABLE t (id text PRIMARY KEY, kept bigint, strict text NOT NULL,
            later text DEFAULT 'unused', told text NOT NULL DEFAULT 'told',
            made text GENERATED ALWAYS AS (id || 'x') STORED)
        """
    )
    names = ("id", "kept", "strict", "lost", "made")
    schema = table_schema("t", *names, former=("old",), kept="integer")
    key = replace(schema.columns[0], not_null=True)
    schema = replace(schema, columns=(key, *schema.columns[1:]))
    document = {"id": "1", "kept": 1, "strict": "s", "lost": "l", "made": "m", "old": "o"}
    documents: Rows = [({"id": "1"}, document)]

    def state() -> FakeState:
        return FakeState({"public.t": documents}, schemas={"public.t": schema})

    found = await looked(database, state())
    (table,) = found.tables
    assert table.columns == ("id", "kept", "strict")
    assert table.unfit == (
        "kept: was integer, is bigint",
        "strict: could be null: a row where it is, is refused",
        "lost: has no column: refused",
        "made: the database computes it",
        "later: came later: null",
        "told: came later: its default",
        "old: was dropped before: left out of rows that have it",
    )
    assert found.problems == ("public.t has no column for lost; --drop-unknown leaves them out",)
    with pytest.raises(InvalidRequest):
        await write(database, state())
    dropping = await looked(database, state(), drop_unknown=True)
    assert dropping.problems == ()
    assert "lost: has no column: left out" in dropping.tables[0].unfit
    await write(database, state(), drop_unknown=True)
    row = await sql.fetchrow("SELECT * FROM t")
    assert tuple(row) == ("1", 1, "s", None, "told", "1x")


async def test_members_of_documents_are_looked_at_where_they_are_known(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE t (id int PRIMARY KEY, v text, more text)")
    state = FakeState({"t": rows("v", "lost")})
    (table,) = (await looked(database, state)).tables
    assert (table.unfit, table.columns) == ((), ("id", "v", "more"))
    found = await looked(database, state, {"t": frozenset(("id", "v", "lost"))})
    assert found.tables[0].unfit == (
        "lost: has no column: refused",
        "more: is in no document: null",
    )
    assert found.tables[0].columns == ("id", "v")
    assert len(found.problems) == 1
    with pytest.raises(InvalidRequest):
        await write(database, state)


async def test_all_problems_are_said_at_once(database: str, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE VIEW v AS SELECT 1 AS id")
    state = FakeState({each: rows() for each in ("v", "a.b.c", "public.w", "w")})
    async with sql.transaction():
        await exclude_others(sql)
        problems = (await looked(database, state)).problems
    assert [
        any(said in problem for problem in problems)
        for said in ("another restore", "a.b.c", "public.w and w", "public.v: that is not a table")
    ] == [True] * 4
    assert len(problems) == 4


async def test_a_role_that_may_not_is_told_so(database: str, sql: asyncpg.Connection) -> None:
    role = f"{urlsplit(database).path[1:]}_may_not".replace("-", "_")
    await sql.execute(f"CREATE ROLE {role} LOGIN; CREATE TABLE t (id int PRIMARY KEY)")
    await sql.execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    await sql.execute("REVOKE EXECUTE ON FUNCTION pg_control_system FROM PUBLIC")
    try:
        url = urlsplit(database)._replace(
            netloc=f"{role}@{urlsplit(database).netloc.rpartition('@')[2]}"
        )
        known = {"public.m": table_schema("m", "id")}
        state = FakeState({"t": rows(), "public.m": rows(), "n.n": rows()}, schemas=known)
        found = await looked(url.geturl(), state)
        assert found.identity["system"] is None
        assert [
            any(said in problem for problem in found.problems)
            for said in ("read and write public.t", "row-level security", "schema n", "public")
        ] == [True] * 4
        await sql.execute(f"ALTER TABLE t OWNER TO {role}; GRANT CREATE ON SCHEMA public TO {role}")
        problems = (await looked(url.geturl(), FakeState({"t": rows()}))).problems
        assert problems == ()
    finally:
        await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_sequences_that_would_move(database: str, sql: asyncpg.Connection) -> None:
    await sql.execute("CREATE SEQUENCE loose; CREATE SEQUENCE other")
    sample = SampledSequence(schema="public", name="loose", last_value=7, is_called=True)
    for whole in (True, False):
        state = FakeState({}, sequences=[sample], whole=whole)
        found = await looked(database, state)
        assert found.sequences == (("public.loose",) if whole else ())
        await write(database, state)
        assert await sql.fetchval("SELECT last_value FROM loose") == 7
