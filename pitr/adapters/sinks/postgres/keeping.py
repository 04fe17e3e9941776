"""What a table that was made anew has to keep: keys, constraints, indexes; when it has its rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from pitr.adapters.sinks.postgres.as_it_was import Definition
from pitr.adapters.sinks.postgres.attempts import attempted, attempted_each, reason_of
from pitr.adapters.sinks.postgres.beside import free_name
from pitr.adapters.sinks.postgres.rebound import rebound_index
from pitr.adapters.sinks.postgres.tables import TableName, quoted
from pitr.domain.errors import InvalidRequest
from pitr.domain.pgoutput.schema import Constraint, TableSchema

_REPLICA_IDENTITY: Final = {"f": "FULL", "n": "NOTHING"}

_IDENTITY_INDEX = """
SELECT c.relname::text
FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
WHERE x.indrelid = $1::text::regclass AND x.indisunique AND x.indimmediate AND x.indpred IS NULL
  AND $2::text[] = (
    SELECT array_agg(a.attname::text ORDER BY k.place)
    FROM unnest(x.indkey::int2[]) WITH ORDINALITY AS k (number, place)
    LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = k.number
    WHERE k.place <= x.indnkeyatts)
ORDER BY x.indisprimary, c.relname
LIMIT 1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeping:
    """Adds to one table what its rows have to keep; ``notes`` take what had to be left out."""

    connection: asyncpg.Connection
    collection: str
    definition: Definition
    notes: list[str]

    @property
    def name(self) -> TableName:
        """Where the table is."""
        return self.definition.name

    @property
    def schema(self) -> TableSchema:
        """What it was."""
        return self.definition.schema

    async def add(self) -> None:
        """Add them.

        Raises:
            InvalidRequest: The rows break one.
        """
        constraints = [self.schema.primary_key] if self.schema.primary_key is not None else []
        order = ("unique", "exclude")
        kinds = [each for each in self.schema.constraints if each.kind in order]
        constraints += sorted(kinds, key=lambda each: (order.index(each.kind), each.name))
        for each in constraints:
            await self._add_constraint(each)
        for index in self.schema.indexes:
            free = await self._index_name(index.name)
            statement = rebound_index(index.definition, name=free, table=self.name)
            if statement is None:
                self._note(f"without the index {index.name}, which cannot be read")
                continue
            error = await attempted(self.connection, statement)
            if error is not None:
                self._check_kept(index.name, error)
                self._note(f"without the index {index.name}: {reason_of(error)}")
        await self._add_checks()
        await self._set_identity()

    async def _add_constraint(self, each: Constraint) -> None:
        free = await self._index_name(each.name)
        clause = f"ADD CONSTRAINT {quoted(free)} {each.definition}"
        error = await attempted(self.connection, f"ALTER TABLE {self.name.quoted} {clause}")
        if error is not None:
            self._check_kept(each.name, error)
            self._note(f"without the constraint {each.name}: {reason_of(error)}")

    async def _index_name(self, wanted: str) -> str:
        """Indexes share their names with tables."""
        free = await free_name(self.connection, self.name.schema, wanted)
        if free != wanted:
            self._note(f"{wanted} is called {free}, as that name is taken")
        return free

    async def _add_checks(self) -> None:
        clauses = {
            each.name: f"ADD CONSTRAINT {quoted(each.name)} {each.definition}"
            for each in self.schema.constraints
            if each.kind == "check"
        }
        altering = f"ALTER TABLE {self.name.quoted}"
        refused = await attempted_each(self.connection, altering, clauses)
        for check, error in refused.items():
            if (error.sqlstate or "").startswith("23"):
                await self._show_broken(check, clauses[check])
            self._check_kept(check, error)
            self._note(f"without the constraint {check}: {reason_of(error)}")

    async def _show_broken(self, check: str, clause: str) -> None:
        """Say which row breaks a check, if that can be told.

        Raises:
            InvalidRequest: This one does.
        """
        error = await attempted(
            self.connection, f"ALTER TABLE {self.name.quoted} {clause} NOT VALID"
        )
        if error is not None:
            return
        expression = await self.connection.fetchval(
            "SELECT pg_get_expr(conbin, conrelid) FROM pg_constraint"
            " WHERE conrelid = $1::text::regclass AND conname = $2",
            self.name.quoted,
            check,
        )
        shown = ", ".join(f"{quoted(column)}::text" for column in self.schema.row_key)
        row = await self.connection.fetchrow(
            f"SELECT {shown} FROM {self.name.quoted} WHERE NOT ({expression}) LIMIT 1"
        )
        if row is not None:
            raise InvalidRequest(
                "a row breaks a constraint of its table",
                collection=self.collection,
                key=dict(zip(self.schema.row_key, row, strict=True)),
                constraint=check,
                reason=expression,
            )

    async def _set_identity(self) -> None:
        how = _REPLICA_IDENTITY.get(self.schema.identity)
        if self.schema.identity == "i":
            index = await self.connection.fetchval(
                _IDENTITY_INDEX, self.name.quoted, list(self.schema.identity_columns)
            )
            how = f"USING INDEX {quoted(index)}" if index is not None else None
        if how is None:
            return
        statement = f"ALTER TABLE ONLY {self.name.quoted} REPLICA IDENTITY {how}"
        error = await attempted(self.connection, statement)
        if error is not None:
            self._note(f"without its replica identity: {reason_of(error)}")

    def _check_kept(self, name: str, error: asyncpg.PostgresError) -> None:
        """Refuse rows that break a constraint.

        Raises:
            InvalidRequest: That is what the error says.
        """
        if (error.sqlstate or "").startswith("23"):
            raise InvalidRequest(
                "a row breaks a constraint of its table",
                collection=self.collection,
                constraint=name,
                reason=reason_of(error),
                detail=error.detail,
                sqlstate=error.sqlstate,
            ) from error

    def _note(self, note: str) -> None:
        self.notes.append(f"{self.collection}: {note}")
