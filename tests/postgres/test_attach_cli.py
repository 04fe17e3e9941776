"""``pitr attach``, ``detach``, ``sources``, ``capture`` and ``serve`` on real databases."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from pitr.adapters.clock import SystemClock
from pitr.adapters.embedded import EmbeddedPostgres
from pitr.adapters.postgres.attached import AttachedDatabase
from pitr.domain.errors import Conflict, InvalidRequest
from pitr.domain.log import Source as Attached
from pitr.domain.pgoutput.attach import AttachNames
from pitr.domain.pgoutput.attach_request import fit_name, slot_names
from pitr.domain.pgoutput.attach_results import Detached
from pitr.domain.pgoutput.attach_url import checked_url
from pitr.services.detach import Detacher
from pitr.services.lanes import LaneKeeper
from tests.faces.cli_tools import Place, one_object, pitr, start
from tests.faces.test_cli_docs import undocumented
from tests.postgres.servers import LOCKED_OUT, Source, execute, fetch
from tests.postgres.test_setup import traces
from tests.services.world import World

WAIT_S = 20.0

NOTES = (
    "CREATE TABLE notes (id int PRIMARY KEY, body text, price numeric(20, 10), ok boolean)",
    "INSERT INTO notes SELECT g, 'note ' || g, g * 1.1, g % 2 = 0 FROM generate_series(1, 500) g",
)
TABLE = "SELECT json_build_object('id', id, 'body', body, 'price', price, 'ok', ok) FROM notes"


@pytest.fixture(scope="module")
def embedded(short_folder: Path) -> Iterator[EmbeddedPostgres]:
    """A data folder whose PostgreSQL runs for the whole module, so that each command is quick."""
    server = asyncio.run(EmbeddedPostgres.start(short_folder / "attach" / "postgres"))
    yield server
    asyncio.run(server.stop())


@pytest.fixture
def place(embedded: EmbeddedPostgres) -> Iterator[Place]:
    """A log of its own; what is attached to it is forgotten when the test is over."""
    found = Place(embedded.folder.parent, f"log-{uuid4().hex[:12]}")
    yield found
    url = asyncio.run(embedded.ensure_database("pitr"))
    if fetch(url, "SELECT to_regclass('pitr.sources')::text") != [(None,)]:
        execute(url, "DELETE FROM pitr.sources")


@contextmanager
def running(place: Place, *args: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command at work meanwhile; it ends in order."""
    said = place.data / f"{place.log}.said"
    with said.open("ab") as file:
        env = {"PITR_LATENESS_S": "0", **env}
        process = start(*args, *place.options, env=env, stderr=file)
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0, said.read_text()
        assert "Traceback" not in said.read_text()
    finally:
        process.kill()
        process.communicate()


def until(ask: Callable[[], Any], wanted: Callable[[Any], Any], *, seconds: float = WAIT_S) -> Any:
    """Ask until the answer is as wanted."""
    end_s = time.monotonic() + seconds
    while True:
        found = ask()
        if wanted(found):
            return found
        assert time.monotonic() < end_s, json.dumps(found, default=str)
        time.sleep(0.1)


def sources(place: Place) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = place.document("sources")["sources"]
    return found


def is_read(tables: int) -> Callable[[Any], bool]:
    def wanted(found: list[dict[str, Any]]) -> bool:
        (source,) = found
        done = [table["complete"] for table in source["tables"]]
        return len(done) == tables and all(done) and source["problem"] is None

    return wanted


def restored(place: Place, collection: str, folder: Path) -> list[Any]:
    """The rows that a restore writes, by their own bytes."""
    file = folder / f"{uuid4().hex}.ndjson"
    place.done(
        *("restore", "--to", "latest", "--into", str(file), "--rows-only"),
        *("--collection", collection),
    )
    rows = (json.loads(line, parse_float=str) for line in file.read_text().splitlines())
    return sorted(rows, key=lambda row: int(row["id"]))


def rows_of(url: str, query: str = TABLE) -> list[Any]:
    found = fetch(url, f"SELECT q.row::text FROM ({query}) AS q (row)")
    rows = (json.loads(text, parse_float=str) for (text,) in found)
    return sorted(rows, key=lambda row: int(row["id"]))


def name_of(url: str) -> str:
    return urlsplit(url).path[1:]


# The whole way ------------------------------------------------------------------------------------


def test_a_database_is_attached_captured_restored_and_detached(
    place: Place, every_source_db: str, tmp_path: Path
) -> None:
    url, name = every_source_db, name_of(every_source_db)
    execute(url, *NOTES)
    before = traces(url)
    document = place.document("attach", url)
    assert undocumented(document) == set()
    assert (document["name"], document["slot"], document["url"]) == (name, f"pitr_{name}", url)
    assert {step["did"] for step in document["done"]} == {"made"}
    assert [table["collection"] for table in document["tables"]] == ["public.notes"]
    (source,) = sources(place)
    assert undocumented(source) == set()
    assert (source["tables"], source["seen_at"], source["problem"]) == ([], None, None)
    assert "not followed yet" in place.done("sources")
    waited = place.run("sources", "--wait", "--wait-timeout", "1ms")
    assert waited.exit_code == 5 and "not read yet" in waited.stderr

    with running(place, "capture"):
        (source,) = place.document("sources", "--wait", "--wait-timeout", "1m")["sources"]
        assert undocumented(source) == set()
        assert source["copy"]["complete"] and source["copy"]["rows_read"] == 500
        assert source["tables"] == [
            {
                "collection": "public.notes",
                "rows_read": 500,
                "rows_expected": 500,
                "complete": True,
            }
        ]
        execute(
            url,
            "UPDATE notes SET price = price * 3, body = NULL WHERE id < 50;"
            " DELETE FROM notes WHERE id BETWEEN 100 AND 120",
            "BEGIN; SELECT pitr.because('user:7', 'POST /notes', '{\"request\":\"r1\"}');"
            " INSERT INTO notes VALUES (1000, 'new', 'NaN', NULL); COMMIT",
        )
        until(lambda: place.run("show", "public.notes", "1000").exit_code, lambda code: code == 0)
        assert restored(place, "public.notes", tmp_path) == rows_of(url)
        newest = place.document("history", "public.notes", "1000")["changes"][0]
        assert (newest["actor"], newest["reason"]) == ("user:7", "POST /notes")
        (lane,) = until(
            lambda: place.document("status", place.log)["lanes"],
            lambda lanes: lanes[0]["lag_bytes"] == 0 and lanes[0]["complete_to"],
        )
        assert lane["lane"] == f"postgres:{name}"
        assert "followed" in place.done("sources")

    document = place.document("detach", name)
    assert undocumented(document) == set()
    assert document["reached"] and not document["left"] and len(document["removed"]) == 8
    assert traces(url) == before
    assert sources(place) == []
    status = place.document("status", place.log)
    assert (status["lanes"][0]["complete_to"], status["lanes"][0]["owner"]) == (None, None)
    assert status["watermark"] == status["now"]
    assert restored(place, "public.notes", tmp_path) == rows_of(url)


def test_a_dry_run_prints_the_sql_and_changes_nothing(source_db: str, tmp_path: Path) -> None:
    execute(source_db, *NOTES)
    before = traces(source_db)
    data = tmp_path / "data"
    args = ("attach", source_db, "--dry-run", "--table", "notes", "--data", str(data))
    result = pitr(*args)
    assert result.exit_code == 0, result.stderr
    name = f"pitr_{name_of(source_db)}"
    assert f'CREATE PUBLICATION "{name}" FOR TABLE ONLY "public"."notes"' in result.stdout
    assert f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput'" in result.stdout
    assert "nothing was changed" in result.stderr
    document = one_object(pitr(*args, "--json").stdout)
    assert undocumented(document) == set()
    assert document["script"].rstrip() == result.stdout.rstrip() and document["dry_run"]
    assert traces(source_db) == before
    assert not data.exists()


def test_the_script_may_be_run_by_somebody_else(place: Place, source: Source) -> None:
    url = source.make_database(f"src_{uuid4().hex[:12]}")
    try:
        execute(url, *NOTES)
        script = place.document("attach", url, "--dry-run", "--no-reasons", "--no-ddl-trigger")
        execute(url, *(each for each in script["script"].split(";\n") if each.strip()))
        again = place.run("attach", url, "--dry-run", "--no-reasons", "--no-ddl-trigger")
        assert (again.exit_code, again.stdout) == (0, "")
        assert "there is nothing to make" in again.stderr
        document = place.document("attach", url, "--no-reasons", "--no-ddl-trigger")
        assert {step["did"] for step in document["done"]} == {"there"}
        assert [source["name"] for source in sources(place)] == [name_of(url)]
    finally:
        source.drop_database(name_of(url))


# What is refused ----------------------------------------------------------------------------------


def test_a_table_without_a_key_is_refused_with_the_statement(place: Place, source_db: str) -> None:
    execute(source_db, *NOTES, "CREATE TABLE loose (x int)")
    before = traces(source_db)
    statement = 'ALTER TABLE "public"."loose" REPLICA IDENTITY FULL'
    result = place.run("attach", source_db)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"    {statement};\n" in result.stderr
    assert "refused: public.loose cannot be published, it has no primary key" in result.stderr
    error = one_object(place.run("attach", source_db, "--json").stdout)["error"]
    assert error["facts"]["findings"][0]["statements"] == [statement]
    assert place.run("attach", source_db, "--dry-run").exit_code == 2
    assert traces(source_db) == before
    assert place.run("sources").exit_code == 3  # the log was not made either

    execute(source_db, statement)
    assert place.document("attach", source_db)["follows_new_tables"]


def test_of_a_table_without_a_key_inserts_can_be_captured(
    place: Place, source_db: str, tmp_path: Path
) -> None:
    generated = "size int GENERATED ALWAYS AS (length(body)) STORED"
    execute(
        source_db,
        f"CREATE TABLE whole (id int, body text, {generated})",
        "ALTER TABLE whole REPLICA IDENTITY FULL",
        "CREATE TABLE loose (id int, body text)",
        "INSERT INTO whole VALUES (1, 'one'); INSERT INTO loose VALUES (1, 'one')",
    )
    document = place.document("attach", source_db, "--without-key", "inserts")
    name = f"pitr_{name_of(source_db)}"
    assert document["publications"] == [name, f"{name}_inserts"]
    assert document["inserts_only"] == ["public.loose"]
    with running(place, "capture"):
        until(lambda: sources(place), is_read(2))
        execute(
            source_db,
            "INSERT INTO loose VALUES (2, 'two'); DELETE FROM loose WHERE id = 1",
            "INSERT INTO whole VALUES (2, 'two'); UPDATE whole SET body = 'three' WHERE id = 1",
        )
        whole = "SELECT json_build_object('id', id, 'body', body, 'size', size) FROM whole"
        until(
            lambda: restored(place, "public.whole", tmp_path),
            lambda rows: rows == rows_of(source_db, whole),
        )
        loose = restored(place, "public.loose", tmp_path)
        assert loose == [{"id": 1, "body": "one"}, {"id": 2, "body": "two"}]
    assert not place.document("detach", name_of(source_db))["left"]
    assert fetch(source_db, "SELECT FROM pg_publication") == []


def test_pitr_s_own_catalog_is_refused(place: Place, embedded: EmbeddedPostgres) -> None:
    url = asyncio.run(embedded.ensure_database("pitr"))
    place.ingest([{"collection": "c", "key": 1, "after": {"id": 1}}])
    result = place.run("attach", url)
    assert result.exit_code == 2
    assert "this database is a catalog of pitr's" in result.stderr


def test_the_same_name_twice_is_a_conflict(place: Place, source_db: str, source: Source) -> None:
    execute(source_db, *NOTES)
    place.done("attach", source_db, "--name", "shop")
    result = place.run("attach", source_db, "--name", "shop")
    assert result.exit_code == 4
    assert "attached already" in result.stderr and "pitr detach shop" in result.stderr

    other = source.make_database(f"src_{uuid4().hex[:12]}")
    try:
        result = place.run("attach", other, "--name", "shop", "--dry-run")
        assert result.exit_code == 4 and "another database" in result.stderr
    finally:
        source.drop_database(name_of(other))
    elsewhere = Place(place.data, f"{place.log}-b")
    result = elsewhere.run("attach", source_db, "--name", "shop")
    assert result.exit_code == 4 and "--name" in result.stderr
    elsewhere.done("attach", source_db, "--name", "shop-b")
    left = place.document("detach", "shop")["left"]
    assert [each["statements"] for each in left] == [[]], "the other needs functions and triggers"
    assert not elsewhere.document("detach", "shop-b")["left"]
    assert fetch(source_db, "SELECT FROM pg_event_trigger") == []


@pytest.mark.parametrize("lost", ["slot", "publication and slot", "everything"])
def test_half_an_attach_is_completed(place: Place, source_db: str, lost: str) -> None:
    execute(source_db, *NOTES, "CREATE TABLE more (id int PRIMARY KEY)")
    made = place.document("attach", source_db, "--name", "shop", "--exclude", "more")
    execute(source_db, "SELECT pg_drop_replication_slot('pitr_shop')")
    if lost != "slot":
        execute(source_db, "DROP PUBLICATION pitr_shop")
    if lost == "everything":
        execute(source_db, "DROP SCHEMA pitr CASCADE")
    document = place.document("attach", source_db, "--name", "shop")
    assert document["again"] and not made["again"]
    assert [table["collection"] for table in document["tables"]] == ["public.notes"]
    assert "made" in {step["did"] for step in document["done"]}
    assert place.run("attach", source_db, "--name", "shop").exit_code == 4
    (source,) = sources(place)
    assert source["attached_at"] == document["attached_at"]


def test_there_has_to_be_something_to_capture(place: Place, tmp_path: Path) -> None:
    empty = Place(tmp_path / "data", "main")
    result = empty.run("capture")
    assert result.exit_code == 2
    assert "pitr attach" in result.stderr and "PITR_KAFKA_BOOTSTRAP" in result.stderr
    assert not empty.data.exists()
    result = place.run("capture")
    assert result.exit_code == 2 and "pitr attach" in result.stderr


# Passwords ----------------------------------------------------------------------------------------


def test_a_password_is_neither_stored_nor_printed(
    place: Place, source: Source, source_db: str, embedded: EmbeddedPostgres, tmp_path: Path
) -> None:
    secret, encoded = "ge@heim/7 %", "ge%40heim%2F7%20%25"
    execute(source_db, *NOTES, f"CREATE ROLE {LOCKED_OUT} LOGIN SUPERUSER PASSWORD '{secret}'")
    plain = source.url(name_of(source_db), user=LOCKED_OUT)
    full = plain.replace("@", f":{encoded}@")
    said: list[str] = []

    def run(*args: str, env: dict[str, str] | None = None) -> int:
        result = place.run(*args, env=env)
        said.extend((result.stdout, result.stderr))
        return result.exit_code

    try:
        assert run("attach", plain, "--name", "locked") == 2
        assert run("attach", plain.replace("@", ":wrong@"), "--name", "locked") == 2
        assert run("attach", full, "--name", "locked", "--dry-run", "--json") == 0
        assert run("attach", full, "--name", "locked") == 0
        assert "PITR_SOURCE_PASSWORD" in said[-1]
        assert run("sources") == 0 and run("sources", "--json") == 0
        assert run("detach", "locked") == 2
        assert "--force" in said[-1]
        assert run("detach", "locked", env={"PITR_SOURCE_PASSWORD": secret}) == 0
        assert run("attach", plain, "--name", "locked", env={"PGPASSWORD": secret}) == 0
        assert "not stored" not in said[-1]
        assert run("detach", "locked", env={"PGPASSWORD": secret}) == 0
        assert run("attach", full, "--name", "locked") == 0
        passes = tmp_path / "pgpass"
        passes.write_text(f"*:*:*:{LOCKED_OUT}:{secret}\n")
        passes.chmod(0o600)
        with running(place, "capture", PGPASSFILE=str(passes)):
            until(lambda: sources(place), is_read(1))
        kept = fetch(
            asyncio.run(embedded.ensure_database("pitr")),
            "SELECT to_jsonb(s)::text FROM pitr.sources s"
            " UNION ALL SELECT to_jsonb(l)::text FROM pitr.lanes l",
        )
        assert "postgresql://locked_out@" in str(kept)
        assert run("detach", "locked", env={"PGPASSFILE": str(passes)}) == 0
    finally:
        execute(source_db, f"DROP OWNED BY {LOCKED_OUT}", f"DROP ROLE {LOCKED_OUT}")
    for text in (*said, str(kept)):
        assert secret not in text and encoded not in text and "heim" not in text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:pa/ss@host/db",
        "postgresql://u:12/ss@host/db",
        "postgresql://u:12#ss@host/db",
        "postgresql://u:12?ss@host/db",
        "postgresql://u:pa[ss@host/db",
        "postgresql://u:pa\u2100ss@host/db",
        "postgresql://host/db?sslpassword=pass",
        "mysql://u:pass@host/db",
        "pass",
    ],
)
def test_an_odd_url_is_refused_and_not_quoted(url: str, tmp_path: Path) -> None:
    result = pitr("attach", url, "--data", str(tmp_path / "data"), "--json")
    assert result.exit_code == 2
    error = one_object(result.stdout)["error"]
    assert error["code"] == "invalid_request" and error["hint"]
    for text in (result.stdout, result.stderr):
        assert "ss@" not in text and "pass@" not in text and "=pass" not in text
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("url", "plain", "password"),
    [
        ("postgresql://u@h/db", "postgresql://u@h/db", None),
        ("postgres://u:p%40@h:5433/db", "postgres://u@h:5433/db", "p@"),
        ("postgresql://u:@h/db", "postgresql://u@h/db", None),
        ("postgresql://u:x@[::1]:5432,b/db", "postgresql://u@[::1]:5432,b/db", "x"),
        (
            "postgresql:///db?host=%2Frun&password=a%26b",
            "postgresql:///db?host=%2Frun",
            "a&b",
        ),
    ],
)
def test_a_password_is_taken_out_of_a_url(url: str, plain: str, password: str | None) -> None:
    assert checked_url(url) == (plain, password)


def test_names() -> None:
    assert fit_name("Shop DB-1") == "shop_db-1"
    assert slot_names("shop-1").slot == "pitr_shop_1"
    assert len(slot_names("x" * 50).inserts) == 63
    for name in ("", "-a", "A", "x" * 51, "a b"):
        with pytest.raises(InvalidRequest, match="no name"):
            slot_names(name)
    with pytest.raises(InvalidRequest, match="database's name"):
        fit_name("日本")


# Detaching, and what goes wrong -------------------------------------------------------------------


def test_a_database_that_is_away_is_detached_by_force_only(
    place: Place, source_db: str, source: Source
) -> None:
    if not source.ours:
        pytest.skip("the server is not ours to stop")
    execute(source_db, *NOTES, "CREATE TABLE loose (x int)")
    before = traces(source_db)
    place.done("attach", source_db, "--name", "shop", "--without-key", "full")
    source.stop()
    try:
        result = place.run("detach", "shop")
        assert result.exit_code == 5 and "--force" in result.stderr
        assert [each["detaching"] for each in sources(place)] == [False]
        document = place.document("detach", "shop", "--force")
    finally:
        source.start()
    assert undocumented(document) == set()
    assert not document["reached"] and sources(place) == []
    (left,) = document["left"]
    assert 'ALTER TABLE "public"."loose" REPLICA IDENTITY DEFAULT' in left["statements"]
    execute(source_db, *left["statements"])
    assert traces(source_db) == before


def test_a_detach_that_broke_off_is_completed_or_taken_back(
    place: Place, source_db: str, embedded: EmbeddedPostgres
) -> None:
    execute(source_db, *NOTES)
    before = traces(source_db)
    place.done("attach", source_db, "--name", "shop")
    broken = (
        asyncio.run(embedded.ensure_database("pitr")),
        "UPDATE pitr.sources SET options = options || '{\"detaching\": true}'",
    )
    execute(*broken)
    assert "being detached" in place.done("sources")
    assert place.run("capture").exit_code == 2, "nobody follows it"
    assert place.document("attach", source_db, "--name", "shop")["again"]
    assert [each["detaching"] for each in sources(place)] == [False]
    execute(*broken)
    place.done("detach", "shop")
    assert traces(source_db) == before and sources(place) == []


class InUse:
    """A database whose slot somebody uses until he is thrown out."""

    async def detach(self, names: AttachNames, *, terminate: bool) -> Detached:
        if not terminate:
            raise Conflict("somebody uses the replication slot")
        return Detached(removed=[f"replication slot {names.slot}"])


async def test_a_slot_in_use_is_dropped_by_force_only(world: World) -> None:
    @asynccontextmanager
    async def connect(url: str) -> AsyncIterator[Any]:
        assert url == "postgresql://h/db?password=s%20t"
        yield InUse()

    clock = SystemClock()
    lanes = LaneKeeper(world.catalog, clock)
    detacher = Detacher(world.catalog, lanes, clock, connect=connect, password="s t")
    source = Attached(
        name="shop", url="postgresql://h/db", slot="pitr_shop", publication="p", created_us=1
    )
    await world.catalog.add_source(world.log, source)
    with pytest.raises(Conflict) as caught:
        await detacher.detach(world.log, "shop")
    assert "--force" in str(caught.value.hint)
    assert await world.catalog.sources(world.log) == [source], "it is followed as before"
    report = await detacher.detach(world.log, "shop", force=True)
    assert report.removed == ("replication slot pitr_shop",)
    assert await world.catalog.sources(world.log) == []


def test_serve_follows_and_lets_go_while_it_runs(place: Place, source_db: str) -> None:
    execute(source_db, *NOTES)
    before = traces(source_db)
    with running(place, "serve", "--port", "0", "--json") as service:
        assert service.stdout is not None
        url = json.loads(service.stdout.readline())["url"]
        place.done("attach", source_db, "--name", "shop")
        check, lane = f"{place.log}/postgres:shop", f'lane="postgres:shop",log="{place.log}"'

        def ready() -> dict[str, Any]:
            return dict(httpx.get(f"{url}/readyz").json()["checks"])

        until(ready, lambda checks: checks.get(check) == "ok")
        until(lambda: sources(place), is_read(1))
        until(
            lambda: httpx.get(f"{url}/metrics").text,
            lambda text: all(
                f"pitr_lane_{name}{{{lane}}} 0.0" in text
                for name in ("lag_bytes", "copy_tables_left", "copy_rows_left", "copy_rate")
            ),
        )
        execute(source_db, "DROP PUBLICATION pitr_shop")
        execute(source_db, "INSERT INTO notes VALUES (2000, 'unpublished', 1, true)")
        execute(
            source_db,
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            " WHERE slot_name = 'pitr_shop'",
        )
        problem = until(ready, lambda checks: "publication" in checks.get(check, ""))[check]
        assert "pitr_shop" in problem
        result = place.run("attach", source_db, "--name", "shop")
        assert result.exit_code == 4 and "pg_drop_replication_slot" in result.stderr
        until(
            lambda: fetch(source_db, DROP_SLOT) and fetch(source_db, "TABLE pg_replication_slots"),
            lambda found: not found,
        )
        assert place.document("attach", source_db, "--name", "shop")["again"]
        until(lambda: place.run("show", "public.notes", "2000").exit_code, lambda code: code == 0)
        until(lambda: sources(place), is_read(1))

        began_s = time.monotonic()
        document = place.document("detach", "shop")
        assert not document["left"] and time.monotonic() - began_s < 20
        assert traces(source_db) == before
        time.sleep(1.5)
        assert traces(source_db) == before, "nobody made the slot again"
        assert check not in ready()
    gaps = place.document("status", place.log)["gaps"]
    assert all(gap["healed_seq_end"] for gap in gaps)


DROP_SLOT = """
SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
WHERE slot_name = 'pitr_shop' AND active_pid IS NULL
"""


async def test_a_publication_that_is_gone_is_named(source_db: str) -> None:
    execute(source_db, "CREATE PUBLICATION one", "CREATE PUBLICATION two")
    source = Attached(
        name="shop",
        url=source_db,
        slot="pitr_gone",
        publication="one",
        created_us=1,
        options={"publications": ["one", "two"]},
    )
    database = AttachedDatabase(source, url=source_db)
    try:
        assert await database.make_slot() > 0
        assert await database.look("1:1") == {}
        async with database.stream(0) as stream:
            await stream.poll(bytes_max=1, timeout_s=0.1)
        execute(source_db, "DROP PUBLICATION two")
        with pytest.raises(InvalidRequest, match="two") as caught:
            await database.look("1:2")
        assert f"pitr attach {source_db} --name shop" in str(caught.value.hint)
        with pytest.raises(InvalidRequest, match="publication=two"):
            async with database.stream(0):
                pass
        with pytest.raises(InvalidRequest, match="publication=two"):
            await database.make_slot()
        assert await database.slot() is not None, "it was not dropped"
    finally:
        await database.close()
