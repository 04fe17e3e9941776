"""Rewinds to moments before columns came, went, or changed: by the rules that were given, or not.

The oracle is the database itself: its rows as they were at each moment. The stories are the same
each time; ``PITR_TEST_SQL_EXAMPLES=500`` tells as many new ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import asyncpg
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from pitr.domain.change import Change
from pitr.domain.columnar.rows import changes_of
from pitr.domain.errors import Conflict, InvalidRequest
from pitr.domain.log import Source as Attached
from pitr.domain.rewind.columns import ColumnRules
from pitr.domain.rewind.plan import RewindPlan
from pitr.services.rewind.requests import RewindRequest
from tests.postgres.following import App, app_of, attach, caught_up, following
from tests.postgres.random_sql import row_of
from tests.postgres.test_rewind import Rewinding
from tests.postgres.test_rewind_zoo import GIVEN, examples
from tests.services.world import World

EXAMPLES = int(GIVEN or "3")

SETUP = (
    "CREATE SCHEMA {s}",
    "CREATE TABLE {s}.plain (id int PRIMARY KEY, a int, b text, c numeric UNIQUE)",
    "CREATE TABLE {s}.child (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
    " plain int REFERENCES {s}.plain ON DELETE CASCADE ON UPDATE CASCADE, a int, b text)",
    "CREATE TABLE {s}.part (id int PRIMARY KEY, a int, b text) PARTITION BY RANGE (id)",
    "CREATE TABLE {s}.part_low PARTITION OF {s}.part FOR VALUES FROM (MINVALUE) TO (3)",
    "CREATE TABLE {s}.part_rest PARTITION OF {s}.part DEFAULT",
    "INSERT INTO {s}.plain SELECT n, n, 'b' || n, n * 1.10 FROM generate_series(1, 5) n",
    "INSERT INTO {s}.child (plain, a, b) SELECT n, n, 'b' FROM generate_series(1, 5) n",
    "INSERT INTO {s}.part SELECT n, n, 'b' || n FROM generate_series(1, 5) n",
)
TABLES = ("plain", "child", "part")


def _sql(text: str, *values: st.SearchStrategy[object]) -> st.SearchStrategy[str]:
    return st.builds(("{{s}}".join(text.split("<s>"))).format, *values)


tables = st.sampled_from(TABLES)
few = st.integers(1, 6)
names = st.sampled_from(["a", "b", "c", "d", "e"])
CHANGES = st.one_of(
    _sql("UPDATE <s>.{} SET {} = '{}' WHERE id = {}", tables, names, few, few),
    _sql("UPDATE <s>.{} SET {} = '{}' WHERE id > {}", tables, names, few, few),
    _sql("UPDATE <s>.{} SET id = {} WHERE id = {}", st.sampled_from(["plain", "part"]), few, few),
    _sql("DELETE FROM <s>.{} WHERE id = {}", tables, few),
    _sql("INSERT INTO <s>.{} (id) VALUES ({})", st.sampled_from(["plain", "part"]), few),
    _sql("INSERT INTO <s>.child (plain) VALUES ({})", few),
    st.just("TRUNCATE {s}.part"),
    st.just("UPDATE {s}.plain SET c = -c"),
)
ALTERS = st.one_of(
    _sql("ALTER TABLE <s>.{} ADD {} int", tables, names),
    _sql("ALTER TABLE <s>.{} ADD {} text NOT NULL DEFAULT '9'", tables, names),
    _sql("ALTER TABLE <s>.{} ADD {} int DEFAULT 3", tables, names),
    _sql("ALTER TABLE <s>.{} ADD {} int GENERATED ALWAYS AS (id * 2) STORED", tables, names),
    _sql("ALTER TABLE <s>.{} DROP {}", tables, names),
    _sql("ALTER TABLE <s>.{} DROP {}", tables, names),
    _sql("ALTER TABLE <s>.{} RENAME {} TO {}", tables, names, names),
    _sql("ALTER TABLE <s>.{0} ALTER {1} TYPE text USING {1}::text", tables, names),
    _sql("ALTER TABLE <s>.{0} ALTER {1} TYPE bigint USING length({1}::text)", tables, names),
    _sql("ALTER TABLE <s>.{} ALTER {} SET DEFAULT '8'", tables, names),
)


@dataclass(frozen=True)
class Alter:
    """DDL; ``waits``: the capture has read what it has to before the story goes on."""

    sql: str
    waits: bool


@dataclass(frozen=True)
class Back:
    """Go back to a moment by some rules, and return."""

    moment: int
    rules: ColumnRules


rules = st.builds(
    lambda added, gone: ColumnRules(added=added, gone=gone),
    st.sampled_from(["keep", "keep", "default", "refuse"]),
    st.sampled_from(["drop", "drop", "refuse"]),
)
Step = list[str] | Alter | Back
stories = st.lists(
    st.one_of(
        st.lists(CHANGES, min_size=1, max_size=4),
        st.lists(CHANGES, min_size=1, max_size=4),
        st.builds(Alter, ALTERS, st.sampled_from([True, True, True, False])),
        st.builds(Back, st.integers(0, 10), rules),
    ),
    min_size=6,
    max_size=16,
)

KNOWN: tuple[Step, ...] = (
    ["UPDATE {s}.plain SET c = -c", "DELETE FROM {s}.child WHERE id < 3", "TRUNCATE {s}.part"],
    Alter("ALTER TABLE {s}.plain DROP b, ADD d int, ADD e text NOT NULL DEFAULT '9'", True),
    Alter("ALTER TABLE {s}.child ADD g int GENERATED ALWAYS AS (plain * 2) STORED", True),
    Alter("ALTER TABLE {s}.part RENAME a TO d", True),
    ["UPDATE {s}.plain SET c = 7.7 - c, d = id, e = 'e' WHERE id > 1"],
    ["DELETE FROM {s}.plain WHERE id = 4"],
    Back(0, ColumnRules()),
    Back(1, ColumnRules(gone="drop")),
    Back(0, ColumnRules(gone="drop", added="default")),
    Back(2, ColumnRules(added="refuse")),
)
"""A story in which everything happens."""

Row = dict[str, str | None]


@dataclass(frozen=True)
class Column:
    """A column as it is: ``default`` as a text, what a new row gets."""

    type: str
    generated: bool
    default: str | None


@dataclass(frozen=True)
class Picture:
    """The tables at a moment: their columns, and rows by id."""

    columns: dict[str, dict[str, Column]]
    rows: dict[str, dict[str, Row]]


_COLUMNS = """
SELECT a.attname::text AS name, format_type(a.atttypid, a.atttypmod) AS type,
    a.attgenerated <> '' AS generated, pg_get_expr(d.adbin, d.adrelid) AS "default"
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""


@pytest.mark.timeout(120 + 10 * EXAMPLES)
async def test_columns_that_came_and_went(world: World, source_db: str) -> None:
    async with app_of(source_db) as app:
        attached = await attach(app)
        await world.catalog.add_source(world.log, attached)
        async with following(world, attached):
            await caught_up(world, app, attached)
            teller = Teller(world, app, attached, Rewinding(world, app))
            await asyncio.to_thread(examples(KNOWN, stories, teller.tell, EXAMPLES))
        print(teller.counts)
        assert teller.counts["across"] > EXAMPLES / 3


@dataclass
class Teller:
    """Tells stories to the database, and compares what a rewind makes of its rows."""

    world: World
    app: App
    attached: Attached
    rewinding: Rewinding
    numbers: Any = field(default_factory=count)
    schema: str = ""
    seq_first: int = 1
    moments: list[tuple[str, Picture, frozenset[str]]] = field(default_factory=list)
    altered: int = 0
    unseen: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ("stories", "commits", "alters", "done", "across", "one side", "gap", "other"), 0
        )
    )

    async def tell(self, story: Sequence[Step]) -> None:
        self.counts["stories"] += 1
        self.schema, self.moments, self.altered = f"d{next(self.numbers)}", [], 0
        self.unseen.clear()
        self.seq_first = (await self.world.catalog.log(self.world.log)).seq_next
        async with self.app.connection.transaction():
            for statement in SETUP:
                await self.app.run(statement.replace("{s}", self.schema))
        await caught_up(self.world, self.app, self.attached)
        try:
            await self._commit(["UPDATE {s}.plain SET a = 0", "UPDATE {s}.part SET b = 'x'"])
            for step in story:
                match step:
                    case Alter():
                        await self._alter(step)
                    case Back():
                        await self._back(step)
                    case _:
                        await self._commit(step)
        finally:
            await self.app.run(f"DROP SCHEMA {self.schema} CASCADE")

    async def _commit(self, statements: Sequence[str]) -> None:
        async with self.app.connection.transaction():
            for statement in statements:
                await self._tried(statement)
            xid = await self.app.value("SELECT pg_current_xact_id_if_assigned()::text")
        if xid is not None:
            self.counts["commits"] += 1
            self.moments.append((xid, await self._picture(), frozenset(self.unseen)))

    async def _tried(self, statement: str) -> bool:
        try:
            async with self.app.connection.transaction():
                await self.app.run(statement.replace("{s}", self.schema))
        except (
            asyncpg.IntegrityConstraintViolationError,
            asyncpg.DataError,
            asyncpg.SyntaxOrAccessError,
            asyncpg.FeatureNotSupportedError,
        ) as error:
            assert not isinstance(error, asyncpg.PostgresSyntaxError), statement
            return False
        return True

    async def _alter(self, alter: Alter) -> None:
        if await self._tried(alter.sql):
            self.altered += 1
            self.counts["alters"] += 1
            self.unseen |= {table for table in TABLES if f".{table} " in alter.sql}
        if alter.waits:
            await self._caught_up()

    async def _caught_up(self) -> None:
        await caught_up(self.world, self.app, self.attached)
        self.unseen.clear()

    async def _picture(self) -> Picture:
        columns: dict[str, dict[str, Column]] = {}
        rows: dict[str, dict[str, Row]] = {}
        for table in TABLES:
            place = f"{self.schema}.{table}"
            columns[table] = {}
            for name, type_, generated, sql in await self.app.connection.fetch(_COLUMNS, place):
                default = None
                if sql is not None and not generated:
                    default = await self.app.value(f"SELECT ({sql})::text")
                columns[table][name] = Column(type_, generated, default)
            found = await self.app.connection.fetch(f"SELECT id::text, t::text FROM {place} AS t")
            rows[table] = {key: row_of(text, list(columns[table])) for key, text in found}
        return Picture(columns, rows)

    # Back and forth -------------------------------------------------------------------------------

    async def _back(self, back: Back) -> None:
        xid, then, unseen = self.moments[back.moment % len(self.moments)]
        await self._caught_up()
        last = [each.seq for each in await self._changes() if (each.tx or "").split(":")[0] == xid]
        if not last:
            return
        now = await self._picture()
        request = RewindRequest(
            log=self.world.log,
            target=f"seq:{last[-1]}",
            collections=frozenset(f"{self.schema}.{table}" for table in TABLES),
            rules=back.rules,
        )
        try:
            plan = await self.rewinding.rewinder.plan(request, self.rewinding.sink)
            assert not plan.seen["conflicts"]["counts"], plan.seen["conflicts"]
            plan = RewindPlan.of_body(plan.body())
            report = await self.rewinding.rewinder.apply(plan, self.rewinding.sink)
        except (Conflict, InvalidRequest) as error:
            assert await self._picture() == now
            self._check_refusal(error, then, now, back.rules, unseen)
            return
        await self._check(then, now, await self._picture(), back.rules, unseen)
        self.counts["done"] += 1
        if not report.row_count:
            return
        self.counts["across"] += then.columns != now.columns
        await self._caught_up()
        await self.rewinding.undo(report.operation_id)
        assert await self._picture() == now, "the undo"

    def _check_refusal(
        self,
        error: Conflict | InvalidRequest,
        then: Picture,
        now: Picture,
        rules: ColumnRules,
        unseen: frozenset[str],
    ) -> None:
        assert self.altered, error
        if "one side only" in str(error):
            self.counts["one side"] += 1
            gone = any(then.columns[t].keys() - now.columns[t].keys() for t in TABLES)
            came = any(now.columns[t].keys() - then.columns[t].keys() for t in TABLES)
            gone, came = gone or bool(unseen), came or bool(unseen)
            assert (gone and rules.gone == "refuse") or (came and rules.added == "refuse"), error
        elif "gap" in str(error):
            self.counts["gap"] += 1
        else:
            self.counts["other"] += 1
            assert "does not fit" in str(error), error

    async def _check(
        self,
        then: Picture,
        now: Picture,
        found: Picture,
        rules: ColumnRules,
        unseen: frozenset[str],
    ) -> None:
        """Every row of then is there, with its columns of then; others go by the rule.

        Where a table had been altered and the log had no word of that yet, its columns of then are
        those that it had before.
        """
        assert found.columns == now.columns
        for table in TABLES:
            assert found.rows[table].keys() == then.rows[table].keys(), table
            if table in unseen:
                continue
            for key, row in found.rows[table].items():
                was, had = then.rows[table][key], now.rows[table].get(key)
                for name, column in now.columns[table].items():
                    if column.generated:
                        continue
                    place = (table, key, name)
                    if name in then.columns[table]:
                        expected = was[name]
                        if then.columns[table][name].type != column.type and expected is not None:
                            query = f"SELECT $1::text::{column.type}::text"
                            expected = await self.app.value(query, expected)
                        assert row[name] == expected, place
                    elif had is None:
                        assert row[name] == column.default, place
                    elif rules.added == "keep":
                        assert row[name] == had[name], place
                    else:
                        assert row[name] in (had[name], column.default), place

    async def _changes(self) -> list[Change]:
        view = await self.world.catalog.view(self.world.log)
        found = list(changes_of(view.tail))
        for ref in view.segments:
            if ref.seq_end > self.seq_first:
                found += changes_of(pq.read_table(await self.world.store.verified(ref)))
        mine = [each for each in found if each.collection.startswith(f"{self.schema}.")]
        return sorted(mine, key=lambda change: change.seq)
