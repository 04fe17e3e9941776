"""The SQL that takes away what attaching made, for a database that pitr does not get into."""

from __future__ import annotations

from collections.abc import Iterable

from pitr.domain.log import Source
from pitr.domain.pgoutput.attach_request import names_in
from pitr.domain.pgoutput.attach_url import server_of
from pitr.domain.pgoutput.source import OWN_SCHEMA
from pitr.domain.pgoutput.sql import identifier, literal
from pitr.domain.pgoutput.steps import SIGNATURES, TRIGGER_STEPS


def undo_statements(source: Source, *, shared: bool) -> tuple[str, ...]:
    """Return the statements, in order; they do nothing where there is nothing.

    Args:
        shared: Another source of that database needs functions and triggers.
    """
    names = names_in(source)
    publications = source.options.get("publications") or [names.publication]
    slot = literal(source.slot)
    return (
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
        f" WHERE slot_name = {slot} AND database = current_database()",
        *(() if shared else _offered()),
        *(f"DROP PUBLICATION IF EXISTS {identifier(name)}" for name in publications),
        *source.options.get("undo", ()),
    )


def _offered() -> Iterable[str]:
    yield from (f"DROP EVENT TRIGGER IF EXISTS {step.name}" for step in TRIGGER_STEPS)
    yield from (f"DROP FUNCTION IF EXISTS {signature}" for signature in SIGNATURES.values())
    yield f"DROP SCHEMA IF EXISTS {identifier(OWN_SCHEMA)}"


def shares_database(source: Source, others: Iterable[Source]) -> bool:
    """Whether one of the others is of the same database, as far as their URLs tell."""

    def place(each: Source) -> tuple[object, object]:
        return each.options.get("database"), server_of(each.url)

    return any(place(other) == place(source) for other in others)
