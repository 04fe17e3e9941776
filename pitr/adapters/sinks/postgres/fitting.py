"""How members of documents and columns of a table meet; the one definition of these rules.

The rules are in ``docs/restore-postgres.md``, "Which column".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from pitr.adapters.sinks.postgres.tables import Column, Table


@dataclass(frozen=True, slots=True)
class Fit:
    """A table, seen from the documents that are to be its rows.

    ``then`` are the columns that the rows' own table had at the moment, None where that is not
    known; ``gone`` names of columns that it had before; ``written`` the columns that take values,
    those that came later last.
    """

    table: Table
    then: frozenset[str] | None = field(init=False)
    gone: tuple[str, ...] = field(init=False)
    known: frozenset[str] = field(init=False)
    written: tuple[Column, ...] = field(init=False)

    def __post_init__(self) -> None:
        schema, columns = self.table.schema, self.table.columns
        then = frozenset(each.name for each in schema.columns) if schema else None
        object.__setattr__(self, "then", then)
        object.__setattr__(self, "gone", schema.former if schema else ())
        object.__setattr__(self, "known", frozenset(column.name for column in columns))
        plain = [column for column in columns if not column.generated]
        object.__setattr__(self, "written", tuple(sorted(plain, key=self.is_later)))

    def is_later(self, column: Column) -> bool:
        """Tell whether the rows' own table did not have the column: whatever a member of that
        name is, it is not the column's."""
        return self.then is not None and column.name not in self.then

    def left_out(self, names: Iterable[str]) -> set[str]:
        """Those members that were no columns any more."""
        return set(names) - self.then if self.then is not None else set()

    def unknown(self, names: Iterable[str]) -> list[str]:
        """Those members that no column is there for, less what is left out."""
        names = set(names)
        return sorted(names - self.left_out(names) - self.known)

    def said(self, members: Iterable[str] | None, *, drop_unknown: bool) -> list[str]:
        """What becomes of members and columns that exist on one side only, or differ.

        Args:
            members: Names in the documents, None where nobody looked. Of tables of an attached
                database they are known without looking.
        """
        schema = self.table.schema
        if schema is None:
            return self._said_of(frozenset(members), drop_unknown) if members is not None else []
        now = {column.name: column for column in self.table.columns}
        found = []
        for each in schema.columns:
            column = now.get(each.name)
            if column is None:
                why = "was generated, and has no column" if each.generated else "has no column"
                found.append(f"{each.name}: {why}: {_fate(drop_unknown)}")
            elif column.generated:
                found.append(f"{each.name}: the database computes it")
            else:
                if column.type != each.type:
                    found.append(f"{each.name}: was {each.type}, is {column.type}")
                if column.not_null and not each.not_null:
                    found.append(f"{each.name}: could be null: a row where it is, is refused")
        for column in self.written:
            if self.is_later(column):
                found.append(f"{column.name}: came later: {_filled(column)}")
        found += [
            f"{name}: was dropped before: left out of rows that have it" for name in self.gone
        ]
        return found

    def _said_of(self, members: frozenset[str], drop_unknown: bool) -> list[str]:
        found = [f"{name}: has no column: {_fate(drop_unknown)}" for name in self.unknown(members)]
        for column in self.table.columns:
            if column.generated:
                found.append(f"{column.name}: the database computes it")
            elif column.name not in members:
                found.append(f"{column.name}: is in no document: {_filled(column)}")
        return found

    def refused(self, members: Iterable[str] | None, *, drop_unknown: bool) -> list[str]:
        """Why no row can be written, as far as that is known without the rows.

        Args:
            members: As in ``said``.
        """
        schema = self.table.schema
        if schema is not None:
            members = [each.name for each in schema.columns if each.generated is None]
        unknown = self.unknown(members or ())
        found = []
        if unknown and not drop_unknown:
            names = ", ".join(unknown)
            found.append(
                f"{self.table.name} has no column for {names}; --drop-unknown leaves them out"
            )
        for column in self.written:
            if column.not_null and not column.fills_itself and self.is_later(column):
                found.append(f"{self.table.name}: {column.name} came later, and takes no null")
        return found


def _fate(drop_unknown: bool) -> str:
    return "left out" if drop_unknown else "refused"


def _filled(column: Column) -> str:
    if column.fills_itself:
        return "its default"
    return "it takes no null, so it is refused" if column.not_null else "null"
