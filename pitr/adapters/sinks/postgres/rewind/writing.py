"""Writes the rows of a rewind: which statements, and in which order, so that no constraint objects.

Rows that are changed keep their place and are updated, but for those whose values in a unique index
differ: these are deleted first and inserted last, so that rows may swap such values. With the
triggers of foreign keys at rest any order will do. Where they are active, rows are put back parents
first, then changed, then deleted children first; only if unique values stand in the way of that,
deleting comes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import asyncpg

from pitr.adapters.sinks.postgres.foreign_keys import ForeignKey, parents_first
from pitr.adapters.sinks.postgres.rewind.stage import ACTIONS, EXPECTED, LIVE, WANTED
from pitr.adapters.sinks.postgres.rewind.tables import RewindTable
from pitr.adapters.sinks.postgres.tables import quoted
from pitr.domain.errors import Conflict

_RIGHTS = "as a role that may set session_replication_role this can be done"


@dataclass(kw_only=True)
class Writing:
    """The writing part of one rewind; ``counts`` are the actions of each table, by its number.

    With ``replica`` nothing in the database acts on what is written: no trigger, no foreign key.
    """

    connection: asyncpg.Connection
    tables: Sequence[RewindTable]
    keys: Sequence[ForeignKey]
    counts: Mapping[int, Mapping[str, int]]
    replica: bool
    _parents_first: list[RewindTable] = field(init=False)

    def __post_init__(self) -> None:
        self._parents_first = in_order(self.tables, self.keys)

    async def run(self) -> None:
        """Write everything, and see that it is there.

        Raises:
            Conflict: A foreign key stands in the way, and this role cannot set it aside; or
                something in the database changed what was written.
        """
        if self.replica:
            await self._deleting_first()
            return
        await self.connection.execute("SET CONSTRAINTS ALL DEFERRED")
        try:
            if not await self._deleting_last():
                await self._check_references("delete", "replace")
                await self._deleting_first()
        except asyncpg.ForeignKeyViolationError as error:
            raise Conflict(
                "a foreign key stands in the way of taking the rows back one after the other",
                hint=_RIGHTS,
                constraint=error.constraint_name,
                table=f"{error.schema_name}.{error.table_name}",
            ) from error
        for table in self.tables:
            await self._check_kept(table)

    async def _deleting_first(self) -> None:
        for table in reversed(self._parents_first):
            await self._delete(table, "delete", "replace")
        for table in self._parents_first:
            await self._insert(table)
            await self._replace(table)
        for table in self._parents_first:
            await self._update(table)

    async def _deleting_last(self) -> bool:
        """Try it that way; False leaves everything as it was."""
        if any(counts.get("replace") for counts in self.counts.values()):
            return False
        try:
            async with self.connection.transaction():
                for table in self._parents_first:
                    await self._insert(table)
                for table in self._parents_first:
                    await self._update(table)
        except (asyncpg.UniqueViolationError, asyncpg.ExclusionViolationError):
            return False
        await self._check_references("delete")
        for table in reversed(self._parents_first):
            await self._delete(table, "delete")
        return True

    # Statements ---------------------------------------------------------------------------------

    def _has(self, table: RewindTable, *actions: str) -> bool:
        return any(self.counts[table.number].get(action) for action in actions)

    async def _write(self, table: RewindTable, statement: str, *actions: str) -> None:
        """Run a statement, and see that it was about as many rows as these actions are.

        Foreign keys that act may have deleted some before; the rows themselves are looked at then.

        Raises:
            Conflict: It was not.
        """
        status: str = await self.connection.execute(statement)
        wrote = int(status.rpartition(" ")[2])
        decided = sum(self.counts[table.number].get(action, 0) for action in actions)
        if self.replica and wrote != decided:
            raise Conflict(
                "the database wrote other rows than it was told to",
                hint="nothing was changed; try again, and tell the authors of pitr",
                collection=table.collection,
                actions=", ".join(actions),
                rows=decided,
                written=wrote,
            )

    async def _delete(self, table: RewindTable, *actions: str) -> None:
        if not self._has(table, *actions):
            return
        await self._write(
            table,
            f"DELETE FROM {table.target} AS t USING {_name(table, LIVE)} AS l"
            f" WHERE {table.same_key('t', 'l')} AND {_chosen(table, 'l', *actions)}",
            *actions,
        )

    async def _insert(self, table: RewindTable) -> None:
        if not self._has(table, "insert"):
            return
        columns = _columns(table.columns.written)
        await self._write(
            table,
            f"INSERT INTO {table.name.quoted} ({columns}) OVERRIDING SYSTEM VALUE"
            f" SELECT {columns} FROM {_name(table, WANTED)} AS w"
            f" WHERE {_chosen(table, 'w', 'insert')}",
            "insert",
        )

    async def _replace(self, table: RewindTable) -> None:
        """Insert rows that were deleted to change them: what they keep is what they had."""
        if not self._has(table, "replace"):
            return
        written, kept = table.columns.written, table.kept
        key = table.key_column
        values = [f"w.{quoted(name)}" for name in written] + [f"l.{quoted(name)}" for name in kept]
        await self._write(
            table,
            f"INSERT INTO {table.name.quoted} ({_columns((*written, *kept))})"
            f" OVERRIDING SYSTEM VALUE SELECT {', '.join(values)}"
            f" FROM {_name(table, WANTED)} AS w JOIN {_name(table, LIVE)} AS l ON l.{key} = w.{key}"
            f" WHERE {_chosen(table, 'w', 'replace')}",
            "replace",
        )

    async def _update(self, table: RewindTable) -> None:
        if not self._has(table, "update"):
            return
        left = {*(name for name, _ in table.key), *table.fixed}
        sets = [
            f"{quoted(name)} = w.{quoted(name)}"
            for name in table.columns.written
            if name not in left
        ]
        sets += [f"{quoted(name)} = DEFAULT" for name in table.columns.defaulted]
        if not sets:
            return
        key = table.key_column
        await self._write(
            table,
            f"UPDATE {table.target} AS t SET {', '.join(sets)}"
            f" FROM {_name(table, WANTED)} AS w JOIN {_name(table, LIVE)} AS l ON l.{key} = w.{key}"
            f" WHERE {table.same_key('t', 'l')} AND {_chosen(table, 'w', 'update')}",
            "update",
        )

    # Foreign keys that act ----------------------------------------------------------------------

    async def _check_references(self, *actions: str) -> None:
        """Refuse a delete that the database would carry on to rows that stay."""
        by_oid = {oid: table for table in self.tables for oid in table.oids}
        for key in self.keys:
            parent = by_oid.get(key.parent_oid)
            if parent is None or not key.on_delete_writes or not self._has(parent, *actions):
                continue
            child = by_oid.get(key.child_oid)
            stays = "true"
            if child is not None:
                stays = (
                    f"NOT EXISTS (SELECT FROM {_name(child, LIVE)} AS d"
                    f" WHERE {child.same_key('d', 'c')} AND {_chosen(child, 'd', *actions)})"
                )
            row = await self.connection.fetchrow(
                f"SELECT l.{parent.key_column} AS key FROM {_name(parent, LIVE)} AS l"
                f" JOIN {key.child.quoted} AS c ON {references(key, 'l', 'c')}"
                f" WHERE {_chosen(parent, 'l', *actions)} AND {stays} LIMIT 1"
            )
            if row is not None:
                raise Conflict(
                    "taking a row back would also change rows that refer to it",
                    hint=_RIGHTS,
                    collection=parent.collection,
                    key=row["key"],
                    constraint=key.name,
                    table=key.child,
                )

    async def _check_kept(self, table: RewindTable) -> None:
        """Check that the rows are what they were to be.

        Raises:
            Conflict: They are not.
        """
        key = table.key_column
        differing = await self.connection.fetchrow(
            f"SELECT w.{key} AS key FROM {_name(table, WANTED)} AS w LEFT JOIN {table.target} AS t"
            f" ON {table.same_key('t', 'w')}"
            f" WHERE CASE WHEN t.{quoted(table.key[0][0])} IS NULL THEN true"
            f" ELSE NOT ({table.same('t', 'w', table.columns.written)}) END"
            f" UNION ALL SELECT e.{key} FROM {_name(table, EXPECTED)} AS e"
            f" JOIN {_name(table, ACTIONS)} AS a ON a.{key} = e.{key} AND a.action = 'delete'"
            f" JOIN {table.target} AS t ON {table.same_key('t', 'e')} LIMIT 1"
        )
        if differing is not None:
            raise Conflict(
                "the database did not keep a row as it was written",
                hint="look for what acts on rows of the table, like its foreign keys",
                collection=table.collection,
                key=differing["key"],
            )


def in_order(tables: Sequence[RewindTable], keys: Sequence[ForeignKey]) -> list[RewindTable]:
    """Order tables parents first; a foreign key of a partition is one of its table."""
    own = {oid: table for table in tables for oid in table.oids}
    oids = [table.oids[0] for table in tables]
    plain = [
        _between(key, own[key.child_oid].oids[0], own[key.parent_oid].oids[0])
        for key in keys
        if key.child_oid in own and key.parent_oid in own
    ]
    return [own[oid] for oid in parents_first(oids, plain)]


def _between(key: ForeignKey, child_oid: int, parent_oid: int) -> ForeignKey:
    return replace(key, child_oid=child_oid, parent_oid=parent_oid)


def references(key: ForeignKey, parent: str, child: str) -> str:
    """The condition that a row of alias ``child`` refers to one of alias ``parent``."""
    columns = zip(key.parent_columns, key.operators, key.child_columns, strict=True)
    return " AND ".join(
        f"{parent}.{quoted(theirs)} {operator} {child}.{quoted(ours)}"
        for theirs, operator, ours in columns
    )


def _name(table: RewindTable, suffix: str) -> str:
    return table.temporary(suffix).quoted


def _chosen(table: RewindTable, alias: str, *actions: str) -> str:
    """The condition that this is what happens to a row."""
    names = ", ".join(f"'{action}'" for action in actions)
    key = table.key_column
    return (
        f"{alias}.{key} IN (SELECT a.{key} FROM {_name(table, ACTIONS)} AS a"
        f" WHERE a.action IN ({names}))"
    )


def _columns(names: Sequence[str]) -> str:
    return ", ".join(map(quoted, names))
