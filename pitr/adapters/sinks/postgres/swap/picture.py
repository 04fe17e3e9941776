"""Everything that PostgreSQL's catalogs say of a table, as text: what a swap has to bring about.

Expressions are printed with ``search_path = pg_catalog``, so names of everything else carry their
schema, and two tables that bear the same name one after the other have the same picture.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from pitr.adapters.sinks.postgres.connection import PINNED
from pitr.adapters.sinks.postgres.swap import queries
from pitr.adapters.sinks.postgres.tables import TableName

Facts = dict[str, Any]

_PATH: Final = "SELECT set_config('search_path', $1, true)"
_FILTERS_SINCE: Final = 15

_PARTS: Final[Mapping[str, str]] = {
    "columns": queries.COLUMNS,
    "constraints": queries.CONSTRAINTS,
    "indexes": queries.INDEXES,
    "statistics": queries.STATISTICS,
    "triggers": queries.TRIGGERS,
    "policies": queries.POLICIES,
    "rules": queries.RULES,
    "publications": queries.PUBLICATIONS,
    "grants": queries.GRANTS,
    "sequences": queries.SEQUENCES,
}

_COPIED: Final = ("columns", "constraints", "indexes", "statistics", "sequences")
_COPIED_FACTS: Final = (
    "oid",
    "kind",
    "persistence",
    "owner",
    "access",
    "tablespace",
    "options",
    "toast_options",
    "parent",
    "bound",
    "partition_key",
)
_OIDS: Final = frozenset(("oid", "sequence", "parent_oid"))
_PASSING: Final = frozenset(("comment", "clustered", "identifies", "grants"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A table as the catalogs show it. ``facts`` are its own, ``parts`` lists of what it has."""

    name: TableName
    oid: int
    facts: Facts
    parts: dict[str, list[Facts]] = field(default_factory=dict)

    @property
    def partitioned(self) -> bool:
        """Whether its rows lie in partitions."""
        return bool(self.facts["kind"] == "p")

    @property
    def parent(self) -> TableName | None:
        """The table that it is a partition of."""
        parent = self.facts["parent"]
        return TableName(*parent) if parent else None

    def copied(self) -> Facts:
        """What the new table takes from this one long before it takes its place."""
        parts = {name: [_without(each, _PASSING) for each in self.parts[name]] for name in _COPIED}
        return {name: self.facts[name] for name in _COPIED_FACTS} | parts

    def shown(self) -> Facts:
        """All of it but for oids: what must be the same after the swap."""
        parts = {
            name: sorted((_without(each, _OIDS) for each in found), key=repr)
            for name, found in self.parts.items()
        }
        return _without(self.facts, _OIDS) | parts


def _without(facts: Facts, names: Iterable[str]) -> Facts:
    return {name: value for name, value in facts.items() if name not in names}


def differences(before: Facts, after: Facts) -> list[str]:
    """Say in a few words what differs."""
    found = []
    for name in before:
        was, now = before[name], after[name]
        if was == now:
            continue
        if isinstance(was, list) and isinstance(now, list):
            gone = [each for each in was if each not in now]
            come = [each for each in now if each not in was]
            found.append(f"{name}: {_brief(gone)} became {_brief(come)}")
        else:
            found.append(f"{name}: {was} became {now}")
    return found


def _brief(facts: Sequence[Any]) -> str:
    shown = [
        ", ".join(f"{name}={value}" for name, value in each.items() if value not in (None, False))
        if isinstance(each, dict)
        else str(each)
        for each in facts[:3]
    ]
    return "; ".join(shown) or "nothing"


@asynccontextmanager
async def printed_in_full(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Let the transaction print names with their schemas; afterwards as it is pinned."""
    await connection.fetchval(_PATH, "pg_catalog")
    yield
    await connection.fetchval(_PATH, PINNED["search_path"])


async def with_partitions(connection: asyncpg.Connection, oids: Sequence[int]) -> list[int]:
    """Return the tables and all that lie below them."""
    return [row["oid"] for row in await connection.fetch(queries.MEMBERS, list(oids))]


async def pictures(connection: asyncpg.Connection, oids: Sequence[int]) -> dict[int, Picture]:
    """Take the pictures of tables, by oid; those of parents before those of their partitions.

    Call it under ``printed_in_full``.
    """
    rows = await connection.fetch(queries.TABLES, list(oids))
    parts: dict[int, dict[str, list[Facts]]] = {
        row["oid"]: {name: [] for name in _PARTS} for row in rows
    }
    for name, query in _PARTS.items():
        asked = query.replace("{filter}", _filter(connection))
        for row in await connection.fetch(asked, list(oids)):
            facts = dict(row)
            parts[facts.pop("oid")][name].append(facts)
    found = {}
    for row in rows:
        facts = dict(row)
        table, oid = TableName(facts.pop("schema"), facts.pop("name")), row["oid"]
        found[oid] = Picture(name=table, oid=oid, facts=facts, parts=parts[oid])
    return _parents_first(found)


def _filter(connection: asyncpg.Connection) -> str:
    has_filters = connection.get_server_version().major >= _FILTERS_SINCE
    return "pg_get_expr(r.prqual, r.prrelid)" if has_filters else "null::text"


def _parents_first(found: dict[int, Picture]) -> dict[int, Picture]:
    ordered: dict[int, Picture] = {}
    placed: set[TableName] = set()
    waiting = list(found.values())
    names = {picture.name for picture in waiting}
    while waiting:
        ready = [each for each in waiting if each.parent in placed or each.parent not in names]
        for picture in ready:
            ordered[picture.oid] = picture
            placed.add(picture.name)
        waiting = [each for each in waiting if each.oid not in ordered]
    return ordered
