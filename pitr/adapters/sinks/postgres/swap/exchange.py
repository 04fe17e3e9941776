"""The short part of a swap: one transaction in which new tables take the place of live ones.

Whoever comes meanwhile waits, and finds the new tables: nobody sees a moment in between. What
cannot be had at once is given up, so that nobody waits long for a lock that we wait for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import asyncpg
import orjson

from pitr.adapters.sinks.postgres.rebound import literal
from pitr.adapters.sinks.postgres.swap.carried import (
    carried,
    comments,
    granted,
    published,
    switched,
    unpublished,
)
from pitr.adapters.sinks.postgres.swap.dependents import (
    NOTHING,
    Dependents,
    OutsideKey,
    dependents_of,
)
from pitr.adapters.sinks.postgres.swap.names import MARK
from pitr.adapters.sinks.postgres.swap.picture import (
    Facts,
    Picture,
    differences,
    pictures,
    printed_in_full,
    with_partitions,
)
from pitr.adapters.sinks.postgres.swap.queries import GRANTS
from pitr.adapters.sinks.postgres.tables import TableName, existing, quoted
from pitr.domain.errors import Conflict

_STATEMENT_TIMEOUT: Final = "SELECT set_config('statement_timeout', $1, true)"
_NOW: Final = "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"

CHANGES_SHOWN: Final = 5
"""Differences that stand in an error."""


@dataclass(kw_only=True)
class Exchange:
    """The exchange, in the transaction that is open on ``connection``.

    ``live`` are the pictures from which the new tables were made; ``new`` and ``old`` say the
    schema that stands for each live one.
    """

    connection: asyncpg.Connection
    swap_id: str
    live: tuple[Picture, ...]
    new: dict[str, str]
    old: dict[str, str]
    lock_timeout_s: float
    before: dict[int, Picture] = field(default_factory=dict)
    depending: Dependents = NOTHING

    async def lock(self) -> None:
        """Take every lock there will be, views before what they read, tables in order of names.

        Raises:
            asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError: Not within the time-out.
            asyncpg.DeadlockDetectedError: Somebody waits for us.
        """
        depending = await self._depending([each.oid for each in self.live])
        await self.connection.fetchval(_STATEMENT_TIMEOUT, f"{self.lock_timeout_s}s")
        for said in depending.said:
            if said.is_view and said.locked is not None and said.owner is not None:
                # LOCK TABLE would also ask the view's owner for rights on what it reads.
                owner = quoted(said.owner)
                await self.connection.execute(f"ALTER TABLE {said.locked.quoted} OWNER TO {owner}")
        names = {each.name for each in self.live} | {key.child for key in depending.keys}
        names |= {said.locked for said in depending.said if said.locked and not said.is_view}
        names |= {name for each in self.live for name in await self._parents(each)}
        if names:
            listed = ", ".join(name.quoted for name in sorted(names))
            await self.connection.execute(f"LOCK TABLE {listed} IN ACCESS EXCLUSIVE MODE")
        await self.connection.fetchval(_STATEMENT_TIMEOUT, "0")

    async def check(self) -> None:
        """See that the live tables still are what the new ones were made from.

        Raises:
            Conflict: One was altered, made or dropped since, or something new depends on it.
        """
        oids = [each.oid for each in self.live]
        roots = [each.oid for each in self.live if each.parent is None]
        async with printed_in_full(self.connection):
            self.before = await pictures(self.connection, oids)
            self.depending = await dependents_of(self.connection, oids)
        if set(await with_partitions(self.connection, roots)) != set(oids):
            raise _moved("partitions were made or dropped while the new tables were filled")
        for picture in self.live:
            now = self.before.get(picture.oid)
            if now is None or now.name != picture.name:
                raise _moved("a table was dropped or renamed meanwhile", table=picture.name)
            found = differences(picture.copied(), now.copied())
            if found:
                raise _moved(
                    "a table was altered while the new one was filled",
                    table=picture.name,
                    changes=found[:CHANGES_SHOWN],
                )
        if self.depending.problems:
            raise _moved("something depends on a table now", problems=self.depending.problems)

    async def run(self) -> None:
        """Exchange the tables.

        Raises:
            Conflict: Rows refer to rows that are not there, or a new table would not be in all
                what the live one was.
        """
        await self._let_go()
        await self._keep_old()
        await self._bring_new()
        await self._carry_over()
        for schema in self.new.values():
            await self._run([f"DROP SCHEMA {quoted(schema)}"])
        await self._compare()

    async def _let_go(self) -> None:
        """Take from the live tables what others would stumble over once they are old."""
        for key in self.depending.keys:
            drop = f"ALTER TABLE {key.child.quoted} DROP CONSTRAINT {quoted(key.name)}"
            await self._run([drop])
        for picture in self.before.values():
            await self._run(unpublished(picture))
            for each in self._outward(picture):
                drop = f"ALTER TABLE {picture.name.quoted} DROP CONSTRAINT {quoted(each['name'])}"
                await self._run([drop])
            for each in picture.parts["sequences"]:
                if not each["is_identity"]:
                    name = TableName(each["schema"], each["name"]).quoted
                    await self._run([f"ALTER SEQUENCE {name} OWNED BY NONE"])

    async def _keep_old(self) -> None:
        at = await self.connection.fetchval(_NOW)
        for live, old in self.old.items():
            tables = [each.name.table for each in self.before.values() if each.name.schema == live]
            said = orjson.dumps({"id": self.swap_id, "at": at, "schema": live, "tables": tables})
            comment = literal(f"{MARK}: {said.decode()}")
            await self._run(
                [
                    f"CREATE SCHEMA {quoted(old)}",
                    f"COMMENT ON SCHEMA {quoted(old)} IS {comment}",
                ]
            )
        for picture in self.before.values():
            old = quoted(self.old[picture.name.schema])
            for each in picture.parts["statistics"]:
                name = TableName(each["schema"], each["name"]).quoted
                await self._run([f"ALTER STATISTICS {name} SET SCHEMA {old}"])
            await self._run([f"ALTER TABLE {picture.name.quoted} SET SCHEMA {old}"])

    async def _bring_new(self) -> None:
        for picture in self.before.values():
            new = self._new(picture.name)
            await self._run([f"ALTER TABLE {new.quoted} SET SCHEMA {quoted(picture.name.schema)}"])
            for each in picture.parts["statistics"]:
                name = TableName(new.schema, each["name"]).quoted
                into = quoted(each["schema"])
                await self._run([f"ALTER STATISTICS {name} SET SCHEMA {into}"])
            for each in picture.parts["sequences"]:
                await self._run([self._sequence(picture, each)])

    def _sequence(self, picture: Picture, each: Facts) -> str:
        """Hand a sequence over; one of an identity column is new, and goes on from the old one.

        Nobody can draw from that one any more: it was moved, which waits for whoever does.
        """
        name = TableName(each["schema"], each["name"]).quoted
        if not each["is_identity"]:
            return f"ALTER SEQUENCE {name} OWNED BY {picture.name.quoted}.{quoted(each['column'])}"
        old = TableName(self.old[each["schema"]], each["name"]).quoted
        return f"SELECT setval({literal(name)}::regclass, last_value, is_called) FROM {old}"

    async def _carry_over(self) -> None:
        for picture in self.before.values():
            for key in self._outward(picture):
                add = f"ADD CONSTRAINT {quoted(key['name'])} {key['definition']}"
                await self._run([f"ALTER TABLE {picture.name.quoted} {add}"])
        for outside in self.depending.keys:
            await self._run(_outside(outside))
        for picture in self.before.values():
            await self._run(carried(picture))
            await self._grant(picture)
        for picture in self.before.values():
            await self._run(switched(picture))
            await self._run(comments(picture))
            await self._run(published(picture))
        await self._run(said.statement for said in self.depending.said)

    async def _grant(self, picture: Picture) -> None:
        owner = picture.facts["owner"]
        relations = [("TABLE", picture.name, picture.oid)]
        relations += [
            ("SEQUENCE", TableName(each["schema"], each["name"]), each["sequence"])
            for each in picture.parts["sequences"]
            if each["is_identity"]
        ]
        for kind, name, oid in relations:
            now = await self.connection.fetchval("SELECT $1::text::regclass::int8", name.quoted)
            wanted, present = await self._grants(oid), await self._grants(now)
            await self._run(granted(kind, name, wanted, present, owner=owner))

    async def _grants(self, oid: int) -> list[Facts]:
        rows = [dict(row) for row in await self.connection.fetch(GRANTS, [oid])]
        return [{name: row[name] for name in row if name != "oid"} for row in rows]

    async def _compare(self) -> None:
        """See that each new table is in all what the live one was, but for its rows.

        Raises:
            Conflict: One is not; this is a kind of table that swaps do not know yet.
        """
        names = {each.name for each in self.before.values()}
        found = await existing(self.connection, names)
        async with printed_in_full(self.connection):
            after = await pictures(self.connection, [table.oid for table in found.values()])
            depending = await dependents_of(self.connection, list(after))
        now = {each.name: each for each in after.values()}
        for picture in self.before.values():
            found_here = differences(picture.shown(), now[picture.name].shown())
            if found_here:
                raise _unlike(picture.name, found_here)
        for was, is_now in (
            (self.depending.keys, depending.keys),
            (self._said(), _said(depending)),
        ):
            if was != is_now:
                raise _unlike(None, [f"{was} became {is_now}"])

    def _said(self) -> set[tuple[str, str]]:
        return _said(self.depending)

    async def _parents(self, picture: Picture) -> list[TableName]:
        """The tables outside the swap that a live one refers to."""
        oids = [each["parent_oid"] for each in self._outward(picture)]
        rows = await self.connection.fetch(
            "SELECT n.nspname::text, c.relname::text FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.oid = ANY ($1::bigint[]::oid[])",
            oids,
        )
        return [TableName(*row) for row in rows]

    def _outward(self, picture: Picture) -> list[Facts]:
        inside = {each.oid for each in self.live}
        return [
            each
            for each in picture.parts["constraints"]
            if each["kind"] == "f" and each["parent_oid"] not in inside
        ]

    def _new(self, name: TableName) -> TableName:
        return TableName(self.new[name.schema], name.table)

    async def _depending(self, oids: list[int]) -> Dependents:
        async with printed_in_full(self.connection):
            return await dependents_of(self.connection, oids)

    async def _run(self, statements: Iterable[str]) -> None:
        for statement in statements:
            await self.connection.execute(statement)


def _outside(key: OutsideKey) -> list[str]:
    table, name = key.child.quoted, quoted(key.name)
    statements = [f"ALTER TABLE {table} ADD CONSTRAINT {name} {key.definition}"]
    if key.comment is not None:
        statements.append(f"COMMENT ON CONSTRAINT {name} ON {table} IS {literal(key.comment)}")
    return statements


def _said(dependents: Dependents) -> set[tuple[str, str]]:
    return {(each.what, each.statement) for each in dependents.said}


def _moved(message: str, **facts: object) -> Conflict:
    return Conflict(message, hint="nothing was changed; swap again", **facts)


def _unlike(table: TableName | None, found: list[str]) -> Conflict:
    return Conflict(
        "the new tables would not be in all what the live ones are, so nothing was changed",
        hint="restore with --mode rewind, or with --mode fresh --force",
        table=table,
        differences=found[:CHANGES_SHOWN],
    )
