"""Hard values of every type, out of an attached database and back: by way of each sink.

One database is captured, once; every test restores it as it was before its rows were mixed up.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import orjson
import pyarrow.parquet as pq
import pytest

from pitr.adapters.catalog import PostgresCatalog
from pitr.adapters.decoding import ProcessDecoder
from pitr.adapters.inputs import open_input
from pitr.adapters.kafka import KafkaConfig
from pitr.adapters.migrations_folder import migrations_folder
from pitr.adapters.objects import DirectoryStore
from pitr.adapters.sinks import sink_for
from pitr.adapters.sinks.postgres import PostgresSink
from pitr.adapters.sinks.postgres.swap import PostgresSwap
from pitr.domain.batch import Batch
from pitr.domain.documents import members
from pitr.domain.limits import Limits
from pitr.domain.manifest import GENESIS_HASH
from pitr.domain.ports import Sink
from pitr.domain.records import Reading, Records, decode_records
from pitr.services.append import Appender
from pitr.services.ingest import FileIngest
from pitr.services.rewind.requests import RewindRequest
from tests.conftest import START_US, ManualClock
from tests.kafka.brokers import Broker
from tests.kafka.test_sink_kafka import consumed
from tests.postgres.following import App, app_of, attach, caught_up, following
from tests.postgres.restoring import binary, database_of, restore, twin_of
from tests.postgres.servers import Source
from tests.postgres.test_restore import broker
from tests.postgres.test_rewind import Rewinding
from tests.postgres.test_types import Zoo
from tests.postgres.zoo import WORDS, types_of
from tests.services.world import World

__all__ = ["broker"]

LIMITS = Limits(memory_bytes=512 * 2**20, threads=1)

LARGE = "(SELECT string_agg(md5(n::text), '\"\\') FROM generate_series(1, 32768) n)"
"""A text of a million bytes."""

TABLES = (
    "CREATE TABLE large (id int PRIMARY KEY, t text, b bytea, j jsonb,"
    " length int GENERATED ALWAYS AS (octet_length(t)) STORED)",
    'CREATE SCHEMA "Odd, ""too"""',
    'CREATE TABLE "Odd, ""too"""."a/b c%é" ("k""1" text, n numeric, at timestamptz,'
    ' value text NOT NULL DEFAULT \'d\', PRIMARY KEY ("k""1", n, at))',
    "CREATE TABLE copies (n int GENERATED ALWAYS AS IDENTITY, word text)",
    "ALTER TABLE copies REPLICA IDENTITY FULL",
)
ROWS = (
    f"INSERT INTO large SELECT 1, t, decode(md5(t) || repeat('00ff275c', 262144), 'hex'),"
    f" to_jsonb(t) FROM {LARGE} AS l (t)",
    "INSERT INTO large SELECT 2, t, b FROM large",
    "INSERT INTO large (id) VALUES (3)",
    *(
        f'INSERT INTO "Odd, ""too"""."a/b c%é" VALUES ({word}, {n}, \'{at}\')'
        for word, n, at in zip(
            [*WORDS[:-4], WORDS[-3]],
            ["1.10", "1.1", "0", "'NaN'", "'-Infinity'", "1e-30", "-0.00"] * 3,
            ["infinity", "0044-03-15 12:00:00.5+00 BC", "2026-03-01 09:30:00.250001+02"] * 6,
            strict=False,
        )
    ),
    *(f"INSERT INTO copies (word) VALUES ({word})" for word in WORDS[:-4]),
)
ORDERED = {
    "zoo": "id",
    "large": "id",
    '"Odd, ""too"""."a/b c%é"': '"k""1", n, at',
    "copies": "n",
}
ODD = 'Odd, "too".a/b c%é'
COLLECTIONS = frozenset({"public.zoo", "public.large", ODD, "public.copies"})


@dataclass(frozen=True)
class Captured:
    """A database that was captured; its rows as they were are in the schema ``kept``.

    ``template`` has the same types and tables, without rows. ``now`` is where its log ends.
    """

    source: Source
    url: str
    template: str
    zoo: Zoo
    catalog_url: str
    log: str
    folder: Path
    target: str

    @contextlib.asynccontextmanager
    async def world(self, log: str | None = None) -> AsyncIterator[World]:
        """Services over its log, or a new one."""
        catalog = await PostgresCatalog.open(self.catalog_url, migrations=migrations_folder())
        try:
            if log is not None:
                await _create(catalog, log)
            store = DirectoryStore(self.folder / "store")
            scratch = self.folder / "scratch"
            yield World(catalog, store, ManualClock(), log or self.log, scratch, LIMITS)
        finally:
            await catalog.close()

    @contextlib.asynccontextmanager
    async def twin(self) -> AsyncIterator[tuple[str, App]]:
        """A database with the tables, empty."""
        async with twin_of(self.source, self.template) as url, app_of(url) as app:
            yield url, app

    async def unequal(self, app: App, *, beside: Iterable[str] = ()) -> list[str]:
        """Name what differs in a database from the rows as they were: texts, or bits."""
        differing = []
        async with app_of(self.url) as original:
            for table, order in ORDERED.items():
                if table == "zoo" or table in beside:
                    continue
                rows = [
                    await binary(one, f"SELECT * FROM {name} ORDER BY {order}")
                    for one, name in ((original, _kept(table)), (app, table))
                ]
                differing += [] if rows[0] == rows[1] else [table]
            await original.run("SET search_path = kept, public")
            found = await self.zoo.unequal(original, app, "zoo")
        return differing + [each for each in found if each.partition(":")[0] not in beside]


def _kept(table: str) -> str:
    return "kept.odd" if table.startswith('"') else f"kept.{table}"


async def _create(catalog: PostgresCatalog, log: str) -> None:
    await catalog.create_log(log, uid=uuid4().hex, created_us=START_US, manifest_hash=GENESIS_HASH)


@pytest.fixture(scope="module")
def captured(
    source: Source, catalog_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Captured]:
    names = [f"src_{uuid4().hex[:12]}", f"tmpl_{uuid4().hex[:12]}"]
    url, template = names[0], names[1]
    folder = tmp_path_factory.mktemp("round")
    try:
        yield asyncio.run(
            _capture(source, source.make_database(url), template, catalog_url, folder)
        )
    finally:
        source.heal()
        for name in names:
            source.drop_database(name)


async def _capture(
    source: Source, url: str, template: str, catalog_url: str, folder: Path
) -> Captured:
    async with app_of(url) as app:
        types, _ = await types_of(app.connection)
        zoo = Zoo(types)
        await app.run(zoo.table("zoo"), *TABLES)
    async with app_of(source.url()) as admin:
        await admin.run(f'CREATE DATABASE "{template}" TEMPLATE "{database_of(url)}"')
    log = f"log-{uuid4().hex[:12]}"
    found = Captured(source, url, template, zoo, catalog_url, log, folder, "")
    async with found.world(log) as world, app_of(url) as app:
        await zoo.fill(app, "zoo")
        attached = await attach(app, what=f"FOR TABLE {', '.join(ORDERED)}")
        async with following(world, attached):
            await caught_up(world, app, attached)
            await app.run(*ROWS)
            await app.run("CREATE SCHEMA kept", "UPDATE zoo SET touched = 1 WHERE id % 2 = 0")
            for table in ORDERED:
                await app.run(f"CREATE TABLE {_kept(table)} AS TABLE {table}")
            await caught_up(world, app, attached)
            target = f"seq:{(await world.catalog.log(log)).seq_next - 1}"
            columns = ", ".join(column for column, _ in zoo.names)
            others = ", ".join(f"o.{column}" for column, _ in zoo.names)
            await app.run(
                f"UPDATE zoo z SET ({columns}) = ROW({others}) FROM zoo o"
                f" WHERE o.id = (z.id + 1) % {zoo.rows} AND z.id % 3 > 0",
                "DELETE FROM zoo WHERE id % 3 = 0",
                "UPDATE large SET j = NULL, t = 'short' WHERE id = 1",
                "DELETE FROM large WHERE id = 2",
                'UPDATE "Odd, ""too"""."a/b c%é" SET n = 7 WHERE n = 1.1',
                'DELETE FROM "Odd, ""too"""."a/b c%é" WHERE at = \'infinity\'',
                "DELETE FROM copies WHERE n % 2 = 0",
            )
            await caught_up(world, app, attached)
        assert (await world.catalog.quarantine_counts(log))["waiting"] == 0
        await world.sealer.seal(log, force=True)
    return Captured(source, url, template, zoo, catalog_url, log, folder, target)


# Back into PostgreSQL ---------------------------------------------------------------------------


async def test_fresh_into_tables_that_are_there(captured: Captured) -> None:
    async with captured.world() as world, captured.twin() as (url, app):
        report = await restore(world, url, captured.target)
        assert set(report.sink.rows) == COLLECTIONS and report.sink.notes == ()
        assert await captured.unequal(app) == []


async def test_fresh_into_tables_that_are_made(captured: Captured) -> None:
    async with captured.world() as world, captured.twin() as (url, app):
        await app.run(f"DROP TABLE {', '.join(ORDERED)}", 'DROP SCHEMA "Odd, ""too"""')
        await restore(world, url, captured.target)
        assert await captured.unequal(app) == []


async def test_swapped(captured: Captured) -> None:
    async with captured.world() as world, captured.twin() as (url, app):
        await app.run(*ROWS, "INSERT INTO zoo (id, touched) VALUES (1, 7)", "DELETE FROM copies")
        await restore(world, PostgresSwap(url, swap_id="trip"), captured.target)
        assert await captured.unequal(app) == []


async def test_rewound_and_undone(captured: Captured) -> None:
    """In a copy of the database, which nobody captures: the rewind tells the log itself."""
    async with (
        captured.world() as world,
        twin_of(captured.source, captured.template) as url,
        app_of(url) as app,
        app_of(captured.url) as original,
    ):

        async def same_as_now() -> bool:
            differing = await captured.zoo.unequal(original, app, "zoo")
            for name, order in ORDERED.items():
                query = f"SELECT * FROM {name} ORDER BY {order}"
                if name != "zoo" and await binary(original, query) != await binary(app, query):
                    differing.append(name)
            return differing == []

        await restore(world, url, "latest")
        assert await same_as_now()
        async with _appender(world) as appender:
            rewinding = Rewinding(world, app, appender)
            request = RewindRequest(
                log=world.log, target=captured.target, collections=COLLECTIONS - {"public.copies"}
            )
            plan = await rewinding.rewinder.plan(request, rewinding.sink)
            done = await rewinding.rewinder.apply(plan, rewinding.sink)
            assert await captured.unequal(app, beside=["copies"]) == []
            await rewinding.undo(done.operation_id)
        assert await same_as_now()


# By way of files and topics ---------------------------------------------------------------------


async def documents(captured: Captured, world: World) -> dict[tuple[str, str], bytes]:
    """What the log says that the rows were, by collection and key."""
    state = await world.state(captured.target)
    return {row: after for row, (after, _) in state.items() if row[0] in COLLECTIONS}


async def ingested(captured: Captured, log: str, path: Path) -> None:
    """Take a file into a new log."""
    async with captured.world(log) as world, _appender(world) as appender:
        service = FileIngest(world.catalog, ProcessDecoder(processes=1), limits=world.limits)
        report = await service.ingest(
            open_input(str(path)), log=log, appender=appender, format="native"
        )
        assert report.quarantined == 0 and report.stored == report.lines


def _appender(world: World) -> Appender:
    return Appender(
        world.catalog,
        world.store,
        world.clock,
        log=world.log,
        limits=world.limits,
        new_id=lambda: uuid4().hex,
    )


def told(lines: Iterable[bytes]) -> dict[tuple[str, str], bytes]:
    """The documents of changes in the native format."""
    found = {}
    for line in lines:
        change = members(line)
        assert change["op"] == b'"read"'
        found[orjson.loads(change["collection"]), change["key"].decode()] = change["after"]
    return found


@pytest.mark.parametrize("place", ["folder", "one.ndjson", "-"])
async def test_ndjson_and_from_there_into_a_log_and_back(
    captured: Captured, tmp_path: Path, place: str
) -> None:
    path, stream = tmp_path / place, io.BytesIO()
    async with captured.world() as world:
        expected = await documents(captured, world)
        sink = sink_for("-" if place == "-" else str(path), stream=stream)
        await restore(world, sink, captured.target)
    if place == "folder":
        stream.write(b"".join(each.read_bytes() for each in sorted(path.iterdir())))
    elif place != "-":
        stream.write(path.read_bytes())
    lines = stream.getvalue().split(b"\n")[:-1]
    assert told(lines) == expected and len(lines) == len(expected)
    if place == "-":
        return
    log, whole = f"log-{uuid4().hex[:12]}", tmp_path / "whole.ndjson"
    whole.write_bytes(stream.getvalue())
    await ingested(captured, log, whole)
    async with captured.world() as world:
        other = World(world.catalog, world.store, world.clock, log, world.scratch, LIMITS)
        assert {row: after for row, (after, _) in (await other.state("latest")).items()} == expected
        async with captured.twin() as (url, app):
            await restore(other, PostgresSink(url, json_strings="text"))
            assert await captured.unequal(app) == []
        if place == "folder":
            await _by_guess(captured, other)


async def _by_guess(captured: Captured, world: World) -> None:
    """JSON in strings is guessed at, as the document says; nothing else differs."""
    async with captured.twin() as (url, app):
        await restore(world, url)
        found = await captured.unequal(app, beside=["large"])
        types = {each.partition(":")[0] for each in found}
        assert {"json", "jsonb"} <= types
        assert types <= {"json", "jsonb", "document", "json[]", "jsonb[]", "document[]"}
        (column,) = [name for name, type_ in captured.zoo.names if type_ == "json"]
        texts = f"SELECT {column}::text FROM {{}} WHERE {column} IS NOT NULL ORDER BY id"
        async with app_of(captured.url) as original:
            was = [text for (text,) in await original.connection.fetch(texts.format("kept.zoo"))]
        now = [text for (text,) in await app.connection.fetch(texts.format("zoo"))]
        for one, other in zip(was, now, strict=True):
            taken = one.strip()[0] in "{["
            assert other == one if taken else orjson.loads(other) == one, one


async def test_parquet(captured: Captured, tmp_path: Path) -> None:
    async with captured.world() as world:
        expected = await documents(captured, world)
        await restore(world, sink_for(str(tmp_path / "one.parquet")), captured.target)
        await restore(world, sink_for(str(tmp_path / "all"), format="parquet"), captured.target)
    parts = sorted((tmp_path / "all").iterdir())
    assert len(parts) == len(COLLECTIONS)
    for paths in ([tmp_path / "one.parquet"], parts):
        rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
        found = {(row["collection"], row["key"]): row["after"].encode() for row in rows}
        assert found == expected and len(rows) == len(expected)


async def test_csv_as_postgresql_reads_it(captured: Captured, tmp_path: Path) -> None:
    """Null is an empty field, the empty string is not; what is no array can be cast back."""
    async with captured.world() as world:
        expected = await documents(captured, world)
        await restore(world, sink_for(str(tmp_path / "csv"), format="csv"), captured.target)
    files = {
        "public.zoo.csv": "public.zoo",
        "public.large.csv": "public.large",
        "public.copies.csv": "public.copies",
    }
    (odd,) = {path.name for path in (tmp_path / "csv").iterdir()} - {*files}
    async with captured.twin() as (_, app):
        for name, collection in [*files.items(), (odd, ODD)]:
            rows = {
                key: members(after) for (name, key), after in expected.items() if name == collection
            }
            columns = list(dict.fromkeys(column for row in rows.values() for column in row))
            quoted = ", ".join(f'"{column}" text'.replace('k"1', 'k""1') for column in columns)
            await app.run("DROP TABLE IF EXISTS texts", f"CREATE TABLE texts (_key text, {quoted})")
            await app.connection.copy_to_table(
                "texts", source=tmp_path / "csv" / name, format="csv", header=True
            )
            found = {row[0]: list(row)[1:] for row in await app.connection.fetch("TABLE texts")}
            assert found == {
                key: [_cell(row.get(column)) for column in columns] for key, row in rows.items()
            }, collection
        await _read_back(captured, app, tmp_path / "csv" / "public.zoo.csv")


def _cell(value: bytes | None) -> str | None:
    if value is None or value == b"null":
        return None
    return str(orjson.loads(value)) if value.startswith(b'"') else value.decode()


async def _read_back(captured: Captured, app: App, path: Path) -> None:
    """Let PostgreSQL read the file into a table of the same types, but for arrays."""
    types = {"_key": "text", "id": "int", "touched": "int"}
    for column, type_ in captured.zoo.names:
        types[column] = "text" if type_.endswith("]") or type_ == "ints" else type_
    named = ", ".join(f"{column} {types[column]}" for column in types)
    await app.run("DROP TABLE zoo", f"CREATE TABLE zoo ({named})")
    await app.connection.copy_to_table(
        "zoo", source=path, columns=list(types), format="csv", header=True
    )
    some = Zoo({})
    some.names = [(column, type_) for column, type_ in captured.zoo.names if types[column] == type_]
    assert len(some.names) > 100
    async with app_of(captured.url) as original:
        await original.run("SET search_path = kept, public")
        assert await some.unequal(original, app, "zoo") == []


async def test_kafka_and_from_there_into_a_log_and_back(captured: Captured, broker: Broker) -> None:
    topic, log = f"trip-{uuid4().hex[:8]}", f"log-{uuid4().hex[:12]}"
    small = COLLECTIONS - {"public.large"}
    plain = "" if broker.transactions else "?transaction=false&idempotent=false"

    def config(bootstrap: str | None) -> KafkaConfig:
        return KafkaConfig(bootstrap=bootstrap or "nowhere:1")

    async with captured.world() as world:
        expected = {r: a for r, a in (await documents(captured, world)).items() if r[0] in small}
        sink: Sink = sink_for(f"kafka://{broker.bootstrap}/{topic}{plain}", kafka=config)
        await restore(world, sink, captured.target, collections=small)
    read = await consumed(broker, topic, len(expected))
    (records,) = read.values()
    assert told(record.value for record in records) == expected
    taken = decode_records(
        Records(
            lane=f"kafka:{topic}:0",
            position_first=records[0].offset,
            position_end=records[-1].offset + 1,
            positions=[record.offset for record in records],
            values=[record.value for record in records],
            keys=[record.key for record in records],
            times_us=[record.timestamp * 1000 for record in records],
        ),
        Reading(collection=topic),
    )
    assert taken.quarantined == ()
    async with captured.world(log) as world:
        batch = Batch(
            lane=f"kafka:{topic}:0",
            position_first=records[0].offset,
            position_end=records[-1].offset + 1,
            changes=taken.changes,
            lane_state={},
        )
        await world.append(batch)
        async with captured.twin() as (url, app):
            await restore(world, PostgresSink(url, json_strings="text"))
            assert await captured.unequal(app, beside=["large"]) == []
