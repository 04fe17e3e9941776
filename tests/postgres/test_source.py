"""What is read of a source is what it is, and what changed is noticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import psycopg
import pytest

from pitr.adapters.postgres import schemas
from pitr.adapters.postgres.connection import Pool
from pitr.adapters.postgres.source import SourceDatabase, opened
from pitr.domain.errors import InvalidRequest, NotFound, Unavailable
from pitr.domain.pgoutput.messages import RawColumn, RawRelation
from pitr.domain.pgoutput.schema import TableSchema, schema_from_body
from pitr.domain.pgoutput.schema_change import SchemaChange, difference
from pitr.domain.pgoutput.selection import Selection
from tests.postgres.servers import Source, execute, fetch


@pytest.fixture
async def db(every_source_db: str) -> AsyncIterator[SourceDatabase]:
    async with opened(every_source_db) as source:
        yield source


@pytest.fixture
def role(every_source_db: str) -> Iterator[str]:
    name = f"role_{uuid4().hex[:10]}"
    execute(every_source_db, f"CREATE ROLE {name} LOGIN")
    yield name
    execute(every_source_db, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


async def schema_of(db: SourceDatabase, name: str) -> TableSchema:
    (table,) = (await db.tables(Selection(tables=(name,)))).tables
    return (await db.schemas([table.relid])).tables[table.relid]


# The server --------------------------------------------------------------------------------------


async def test_in_a_deadlock_with_the_app_it_is_pitr_that_gives_way(every_source_db: str) -> None:
    """The app begins to wait first, so it would be the one whose statement is cancelled."""
    execute(every_source_db, "CREATE TABLE one ()", "CREATE TABLE two ()")
    waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = 'one'::regclass)"
    app = await asyncpg.connect(every_source_db)
    pool = await Pool.open(every_source_db)
    try:
        with pytest.raises(Unavailable, match="lock"):
            async with pool.transaction() as ours:
                await ours.execute("LOCK TABLE public.one IN ACCESS SHARE MODE")
                await app.execute("BEGIN; LOCK TABLE two")
                waiting = asyncio.create_task(app.execute("LOCK TABLE one"))
                while not fetch(every_source_db, waits)[0][0]:
                    await asyncio.sleep(0.01)
                await ours.execute("LOCK TABLE public.two IN ACCESS SHARE MODE")
        await waiting
    finally:
        await app.close()
        await pool.close()


async def test_facts_are_what_the_server_says(
    db: SourceDatabase, every_source: Source, every_source_db: str, role: str
) -> None:
    facts = await db.facts()
    assert facts.major == every_source.major and facts.wal_level == "logical"
    if every_source.ours:
        assert (facts.slots_max, facts.senders_max, facts.slots_used) == (20, 20, 0)
    assert facts.is_superuser and facts.may_replicate and facts.may_trigger and facts.may_create
    assert not facts.in_recovery and facts.encoding == "UTF8"
    if every_source.ours:
        assert facts.max_slot_wal_keep_bytes is None and facts.idle_slot_timeout_s is None
    system = "SELECT system_identifier FROM pg_control_system()"
    assert [(facts.system_id,)] == fetch(every_source_db, system) and facts.timeline
    name = urlsplit(every_source_db).path[1:]
    async with opened(every_source.url(name, user=role)) as plain:
        facts = await plain.facts()
        assert facts.role == role and facts.database == name
        rights = (facts.is_superuser, facts.may_replicate, facts.may_trigger, facts.may_create)
        assert rights == (False, False, False, False)
    execute(every_source_db, f"ALTER ROLE {role} REPLICATION")
    execute(every_source_db, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    async with opened(every_source.url(name, user=role)) as plain:
        facts = await plain.facts()
        assert facts.may_replicate and facts.system_id is None


async def test_who_does_not_answer_is_unavailable(every_source: Source) -> None:
    with pytest.raises(NotFound):
        await SourceDatabase.open(every_source.url("nowhere"))
    with pytest.raises(InvalidRequest):
        await SourceDatabase.open(every_source.url(user="nobody_knows"))
    with pytest.raises(InvalidRequest):
        await SourceDatabase.open("postgresql://h:x/d")
    with pytest.raises(Unavailable):
        await SourceDatabase.open("postgresql://postgres@127.0.0.1:1/postgres")


async def test_a_slot_is_measured(db: SourceDatabase, every_source_db: str) -> None:
    name = f"s_{uuid4().hex[:10]}"
    assert await db.slot(name) is None
    execute(every_source_db, f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")
    slot = await db.slot(name)
    assert slot is not None and slot.plugin == "pgoutput" and not slot.is_active
    assert (slot.wal_status, slot.is_lost, slot.failover) == ("reserved", False, False)
    assert slot.retained_bytes is not None and slot.behind_bytes is not None
    first = await db.current_wal_lsn()
    for _ in range(3):
        await db.emit("other", b"x" * 100_000)
    grown = await db.slot(name)
    assert grown is not None and grown.behind_bytes is not None
    assert grown.current_lsn >= first + 300_000 and grown.behind_bytes >= 300_000
    assert grown.restart_lsn == slot.restart_lsn


async def test_messages_are_bytes_in_the_wal(db: SourceDatabase, every_source_db: str) -> None:
    name = f"s_{uuid4().hex[:10]}"
    execute(
        every_source_db,
        "CREATE PUBLICATION p FOR ALL TABLES",
        f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')",
    )
    lsn = await db.emit("pitr.copy", b'{"a":"\xc3\xa9"}')
    assert 0 < lsn <= await db.current_wal_lsn()
    await db.emit("pitr.copy", b"loose", transactional=False)
    await db.emit("other", b"whose commit brings both to the disk")
    messages = fetch(
        every_source_db,
        "SELECT data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL, 'proto_version', '1',"
        " 'publication_names', 'p', 'messages', 'true') WHERE get_byte(data, 0) = 77",
        [name],
    )
    first, second, _ = (bytes(row[0]) for row in messages)
    assert first[1] == 1 and first.endswith(b'pitr.copy\0\0\0\0\x0a{"a":"\xc3\xa9"}')
    assert second[1] == 0 and second.endswith(b"loose")


async def test_the_clock_is_the_server_s(db: SourceDatabase, every_source_db: str) -> None:
    before, after = await db.now_us(), await db.now_us()
    assert before < after
    (row,) = fetch(every_source_db, "SELECT extract(epoch FROM now())::float8")
    assert abs(row[0] * 1e6 - after) < 60_000_000


# Which tables ------------------------------------------------------------------------------------


async def test_tables_are_chosen(db: SourceDatabase, every_source_db: str) -> None:
    execute(
        every_source_db,
        "CREATE SCHEMA app",
        "CREATE SCHEMA pitr",
        "CREATE TABLE pitr.own (id int PRIMARY KEY)",
        'CREATE TABLE app."Od.d *" (id int PRIMARY KEY, a int, b int)',
        "CREATE TABLE app.log (id int)",
        "CREATE UNLOGGED TABLE app.cache (id int)",
        "CREATE TABLE users (id int PRIMARY KEY)",
        "CREATE TABLE part (id int) PARTITION BY LIST (id)",
        "CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE MATERIALIZED VIEW m AS SELECT 1",
    )
    execute(every_source_db, "INSERT INTO users SELECT generate_series(1, 5000)", "ANALYZE users")

    async def chosen(**fields: Any) -> list[str]:
        found = await db.tables(Selection(**fields))
        return [table.collection for table in found.tables]

    odd = "app.Od.d *"
    everything = [odd, "app.log", "public.part", "public.users"]
    assert await chosen() == everything
    assert await chosen(schemas=("app",)) == everything[:2]
    assert await chosen(tables=("users",)) == ["public.users"]
    assert await chosen(schemas=("app",), tables=("us*",)) == [*everything[:2], "public.users"]
    assert await chosen(exclude=("app.*",)) == everything[2:]
    assert await chosen(tables=("app.Od.d *",)) == [odd]
    found = await db.tables(Selection(columns={odd: ("b", "id")}))
    assert found.columns == {odd: ("id", "b")}
    assert [left.collection for left in found.left_out] == ["app.cache"]
    users = found.tables[-1]
    assert users.rows_estimate == 5000 and users.size_bytes > 100_000
    (part,) = (await db.tables(Selection(tables=("part",)))).tables
    assert part.kind == "partitioned" and [leaf.name for leaf in part.leaves] == ["part_1"]
    for wrong in (
        {"tables": ("v",)},
        {"tables": ("part_1",)},
        {"tables": ("pitr.own",)},
        {"exclude": ("usres",)},
        {"schemas": ("ap",)},
        {"columns": {"users": ("no",)}},
        {"columns": {"nowhere": ("id",)}},
    ):
        with pytest.raises(NotFound):
            await chosen(**wrong)


# Relations ---------------------------------------------------------------------------------------

FORMS = {
    "int2": ("integer", None),
    "int4": ("integer", None),
    "int8": ("integer", None),
    "oid": ("integer", None),
    "numeric(9,2)": ("number", None),
    "float4": ("number", None),
    "float8": ("number", None),
    "boolean": ("boolean", None),
    "text": ("string", None),
    "jsonb": ("string", None),
    "regclass": ("string", None),
    "int2vector": ("string", None),
    "oidvector": ("string", None),
    "point": ("string", None),
    "name": ("string", None),
    "int4[]": ("array", "integer"),
    "text[]": ("array", "string"),
    "numeric[]": ("array", "number"),
    "boolean[]": ("array", "boolean"),
    "box[]": ("string", None),
    "mood": ("string", None),
    "mood[]": ("array", "string"),
    "whole": ("integer", None),
    "wholer": ("integer", None),
    "wholer[]": ("array", "integer"),
    "list": ("array", "integer"),
    "list[]": ("array", "string"),
    "pair": ("string", None),
    "int4range": ("string", None),
    "int4multirange": ("string", None),
}


def raw(url: str, table: str, *, identity: str = "d", flagged: tuple[str, ...] = ()) -> RawRelation:
    """A relation message as PostgreSQL would send it."""
    rows = fetch(
        url,
        "SELECT attrelid::bigint, attname, atttypid::bigint, atttypmod FROM pg_attribute"
        " WHERE attrelid = %s::text::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [table],
    )
    columns = (
        RawColumn(name=name, type_oid=oid, typmod=typmod, in_identity=name in flagged)
        for _, name, oid, typmod in rows
    )
    return RawRelation(
        relid=rows[0][0], schema="public", name=table, identity=identity, columns=tuple(columns)
    )


async def test_types_become_forms(db: SourceDatabase, every_source_db: str) -> None:
    columns = ", ".join(f"c{place} {name}" for place, name in enumerate(FORMS))
    execute(
        every_source_db,
        "CREATE TYPE mood AS ENUM ('a'); CREATE TYPE pair AS (a int, b int);"
        "CREATE DOMAIN whole AS int; CREATE DOMAIN wholer AS whole CHECK (value > 0);"
        "CREATE DOMAIN list AS int[]",
        f"CREATE TABLE t ({columns})",
    )
    message = raw(every_source_db, "t")
    relation = await db.relation(message)
    found = [(column.form, column.element) for column in relation.columns]
    assert dict(zip(FORMS, found, strict=True)) == FORMS
    assert await db.relation(message) == relation
    assert (await db.relation_of(await schema_of(db, "t"))).columns == relation.columns


async def test_a_type_that_is_gone_is_a_string(db: SourceDatabase, every_source_db: str) -> None:
    execute(every_source_db, "CREATE DOMAIN gone AS int; CREATE TABLE t (id int, x gone)")
    message = raw(every_source_db, "t", identity="f", flagged=("id", "x"))
    execute(every_source_db, "DROP TABLE t; DROP DOMAIN gone")
    relation = await db.relation(message)
    assert [column.form for column in relation.columns] == ["integer", "string"]
    assert relation.key == ("id", "x")


async def test_keys_go_by_the_replica_identity(db: SourceDatabase, every_source_db: str) -> None:
    execute(
        every_source_db,
        "CREATE TABLE keyed (a int, id int PRIMARY KEY)",
        "CREATE TABLE twice (a int, b int, x int, PRIMARY KEY (b, a) INCLUDE (x))",
        "CREATE TABLE keyless (a int, b int)",
        "CREATE TABLE late (a int, id int PRIMARY KEY DEFERRABLE)",
    )

    async def key(table: str, identity: str, *flagged: str) -> tuple[str, ...]:
        message = raw(every_source_db, table, identity=identity, flagged=flagged)
        return (await db.relation(message)).key

    assert await key("keyed", "d", "id") == ("id",)
    assert await key("keyed", "i", "a") == ("a",)
    assert await key("keyed", "f", "a", "id") == ("id",)
    assert await key("keyed", "n") == ("id",)
    assert await key("twice", "f", "a", "b", "x") == ("b", "a")
    assert await key("keyless", "d") == ("a", "b")
    assert await key("keyless", "f", "a", "b") == ("a", "b")
    assert await key("keyless", "n") == ("a", "b")
    assert await key("late", "f", "a", "id") == ("a", "id")
    message = raw(every_source_db, "keyed", identity="f", flagged=("a", "id"))
    execute(every_source_db, "ALTER TABLE keyed RENAME id TO other")
    assert (await db.relation(message)).key == ("a", "id"), "the key of now is not in the message"


async def test_a_document_gives_the_relation_of_the_stream(
    db: SourceDatabase, every_source: Source, every_source_db: str
) -> None:
    execute(
        every_source_db,
        "CREATE TABLE t (x int, id int, y int, g int GENERATED ALWAYS AS (x + 1) STORED,"
        " PRIMARY KEY (id, y))",
    )
    message = raw(every_source_db, "t", flagged=("id", "y"))
    whole = await db.relation_of(await schema_of(db, "t"), generated=True)
    assert whole == await db.relation(message)
    plain = await db.relation_of(await schema_of(db, "t"))
    assert [column.name for column in plain.columns] == ["x", "id", "y"]
    some = await db.relation_of(await schema_of(db, "t"), chosen=("id", "y"))
    assert [column.name for column in some.columns] == ["id", "y"] == list(some.key)


# Documents ---------------------------------------------------------------------------------------

ZOO = """
CREATE SCHEMA other;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s');
CREATE DOMAIN positive AS int NOT NULL DEFAULT 1 CONSTRAINT above CHECK (VALUE > 0);
CREATE TYPE other.pair AS (a int, m mood);
CREATE SEQUENCE other.numbers INCREMENT 5 START 10;
CREATE TABLE other.places (x int, y int, PRIMARY KEY (y, x));
CREATE TABLE zoo (
    id bigint GENERATED ALWAYS AS IDENTITY (START 7) PRIMARY KEY,
    ser serial,
    num int DEFAULT nextval('other.numbers'),
    m mood DEFAULT 'ok',
    p positive,
    t text COLLATE "C" NOT NULL DEFAULT 'a''b',
    v varchar(20) UNIQUE DEFERRABLE INITIALLY DEFERRED,
    n numeric(9,2)[],
    pairs other.pair[],
    x int, y int,
    g int GENERATED ALWAYS AS (ser * 2) STORED,
    CONSTRAINT serial CHECK (ser > 0),
    CONSTRAINT place FOREIGN KEY (x, y) REFERENCES other.places (x, y)
        ON UPDATE CASCADE ON DELETE SET NULL DEFERRABLE,
    EXCLUDE USING btree (num WITH =)
);
CREATE UNIQUE INDEX lowered ON zoo (lower(t), m) WHERE ser > 1;
"""


async def test_a_document_holds_what_makes_the_table(
    db: SourceDatabase, every_source_db: str
) -> None:
    execute(every_source_db, ZOO)
    zoo = await schema_of(db, "zoo")
    assert schema_from_body(zoo.body()) == zoo
    columns = {column.name: column for column in zoo.columns}
    assert [column.number for column in zoo.columns] == list(range(1, 13))
    assert columns["id"].identity == "a" and columns["id"].not_null
    assert columns["ser"].default == "nextval('public.zoo_ser_seq'::regclass)"
    assert columns["m"].type == "public.mood" and columns["m"].default == "'ok'::public.mood"
    assert columns["p"].type == "public.positive" and columns["p"].default is None
    assert (columns["t"].collation, columns["t"].default) == ('pg_catalog."C"', "'a''b'::text")
    assert (columns["v"].type, columns["v"].typmod) == ("character varying(20)", 24)
    assert columns["n"].type == "numeric(9,2)[]" and columns["pairs"].type == "other.pair[]"
    assert (columns["g"].generated, columns["g"].default) == ("(ser * 2)", None)
    assert zoo.primary_key is not None and zoo.primary_key.columns == ("id",)
    assert zoo.identity == "d" and zoo.identity_columns == zoo.row_key == ("id",)
    constraints = {each.kind: each for each in zoo.constraints}
    assert constraints["check"].definition == "CHECK ((ser > 0))"
    assert constraints["unique"].definition == "UNIQUE (v) DEFERRABLE INITIALLY DEFERRED"
    assert constraints["exclude"].columns == ("num",)
    (key,) = zoo.foreign_keys
    assert (key.schema, key.table) == ("other", "places")
    assert (key.columns, key.referenced) == (("x", "y"), ("x", "y"))
    assert (key.on_update, key.on_delete, key.deferrable) == ("CASCADE", "SET NULL", True)
    (index,) = zoo.indexes
    assert (index.columns, index.where, index.unique) == ((None, "m"), "(ser > 1)", True)
    assert index.definition.startswith("CREATE UNIQUE INDEX lowered ON public.zoo USING btree")
    sequences = {each.name: each for each in zoo.sequences}
    assert sequences["zoo_id_seq"].owned and sequences["zoo_id_seq"].start == 7
    assert sequences["zoo_ser_seq"].type == "integer" and sequences["zoo_ser_seq"].owned
    numbers = sequences["numbers"]
    assert (numbers.schema, numbers.column, numbers.owned) == ("other", "num", False)
    assert (numbers.increment, numbers.last_value, numbers.is_called) == (5, 10, False)
    types = {each.name: each for each in zoo.types}
    assert set(types) == {"mood", "positive", "pair"}
    assert types["mood"].labels == ("sad", "ok", "it's")
    positive = types["positive"]
    assert (positive.base, positive.not_null, positive.default) == ("integer", True, "1")
    assert positive.checks == ("CHECK ((VALUE > 0))",)
    assert types["pair"].attributes == (("a", "integer"), ("m", "public.mood"))
    places = await schema_of(db, "other.places")
    assert places.row_key == ("y", "x") and not places.types and not places.sequences


async def test_a_partitioned_table_has_one_document(
    db: SourceDatabase, every_source_db: str
) -> None:
    execute(
        every_source_db,
        "CREATE TABLE p (id int, k text, PRIMARY KEY (id, k)) PARTITION BY RANGE (id)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY LIST (k)",
        "CREATE TABLE p2a PARTITION OF p2 DEFAULT",
    )
    schema = await schema_of(db, "p")
    assert schema.kind == "partitioned" and schema.partition_key == "RANGE (id)"
    parts = {part.name: part for part in schema.partitions}
    assert list(parts) == ["p1", "p2", "p2a"]
    assert parts["p1"].bound == "FOR VALUES FROM (0) TO (10)"
    assert (parts["p2"].kind, parts["p2"].partition_key) == ("partitioned", "LIST (k)")
    assert (parts["p2a"].parent, parts["p2a"].bound) == (parts["p2"].relid, "DEFAULT")
    assert schema_from_body(schema.body()) == schema


async def test_documents_are_of_one_moment(db: SourceDatabase, every_source_db: str) -> None:
    execute(every_source_db, "CREATE TABLE t (id int PRIMARY KEY, x int)")
    relids = [table.relid for table in (await db.tables(Selection())).tables]
    found = await db.schemas([*relids, 1])
    assert list(found.tables) == relids
    assert 0 < found.lsn <= await db.current_wal_lsn()
    xmin, xmax, _ = found.snapshot.split(":")
    assert int(xmin) <= int(xmax)


async def test_documents_are_whole_while_tables_are_altered(source: Source, source_db: str) -> None:
    """The column and the check that names it come and go together."""
    execute(source_db, "CREATE TABLE t (id int PRIMARY KEY)")
    add = "ALTER TABLE t ADD x{0} int DEFAULT {0}, ADD CONSTRAINT c{0} CHECK (x{0} > 0)"

    def alter() -> None:
        with psycopg.connect(source_db, autocommit=True) as connection:
            for number in range(1, 150):
                connection.execute(add.format(number))
                connection.execute(f"ALTER TABLE t DROP x{number}")

    async with opened(source_db) as db:
        (table,) = (await db.tables(Selection())).tables
        altering = asyncio.create_task(asyncio.to_thread(alter))
        seen = set()
        while not altering.done():
            try:
                schema = (await db.schemas([table.relid])).tables[table.relid]
            except Unavailable:
                continue
            columns = {column.name[1:]: column.default for column in schema.columns[1:]}
            assert columns == {name: name for name in columns}
            assert {each.name[1:] for each in schema.constraints} == set(columns)
            assert all(each.definition for each in schema.constraints)
            seen.add(tuple(columns))
        await altering
        assert seen


class Altered:
    """A connection: right after its snapshot is taken, the table is altered beside it."""

    def __init__(self, connection: Any, url: str, statement: str) -> None:
        self.fetch = connection.fetch
        self._connection, self._url, self._statement = connection, url, statement

    async def fetchrow(self, query: str) -> Any:
        row = await self._connection.fetchrow(query)
        execute(self._url, self._statement)
        return row


async def test_a_reading_of_two_moments_is_done_again(
    db: SourceDatabase, every_source_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL prints a constraint as it is now, not as the snapshot has it."""
    execute(every_source_db, "CREATE TABLE t (id int PRIMARY KEY, a int CHECK (a > 0))")
    statements = ["ALTER TABLE t RENAME a TO b", "ALTER TABLE t DROP b"]
    readings = []
    read = schemas._read

    async def reading(connection: Any, relids: Any) -> Any:
        if statements:
            connection = Altered(connection, every_source_db, statements.pop(0))
        found = await read(connection, relids)
        readings.append(found.tables[relids[0]])
        return found

    monkeypatch.setattr(schemas, "_read", reading)
    after = await schema_of(db, "t")
    assert [each.name for each in after.columns] == ["id"] and not after.constraints
    first, second = readings[:2]
    assert (first.columns[1].name, first.constraints[0].definition) == ("a", "CHECK ((b > 0))")
    assert second.columns[1].name == "b" and second.constraints[0].definition != "CHECK ((b > 0))"
    assert len(readings) == 4


# What became of a table --------------------------------------------------------------------------

START = """
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (a int, b int);
CREATE TABLE t (id int PRIMARY KEY, a int, b text, v varchar(9), n numeric(7,2), m mood,
    c pair, z timestamptz);
INSERT INTO t VALUES (1, 10, 'x', 'y', 1.50, 'sad', '(1,2)', '2026-01-01 00:00+00'),
    (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
"""

ALTERS = [
    ("ALTER TABLE t ADD x int", False, "added"),
    ("ALTER TABLE t ADD x int DEFAULT 5", True, "filled"),
    ("ALTER TABLE t ADD x int DEFAULT 5; ALTER TABLE t ALTER x DROP DEFAULT", True, "filled"),
    (
        "ALTER TABLE t ADD x int NOT NULL DEFAULT 5; ALTER TABLE t ALTER x DROP DEFAULT;"
        " VACUUM FULL t",
        True,
        "filled",
    ),
    ("ALTER TABLE t ADD x float DEFAULT random()", True, "filled"),
    ("ALTER TABLE t ADD x serial", True, "filled"),
    ("ALTER TABLE t ADD x int GENERATED ALWAYS AS IDENTITY", True, "filled"),
    ("ALTER TABLE t ADD x int GENERATED ALWAYS AS (a + 1) STORED", False, "added"),
    ("CREATE DOMAIN d AS int DEFAULT 5; ALTER TABLE t ADD x d", True, "filled"),
    ("ALTER TABLE t DROP a", False, "dropped"),
    ("ALTER TABLE t DROP a; ALTER TABLE t ADD a int", True, "reused"),
    ("ALTER TABLE t RENAME a TO x", True, "renamed"),
    ("ALTER TABLE t RENAME a TO x; ALTER TABLE t ADD a int", True, "renamed"),
    ("ALTER TABLE t ALTER a TYPE bigint", True, "retyped"),
    ("ALTER TABLE t ALTER a TYPE int USING a + 1", True, "rewritten"),
    ("ALTER TABLE t ALTER b TYPE text USING b || '!'", True, "rewritten"),
    ("ALTER TABLE t ALTER v TYPE varchar(20)", False, "retyped"),
    ("ALTER TABLE t ALTER v TYPE text", False, "retyped"),
    ("ALTER TABLE t ALTER v TYPE varchar(20) USING v || '!'", True, "retyped"),
    ("ALTER TABLE t ALTER n TYPE numeric(12,2)", False, "retyped"),
    ("ALTER TABLE t ALTER n TYPE numeric", False, "retyped"),
    ("ALTER TABLE t ALTER n TYPE numeric(12,3)", True, "retyped"),
    ("SET timezone = 'UTC'; ALTER TABLE t ALTER z TYPE timestamp", True, "retyped"),
    ("ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'", True, "retold"),
    ("ALTER TYPE mood ADD VALUE 'fine' BEFORE 'ok'", False, "other"),
    ("ALTER TYPE pair ADD ATTRIBUTE d int", True, "retold"),
    ("ALTER TYPE mood RENAME TO feeling", False, "retyped"),
    ("ALTER TABLE t RENAME TO u", True, "table_renamed"),
    ("CREATE SCHEMA s; ALTER TABLE t SET SCHEMA s", True, "table_renamed"),
    ("ALTER TABLE t REPLICA IDENTITY FULL", True, "identity_changed"),
    ("ALTER TABLE t DROP CONSTRAINT t_pkey", True, "key_changed"),
    (
        "ALTER TABLE t DROP CONSTRAINT t_pkey; UPDATE t SET a = id;"
        " ALTER TABLE t ADD PRIMARY KEY (a)",
        True,
        "key_changed",
    ),
    ("ALTER TABLE t SET UNLOGGED", True, "logging_changed"),
    ("ALTER TABLE t ALTER a SET DEFAULT 5", False, "other"),
    ("UPDATE t SET a = 0; ALTER TABLE t ALTER a SET NOT NULL", False, "other"),
    ("CREATE INDEX ON t (a)", False, "other"),
    ("ALTER TABLE t ADD CHECK (id > 0)", False, "other"),
    ("VACUUM FULL t", False, None),
    ("CLUSTER t USING t_pkey", False, None),
    ("ANALYZE t", False, None),
    ("ALTER TABLE t ALTER a SET STATISTICS 10", False, None),
    ("UPDATE t SET a = 7", False, None),
]


def rows_of(url: str, relid: int) -> dict[str, dict[str, str | None]]:
    """The rows as texts, by the first column."""
    names = [
        row[0]
        for row in fetch(
            url,
            "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum > 0"
            " AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
            [relid],
        )
    ]
    ((table,),) = fetch(url, "SELECT %s::oid::regclass::text", [relid])
    texts = ", ".join(f'"{name}"::text' for name in names)
    with psycopg.connect(url) as connection:
        connection.execute("SET timezone = 'UTC'")
        rows = connection.execute(f"SELECT {texts} FROM {table}").fetchall()
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


@pytest.mark.parametrize(("statements", "must", "field"), ALTERS, ids=[a[0] for a in ALTERS])
async def test_a_change_is_noticed_and_judged(
    db: SourceDatabase, every_source_db: str, statements: str, must: bool, field: str | None
) -> None:
    """Where the table need not be read again, its rows are what the log would make of them."""
    url = every_source_db
    execute(url, START)
    before = await schema_of(db, "t")
    logged = rows_of(url, before.relid)
    execute(url, *statements.split("; "))
    found = await db.schemas([before.relid])
    after = found.tables[before.relid]
    change = difference(before, after)
    assert change.must_read_again == must, change
    if field is None:
        assert change.is_empty and after.digest == before.digest
    else:
        assert getattr(change, field) != getattr(SchemaChange(collection=""), field), change
        assert after.digest != before.digest or field == "rewritten"
    if not must and "UPDATE" not in statements:
        actual = rows_of(url, before.relid)
        names = [name for row in actual.values() for name in row]
        replayed = {
            key: {name: row.get(name) for name in dict.fromkeys(names)}
            for key, row in logged.items()
        }
        assert replayed == actual


PARTS = "CREATE TABLE p (id int PRIMARY KEY, d int DEFAULT 5) PARTITION BY RANGE (id)"
PART = "FOR VALUES FROM (10) TO (20)"


@pytest.mark.parametrize(
    ("statements", "kind"),
    [
        ((f"CREATE TABLE q PARTITION OF p {PART}",), "opened"),
        ((f"CREATE TABLE q PARTITION OF p {PART}", "ALTER TABLE q ADD CHECK (id > 0)"), "opened"),
        ((f"CREATE TABLE q PARTITION OF p {PART}", "VACUUM FULL pg_attribute"), "opened"),
        (
            (
                f"CREATE TABLE q PARTITION OF p {PART} PARTITION BY RANGE (id)",
                f"CREATE TABLE q1 PARTITION OF q {PART}",
            ),
            "opened",
        ),
        (("CREATE TABLE q (LIKE p)", f"ALTER TABLE p ATTACH PARTITION q {PART}"), "attached"),
        (
            (
                "CREATE TABLE q (LIKE p INCLUDING ALL); INSERT INTO q VALUES (11);"
                f" ALTER TABLE p ATTACH PARTITION q {PART}",
            ),
            "attached",
        ),
        (
            (
                "CREATE TABLE q AS SELECT 11 AS id, 1 AS d; ALTER TABLE q ADD PRIMARY KEY (id);"
                f" ALTER TABLE p ATTACH PARTITION q {PART}",
            ),
            "attached",
        ),
        (
            (
                "CREATE TABLE q (id int PRIMARY KEY, d int) PARTITION BY RANGE (id)",
                f"CREATE TABLE q1 PARTITION OF q {PART}",
                "INSERT INTO q VALUES (11)",
                f"ALTER TABLE p ATTACH PARTITION q {PART}",
            ),
            "attached",
        ),
        (
            (
                f"CREATE TABLE q PARTITION OF p {PART}",
                "ALTER TABLE p DETACH PARTITION q",
                "INSERT INTO q VALUES (11)",
                f"ALTER TABLE p ATTACH PARTITION q {PART}",
            ),
            "attached",
        ),
        (("DROP TABLE p0",), "detached"),
        (("ALTER TABLE p DETACH PARTITION p0",), "detached"),
    ],
)
async def test_a_new_partition_is_empty_only_if_it_was_made_as_one(
    db: SourceDatabase, every_source_db: str, statements: tuple[str, ...], kind: str
) -> None:
    execute(every_source_db, PARTS, "CREATE TABLE p0 PARTITION OF p FOR VALUES FROM (0) TO (10)")
    before = await schema_of(db, "p")
    execute(every_source_db, *statements)
    change = difference(before, (await db.schemas([before.relid])).tables[before.relid])
    assert getattr(change, kind), change
    assert change.must_read_again == (kind != "opened")


# Sequences ---------------------------------------------------------------------------------------


async def test_sequences_are_read_as_they_stand(
    db: SourceDatabase, every_source: Source, every_source_db: str, role: str
) -> None:
    execute(
        every_source_db,
        "CREATE TABLE t (id serial)",
        "INSERT INTO t DEFAULT VALUES",
        "CREATE SEQUENCE fresh START 5",
        "CREATE SEQUENCE placed",
        "SELECT setval('placed', 42, false)",
    )
    values = {each.name: (each.last_value, each.is_called) for each in await db.sequences()}
    assert values == {"t_id_seq": (1, True), "fresh": (5, False), "placed": (42, False)}
    (one,) = await db.sequences([next(s.relid for s in await db.sequences() if s.name == "placed")])
    assert one.last_value == 42
    execute(every_source_db, f"GRANT SELECT ON fresh TO {role}")
    name = urlsplit(every_source_db).path[1:]
    async with opened(every_source.url(name, user=role)) as plain:
        values = {each.name: (each.last_value, each.is_called) for each in await plain.sequences()}
    assert values == {"t_id_seq": (None, None), "fresh": (5, False), "placed": (None, None)}
