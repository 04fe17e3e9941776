"""Every type: captured alike by the copy and by the stream, and restored bit for bit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pitr.domain.change import Change
from pitr.domain.documents import members
from tests.postgres.following import App, app_of, attach, caught_up, following
from tests.postgres.restoring import binary, database_of, restore, twin_of
from tests.postgres.servers import Source
from tests.postgres.zoo import is_usable, make_extensions, types_of
from tests.services.world import World


class Zoo:
    """Tables with a column for each type; the n-th row has the n-th value of each."""

    def __init__(self, types: dict[str, list[str]]) -> None:
        self.names = [(f"c{number}", type_) for number, type_ in enumerate(types)]
        self.values = list(types.values())
        self.rows = max(map(len, self.values), default=0) + 1
        self._bits: set[str] = set()

    def table(self, name: str) -> str:
        columns = ", ".join(f"{column} {type_}" for column, type_ in self.names)
        return f"CREATE TABLE {name} (id int PRIMARY KEY, touched int NOT NULL, {columns})"

    async def fill(self, app: App, name: str) -> None:
        """Insert the values, and a row of nulls."""
        for row in range(self.rows):
            found = [
                (column, f"({values[row]})::{type_}")
                for (column, type_), values in zip(self.names, self.values, strict=True)
                if row < len(values)
            ]
            columns = ", ".join(["id", "touched", *(column for column, _ in found)])
            texts = ", ".join([str(row), "0", *(value for _, value in found)])
            await app.run(f"INSERT INTO {name} ({columns}) VALUES ({texts})")

    def told_otherwise(self, copied: dict[str, bytes], streamed: dict[str, bytes]) -> list[str]:
        """Name the types whose values the stream tells otherwise than the copy."""
        if copied == streamed:
            return []
        pairs = [(members(copied[key]), members(streamed[key])) for key in copied]
        return [
            f"{type_}: copied {one.get(column)!r}, streamed {other.get(column)!r}"
            for column, type_ in self.names
            for one, other in pairs
            if one.get(column) != other.get(column)
        ] or ["another order of members"]

    async def unequal(self, one: App, other: App, table: str) -> list[str]:
        """Name the types whose values differ in two databases: as texts, or bit for bit."""
        if await self._same(one, other, table):
            return []
        differing = []
        for column, type_ in self.names:
            query = f"SELECT id, {column}::text FROM {table} ORDER BY id"
            texts = [await each.connection.fetch(query) for each in (one, other)]
            if texts[0] != texts[1]:
                pairs = zip(*texts, strict=False)
                shown = next((a[1], b[1]) for a, b in pairs if a != b)
                differing.append(f"{type_}: {shown}")
            elif await self._has_bits(one, type_):
                query = f"SELECT id, {column} FROM {table} ORDER BY id"
                bits = [await binary(each, query) for each in (one, other)]
                if bits[0] != bits[1]:
                    differing.append(f"{type_}: bits")
        return differing or ["which rows there are"]

    async def _same(self, one: App, other: App, table: str) -> bool:
        """Tell whether all columns at once are the same."""
        having = [name for name, type_ in self.names if await self._has_bits(one, type_)]
        texts = ", ".join(f"{name}::text" for name, _ in self.names)
        query, exact = [
            f"SELECT id, {columns} FROM {table} ORDER BY id"
            for columns in (texts, ", ".join(having))
        ]
        pairs = [(await binary(each, query), await binary(each, exact)) for each in (one, other)]
        return pairs[0] == pairs[1]

    async def _has_bits(self, app: App, type_: str) -> bool:
        if not self._bits:
            query = """
                SELECT name FROM unnest($1::text[]) AS name JOIN pg_type t ON t.oid = name::regtype
                LEFT JOIN pg_type e ON e.oid = t.typelem
                WHERE t.typsend <> 0 AND coalesce(e.typsend, 1) <> 0
            """
            found = await app.connection.fetch(query, [type_ for _, type_ in self.names])
            self._bits = {name for (name,) in found}
        return type_ in self._bits


def told(changes: list[Change], table: str, op: str) -> list[Change]:
    return [each for each in changes if (each.collection, each.op) == (f"public.{table}", op)]


def documents(changes: list[Change], member: str = "after") -> dict[str, bytes]:
    return {each.key: getattr(each, member) for each in changes}


HOSTILE = {
    "datestyle": "German, DMY",
    "intervalstyle": "sql_standard",
    "timezone": "America/New_York",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "xmloption": "document",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "search_path": '"Odd ""Types""", public',
    "default_transaction_isolation": "serializable",
    "standard_conforming_strings": "off",
    "statement_timeout": "10min",
}
"""What a database may have set for everybody who connects; none of it may show."""


async def make_hostile(server: Source, *databases: str, **settings: str) -> None:
    async with app_of(server.url()) as admin:
        for database in databases:
            for name, value in (HOSTILE | settings).items():
                text = value if name == "search_path" else f"'{value}'"
                await admin.run(f'ALTER DATABASE "{database}" SET {name} = {text}')


async def test_every_value_is_captured_and_restored_bit_for_bit(
    world: World, every_source: Source, every_source_db: str
) -> None:
    async with app_of(every_source_db) as app:
        types, lacking = await types_of(app.connection)
        zoo = Zoo(types)
        await app.run(zoo.table("copied"), zoo.table("streamed"))
        await app.run("ALTER TABLE streamed REPLICA IDENTITY FULL")
    if lacking:
        print(f"NOT TESTED ON POSTGRESQL {every_source.name}: {', '.join(lacking)}")
    async with twin_of(every_source, database_of(every_source_db)) as twin:
        async with app_of(every_source_db) as app:
            await zoo.fill(app, "copied")
        await make_hostile(every_source, database_of(every_source_db), database_of(twin))
        async with app_of(every_source_db) as app:
            source = await attach(app)
            async with following(world, source):
                await caught_up(world, app, source)
                await app.run(
                    "INSERT INTO streamed SELECT * FROM copied",
                    "UPDATE streamed SET touched = 1",
                    "UPDATE streamed SET touched = 0",
                    "INSERT INTO copied SELECT * FROM streamed WHERE false",
                )
                await caught_up(world, app, source)
            changes = await world.changes()
            assert (await world.catalog.quarantine_counts(world.log))["waiting"] == 0
            copied = documents(told(changes, "copied", "read"))
            assert len(copied) == zoo.rows
            assert zoo.told_otherwise(copied, documents(told(changes, "streamed", "create"))) == []
            updates = told(changes, "streamed", "update")
            first, second = updates[: zoo.rows], updates[zoo.rows :]
            assert zoo.told_otherwise(copied, documents(first, "before")) == []
            assert zoo.told_otherwise(copied, documents(second)) == []
            assert documents(second, "before") == documents(first)

            await restore(world, twin)
            await world.sealer.seal(world.log, force=True)
            async with app_of(twin) as restored:
                for table in ("copied", "streamed"):
                    assert await zoo.unequal(app, restored, table) == []


LARGE = {
    "text": "string_agg(md5(n::text), '\"\\')",
    "bytea": "decode(string_agg(md5(n::text), ''), 'hex')",
    "json": "json_agg(md5(n::text))",
    "jsonb": "jsonb_object_agg(md5(n::text), n)",
    "numeric": "('0' || string_agg((n * 7919)::text, ''))::numeric",
    "text[]": "array_agg(md5(n::text))",
    "int[]": "array_agg(n * 7919)",
    "tsvector": "to_tsvector('simple', string_agg(md5(n::text), ' '))",
    "path": "('[' || string_agg(format('(%s,%s)', n, sqrt(n)), ',') || ']')::path",
    "pair": "ROW(1, string_agg(md5(n::text), '\"\\'))::pair",
}
"""Values that PostgreSQL stores apart, and leaves out of the stream where they do not change."""

LARGE_ROWS = "SELECT * FROM large ORDER BY id"


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
async def test_large_values_that_do_not_change(
    world: World, source: Source, source_db: str, identity: str
) -> None:
    async with app_of(source_db) as app:
        await types_of(app.connection)
        columns = [f"c{n}" for n in range(len(LARGE))]
        typed = ", ".join(f"{c} {t}" for c, t in zip(columns, LARGE, strict=True))
        await app.run(
            f"CREATE TABLE large (id int PRIMARY KEY, n int, {typed})",
            f"ALTER TABLE large REPLICA IDENTITY {identity}",
            *(f"ALTER TABLE large ALTER {column} SET STORAGE EXTERNAL" for column in columns),
        )
    async with twin_of(source, database_of(source_db)) as twin, app_of(source_db) as app:
        attached = await attach(app)
        async with following(world, attached):
            await caught_up(world, app, attached)
            await app.run(
                f"INSERT INTO large SELECT 1, 0, {', '.join(LARGE.values())}"
                " FROM generate_series(1, 3000) n",
                "INSERT INTO large SELECT 2, 0 FROM large",
                "INSERT INTO large SELECT (l).* FROM (SELECT l #= hstore('id', '3') AS l"
                " FROM large l WHERE id = 1) x",
                "UPDATE large SET n = 1",
                "UPDATE large SET c0 = 'small' WHERE id = 3",
                "UPDATE large SET n = 2, c1 = NULL WHERE id = 3",
            )
            await caught_up(world, app, attached)
        ops = [each.op for each in await world.changes() if each.collection == "public.large"]
        assert ("patch" in ops) == (identity == "DEFAULT")
        await restore(world, twin)
        async with app_of(twin) as restored:
            bits = [await binary(each, LARGE_ROWS) for each in (app, restored)]
        assert bits[0] == bits[1]


async def test_a_key_that_changes_takes_large_values_along(
    world: World, source: Source, source_db: str
) -> None:
    """The stream leaves them out, and the new key has no row before it: the table is read again."""
    async with app_of(source_db) as app:
        await app.run(
            "CREATE TABLE large (id int PRIMARY KEY, n int, body text)",
            "ALTER TABLE large ALTER body SET STORAGE EXTERNAL",
        )
    async with twin_of(source, database_of(source_db)) as twin, app_of(source_db) as app:
        attached = await attach(app)
        async with following(world, attached):
            await caught_up(world, app, attached)
            await app.run(
                "INSERT INTO large SELECT n, 0, repeat('x', 10000) FROM generate_series(1, 3) n",
                "UPDATE large SET id = 10 WHERE id = 1",
                "UPDATE large SET n = 1 WHERE id = 10",
            )
            await caught_up(world, app, attached)
        assert all(gap.healed_seq_end for gap in (await world.catalog.view(world.log)).gaps)
        await restore(world, twin)
        async with app_of(twin) as restored:
            bits = [await binary(each, LARGE_ROWS) for each in (app, restored)]
        assert bits[0] == bits[1]


# The document ------------------------------------------------------------------------------------

DOCUMENT = Path(__file__).parents[2] / "docs" / "postgres-types.md"
EXAMPLE = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \| `([^`]+)` \|$", re.M)


async def test_the_document_says_what_a_capture_gives(
    world: World, every_source: Source, every_source_db: str
) -> None:
    text = DOCUMENT.read_text()
    examples = EXAMPLE.findall(text)
    assert len(examples) > 80
    (definitions,) = re.findall(r"```sql\n(.*?)```", text, re.S)
    await make_hostile(every_source, database_of(every_source_db), search_path="public")
    async with app_of(every_source_db) as app:
        await app.run("SET standard_conforming_strings = on", "SET array_nulls = on", definitions)
        await make_extensions(app.connection)
        found = [each for each in examples if await is_usable(app.connection, *each[:2])]
        if len(found) < len(examples):
            lacking = {type_ for type_, *_ in examples} - {type_ for type_, *_ in found}
            print(f"NOT TESTED ON POSTGRESQL {every_source.name}: {', '.join(sorted(lacking))}")
        columns = ", ".join(f"c{place} {type_}" for place, (type_, *_) in enumerate(found))
        values = ", ".join(f"({value})::{type_}" for type_, value, _ in found)
        await app.run(
            f"CREATE TABLE copied (id int PRIMARY KEY, {columns})",
            f"CREATE TABLE streamed (id int PRIMARY KEY, {columns})",
            f"INSERT INTO copied VALUES (1, {values})",
        )
        source = await attach(app, what="FOR TABLE copied, streamed")
        async with following(world, source):
            await caught_up(world, app, source)
            await app.run("INSERT INTO streamed TABLE copied")
            await caught_up(world, app, source)
    changes = [each for each in await world.changes() if each.op in ("read", "create")]
    expected = {f"c{place}": (type_, told) for place, (type_, _, told) in enumerate(found)}
    assert [each.collection for each in changes] == ["public.copied", "public.streamed"]
    for change in changes:
        row = {name: value.decode() for name, value in members(change.after or b"").items()}
        del row["id"]
        assert {name: (expected[name][0], value) for name, value in row.items()} == expected


NOT_OF_COLUMNS = {
    # These take no value in, and hold what the server knows about itself.
    *("pg_brin_bloom_summary", "pg_brin_minmax_multi_summary", "pg_dependencies"),
    *("pg_mcv_list", "pg_ndistinct", "pg_node_tree", "gtsvector"),
}


async def test_no_type_is_forgotten(every_source_db: str) -> None:
    async with app_of(every_source_db) as app:
        types, lacking = await types_of(app.connection)
        tried = await app.value(
            "SELECT array_agg(name::regtype::text) FROM unnest($1::text[]) name", list(types)
        )
        every = await app.connection.fetch(
            "SELECT oid::regtype::text FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace"
            " AND typtype IN ('b', 'r', 'm') AND typcategory NOT IN ('A', 'P') AND typisdefined"
        )
    forgotten = {name for (name,) in every} - {*tried, *lacking} - NOT_OF_COLUMNS
    assert forgotten == set()
