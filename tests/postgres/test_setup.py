"""Attaching makes what it says, breaks no app, and detaching leaves nothing of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg.pq import ExecStatus

from pitr.adapters.postgres.detach import detach
from pitr.adapters.postgres.setup import apply, attach_plan
from pitr.adapters.postgres.source import SourceDatabase
from pitr.domain.errors import Conflict, InvalidRequest, NotFound, Unavailable
from pitr.domain.pgoutput.attach import AttachOptions, AttachPlan, names_of
from pitr.domain.pgoutput.attach_plan import plan_attach
from pitr.domain.pgoutput.identity import identity_trouble
from pitr.domain.pgoutput.installed import Installed
from pitr.domain.pgoutput.selection import Chosen, Selection
from pitr.domain.pgoutput.source import SourceFacts
from tests.postgres.servers import Source, execute, fetch

SHOP = """
CREATE TABLE customers (id int PRIMARY KEY, name text);
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customers, total numeric);
CREATE TABLE events (id int, day int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM (0) TO (100);
INSERT INTO customers VALUES (1, 'Ada');
"""


@pytest.fixture
def names() -> Any:
    return names_of(f"t{uuid4().hex[:10]}")


@pytest.fixture
async def db(every_source_db: str) -> AsyncIterator[SourceDatabase]:
    """A fresh database, as a superuser sees it."""
    source = await SourceDatabase.open(every_source_db)
    yield source
    await source.close()


@pytest.fixture
def role(every_source_db: str) -> Iterator[str]:
    """A role that may log in, and nothing more."""
    name = f"role_{uuid4().hex[:10]}"
    execute(every_source_db, f"CREATE ROLE {name} LOGIN")
    yield name
    execute(every_source_db, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def as_role(source: Source, url: str, role: str) -> str:
    return source.url(urlsplit(url).path[1:], user=role)


TRACES = """
SELECT 'publication', pubname::text FROM pg_publication
UNION ALL SELECT 'slot', slot_name FROM pg_replication_slots WHERE database = current_database()
UNION ALL SELECT 'trigger', evtname FROM pg_event_trigger
UNION ALL SELECT 'schema', nspname FROM pg_namespace
          WHERE nspname !~ '^pg_(toast_)?temp_'
UNION ALL SELECT 'function', oid::regprocedure::text FROM pg_proc WHERE oid >= 16384
UNION ALL SELECT 'identity', format('%%s %%s', oid::regclass, relreplident) FROM pg_class
          WHERE relkind IN ('r', 'p') AND oid >= 16384
UNION ALL SELECT 'comment', description FROM pg_description WHERE objoid >= 16384
ORDER BY 1, 2
"""


def traces(url: str) -> list[tuple[Any, ...]]:
    return fetch(url, TRACES)


def refusals(plan: AttachPlan) -> dict[str, tuple[str, ...]]:
    return {finding.about: finding.statements for finding in plan.refused}


def levels(plan: AttachPlan, level: str) -> list[str]:
    return [finding.about for finding in plan.findings if finding.level == level]


MESSAGES = """
SELECT data FROM pg_logical_slot_get_binary_changes(
    %s, NULL, NULL, 'proto_version', '1', 'publication_names', %s, 'messages', 'true')
"""


def streamed(url: str, plan: AttachPlan) -> list[bytes]:
    """What the slot gives since it was last asked."""
    rows = fetch(url, MESSAGES, [plan.names.slot, ",".join(plan.publications)])
    return [bytes(row[0]) for row in rows]


def told(messages: list[bytes], prefix: str) -> list[dict[str, Any]]:
    mark = prefix.encode() + b"\0"
    return [json.loads(m.split(mark, 1)[1][4:]) for m in messages if m[:1] == b"M" and mark in m]


def kinds(messages: list[bytes]) -> str:
    return "".join(chr(m[0]) for m in messages if m[:1] in b"IUDT")


# Attach and detach -------------------------------------------------------------------------------


async def test_a_superuser_attaches_everything(
    db: SourceDatabase, every_source_db: str, names: Any
) -> None:
    execute(every_source_db, SHOP)
    before = traces(every_source_db)
    plan = await attach_plan(db, names)
    assert not plan.refused and plan.follows_new_tables
    assert [t.collection for t in plan.tables] == [
        "public.customers",
        "public.events",
        "public.orders",
    ]
    assert traces(every_source_db) == before, "a plan changes nothing"

    done = await apply(db, plan)
    assert [(step.kind, step.did) for step in done] == [
        ("publication", "made"),
        ("schema", "made"),
        ("function", "made"),
        ("function", "made"),
        *[("event trigger", "made")] * 3,
        ("slot", "made"),
    ]
    execute(
        every_source_db,
        "INSERT INTO events VALUES (1, 1)",
        "UPDATE customers SET name = 'Grace'; DELETE FROM events; TRUNCATE events",
        "CREATE TABLE later (id int PRIMARY KEY)",
        "INSERT INTO later VALUES (1)",
    )
    assert kinds(streamed(every_source_db, plan)) == "IUDTI"

    again = await attach_plan(db, names)
    assert not again.refused and not again.missing and again.script == ""
    assert {step.did for step in await apply(db, again)} == {"there"}

    execute(every_source_db, "DROP TABLE later")
    report = await detach(db, names)
    assert not report.left and len(report.removed) == 8
    assert traces(every_source_db) == before
    assert not (await detach(db, names)).removed


async def test_half_an_attach_is_finished_or_undone(
    db: SourceDatabase, every_source_db: str, names: Any
) -> None:
    execute(every_source_db, SHOP, "CREATE TABLE nokey (x int)")
    before = traces(every_source_db)
    options = AttachOptions(without_key="full")
    whole = await attach_plan(db, names, options=options)
    for count in range(len(whole.steps) + 1):
        await apply(db, replace(whole, steps=whole.steps[:count]))
        if count % 2:
            rest = await attach_plan(db, names, options=options)
            assert not rest.refused and rest.missing == whole.steps[count:]
            did = [step.did for step in await apply(db, rest)]
            assert did == ["there"] * count + ["made"] * (len(whole.steps) - count)
        assert not (await detach(db, names)).left
        assert traces(every_source_db) == before


async def test_the_script_does_the_same(
    db: SourceDatabase, every_source_db: str, names: Any
) -> None:
    """What a dry run prints can be run by hand; attaching finds it done."""
    execute(every_source_db, SHOP)
    plan = await attach_plan(db, names, options=AttachOptions(list_tables=True))
    with psycopg.connect(every_source_db, autocommit=True) as connection:
        for step in plan.missing:
            connection.execute(step.script)  # type: ignore[call-overload]
    assert not (await attach_plan(db, names, options=AttachOptions(list_tables=True))).missing


# Tables without a key ----------------------------------------------------------------------------

ZOO = {
    "keyed": "CREATE TABLE t (id int PRIMARY KEY, x int)",
    "included": "CREATE TABLE t (id int, x int, y int, PRIMARY KEY (id) INCLUDE (x))",
    "keyless": "CREATE TABLE t (id int, x int)",
    "deferrable": "CREATE TABLE t (id int PRIMARY KEY DEFERRABLE, x int)",
    "nothing": "CREATE TABLE t (id int PRIMARY KEY, x int); ALTER TABLE t REPLICA IDENTITY NOTHING",
    "full": "CREATE TABLE t (id int, x int); ALTER TABLE t REPLICA IDENTITY FULL",
    "index": "CREATE TABLE t (id int NOT NULL, x int); CREATE UNIQUE INDEX i ON t (id);"
    " ALTER TABLE t REPLICA IDENTITY USING INDEX i",
    "lost index": "CREATE TABLE t (id int NOT NULL, x int); CREATE UNIQUE INDEX i ON t (id);"
    " ALTER TABLE t REPLICA IDENTITY USING INDEX i; DROP INDEX i",
    "generated": "CREATE TABLE t (id int PRIMARY KEY, x int,"
    " g int GENERATED ALWAYS AS (x * 2) STORED)",
    "generated key": "CREATE TABLE t (id int, x int,"
    " g int GENERATED ALWAYS AS (id * 2) STORED PRIMARY KEY)",
    "full, generated": "CREATE TABLE t (id int, x int,"
    " g int GENERATED ALWAYS AS (x * 2) STORED); ALTER TABLE t REPLICA IDENTITY FULL",
    "keyless, generated": "CREATE TABLE t (id int, x int,"
    " g int GENERATED ALWAYS AS (x * 2) STORED)",
    "parts": "CREATE TABLE t (id int PRIMARY KEY, x int) PARTITION BY LIST (id);"
    " CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)",
    "parts, keyless": "CREATE TABLE t (id int, x int) PARTITION BY LIST (id);"
    " CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1)",
    "parts, root full": "CREATE TABLE t (id int, x int) PARTITION BY LIST (id);"
    " CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); ALTER TABLE t REPLICA IDENTITY FULL",
    "parts, leaf full": "CREATE TABLE t (id int PRIMARY KEY, x int) PARTITION BY LIST (id);"
    " CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); ALTER TABLE t1 REPLICA IDENTITY FULL",
    "parts, leaf nothing": "CREATE TABLE t (id int PRIMARY KEY, x int) PARTITION BY LIST (id);"
    " CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); ALTER TABLE t1 REPLICA IDENTITY NOTHING",
    "parts, full, generated": "CREATE TABLE t (id int, x int,"
    " g int GENERATED ALWAYS AS (x * 2) STORED) PARTITION BY LIST (id);"
    " CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1); ALTER TABLE t REPLICA IDENTITY FULL;"
    " ALTER TABLE t1 REPLICA IDENTITY FULL",
}
VIRTUAL = {
    "virtual": "CREATE TABLE t (id int PRIMARY KEY, x int, g int GENERATED ALWAYS AS (x * 2))",
    "keyless, virtual": "CREATE TABLE t (id int, x int, g int GENERATED ALWAYS AS (x * 2))",
    "full, virtual": "CREATE TABLE t (id int, x int, g int GENERATED ALWAYS AS (x * 2));"
    " ALTER TABLE t REPLICA IDENTITY FULL",
    "full, virtual, keyed": "CREATE TABLE t (id int PRIMARY KEY, x int,"
    " g int GENERATED ALWAYS AS (x * 2)); ALTER TABLE t REPLICA IDENTITY FULL",
}
TOLD_WRONG = {"generated key", "parts, root full"}
"""PostgreSQL may take the update, but the stream does not tell which row it was."""


def takes_updates(url: str) -> bool:
    try:
        execute(url, "INSERT INTO t (id, x) VALUES (1, 1)", "UPDATE t SET x = x + 1")
        execute(url, "UPDATE t SET x = x + 1", "DELETE FROM t")
    except psycopg.errors.ObjectNotInPrerequisiteState:
        return False
    except psycopg.errors.InvalidColumnReference:
        return False
    return True


async def test_what_postgresql_would_refuse_is_found(
    db: SourceDatabase, every_source: Source, every_source_db: str
) -> None:
    """PostgreSQL itself is asked: each table is published against all advice."""
    url = every_source_db
    cases = ZOO | (VIRTUAL if every_source.major >= 18 else {})
    found = {}
    for case, make in cases.items():
        execute(url, "DROP TABLE IF EXISTS t CASCADE", make)
        (table,) = (await db.tables(Selection())).tables
        trouble = identity_trouble(table, major=every_source.major)
        names = names_of(f"z{uuid4().hex[:10]}")
        plan = await attach_plan(db, names, options=AttachOptions(list_tables=True))
        assert bool(plan.refused) == (trouble is not None), case
        # As it is, with what the plan knows of generated columns.
        generated = every_source.major >= 18 and table.stored and "generated" in case
        extra = ", publish_generated_columns = stored" if generated else ""
        with_root = f"WITH (publish_via_partition_root = true{extra})"
        execute(url, f"CREATE PUBLICATION against FOR ALL TABLES {with_root}")
        found[case] = takes_updates(url)
        execute(url, "DROP PUBLICATION against", "TRUNCATE t")
        assert found[case] or trouble is not None, case
        if trouble is not None and case not in TOLD_WRONG:
            assert not found[case], case
        # As the plan would have it.
        mended = AttachOptions(list_tables=True, without_key="full")
        plan = await attach_plan(db, names, options=mended)
        if trouble is not None and not trouble.repairs:
            assert "virtual" in case and plan.refused
            continue
        await apply(db, plan)
        assert takes_updates(url), case
        (table,) = (await db.tables(Selection())).tables
        assert identity_trouble(table, major=every_source.major) is None, case
        assert kinds(streamed(url, plan)) == "IUUD", case
        assert not (await detach(db, names)).left, case
    refused = {case for case, taken in found.items() if not taken}
    assert {"keyless", "deferrable", "nothing", "lost index", "parts, keyless"} <= refused


async def test_a_table_without_a_key_is_refused_by_default(
    db: SourceDatabase, every_source_db: str, names: Any
) -> None:
    execute(every_source_db, SHOP, 'CREATE TABLE "No Key" (x int)')
    before = traces(every_source_db)
    plan = await attach_plan(db, names)
    statement = 'ALTER TABLE "public"."No Key" REPLICA IDENTITY FULL'
    assert refusals(plan) == {"identity": (statement,)}
    with pytest.raises(InvalidRequest, match="No Key") as caught:
        await apply(db, plan)
    assert statement in str(caught.value.hint)
    assert traces(every_source_db) == before
    execute(every_source_db, statement)
    await apply(db, await attach_plan(db, names))
    execute(every_source_db, 'INSERT INTO "No Key" VALUES (1)', 'UPDATE "No Key" SET x = 2')
    await detach(db, names)
    row = ("identity", '"No Key" f')
    assert row in traces(every_source_db), "what others altered stays"


@pytest.mark.parametrize("mode", ["skip", "inserts", "full"])
async def test_a_table_without_a_key_goes_on_working(
    db: SourceDatabase, every_source_db: str, names: Any, mode: Any
) -> None:
    execute(every_source_db, SHOP, "CREATE TABLE nokey (x int)")
    before = traces(every_source_db)
    options = AttachOptions(without_key=mode)
    plan = await attach_plan(db, names, options=options)
    await apply(db, plan)
    execute(
        every_source_db,
        "INSERT INTO nokey VALUES (1); UPDATE nokey SET x = 2; DELETE FROM nokey",
        "UPDATE customers SET name = 'x'",
    )
    expected = {"skip": "U", "inserts": "IU", "full": "IUDU"}[mode]
    assert kinds(streamed(every_source_db, plan)) == expected
    assert plan.inserts_only == (("public.nokey",) if mode == "inserts" else ())
    assert [left.collection for left in plan.left_out] == ["public.nokey"] * (mode == "skip")
    assert plan.follows_new_tables == (mode == "full")
    assert not (await attach_plan(db, names, options=options)).missing
    assert not (await detach(db, names)).left
    assert traces(every_source_db) == before


async def test_a_replica_identity_that_others_need_stays(
    db: SourceDatabase, every_source_db: str, names: Any
) -> None:
    execute(every_source_db, "CREATE TABLE nokey (x int)")
    await apply(db, await attach_plan(db, names, options=AttachOptions(without_key="full")))
    execute(every_source_db, "CREATE PUBLICATION others FOR TABLE nokey")
    report = await detach(db, names)
    assert [left.what for left in report.left] == ["replica identity of public.nokey"]
    execute(every_source_db, "INSERT INTO nokey VALUES (1)", "UPDATE nokey SET x = 2")


# Rights ------------------------------------------------------------------------------------------


async def test_a_plain_owner_with_replication_attaches(
    every_source: Source, every_source_db: str, role: str, names: Any
) -> None:
    url = as_role(every_source, every_source_db, role)
    database = urlsplit(url).path[1:]
    execute(
        every_source_db,
        f"ALTER ROLE {role} REPLICATION",
        f"GRANT CREATE ON DATABASE {database} TO {role}",
        f"GRANT CREATE ON SCHEMA public TO {role}",
    )
    execute(url, SHOP)
    before = traces(every_source_db)
    source = await SourceDatabase.open(url)
    plan = await attach_plan(source, names)
    assert not plan.refused and not plan.follows_new_tables
    assert "new_tables" in levels(plan, "warning") and "ddl_trigger" in levels(plan, "note")
    done = await apply(source, plan)
    assert [step.kind for step in done] == ["publication", "schema", "function", "slot"]
    execute(url, "UPDATE customers SET name = 'x'")
    assert kinds(streamed(url, plan)) == "U"
    assert "ddl_trigger" in refusals(
        await attach_plan(source, names, options=AttachOptions(ddl_trigger=True))
    )
    assert not (await detach(source, names)).left
    assert traces(every_source_db) == before
    await source.close()


async def test_a_role_without_rights_is_told_what_helps(
    every_source: Source, every_source_db: str, role: str, names: Any
) -> None:
    """Each refusal has the statements with which a superuser clears it away."""
    url = as_role(every_source, every_source_db, role)
    execute(every_source_db, SHOP, "CREATE SCHEMA app", f"SET search_path = app; {SHOP}")
    before = traces(every_source_db)
    source = await SourceDatabase.open(url)
    selection = Selection(schemas=("app",))
    plan = await attach_plan(source, names, selection=selection)
    assert set(refusals(plan)) == {"replication", "owner", "select"}
    with pytest.raises(InvalidRequest):
        await apply(source, plan)
    for statements in refusals(plan).values():
        execute(every_source_db, *statements)
    plan = await attach_plan(source, names, selection=selection)
    assert not plan.refused
    assert [step.kind for step in await apply(source, plan)] == ["publication", "slot"]
    report = await detach(source, names)
    assert report.removed == [f"replication slot {names.slot}"]
    (left,) = report.left
    assert left.what == f"publication {names.publication}" and "owner" in left.why
    execute(every_source_db, *left.statements)
    assert traces(every_source_db) == before
    await source.close()


async def test_the_database_s_owner_has_to_let_publish(
    every_source: Source, every_source_db: str, role: str, names: Any
) -> None:
    url = as_role(every_source, every_source_db, role)
    execute(every_source_db, f"CREATE SCHEMA app AUTHORIZATION {role}")
    execute(every_source_db, f"ALTER ROLE {role} REPLICATION")
    execute(url, "CREATE TABLE app.t (id int PRIMARY KEY)")
    source = await SourceDatabase.open(url)
    plan = await attach_plan(source, names)
    assert set(refusals(plan)) == {"create"}
    execute(every_source_db, *refusals(plan)["create"])
    await apply(source, await attach_plan(source, names))
    await detach(source, names)
    await source.close()


async def test_row_security_must_not_hide_rows(
    every_source: Source, every_source_db: str, role: str, names: Any
) -> None:
    execute(
        every_source_db,
        "CREATE TABLE t (id int PRIMARY KEY)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        f"GRANT SELECT ON t TO {role}",
    )
    source = await SourceDatabase.open(as_role(every_source, every_source_db, role))
    plan = await attach_plan(source, names)
    assert refusals(plan)["row_security"] == (f'ALTER ROLE "{role}" BYPASSRLS',)
    execute(every_source_db, *refusals(plan)["row_security"])
    assert "row_security" not in refusals(await attach_plan(source, names))
    await source.close()


# What is in the way ------------------------------------------------------------------------------


async def test_another_thing_of_the_same_name_is_a_conflict(
    db: SourceDatabase, every_source_db: str, names: Any
) -> None:
    execute(every_source_db, SHOP, "CREATE SCHEMA pitr")
    execute(every_source_db, f"CREATE PUBLICATION {names.publication} FOR TABLE customers")
    execute(
        every_source_db,
        "CREATE FUNCTION pitr.because(actor text, reason text, meta jsonb) RETURNS void"
        " LANGUAGE sql AS ''",
    )
    options = AttachOptions(list_tables=True)
    plan = await attach_plan(db, names, options=options)
    found = refusals(plan)
    assert set(found) == {"publication", "function"}
    with pytest.raises(Conflict, match="another publication") as caught:
        await apply(db, plan)
    assert rf"\dRp+ {names.publication}" in str(caught.value.hint)
    for statement in found["publication"]:
        execute(every_source_db, statement)
    assert set(refusals(await attach_plan(db, names, options=options))) == {"function"}
    # It may also come up while the plan is carried out.
    with pytest.raises(Conflict, match="another function"):
        await apply(db, replace(plan, findings=()))
    report = await detach(db, names)
    assert not report.removed
    whys = {left.what: left.why for left in report.left}
    assert whys == {
        f"publication {names.publication}": "pitr did not make it",
        "function pitr.because(text, text, jsonb)": "pitr did not make it",
    }


async def test_a_slot_that_does_not_fit_is_a_conflict(
    db: SourceDatabase, every_source_db: str, names: Any
) -> None:
    execute(every_source_db, SHOP)
    make = f"SELECT pg_create_physical_replication_slot('{names.slot}')"
    drop = f"SELECT pg_drop_replication_slot('{names.slot}')"
    execute(every_source_db, make)
    try:
        plan = await attach_plan(db, names)
        with pytest.raises(Conflict, match="another slot"):
            plan.check()
        report = await detach(db, names)
        assert [left.what for left in report.left] == [f"replication slot {names.slot}"]
    finally:
        execute(every_source_db, drop)
    (step,) = [step for step in plan.steps if step.kind == "slot"]
    execute(every_source_db, *step.statements)
    plan = await attach_plan(db, names)
    with pytest.raises(Conflict, match="older than its publication"):
        plan.check()
    assert refusals(plan)["slot"] == (drop,)


async def test_a_slot_waits_for_open_transactions_only_so_long(
    db: SourceDatabase, every_source_db: str, names: Any
) -> None:
    execute(every_source_db, SHOP)
    plan = await attach_plan(db, names)
    with psycopg.connect(every_source_db) as connection:
        connection.execute("CREATE TABLE open (id int)")
        connection.execute("SELECT pg_current_xact_id()")
        await apply(db, replace(plan, steps=plan.steps[:-1]))
        with pytest.raises(Unavailable, match="while a transaction is open"):
            await apply(db, plan, slot_timeout_s=0.5)
        connection.rollback()
    assert await db.slot(names.slot) is None
    assert [step.did for step in await apply(db, plan)][-1] == "made"


async def test_a_locked_table_makes_nobody_wait(
    db: SourceDatabase, every_source_db: str, names: Any
) -> None:
    execute(every_source_db, SHOP)
    options = AttachOptions(list_tables=True)
    plan = await attach_plan(db, names, options=options)
    with psycopg.connect(every_source_db) as connection:
        connection.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(Unavailable, match="lock"):
            await apply(db, plan)
    assert {step.did for step in await apply(db, plan)} == {"made"}


# Detaching ---------------------------------------------------------------------------------------


@contextmanager
def streaming(url: str, plan: AttachPlan, *, application: str) -> Iterator[None]:
    """A walsender that uses the slot."""
    connection = psycopg.connect(
        url, autocommit=True, replication="database", application_name=application
    )
    publications = ",".join(plan.publications)
    try:
        result = connection.pgconn.exec_(
            f"START_REPLICATION SLOT {plan.names.slot} LOGICAL 0/0"
            f" (proto_version '1', publication_names '{publications}')".encode()
        )
        assert result.status == ExecStatus.COPY_BOTH
        yield
    finally:
        connection.close()


async def test_a_slot_in_use_is_dropped_only_when_asked(
    db: SourceDatabase, every_source_db: str, names: Any
) -> None:
    execute(every_source_db, SHOP)
    before = traces(every_source_db)
    plan = await attach_plan(db, names)
    await apply(db, plan)
    attached = traces(every_source_db)
    with streaming(every_source_db, plan, application="pitr main"):
        state = await db.slot(names.slot)
        assert state is not None and state.is_active
        assert state.active_application == "pitr main"
        with pytest.raises(Conflict, match="somebody uses") as caught:
            await detach(db, names, wait_s=0.3)
        assert caught.value.facts["application"] == "pitr main"
        assert traces(every_source_db) == attached
        assert not (await detach(db, names, terminate=True)).left
    assert traces(every_source_db) == before


async def test_a_stranger_s_walsender_is_left_alone(
    db: SourceDatabase, every_source_db: str, names: Any
) -> None:
    execute(every_source_db, SHOP)
    plan = await attach_plan(db, names)
    await apply(db, plan)
    with (
        streaming(every_source_db, plan, application="debezium"),
        pytest.raises(Conflict, match="somebody uses"),
    ):
        await detach(db, names, terminate=True, wait_s=0.3)


async def test_two_attachments_share_the_schema(
    db: SourceDatabase, every_source_db: str, names: Any
) -> None:
    execute(every_source_db, SHOP)
    before = traces(every_source_db)
    other = names_of(f"o{uuid4().hex[:10]}")
    await apply(db, await attach_plan(db, names))
    done = await apply(db, await attach_plan(db, other))
    assert [step.kind for step in done if step.did == "made"] == ["publication", "slot"]
    report = await detach(db, names)
    assert [left.what for left in report.left] == ["schema pitr"]
    assert not (await attach_plan(db, other)).missing
    assert not (await detach(db, other)).left
    assert traces(every_source_db) == before


async def test_the_schema_stays_while_somebody_has_something_in_it(
    db: SourceDatabase, every_source_db: str, names: Any
) -> None:
    execute(every_source_db, SHOP)
    await apply(db, await attach_plan(db, names))
    execute(every_source_db, "CREATE TABLE pitr.mine (id int PRIMARY KEY)")
    report = await detach(db, names)
    (left,) = report.left
    assert left.what == "schema pitr" and "pitr.mine" in left.why


# What is published -------------------------------------------------------------------------------


async def test_a_selection_is_published_as_asked(
    db: SourceDatabase, every_source: Source, every_source_db: str, names: Any
) -> None:
    url = every_source_db
    execute(url, SHOP, "CREATE SCHEMA app", "CREATE TABLE app.t (id int PRIMARY KEY, a int, b int)")
    execute(url, "CREATE TABLE parent (id int PRIMARY KEY)")
    execute(url, "CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent)")

    async def published(selection: Selection) -> str:
        plan = await attach_plan(db, names, selection=selection)
        await apply(db, replace(plan, steps=plan.steps[:1]))
        assert plan.steps[0] not in (await attach_plan(db, names, selection=selection)).missing
        assert not (await attach_plan(db, names, selection=selection)).refused
        await detach(db, names)
        return plan.steps[0].statements[0].partition(" WITH ")[0].partition(" FOR ")[2]

    everything = await published(Selection())
    assert everything == "ALL TABLES"
    schemas = await published(Selection(schemas=("app",)))
    assert schemas == (
        'TABLES IN SCHEMA "app"' if every_source.major >= 15 else 'TABLE ONLY "app"."t"'
    )
    parent = await published(Selection(tables=("parent", "ev*")))
    assert parent == 'TABLE "public"."events", ONLY "public"."parent"'
    chosen = Selection(tables=("app.t",), columns={"app.t": ("id", "a")})
    if every_source.major >= 15:
        assert await published(chosen) == 'TABLE ONLY "app"."t" ("a", "id")'
    else:
        assert set(refusals(await attach_plan(db, names, selection=chosen))) == {"columns"}
    plan = await attach_plan(db, names, selection=Selection(columns={"app.t": ("a",)}))
    assert set(refusals(plan)) == {"columns"}
    with pytest.raises(NotFound):
        await attach_plan(db, names, selection=Selection(tables=("app.u",)))


async def test_unlogged_tables_are_left_out_and_named(
    db: SourceDatabase, every_source_db: str, names: Any
) -> None:
    execute(every_source_db, SHOP, "CREATE UNLOGGED TABLE cache (id int)")
    plan = await attach_plan(db, names)
    assert not plan.refused and "left_out" in levels(plan, "warning")
    assert [left.collection for left in plan.left_out] == ["public.cache"]
    await apply(db, plan)
    execute(every_source_db, "INSERT INTO cache VALUES (1)", "UPDATE cache SET id = 2")
    assert kinds(streamed(every_source_db, plan)) == ""


async def test_an_empty_database_needs_a_superuser(
    db: SourceDatabase, every_source: Source, every_source_db: str, role: str, names: Any
) -> None:
    assert not (await attach_plan(db, names)).refused
    source = await SourceDatabase.open(as_role(every_source, every_source_db, role))
    assert "tables" in refusals(await attach_plan(source, names))
    await source.close()


# What is offered besides -------------------------------------------------------------------------


async def test_the_app_says_who_and_why(
    db: SourceDatabase, every_source: Source, every_source_db: str, role: str, names: Any
) -> None:
    execute(every_source_db, SHOP, f"GRANT UPDATE, SELECT ON customers TO {role}")
    plan = await attach_plan(db, names)
    await apply(db, plan)
    with psycopg.connect(as_role(every_source, every_source_db, role)) as connection:
        meta = '{"n": 1.10, "s": "\\u00e9\\"\\n", "big": 123456789012345678901234567890}'
        connection.execute("SELECT pitr.because('user:7', 'a \"b\"\n', %s)", [meta])
        connection.execute("UPDATE customers SET name = 'x'")
        connection.execute("SELECT pitr.because('job')")
    messages = streamed(every_source_db, plan)
    first, second = told(messages, "pitr")
    assert (first["actor"], first["reason"]) == ("user:7", 'a "b"\n')
    assert first["meta"] == json.loads(meta)
    assert any(b'"n": 1.10' in message for message in messages), "digits stay as they are"
    assert second == {"actor": "job", "reason": None, "meta": None}


async def test_ddl_is_told_whoever_runs_it(
    db: SourceDatabase, every_source: Source, every_source_db: str, role: str, names: Any
) -> None:
    execute(every_source_db, SHOP)
    execute(every_source_db, f"CREATE SCHEMA app AUTHORIZATION {role}")
    plan = await attach_plan(db, names)
    await apply(db, plan)
    url = as_role(every_source, every_source_db, role)

    def told_of(statement: str) -> list[tuple[Any, ...]]:
        execute(url, statement)
        return [
            (m["event"], m["tag"], m["rewrite"], o["kind"], o["schema"], o["name"])
            for m in told(streamed(every_source_db, plan), "pitr.ddl")
            for o in m["objects"]
            if o["kind"] in ("table", "table column", "type", "schema")
        ]

    end = "ddl_command_end"
    assert told_of("CREATE TABLE app.t (id int PRIMARY KEY, x int)") == [
        (end, "CREATE TABLE", None, "table", "app", "t")
    ]
    assert told_of("ALTER TABLE app.t ADD y int") == [
        (end, "ALTER TABLE", None, "table", "app", "t")
    ]
    assert told_of("ALTER TABLE app.t ALTER x TYPE bigint") == [
        ("table_rewrite", "ALTER TABLE", 4, "table", "app", "t"),
        (end, "ALTER TABLE", None, "table", "app", "t"),
    ]
    assert told_of("ALTER TABLE app.t DROP x")[0] == (
        ("sql_drop", "ALTER TABLE", None, "table column", "app", "t")
    )
    assert told_of("ALTER TABLE app.t RENAME TO u")[0][-1] == "u"
    assert told_of("CREATE TYPE app.mood AS ENUM ('a')") == [
        (end, "CREATE TYPE", None, "type", "app", None)
    ]
    assert ("sql_drop", "DROP TABLE", None, "table", "app", "u") in told_of("DROP TABLE app.u")
    assert told_of("CREATE TEMP TABLE scratch (x int)") == []
    execute(every_source_db, f"GRANT CREATE ON SCHEMA app TO {role}")
    assert told(streamed(every_source_db, plan), "pitr.ddl") == []


async def test_both_may_be_left_out(db: SourceDatabase, every_source_db: str, names: Any) -> None:
    execute(every_source_db, SHOP)
    options = AttachOptions(reasons=False, ddl_trigger=False)
    plan = await attach_plan(db, names, options=options)
    assert [step.kind for step in plan.steps] == ["publication", "slot"]
    assert {"reasons", "ddl_trigger"} <= set(levels(plan, "note"))


# Findings of servers that the tests do not have ---------------------------------------------------

FACTS = SourceFacts(
    version=180000,
    version_text="18.0",
    system_id=1,
    timeline=1,
    database="app",
    encoding="UTF8",
    role="app",
    is_superuser=True,
    may_replicate=True,
    may_trigger=True,
    may_create=True,
    in_recovery=False,
    wal_level="logical",
    slots_max=10,
    slots_used=0,
    senders_max=10,
    senders_used=0,
)


def planned(facts: SourceFacts, **options: Any) -> AttachPlan:
    return plan_attach(
        facts,
        Chosen(tables=()),
        Installed(),
        names=names_of("app"),
        selection=Selection(),
        options=AttachOptions(**options),
    )


@pytest.mark.parametrize(
    ("fields", "about", "statement"),
    [
        ({"wal_level": "replica"}, "wal_level", "ALTER SYSTEM SET wal_level = 'logical'"),
        (
            {"slots_used": 10},
            "max_replication_slots",
            "ALTER SYSTEM SET max_replication_slots = '14'",
        ),
        ({"senders_used": 10}, "max_wal_senders", "ALTER SYSTEM SET max_wal_senders = '14'"),
        ({"in_recovery": True}, "recovery", None),
        ({"may_replicate": False}, "replication", 'ALTER ROLE "app" REPLICATION'),
    ],
)
def test_a_server_that_is_not_ready_is_refused(
    fields: dict[str, Any], about: str, statement: str | None
) -> None:
    assert not planned(FACTS).refused
    assert refusals(planned(replace(FACTS, **fields))) == {about: (statement,) if statement else ()}


def test_what_may_go_wrong_later_is_said() -> None:
    assert "version" in levels(planned(replace(FACTS, version=190000)), "warning")
    assert "encoding" in levels(planned(replace(FACTS, encoding="SQL_ASCII")), "warning")
    assert "max_slot_wal_keep_size" in levels(planned(FACTS), "note")
    idle = replace(FACTS, idle_slot_timeout_s=60)
    assert "idle_replication_slot_timeout" in levels(planned(idle), "warning")


def test_failover_slots_need_17() -> None:
    assert set(refusals(planned(replace(FACTS, version=160000), failover=True))) == {"failover"}
    plan = planned(FACTS, failover=True)
    assert plan.steps[-1].statements[0].endswith("false, false, true)")


@pytest.mark.parametrize("name", ["Shop", "a-b", "x" * 59, "", "ü"])
def test_names_that_a_slot_cannot_have_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        names_of(name)
    assert names_of(name, slot="mine", publication="Mine").slot == "mine"
