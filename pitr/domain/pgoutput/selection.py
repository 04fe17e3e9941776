"""Which tables of a database are captured, as somebody asks for it, and as it comes out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pitr.domain.errors import InvalidRequest, NotFound
from pitr.domain.pgoutput.source import OWN_SCHEMA, SourceTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which tables to capture; everything by default.

    ``schemas`` and ``tables`` add up; ``exclude`` takes away from them. Tables are named
    ``schema.table``, or ``table`` in ``public``; ``*`` stands for any characters. ``columns`` are
    the columns to capture of a table, by its name without ``*``; all where it is not named.
    """

    schemas: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_everything(self) -> bool:
        """Whether it leaves nothing out."""
        return not (self.schemas or self.tables or self.exclude or self.columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A table that a selection names but that cannot be captured."""

    collection: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The tables of a selection; ``all`` are those of the database that could be captured.

    ``columns`` are the chosen columns by collection, where they are not all.
    """

    tables: tuple[SourceTable, ...]
    left_out: tuple[LeftOut, ...] = ()
    all: tuple[SourceTable, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def choose(tables: Iterable[SourceTable], selection: Selection) -> Chosen:
    """Choose among the tables of a database.

    Raises:
        NotFound: A name in the selection is no table's, or a column is not there.
    """
    every = tuple(tables)
    possible = [table for table in every if table.schema != OWN_SCHEMA]
    wanted = [_matcher(pattern) for pattern in selection.tables]
    unwanted = [_matcher(pattern) for pattern in selection.exclude]
    _check_names(possible, selection)
    takes_all = not (selection.schemas or selection.tables)
    taken = [
        table
        for table in possible
        if (takes_all or table.schema in selection.schemas or _any(wanted, table))
        and not _any(unwanted, table)
    ]
    return Chosen(
        tables=tuple(table for table in taken if table.logged),
        left_out=tuple(
            LeftOut(
                collection=table.collection,
                reason="it is unlogged: PostgreSQL writes no WAL of its rows",
            )
            for table in taken
            if not table.logged
        ),
        all=tuple(table for table in every if table.logged),
        columns=_columns(taken, selection),
    )


def _any(matchers: Iterable[Callable[[str], object]], table: SourceTable) -> bool:
    return any(matches(table.collection) for matches in matchers)


def _full(name: str) -> str:
    return name if "." in name else f"public.{name}"


def _matcher(pattern: str) -> Callable[[str], object]:
    parts = (re.escape(part) for part in _full(pattern).split("*"))
    return re.compile(".*".join(parts), re.DOTALL).fullmatch


_NO_TABLE: Final = (
    "name ordinary tables as schema.table; views, foreign and temporary tables cannot be captured,"
    " and partitions come with the table that they are partitions of"
)


def _check_names(tables: list[SourceTable], selection: Selection) -> None:
    """A mistyped name must not leave a table out, or in."""
    schemas = {table.schema for table in tables}
    for schema in selection.schemas:
        if schema not in schemas:
            raise NotFound("there is no table in this schema", schema=schema)
    for pattern in (*selection.tables, *selection.exclude):
        if not any(map(_matcher(pattern), (table.collection for table in tables))):
            raise NotFound("there is no such table", hint=_NO_TABLE, table=pattern)


def _columns(tables: list[SourceTable], selection: Selection) -> dict[str, tuple[str, ...]]:
    by_name = {table.collection: table for table in tables}
    chosen: dict[str, tuple[str, ...]] = {}
    for name, columns in selection.columns.items():
        table = by_name.get(_full(name))
        if table is None:
            raise NotFound("columns are chosen of a table that is not", table=name)
        missing = [column for column in columns if column not in table.columns]
        if missing:
            raise NotFound("there is no such column", table=name, columns=missing)
        if not columns:
            raise InvalidRequest("no column of a table is chosen", table=name)
        chosen[table.collection] = tuple(name for name in table.columns if name in columns)
    return chosen
