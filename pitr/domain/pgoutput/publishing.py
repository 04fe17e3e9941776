"""Decides which tables are published and how, so that the app goes on as before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pitr.domain.pgoutput.attach import AttachNames, AttachOptions
from pitr.domain.pgoutput.identity import Repair, Trouble, identity_trouble, needs_generated
from pitr.domain.pgoutput.installed import (
    WITHOUT_OLD_ROWS,
    Publication,
    PublishedTable,
    Step,
)
from pitr.domain.pgoutput.selection import Chosen, Selection
from pitr.domain.pgoutput.source import OWN_SCHEMA, SourceFacts, SourceTable
from pitr.domain.pgoutput.steps import publication_step

SCHEMAS_SINCE: Final = 15
"""The first version with ``FOR TABLES IN SCHEMA`` and column lists."""

Scope = Literal["all", "schemas", "tables"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the publications will hold.

    ``whole`` tables are published with updates and deletes, after ``repairs``; of ``inserts`` only
    new rows are. ``unsound`` cannot be published as they are: in ``skip`` mode they are left out.
    ``scope`` says whether tables that are made later are in by themselves.
    """

    whole: tuple[SourceTable, ...]
    inserts: tuple[SourceTable, ...] = ()
    unsound: tuple[Trouble, ...] = ()
    mended: tuple[Trouble, ...] = ()
    columns: Mapping[str, tuple[str, ...]]
    scope: Scope = "tables"
    schemas: tuple[str, ...] = ()
    generated: bool = False

    @property
    def tables(self) -> tuple[SourceTable, ...]:
        """Everything that is published."""
        return (*self.whole, *self.inserts)

    @property
    def repairs(self) -> tuple[Repair, ...]:
        """Replica identities to change."""
        return tuple(repair for trouble in self.mended for repair in trouble.repairs)


def published(
    facts: SourceFacts, chosen: Chosen, selection: Selection, options: AttachOptions
) -> Published:
    """Decide."""
    looked_at = (identity_trouble(table, major=facts.major) for table in chosen.tables)
    troubles = {trouble.table.relid: trouble for trouble in looked_at if trouble is not None}
    mends = options.without_key == "full"
    mended = {relid: each for relid, each in troubles.items() if mends and each.repairs}
    unsound = {relid: each for relid, each in troubles.items() if relid not in mended}
    whole = tuple(table for table in chosen.tables if table.relid not in unsound)
    inserts = tuple(trouble.table for trouble in unsound.values())
    apart = unsound and options.without_key in ("skip", "inserts")
    scope = "tables" if apart else _scope(facts, chosen, selection, options)
    return Published(
        whole=whole,
        inserts=inserts if options.without_key == "inserts" else (),
        unsound=tuple(unsound.values()),
        mended=tuple(mended.values()),
        columns=chosen.columns,
        scope=scope,
        schemas=selection.schemas if scope == "schemas" else (),
        generated=any(
            needs_generated(table, mended=mended.get(table.relid), major=facts.major)
            for table in whole
        ),
    )


def _scope(
    facts: SourceFacts, chosen: Chosen, selection: Selection, options: AttachOptions
) -> Scope:
    """Publish what comes later too, where all there is is chosen, and the role may."""
    if options.list_tables or not facts.is_superuser:
        return "tables"
    if selection.is_everything and all(table.schema != OWN_SCHEMA for table in chosen.all):
        return "all"
    only_schemas = bool(selection.schemas) and selection == Selection(schemas=selection.schemas)
    return "schemas" if only_schemas and facts.major >= SCHEMAS_SINCE else "tables"


def publication_steps(names: AttachNames, holds: Published) -> tuple[Step, ...]:
    """Put it into SQL."""
    roots = [(table.schema, table.name) for table in holds.tables if table.kind == "partitioned"]
    steps = []
    if holds.whole or holds.scope != "tables":
        publication = Publication(
            all_tables=holds.scope == "all",
            schemas=frozenset(holds.schemas),
            tables=_listed(holds.whole, holds) if holds.scope == "tables" else frozenset(),
            generated=holds.generated,
        )
        name, repairs = names.publication, holds.repairs
        steps.append(publication_step(name, publication, partitioned=roots, repairs=repairs))
    if holds.inserts:
        tables = _listed(holds.inserts, holds)
        publication = Publication(tables=tables, actions=WITHOUT_OLD_ROWS)
        steps.append(publication_step(names.inserts, publication, partitioned=roots))
    return tuple(steps)


def _listed(tables: tuple[SourceTable, ...], holds: Published) -> frozenset[PublishedTable]:
    chosen = {table.relid: holds.columns.get(table.collection) for table in tables}
    return frozenset(
        PublishedTable(
            schema=table.schema,
            name=table.name,
            columns=frozenset(columns) if (columns := chosen[table.relid]) else None,
        )
        for table in tables
    )
