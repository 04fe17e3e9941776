"""What a restore would find in a database and do there; reads only, by the rules of the restore."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from pitr.adapters.sinks.postgres.as_it_was import Definition, definition_of
from pitr.adapters.sinks.postgres.exclusive import BUSY, is_taken
from pitr.adapters.sinks.postgres.fitting import Fit
from pitr.adapters.sinks.postgres.foreign_keys import foreign_keys, parents_first
from pitr.adapters.sinks.postgres.infer import NOTHING_KNOWN
from pitr.adapters.sinks.postgres.making import making_order, places_of, printing_whole_names
from pitr.adapters.sinks.postgres.sequences import sequences_to_move
from pitr.adapters.sinks.postgres.tables import (
    NO_TABLE,
    Table,
    TableName,
    described,
    relations,
    table_name,
)
from pitr.adapters.sinks.postgres.used_types import UsedTypes, used_types
from pitr.domain.errors import InvalidRequest
from pitr.domain.outlook import Outline, Outlook, TableOutlook
from pitr.domain.pgoutput.schema import TableSchema

_PLACE = """
SELECT datname::text AS database, oid::bigint AS oid,
    pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean AS read_only
FROM pg_database WHERE datname = current_database()
"""
_SYSTEM = "SELECT system_identifier::text FROM pg_control_system()"

PARAMETER_RIGHTS_SINCE: Final = 15

_REPLICA = """
SELECT rolsuper OR has_parameter_privilege('session_replication_role', 'SET')
FROM pg_roles WHERE rolname = current_user
"""
_SUPERUSER = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"

_RIGHTS = """
SELECT c.oid::bigint AS oid,
    has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
        AND has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE')
        AND has_schema_privilege(c.relnamespace, 'USAGE') AS fills,
    has_table_privilege(c.oid, 'DELETE') AS empties,
    pg_has_role(c.relowner, 'USAGE') AS owns,
    row_security_active(c.oid) AS has_policies,
    EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
            AND t.tgenabled IN ('O', 'A')) AS has_triggers
FROM pg_class c WHERE c.oid = ANY ($1::bigint[]::oid[])
"""

_CREATES = """
SELECT coalesce(
    (SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE')
     FROM pg_namespace WHERE nspname = $1),
    has_database_privilege(current_database(), 'CREATE'))
"""


@dataclass(kw_only=True)
class Looking:
    """A look at a database, in a transaction that only reads."""

    connection: asyncpg.Connection
    outline: Outline
    given_names: Mapping[str, str]
    force: bool
    drop_unknown: bool
    names: dict[str, TableName] = field(default_factory=dict)
    tables: dict[str, Table] = field(default_factory=dict)
    seen: list[TableOutlook] = field(default_factory=list)
    sequences: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    async def outlook(self, where: str) -> Outlook:
        """Look."""
        place = await self.connection.fetchrow(_PLACE)
        self._problem(place["read_only"], "the database takes no writes")
        self._problem(await is_taken(self.connection), BUSY)
        self._name()
        async with printing_whole_names(self.connection):
            await self._look_at_tables()
            await self._look_at_missing()
        return Outlook(
            where=where,
            identity={
                "system": await self._system(),
                "database": place["database"],
                "oid": place["oid"],
            },
            tables=tuple(self.seen),
            sequences=tuple(sorted(set(self.sequences))),
            problems=tuple(self.problems),
            notes=tuple(self.notes),
        )

    async def _system(self) -> str | None:
        """The cluster's identifier, None for a role that may not read it."""
        try:
            async with self.connection.transaction():
                return str(await self.connection.fetchval(_SYSTEM))
        except asyncpg.InsufficientPrivilegeError:
            return None

    def _problem(self, is_one: Any, text: str) -> None:
        if is_one:
            self.problems.append(text)

    def _name(self) -> None:
        """Say where each collection goes, as ``table_names`` does, but go on after a problem."""
        taken: dict[TableName, str] = {}
        for collection in sorted(self.outline.counts):
            try:
                schema = self.outline.schemas.get(collection)
                name = table_name(collection, self.given_names, schema)
            except InvalidRequest as error:
                self.problems.append(f"{collection}: {error.message}")
                continue
            other = taken.setdefault(name, collection)
            if other != collection:
                self.problems.append(f"{other} and {collection} both go to {name}")
                continue
            self.names[collection] = name

    async def _look_at_tables(self) -> None:
        """Look at those that are there."""
        found, others = await relations(self.connection, self.names.values())
        for name in others:
            self.problems.append(f"{name}: {NO_TABLE}")
            self.names = {each: known for each, known in self.names.items() if known != name}
        rights = await self._rights([table.oid for table in found.values()])
        for collection, name in self.names.items():
            if name in found:
                may_read = rights[found[name].oid]["fills"]
                self.tables[collection] = await self._described(collection, found[name], may_read)
        keys = await foreign_keys(self.connection, [each.oid for each in self.tables.values()])
        by_oid = {table.oid: collection for collection, table in self.tables.items()}
        for oid in parents_first(by_oid, keys):
            self._look_at(by_oid[oid], rights[oid])
        counts = self.outline.counts
        self.sequences += await sequences_to_move(
            self.connection,
            self.tables.values(),
            filled=[table.oid for each, table in self.tables.items() if counts[each]],
            samples=self.outline.sequences,
            whole=self.outline.whole,
        )

    async def _rights(self, oids: list[int]) -> dict[int, Mapping[str, Any]]:
        """What the role may do with each table, and whether triggers would rest."""
        knows = self.connection.get_server_version().major >= PARAMETER_RIGHTS_SINCE
        replica = await self.connection.fetchval(_REPLICA if knows else _SUPERUSER)
        rows = await self.connection.fetch(_RIGHTS, oids)
        return {row["oid"]: {**row, "replica": replica} for row in rows}

    async def _described(self, collection: str, table: Table, may_read: bool) -> Table:
        schema = self.outline.schemas.get(collection)
        return await described(
            self.connection, table, json_strings="auto", schema=schema, may_read=may_read
        )

    def _look_at(self, collection: str, rights: Mapping[str, Any]) -> None:
        table, rows = self.tables[collection], self.outline.counts[collection]
        fit, name = Fit(table), str(table.name)
        members = self.outline.members.get(collection)
        self._problem(not rights["fills"], f"the role may not read and write {name}")
        self._problem(
            table.has_rows and not rights["empties"], f"the role may not delete rows of {name}"
        )
        self._problem(rights["has_policies"], f"row-level security of {name} applies to the role")
        self._problem(
            rights["has_triggers"] and not rights["owns"] and not rights["replica"],
            f"the role may not silence the triggers of {name}",
        )
        self._problem(
            table.has_rows and not self.force,
            f"{name} has rows already: --force replaces all, --mode rewind those that differ",
        )
        if rows:
            self.problems += fit.refused(members, drop_unknown=self.drop_unknown)
        known = fit.then if fit.then is not None else members
        written = [each.name for each in fit.written if known is None or each.name in known]
        self.seen.append(
            TableOutlook(
                collection=collection,
                where=name,
                action="replace" if table.has_rows else "fill",
                rows=rows,
                columns=tuple(written),
                unfit=tuple(fit.said(members, drop_unknown=self.drop_unknown)),
            )
        )

    async def _look_at_missing(self) -> None:
        """Look at what would be made."""
        missing = [each for each in self.names if each not in self.tables]
        schemas = {
            each: self.outline.schemas[each] for each in missing if each in self.outline.schemas
        }
        types = await used_types(self.connection, schemas.values())
        self.notes += types.notes
        self.notes += [f"type {name} is made" for name in types.to_make]
        places = {each.schema for each in types.to_make.values()}
        for collection in making_order(schemas):
            definition = await self._look_at_made(collection, schemas[collection], types)
            places.update(definition.places)
        for collection in missing:
            if collection not in schemas:
                places.update(self._look_at_invented(collection))
        for place in sorted(places):
            creates = await self.connection.fetchval(_CREATES, place)
            self._problem(not creates, f"the role may not make tables in the schema {place}")

    async def _look_at_made(
        self, collection: str, schema: TableSchema, types: UsedTypes
    ) -> Definition:
        name, rows = self.names[collection], self.outline.counts[collection]
        definition = await definition_of(self.connection, schema, name, types)
        self.problems += definition.problems
        self.sequences += [str(each.name) for each in definition.sequences]
        identities = {each.name for each in schema.columns if each.identity}
        self.sequences += [
            str(TableName(name.schema, each.name))
            for each in schema.sequences
            if each.owned and each.column in identities
        ]
        self.seen.append(
            TableOutlook(
                collection=collection,
                where=str(name),
                action="make",
                rows=rows,
                columns=tuple(each.name for each in definition.columns if not each.generated),
                made_from="schema",
                unfit=definition.unfit,
                notes=(*definition.notes, *await self._loose_ends(schema)),
            )
        )
        return definition

    async def _loose_ends(self, schema: TableSchema) -> list[str]:
        """The foreign keys to tables that neither are there nor will be."""
        restored = places_of(self.names, self.outline.schemas)
        parents = {TableName(key.schema, key.table): key for key in schema.foreign_keys}
        there, _ = await relations(self.connection, parents)
        return [
            f"without the foreign key {key.name}, as there is no {parent}"
            for parent, key in parents.items()
            if parent not in restored and parent not in there
        ]

    def _look_at_invented(self, collection: str) -> set[str]:
        """A collection of which only the documents are known; returns the schema it needs."""
        name, rows = self.names[collection], self.outline.counts[collection]
        self.seen.append(
            TableOutlook(
                collection=collection,
                where=str(name),
                action="make" if rows else "skip",
                rows=rows,
                columns=tuple(sorted(self.outline.members.get(collection, ()))) if rows else (),
                made_from="documents" if rows else None,
                notes=() if rows else (NOTHING_KNOWN,),
            )
        )
        return {name.schema} if rows else set()
