"""Finds out how a column's type becomes JSON: through domains and arrays, by its oid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pitr.domain.pgoutput.model import Form

FORMS_MAX: Final = 10_000
"""Most types that are kept."""

SCALARS: Final[Mapping[int, Form]] = {
    20: "integer",  # int8
    21: "integer",  # int2
    23: "integer",  # int4
    26: "integer",  # oid
    700: "number",  # float4
    701: "number",  # float8
    1700: "number",  # numeric
    16: "boolean",
}
"""By the oids that these types have in every database (``pg_type.dat``)."""

_TYPES: Final = """
WITH RECURSIVE base (asked, oid) AS (
    SELECT o, o FROM unnest($1::bigint[]::oid[]) AS o
    UNION ALL
    SELECT base.asked, t.typbasetype FROM base
    JOIN pg_type t ON t.oid = base.oid WHERE t.typtype = 'd'
), element (asked, oid, delimiter) AS (
    SELECT base.asked, e.oid, e.typdelim FROM base
    JOIN pg_type t ON t.oid = base.oid
    JOIN pg_type e ON e.oid = t.typelem AND e.typarray = t.oid
    UNION ALL
    SELECT element.asked, t.typbasetype, element.delimiter FROM element
    JOIN pg_type t ON t.oid = element.oid WHERE t.typtype = 'd'
)
SELECT base.asked::bigint AS asked, base.oid::bigint AS base,
    inner_type.oid::bigint AS element, inner_type.delimiter::text AS delimiter
FROM base
JOIN pg_type t ON t.oid = base.oid AND t.typtype <> 'd'
LEFT JOIN (
    SELECT element.* FROM element JOIN pg_type t ON t.oid = element.oid AND t.typtype <> 'd'
) AS inner_type ON inner_type.asked = base.asked
"""


@dataclass(frozen=True, slots=True)
class TypeForm:
    """The form of a type, and of the elements of an array."""

    form: Form
    element: Form | None = None


UNKNOWN: Final = TypeForm("string")


class Forms:
    """The forms of types, kept by oid: what a type is made of never changes."""

    def __init__(self) -> None:
        self._known: dict[int, TypeForm] = {oid: TypeForm(form) for oid, form in SCALARS.items()}

    def missing(self, oids: Iterable[int]) -> list[int]:
        """Return those that have to be learned first."""
        return sorted({oid for oid in oids if oid not in self._known})

    async def learn(self, connection: Any, oids: Iterable[int]) -> None:
        """Look types up; one that is gone is a string, as its text is all that is left."""
        if len(self._known) > FORMS_MAX:
            self._known = {oid: TypeForm(form) for oid, form in SCALARS.items()}
        asked = list(oids)
        found = {row["asked"]: _form(row) for row in await connection.fetch(_TYPES, asked)}
        self._known.update({oid: found.get(oid, UNKNOWN) for oid in asked})

    def form(self, oid: int) -> TypeForm:
        """Return the form of a type that was learned."""
        return self._known[oid]


def _form(row: Any) -> TypeForm:
    """An array is one by its own array type: ``int2vector`` is written otherwise."""
    if row["element"] is None:
        return TypeForm(SCALARS.get(row["base"], "string"))
    if row["delimiter"] != ",":
        return UNKNOWN
    return TypeForm("array", SCALARS.get(row["element"], "string"))
