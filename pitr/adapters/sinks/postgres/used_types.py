"""The types that tables to be made are made of: which are there, which can be made, and how."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from pitr.adapters.sinks.postgres.attempts import attempted, reason_of
from pitr.adapters.sinks.postgres.rebound import literal
from pitr.adapters.sinks.postgres.tables import quoted
from pitr.domain.pgoutput.schema import TableSchema, UsedType

_PARENTHESES: Final = re.compile(r"\([^()]*\)|(?:\[\])+$")
"""What stands behind a type's own name: a length, and that it is an array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UsedTypes:
    """Types outside ``pg_catalog``, by how the database prints their names.

    ``to_make`` come after what they are made of; ``row_types`` are those of tables that are made
    themselves; ``notes`` say what differs in types that are there.
    """

    to_make: Mapping[str, UsedType]
    row_types: frozenset[str]
    notes: tuple[str, ...]

    def is_coming(self, type_: str) -> bool:
        """Tell whether a type will be there once these and the tables are made."""
        name = own_name(type_)
        made = {*self.to_make, *self.row_types}
        return name in made or any(
            name == multirange_name(range_)
            for range_, each in self.to_make.items()
            if each.kind == "range"
        )


def own_name(type_: str) -> str:
    """A type's own name, without lengths and brackets."""
    return _PARENTHESES.sub("", type_)


def multirange_name(range_: str) -> str:
    """The name of a range's multirange (PostgreSQL manual, ``CREATE TYPE``)."""
    schema, dot, name = range_.rpartition(".")
    if "range" in name:
        return f"{schema}{dot}{name.replace('range', 'multirange', 1)}"
    bare = name.removesuffix('"')
    return f"{schema}{dot}{bare}_multirange{name[len(bare) :]}"


_THERE = """
SELECT w.schema, w.name, format('%I.%I', w.schema, w.name) AS printed, t.oid IS NOT NULL AS there,
    CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'c' THEN 'composite'
                   WHEN 'r' THEN 'range' ELSE 'base' END AS kind,
    (SELECT array_agg(l.enumlabel::text ORDER BY l.enumsortorder)
     FROM pg_enum l WHERE l.enumtypid = t.oid) AS labels,
    CASE t.typtype
        WHEN 'd' THEN format_type(t.typbasetype, t.typtypmod)
        WHEN 'r' THEN (SELECT format_type(r.rngsubtype, -1) FROM pg_range r
                       WHERE r.rngtypid = t.oid) END AS base,
    t.typnotnull AS not_null,
    (SELECT array_agg(pg_get_constraintdef(k.oid) ORDER BY k.conname)
     FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c') AS checks,
    (SELECT array_agg(ARRAY[a.attname::text, format_type(a.atttypid, a.atttypmod)]
                      ORDER BY a.attnum)
     FROM pg_attribute a
     WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
    ) AS attributes
FROM unnest($1::text[], $2::text[]) AS w (schema, name)
LEFT JOIN pg_namespace n ON n.nspname = w.schema
LEFT JOIN pg_type t ON t.typnamespace = n.oid AND t.typname = w.name
"""


async def used_types(connection: asyncpg.Connection, schemas: Iterable[TableSchema]) -> UsedTypes:
    """Look at the types that tables to be made use.

    ``search_path`` must be ``pg_catalog``, so that names are printed with their schema.
    """
    schemas = list(schemas)
    wanted: dict[tuple[str, str], UsedType] = {}
    for schema in schemas:
        for each in schema.types:
            place = (each.schema, each.name)
            wanted[place] = _wider(wanted[place], each) if place in wanted else each
    names = [schema for schema, _ in wanted], [name for _, name in wanted]
    tables = {(schema.schema, schema.name) for schema in schemas}
    missing: dict[str, UsedType] = {}
    row_types, notes = set(), []
    for row in await connection.fetch(_THERE, *names) if wanted else []:
        place = (row["schema"], row["name"])
        if row["there"]:
            notes += _differences(row, wanted[place])
        elif place in tables:
            row_types.add(row["printed"])
        elif wanted[place].kind != "base" and wanted[place].extension is None:
            missing[row["printed"]] = wanted[place]
    return UsedTypes(to_make=_in_order(missing), row_types=frozenset(row_types), notes=tuple(notes))


def _wider(one: UsedType, other: UsedType) -> UsedType:
    """The same type in two documents: an enum may have got labels between them."""
    first, then = sorted((one, other), key=lambda each: -len(each.labels))
    more = tuple(label for label in then.labels if label not in first.labels)
    return replace(first, labels=(*first.labels, *more))


def _in_order(types: Mapping[str, UsedType]) -> dict[str, UsedType]:
    """Order types so that each comes after those that it is made of."""
    ordered: dict[str, UsedType] = {}

    def visit(name: str) -> None:
        if name in types and name not in ordered and name not in entered:
            entered.add(name)
            each = types[name]
            for part in (each.base, *(type_ for _, type_ in each.attributes)):
                visit(own_name(part or ""))
            ordered[name] = each

    entered: set[str] = set()
    for name in sorted(types):
        visit(name)
    return ordered


def _differences(row: asyncpg.Record, wanted: UsedType) -> list[str]:
    """What is otherwise in a type that is there already, and is used as it is."""
    if wanted.extension is not None or wanted.kind == "base":
        return []
    name, found = f"{wanted.schema}.{wanted.name}", []
    if row["kind"] != wanted.kind:
        return [f"type {name} is there, and is no {wanted.kind}: it is used as it is"]
    labels = row["labels"] or []
    lacks = [label for label in wanted.labels if label not in labels]
    more = [label for label in labels if label not in wanted.labels]
    found += [f"lacks {', '.join(map(repr, lacks))}"] if lacks else []
    found += [f"has besides {', '.join(map(repr, more))}"] if more else []
    if not found and list(wanted.labels) != labels:
        found.append("has its labels in another order")
    if row["base"] != wanted.base:
        found.append(f"is over {row['base']}, not {wanted.base}")
    if wanted.kind == "domain" and bool(row["not_null"]) != wanted.not_null:
        found.append("takes no null" if row["not_null"] else "takes null")
    if tuple(row["checks"] or ()) != wanted.checks:
        found.append("has other checks")
    if tuple(map(tuple, row["attributes"] or ())) != wanted.attributes:
        found.append("has other attributes")
    return [f"type {name} is there, and {'; '.join(found)}: it is used as it is"] if found else []


async def make_types(connection: asyncpg.Connection, types: UsedTypes) -> list[str]:
    """Make what is missing; return notes of what could not be made."""
    notes = []
    for name, each in types.to_make.items():
        error = await attempted(connection, _statement(name, each))
        if error is not None:
            notes.append(f"type {name} was not made: {reason_of(error)}")
            continue
        for what, clause in _domain_clauses(each):
            error = await attempted(connection, f"ALTER DOMAIN {name} {clause}")
            if error is not None:
                notes.append(f"type {name}: its {what} was left out: {reason_of(error)}")
    return notes


def _statement(name: str, each: UsedType) -> str:
    match each.kind:
        case "enum":
            return f"CREATE TYPE {name} AS ENUM ({', '.join(map(literal, each.labels))})"
        case "range":
            return f"CREATE TYPE {name} AS RANGE (subtype = {each.base})"
        case "composite":
            parts = ", ".join(f"{quoted(part)} {type_}" for part, type_ in each.attributes)
            return f"CREATE TYPE {name} AS ({parts})"
        case _:
            return f"CREATE DOMAIN {name} AS {each.base}"


def _domain_clauses(each: UsedType) -> Sequence[tuple[str, str]]:
    if each.kind != "domain":
        return ()
    found = [("default", f"SET DEFAULT {each.default}")] if each.default is not None else []
    found += [("NOT NULL", "SET NOT NULL")] if each.not_null else []
    return [*found, *((check, f"ADD {check}") for check in each.checks)]
