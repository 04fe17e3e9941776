"""Tables that are made as they were: what cannot be so is left out, and never in silence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from pitr.adapters.sinks.postgres import PostgresSink
from pitr.adapters.sinks.postgres.rebound import rebound_foreign_key, rebound_index
from pitr.adapters.sinks.postgres.tables import TableName
from pitr.adapters.sinks.postgres.used_types import multirange_name, own_name
from pitr.domain.errors import Conflict, InvalidRequest
from pitr.domain.pgoutput.schema import (
    Constraint,
    ForeignKey,
    Index,
    Partition,
    SequenceSchema,
    TableSchema,
    UsedType,
)
from pitr.domain.ports import SinkReport
from tests.fakes import FakeState, table_schema

ROWS = [({"id": "1"}, {"id": "1", "v": "a"}), ({"id": "2"}, {"id": "2", "v": "b"})]


async def made(
    url: str,
    *schemas: TableSchema,
    rows: Any = ROWS,
    whole: bool = True,
    names: dict[str, str] | None = None,
) -> SinkReport:
    state = FakeState(
        {schema.collection: rows for schema in schemas},
        schemas={schema.collection: schema for schema in schemas},
        whole=whole,
    )
    sink: Any = PostgresSink(url, names=names)
    report: SinkReport = await sink.write(state, progress=lambda _: None)
    return report


def having(schema: TableSchema, column: str, **facts: Any) -> TableSchema:
    """The table with one column otherwise."""
    columns = [replace(c, **facts) if c.name == column else c for c in schema.columns]
    return replace(schema, columns=tuple(columns))


def constraint(kind: Any, name: str, definition: str) -> Constraint:
    return Constraint(kind=kind, name=name, columns=("v",), definition=definition)


def foreign_key(name: str, definition: str, *, table: str) -> ForeignKey:
    return ForeignKey(
        name=name,
        columns=("v",),
        schema="public",
        table=table,
        referenced=("id",),
        on_update="NO ACTION",
        on_delete="NO ACTION",
        definition=definition,
    )


def index(name: str, definition: str) -> Index:
    return Index(name=name, unique=False, columns=("v",), where=None, definition=definition)


BASE = table_schema("t", "id", "v")


@pytest.mark.parametrize(
    ("schema", "left_out"),
    [
        (having(BASE, "v", default="public.gone()"), "v: without its default"),
        (having(BASE, "v", generated="public.gone(id)"), "v: a plain column now"),
        (having(BASE, "v", collation="public.gone"), "v: without its collation public.gone"),
        (
            replace(BASE, constraints=(constraint("check", "c", "CHECK (public.gone(v))"),)),
            "without the constraint c",
        ),
        (
            replace(
                BASE,
                constraints=(constraint("exclude", "x", "EXCLUDE USING gist (v WITH =)"),),
            ),
            "without the constraint x",
        ),
        (
            replace(
                BASE,
                indexes=(index("i", "CREATE INDEX i ON public.t USING btree (public.gone(v))"),),
            ),
            "without the index i",
        ),
        (replace(BASE, partition_key="LIST (public.gone(v))", kind="partitioned"), "partitions"),
        (having(BASE, "v", type="public.gone"), "v: text, as there is no type public.gone here"),
        (
            replace(
                having(BASE, "v", type="public.d"),
                types=(
                    UsedType(
                        kind="domain",
                        schema="public",
                        name="d",
                        oid=1,
                        base="text",
                        checks=("CHECK (public.gone(VALUE))",),
                    ),
                ),
            ),
            "its CHECK (public.gone(VALUE)) was left out",
        ),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
async def test_what_the_database_cannot_run_is_left_out_and_said(
    database: str, sql: asyncpg.Connection, schema: TableSchema, left_out: str
) -> None:
    report = await made(database, schema)
    assert [left_out in note for note in report.notes] == [True], report.notes
    found = await sql.fetch("SELECT id, v::text FROM t ORDER BY id")
    assert [tuple(row) for row in found] == [("1", "a"), ("2", "b")]
    with pytest.raises(asyncpg.UniqueViolationError):
        await sql.execute("INSERT INTO t (id) VALUES ('1')")


async def test_one_that_cannot_be_run_does_not_take_the_others_with_it(
    database: str, sql: asyncpg.Connection
) -> None:
    checks = [("bad", "CHECK (public.gone(v))"), ("good", "CHECK (v <> 'c')")]
    schema = replace(BASE, constraints=tuple(constraint("check", *each) for each in checks))
    schema = having(having(schema, "id", default="public.gone()"), "v", default="'d'::text")
    report = await made(database, schema)
    assert len(report.notes) == 2
    with pytest.raises(asyncpg.CheckViolationError):
        await sql.execute("INSERT INTO t VALUES ('3', 'c')")
    assert await sql.fetchval("INSERT INTO t (id) VALUES ('3') RETURNING v") == "d"


@pytest.mark.parametrize(
    "schema",
    [
        replace(BASE, constraints=(constraint("check", "c", "CHECK (v <> 'b')"),)),
        replace(BASE, constraints=(constraint("unique", "c", "UNIQUE (v)"),)),
        replace(
            BASE,
            indexes=(index("c", "CREATE UNIQUE INDEX c ON public.t USING btree (lower(v))"),),
        ),
        having(BASE, "v", not_null=True),
    ],
    ids=["check", "unique", "index", "not null"],
)
async def test_what_the_rows_break_is_refused_and_named(
    database: str, sql: asyncpg.Connection, schema: TableSchema
) -> None:
    rows = [*ROWS, ({"id": "3"}, {"id": "3", "v": None if schema.columns[1].not_null else "b"})]
    with pytest.raises(InvalidRequest) as caught:
        await made(database, schema, rows=rows)
    facts = caught.value.facts
    assert facts["collection"] == "public.t"
    assert facts.get("constraint") == "c" or facts["column"] == "v"
    if "key" in facts:
        assert facts["key"] in ({"id": "2"}, '{"id":"3"}')
    assert await sql.fetchval("SELECT to_regclass('public.t')") is None


async def test_foreign_keys_to_what_is_not_restored_are_left_out_others_are_a_conflict(
    database: str, sql: asyncpg.Connection
) -> None:
    key = foreign_key("fk", "FOREIGN KEY (v) REFERENCES public.p(id)", table="p")
    child = replace(BASE, foreign_keys=(key,))
    (note,) = (await made(database, child)).notes
    assert "without the foreign key fk to public.p" in note
    await sql.execute("DROP TABLE t; CREATE TABLE p (id text PRIMARY KEY)")
    (note,) = (await made(database, child)).notes
    assert "without the foreign key fk to public.p" in note and "(v)=(a)" in note
    await sql.execute("INSERT INTO p VALUES ('a'), ('b'); DROP TABLE t")
    assert (await made(database, child)).notes == ()
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await sql.execute("DELETE FROM p")
    await sql.execute("DROP TABLE t, p")
    parent = table_schema("p", "id", "v")
    with pytest.raises(Conflict) as caught:
        await made(database, child, parent)
    assert caught.value.facts["constraint"] == "fk"
    assert await sql.fetchval("SELECT to_regclass('public.p')") is None


async def test_a_table_under_another_name_has_its_own_of_everything(
    database: str, sql: asyncpg.Connection
) -> None:
    """Beside the first: sequences, partitions and indexes get free names."""
    sequence = SequenceSchema(
        schema="public",
        name="t_id_seq",
        relid=9,
        column="id",
        owned=True,
        type="bigint",
        start=1,
        increment=1,
        minimum=1,
        maximum=100,
        cache=1,
        cycle=False,
    )
    whole = replace(
        having(BASE, "id", type="bigint", default="nextval('public.t_id_seq'::regclass)"),
        kind="partitioned",
        partition_key="RANGE (id)",
        partitions=(
            Partition(
                relid=2,
                parent=1,
                schema="public",
                name="t_all",
                kind="table",
                bound="DEFAULT",
                logged=False,
            ),
        ),
        sequences=(sequence,),
        indexes=(index("t_v", "CREATE INDEX t_v ON ONLY public.t USING btree (v)"),),
        foreign_keys=(foreign_key("again", "FOREIGN KEY (id) REFERENCES public.t(id)", table="t"),),
    )
    rows = [({"id": n}, {"id": n, "v": "a"}) for n in (1, 2)]
    assert (await made(database, whole, rows=rows)).notes == ()
    report = await made(database, whole, rows=rows, names={"public.t": "public.u"})
    assert len(report.notes) == 3, report.notes  # the sequence, the key's index, the index
    await made(database, whole, rows=rows, names={"public.t": "other.t"})
    assert await sql.fetchval("INSERT INTO t (v) VALUES ('c') RETURNING id") == 3
    assert await sql.fetchval("INSERT INTO u (v) VALUES ('c') RETURNING id") == 3
    assert await sql.fetchval("INSERT INTO other.t (v) VALUES ('c') RETURNING id") == 3
    await sql.execute("DROP TABLE t")
    assert await sql.fetchval("INSERT INTO u (v) VALUES ('c') RETURNING id") == 4
    assert await sql.fetchval("SELECT count(*) FROM t_all_1") == 4
    assert (
        await sql.fetchval("SELECT relpersistence::text FROM pg_class WHERE relname='t_all_1'")
        == "u"
    )
    indexes = await sql.fetch("SELECT indexname FROM pg_indexes WHERE tablename = 't_all_1'")
    assert len(indexes) == 2


async def test_a_partition_whose_name_is_taken_is_a_conflict(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TABLE part (id text)")
    part = Partition(relid=2, parent=1, schema="public", name="part", kind="table", bound="DEFAULT")
    schema = replace(BASE, kind="partitioned", partition_key="LIST (id)", partitions=(part,))
    with pytest.raises(Conflict):
        await made(database, schema)
    assert await sql.fetchval("SELECT count(*) FROM part") == 0


async def test_a_type_that_is_there_is_used_and_what_differs_is_said(
    database: str, sql: asyncpg.Connection
) -> None:
    await sql.execute("CREATE TYPE mood AS ENUM ('a', 'more')")
    mood = UsedType(kind="enum", schema="public", name="mood", oid=1, labels=("a", "b"))
    schema = replace(having(BASE, "v", type="public.mood"), types=(mood,))
    with pytest.raises(InvalidRequest) as caught:
        await made(database, schema)
    facts = caught.value.facts
    assert (facts["collection"], facts["key"], facts["column"]) == ("public.t", '{"id":"2"}', "v")
    (note,) = (await made(database, schema, rows=ROWS[:1])).notes
    assert note == (
        "type public.mood is there, and lacks 'b'; has besides 'more': it is used as it is"
    )


async def test_an_unlogged_table_and_its_replica_identity(
    database: str, sql: asyncpg.Connection
) -> None:
    await made(database, replace(BASE, logged=False, identity="f"))
    kind = "SELECT relpersistence::text || relreplident::text FROM pg_class WHERE relname = 't'"
    assert await sql.fetchval(kind) == "uf"


# Texts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("definition", "rebound"),
    [
        (
            "CREATE INDEX i ON public.t USING btree (v)",
            'CREATE INDEX "n" ON "a"."b" USING btree (v)',
        ),
        (
            'CREATE UNIQUE INDEX "i ON x" ON ONLY "S.""T"""."t USING" USING gin (v) WHERE (v > 1)',
            'CREATE UNIQUE INDEX "n" ON "a"."b" USING gin (v) WHERE (v > 1)',
        ),
        ("CREATE SOMETHING i ON public.t USING btree (v)", None),
    ],
)
def test_an_index_is_bound_to_another_table(definition: str, rebound: str | None) -> None:
    assert rebound_index(definition, name="n", table=TableName("a", "b")) == rebound


@pytest.mark.parametrize(
    ("definition", "rebound"),
    [
        (
            "FOREIGN KEY (a, b) REFERENCES public.t(c, d) ON DELETE SET NULL (a) NOT VALID",
            'FOREIGN KEY (a, b) REFERENCES "a"."b"(c, d) ON DELETE SET NULL (a) NOT VALID',
        ),
        (
            'FOREIGN KEY (") REFERENCES ""x", "(") REFERENCES "S"."t("(")", d)',
            'FOREIGN KEY (") REFERENCES ""x", "(") REFERENCES "a"."b"(")", d)',
        ),
        ("CHECK (true)", None),
    ],
)
def test_a_foreign_key_is_bound_to_another_parent(definition: str, rebound: str | None) -> None:
    assert rebound_foreign_key(definition, TableName("a", "b")) == rebound


def test_names_of_types() -> None:
    assert own_name('"Odd"."T 1"[]') == '"Odd"."T 1"'
    assert own_name("character varying(5)[]") == "character varying"
    assert multirange_name("shop.textrange") == "shop.textmultirange"
    assert multirange_name('shop."Span"') == 'shop."Span_multirange"'
