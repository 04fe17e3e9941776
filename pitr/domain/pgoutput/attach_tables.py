"""Looks for tables that cannot be published as they are, and says what can be done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pitr.domain.pgoutput.attach import Finding
from pitr.domain.pgoutput.identity import Trouble
from pitr.domain.pgoutput.publishing import SCHEMAS_SINCE
from pitr.domain.pgoutput.situation import Situation, refused
from pitr.domain.pgoutput.sql import identifier


def table_findings(situation: Situation) -> Iterator[Finding]:
    """Look at every table."""
    holds = situation.holds
    if not holds.tables and holds.scope == "tables" and not holds.unsound:
        hint = "choose other tables, or make some first"
        yield refused("tables", "there is no table to capture", hint)
    for left in situation.chosen.left_out:
        text = f"{left.collection} is left out: {left.reason}"
        yield Finding(about="left_out", level="warning", text=text)
    for trouble in holds.unsound:
        yield _without_key(situation, trouble)
    for trouble in holds.mended:
        yield Finding(
            about="identity",
            level="note",
            text=f"{trouble.table.collection} gets another replica identity, as {trouble.reason};"
            " detaching undoes this",
            statements=tuple(repair.statement for repair in trouble.repairs),
        )
    yield from _chosen_columns(situation)
    yield from _partitions(situation)
    yield _later_tables(situation)


_WAYS: Final = "or leave it out (skip), or capture only what is inserted (inserts)"


def _without_key(situation: Situation, trouble: Trouble) -> Finding:
    collection, reason = trouble.table.collection, trouble.reason
    mode = situation.options.without_key
    if mode == "skip":
        text = f"{collection} is left out: {reason}"
        return Finding(about="identity", level="warning", text=text)
    if mode == "inserts":
        text = f"of {collection} only new rows are captured, not updates and deletes: {reason}"
        return Finding(about="identity", level="warning", text=text)
    text = (
        f"{collection} cannot be published, {reason}:"
        " PostgreSQL would refuse updates and deletes, or tell them wrong"
    )
    if trouble.repairs:
        statements = tuple(repair.statement for repair in trouble.repairs)
        hint = f"give it a primary key, {_WAYS}, or run (full does it for you):"
        return refused("identity", text, hint, *statements)
    return refused("identity", text, f"give it a primary key, {_WAYS}")


def _chosen_columns(situation: Situation) -> Iterator[Finding]:
    holds = situation.holds
    if holds.columns and situation.facts.major < SCHEMAS_SINCE:
        hint = "capture whole tables"
        yield refused("columns", "columns can be chosen from PostgreSQL 15 on", hint)
    repaired = {trouble.table.relid for trouble in holds.mended}
    for table in holds.whole:
        chosen = holds.columns.get(table.collection)
        if chosen is None:
            continue
        if table.identity == "f" or table.relid in repaired:
            text = f"columns of {table.collection} cannot be chosen: its whole row is its identity"
            yield refused("columns", text, "capture it whole, or give it a primary key")
        elif missing := sorted({*table.identity_columns} - {*chosen}):
            text = f"the columns chosen of {table.collection} leave out its key"
            yield refused("columns", text, f"add {', '.join(missing)}")


def _partitions(situation: Situation) -> Iterator[Finding]:
    for table in situation.holds.tables:
        apart = [leaf.quoted for leaf in table.leaves if leaf.is_foreign or not leaf.logged]
        if apart:
            text = (
                f"of {table.collection} these partitions are not captured, they are foreign or"
                f" unlogged: {', '.join(apart)}"
            )
            yield Finding(about="partitions", level="warning", text=text)


def _later_tables(situation: Situation) -> Finding:
    if situation.holds.scope == "tables":
        publication = identifier(situation.names.publication)
        return Finding(
            about="new_tables",
            level="warning",
            text="tables that are made later are not captured",
            hint="publish each by hand:",
            statements=(f"ALTER PUBLICATION {publication} ADD TABLE …",),
        )
    return Finding(
        about="new_tables",
        level="warning",
        text="tables that are made later are captured too; without a primary key PostgreSQL refuses"
        " their updates and deletes",
        hint="give each new table a primary key, or REPLICA IDENTITY FULL; or list the tables",
    )
