"""Random SQL over a few tables, and triggers that keep a copy of every row that it changes.

A story is what two sessions do by turns, so that it goes the same way each time it is told.
``{s}`` stands for the schema of its tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

from hypothesis import strategies as st

TABLES = {
    "serial": (
        "CREATE TABLE {s}.serial (id serial PRIMARY KEY, a int, b text, n numeric)",
        "INSERT INTO {s}.serial VALUES (1, 1, 'one', 1.10), (2, NULL, NULL, NULL)",
    ),
    "pair": (
        "CREATE TABLE {s}.pair (x int, y text, v jsonb, ok boolean, PRIMARY KEY (y, x))",
        "INSERT INTO {s}.pair VALUES (1, 'k', '{\"a\": 1.0}', true)",
    ),
    "nokey": (
        "CREATE TABLE {s}.nokey (a int, b text, u serial)",
        "ALTER TABLE {s}.nokey REPLICA IDENTITY FULL",
        "INSERT INTO {s}.nokey VALUES (1, NULL), (NULL, 'b')",
    ),
    "big": (
        "CREATE TABLE {s}.big (id int PRIMARY KEY, big text, small int, more text)",
        "ALTER TABLE {s}.big ALTER big SET STORAGE EXTERNAL, ALTER more SET STORAGE EXTERNAL",
        "INSERT INTO {s}.big VALUES (1, repeat('1', 2500), 1, repeat('m', 2500))",
    ),
    "part": (
        "CREATE TABLE {s}.part (k int PRIMARY KEY, v text) PARTITION BY RANGE (k)",
        "CREATE TABLE {s}.part_low PARTITION OF {s}.part FOR VALUES FROM (MINVALUE) TO (2)",
        "CREATE TABLE {s}.part_high PARTITION OF {s}.part FOR VALUES FROM (2) TO (MAXVALUE)",
        "INSERT INTO {s}.part VALUES (1, 'low'), (2, 'high')",
    ),
}
"""How each is made, with rows that nobody's trigger has seen."""

COPIES = (
    "CREATE SCHEMA copies",
    "CREATE UNLOGGED TABLE copies.changes"
    " (n bigserial PRIMARY KEY, xid bigint DEFAULT pg_current_xact_id()::text::bigint,"
    "  place text, op text, old text, new text)",
    "CREATE FUNCTION copies.keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
    " INSERT INTO copies.changes (place, op, old, new)"
    " VALUES (TG_ARGV[0], TG_OP, OLD::text, NEW::text);"
    " RETURN NULL; END $$",
)
"""Where copies are kept: a table that is not in the WAL, so nobody captures it."""


def making(schema: str) -> Iterator[str]:
    """The statements that make the tables of a story, with their triggers."""
    yield f"CREATE SCHEMA {schema}"
    for name, statements in TABLES.items():
        yield from (statement.replace("{s}", schema) for statement in statements)
        place = f"{schema}.{name}"
        call = f"EXECUTE FUNCTION copies.keep('{place}')"
        yield f"CREATE TRIGGER rows AFTER INSERT OR UPDATE OR DELETE ON {place} FOR EACH ROW {call}"
        yield f"CREATE TRIGGER whole AFTER TRUNCATE ON {place} FOR EACH STATEMENT {call}"
        if name != "part":  # triggers of partitions are switched one by one
            yield f"ALTER TABLE {place} ENABLE ALWAYS TRIGGER rows"
            yield f"ALTER TABLE {place} ENABLE ALWAYS TRIGGER whole"


# What a story is made of --------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What one of the two sessions does, in a transaction of its own that goes on until it ends.

    ``alters`` is a table whose columns change: then ``column``, ``now`` and ``value`` say how.
    """

    session: int
    sql: str
    alters: str | None = None
    column: str = ""
    now: str | None = None
    value: str | None = None

    @property
    def kept(self) -> str:
        """What the copies have to know of it, as SQL; ``$1`` is the place."""
        said = json.dumps({"column": self.column, "now": self.now, "value": self.value})
        return f"INSERT INTO copies.changes (place, op, new) VALUES ($1, 'ALTER', '{said}')"


@dataclass(frozen=True)
class Story:
    """``read_first``: the tables are read before it begins; else while it goes on.

    ``tells``: each ALTER is told of in the stream, as event triggers do it. ``whole``: the table
    with large values has the replica identity FULL.
    """

    steps: tuple[Step, ...]
    read_first: bool
    tells: bool
    whole: bool


PAUSE = "PAUSE"
"""Leave the capture a moment."""

CUT = (
    "INSERT INTO {s}.serial (id, a) SELECT g, 0 FROM generate_series(10, 60) g"
    " ON CONFLICT (id) DO UPDATE SET a = coalesce(serial.a, 0) + 1"
)
"""Commit this, and cut the capture off when it has a piece of it."""


def _any_of(*texts: str) -> st.SearchStrategy[str]:
    return st.sampled_from(texts)


keys = st.sampled_from(["0", "1", "2", "3"])
numbers = st.sampled_from(["NULL", "0", "-7", "2147483647"])
texts = st.sampled_from(["NULL", "''", "'x'", "'ä\"\\\n\u2028'", "'null'", "repeat('t', 300)"])
decimals = st.sampled_from(["NULL", "1.10", "'NaN'", "-0.000", "12345678901234567890.123456789"])
jsons = st.sampled_from(["NULL", "'null'", '\'{"b": [1, null], "a": 1.0}\'', "'\"t\"'"])
larges = st.sampled_from(["NULL", "repeat('a', 2500)", "repeat('b', 3000)", "'short'"])
many = st.sampled_from(["5", "12", "40"])


@st.composite
def _sql(draw: st.DrawFn, /, text: str, **values: st.SearchStrategy[str]) -> str:
    """SQL with ``<name>`` for values that are drawn."""
    for name, value in values.items():
        text = text.replace(f"<{name}>", draw(value))
    return text


CONFLICT = _any_of(
    "DO NOTHING", "(id) DO UPDATE SET a = excluded.a, b = NULL", "(id) DO UPDATE SET id = 9"
)

CHANGES = st.one_of(
    _sql("INSERT INTO {s}.serial (a, b) VALUES (<a>, <b>)", a=numbers, b=texts),
    _sql(
        "INSERT INTO {s}.serial VALUES (<k>, <a>, <b>, <n>) ON CONFLICT <c>",
        **{"k": keys, "a": numbers, "b": texts, "n": decimals, "c": CONFLICT},
    ),
    _sql("UPDATE {s}.serial SET b = <b>, n = <n> WHERE id = <k>", k=keys, b=texts, n=decimals),
    _sql("UPDATE {s}.serial SET id = <to> WHERE id = <k>", k=keys, to=keys),
    _sql("UPDATE {s}.serial SET id = id + <k>, a = <a> WHERE id > <k>", k=keys, a=numbers),
    _sql("DELETE FROM {s}.serial WHERE id = <k>", k=keys),
    _sql(
        "INSERT INTO {s}.serial (id, a) SELECT g, g FROM generate_series(10, 10 + <m>) g"
        " ON CONFLICT DO NOTHING",
        m=many,
    ),
    _sql("DELETE FROM {s}.serial WHERE id > <k>", k=keys),
    _sql(
        "WITH gone AS (DELETE FROM {s}.serial WHERE id = <k> RETURNING id, b)"
        " INSERT INTO {s}.pair (x, y) SELECT id, coalesce(b, '') FROM gone",
        k=keys,
    ),
    _sql(
        "INSERT INTO {s}.pair (x, y, v) VALUES (<x>, 'k', <v>) ON CONFLICT (x, y) DO UPDATE"
        " SET v = excluded.v, ok = NOT pair.ok",
        **{"x": keys, "v": jsons},
    ),
    _sql("UPDATE {s}.pair SET x = <to>, v = <v> WHERE x = <x>", x=keys, to=keys, v=jsons),
    _sql("UPDATE {s}.pair SET y = y || 'k', ok = NULL WHERE x = <x>", x=keys),
    _sql("DELETE FROM {s}.pair WHERE x = <x>", x=keys),
    _sql("INSERT INTO {s}.nokey (a, b) VALUES (<a>, <b>), (<a>, <b>)", a=numbers, b=texts),
    _sql("UPDATE {s}.nokey SET b = <b> WHERE a IS NOT DISTINCT FROM <a>", a=numbers, b=texts),
    _sql("UPDATE {s}.nokey SET a = <a>", a=numbers),
    _sql("DELETE FROM {s}.nokey WHERE a IS NOT DISTINCT FROM <a>", a=numbers),
    _sql(
        "INSERT INTO {s}.big VALUES (<k>, <l>, 0, <m>) ON CONFLICT (id) DO UPDATE"
        " SET small = 1, more = excluded.more",
        **{"k": keys, "l": larges, "m": larges},
    ),
    _sql("UPDATE {s}.big SET small = <a> WHERE id = <k>", k=keys, a=numbers),
    _sql("UPDATE {s}.big SET small = <a>", a=numbers),
    _sql("UPDATE {s}.big SET big = <l> WHERE id = <k>", k=keys, l=larges),
    _sql("UPDATE {s}.big SET more = <l>, big = more WHERE id = <k>", k=keys, l=larges),
    _sql("UPDATE {s}.big SET id = <to> WHERE id = <k>", k=keys, to=keys),
    _sql("DELETE FROM {s}.big WHERE id = <k>", k=keys),
    _sql(
        "INSERT INTO {s}.part VALUES (<k>, <v>) ON CONFLICT (k) DO UPDATE SET v = excluded.v",
        **{"k": keys, "v": texts},
    ),
    _sql("UPDATE {s}.part SET k = <to>, v = <v> WHERE k = <k>", k=keys, to=keys, v=texts),
    _sql("UPDATE {s}.part SET k = k + <k>", k=keys),
    _sql("DELETE FROM {s}.part WHERE k = <k>", k=keys),
    _sql(
        "TRUNCATE <tables>",
        tables=st.lists(
            st.sampled_from([f"{{s}}.{name}" for name in TABLES]), min_size=1, unique=True
        ).map(", ".join),
    ),
    _any_of('SELECT pg_logical_emit_message(true, \'pitr\', \'{"actor": "a", "reason": "r"}\')'),
)

ENDS = ("ROLLBACK", "SAVEPOINT p", "SAVEPOINT p", "ROLLBACK TO p", "RELEASE p", PAUSE)
KINDS = [*["change"] * 24, *["commit"] * 8, *["end"] * 6, "cut"]


@st.composite
def alters(draw: st.DrawFn, session: int) -> Step:
    """An ALTER TABLE of a column that may be there; two names, so that they come again."""
    table = draw(st.sampled_from(list(TABLES)))
    column, other = draw(st.permutations(["c", "d"]))
    alter = f"ALTER TABLE {{s}}.{table}"
    kind = draw(st.sampled_from(["add", "add", "fill", "drop", "rename"]))
    match kind:
        case "add":
            return Step(session, f"{alter} ADD {column} int", table, "", column, None)
        case "fill":
            sql = f"{alter} ADD {column} text NOT NULL DEFAULT 'd'"
            return Step(session, sql, table, "", column, "d")
        case "drop":
            return Step(session, f"{alter} DROP {column}", table, column)
    return Step(session, f"{alter} RENAME {column} TO {other}", table, column, other)


@st.composite
def steps(draw: st.DrawFn, kinds: Sequence[str]) -> Step:
    session = draw(st.sampled_from([0, 0, 0, 1]))
    match draw(st.sampled_from(kinds)):
        case "commit":
            return Step(session, "COMMIT")
        case "end":
            return Step(session, draw(st.sampled_from(ENDS)))
        case "alter":
            return draw(alters(session))
        case "cut":
            return Step(session, CUT)
    return Step(session, draw(CHANGES))


def stories() -> st.SearchStrategy[Story]:
    return st.builds(
        Story,
        steps=st.sampled_from([KINDS, [*KINDS, "alter", "alter"]]).flatmap(
            lambda kinds: st.lists(steps(kinds), min_size=40, max_size=80).map(tuple)
        ),
        read_first=st.sampled_from([True, True, True, False]),
        tells=st.booleans(),
        whole=st.booleans(),
    )


# What the copies say ------------------------------------------------------------------------------

Row = dict[str, str | None]


@dataclass
class Kept:
    """The tables of a story as the copies of its changes make them; rows in no order."""

    rows: dict[str, list[Row]]
    columns: dict[str, list[str]]
    ever: dict[str, set[str]] = field(init=False)
    """All names that a column ever had."""

    def __post_init__(self) -> None:
        self.ever = {place: set(columns) for place, columns in self.columns.items()}

    def apply(self, place: str, op: str, old: str | None, new: str | None) -> bool:
        """Apply a change; tell whether the log cannot know of what it did to rows."""
        rows, columns = self.rows[place], self.columns[place]
        if op == "ALTER":
            return self._alter(place, json.loads(new or ""))
        if op == "TRUNCATE":
            rows.clear()
        if old is not None:
            rows.remove(row_of(old, columns))
        if new is not None:
            rows.append(row_of(new, columns))
        return False

    def _alter(self, place: str, said: Row) -> bool:
        was, now, value = said["column"], said["now"], said["value"]
        columns, ever = self.columns[place], self.ever[place]
        is_news = now is not None and (bool(was) or value is not None or now in ever)
        if was:
            columns.remove(was)
        if now is not None:
            columns.append(now)
            ever.add(now)
        for row in self.rows[place]:
            before = row.pop(was) if was else value
            if now is not None:
                row[now] = before
        # Without a key all columns are the key.
        return is_news or place.endswith(".nokey")

    def copy(self) -> Kept:
        return deepcopy(self)


_FIELD = re.compile(r'"((?:[^"\\]|""|\\.)*)"|([^,]*)', re.DOTALL)


def row_of(text: str, columns: Sequence[str]) -> Row:
    """Read a row as PostgreSQL writes it: ``(1,,two words,"\"")``, a quote in it doubled.

    Source: PostgreSQL documentation, "Composite Type Input and Output Syntax".
    """
    values: list[str | None] = []
    at, end = 1, len(text) - 1
    while at <= end:
        found = _FIELD.match(text, at, end)
        assert found is not None
        quoted, plain = found.groups()
        if quoted is not None:
            values.append(re.sub(r'""|\\(.)', lambda each: each[1] or '"', quoted))
        else:
            values.append(plain or None)
        at = found.end() + 1
    return dict(zip(columns, values, strict=True))


def multiset(rows: Sequence[Row]) -> list[str]:
    """Rows in an order of their own, to be compared."""
    return sorted(json.dumps(row, sort_keys=True) for row in rows)
