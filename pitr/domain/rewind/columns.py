"""Which columns of a table a rewind writes, compares, keeps and leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pitr.domain.columnar.difference import CollectionDifference
from pitr.domain.errors import InvalidRequest
from pitr.domain.pgoutput.schema import TableSchema

Added = Literal["keep", "default", "refuse"]
Gone = Literal["refuse", "drop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnRules:
    """What happens with columns that exist on one side only.

    ``added`` are those that the database has and the table of then had not: rows that are changed
    keep what they have, or get the column's default; rows that are put back get the default either
    way. ``gone`` are those that rows of then have and the database has not.
    """

    added: Added = "keep"
    gone: Gone = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveColumn:
    """A column of the table as it is."""

    name: str
    generated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OneSided:
    """A column that exists in the ``log`` or in the ``database`` only, and the rule for it."""

    column: str
    side: Literal["log", "database"]
    rule: Literal["keep", "default", "drop", "refuse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnPlan:
    """What is done with the columns of a table.

    ``written`` get what they were; ``expected`` are compared with what the log says they are now;
    ``defaulted`` get their default in rows that are changed.
    """

    written: tuple[str, ...]
    expected: tuple[str, ...]
    defaulted: tuple[str, ...] = ()
    one_sided: tuple[OneSided, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be done with one collection, and what its table was on both sides.

    Schemas are None for what is no table of an attached database.
    """

    difference: CollectionDifference
    schema_then: TableSchema | None = None
    schema_now: TableSchema | None = None

    @property
    def collection(self) -> str:
        """The collection of the rows."""
        return self.difference.collection


def check_keyed(work: Work) -> None:
    """Refuse rows without a key: which of two equal ones is meant cannot be said.

    Raises:
        InvalidRequest: They have none.
    """
    for schema in (work.schema_then, work.schema_now):
        if schema is None or (schema.identity in ("d", "i") and schema.identity_columns):
            continue
        if schema.primary_key is None or schema.primary_key.deferrable:
            raise InvalidRequest(
                "the rows of the table have no key, so none of them can be taken back",
                hint="restore the table into an empty database, or leave it out",
                collection=work.collection,
            )


def column_plan(work: Work, live: Sequence[LiveColumn], rules: ColumnRules) -> ColumnPlan:
    """Decide which columns are written, compared, kept and left out.

    Raises:
        InvalidRequest: A column exists on one side only, and the rule is to refuse that.
    """
    difference = work.difference
    then = _known(difference.members_then | {*difference.key}, work.schema_then)
    now = _known(difference.members_now | {*difference.key}, work.schema_now)
    plain = [column.name for column in live if not column.generated]
    names = {column.name for column in live}
    was = None if work.schema_then is None else {each.name for each in work.schema_then.columns}
    has_rows = bool(difference.inserts or difference.updates)
    added = [
        name
        for name in plain
        if has_rows and ((name not in was) if was is not None else (name not in then | now))
    ]
    gone = sorted(then - names) if has_rows else []
    plan = ColumnPlan(
        written=tuple(name for name in plain if name in then | now and name not in added),
        expected=tuple(name for name in plain if name in now),
        defaulted=tuple(added) if rules.added == "default" else (),
        one_sided=(
            *(OneSided(column=name, side="database", rule=rules.added) for name in added),
            *(OneSided(column=name, side="log", rule=rules.gone) for name in gone),
        ),
    )
    refused = [each.column for each in plan.one_sided if each.rule == "refuse"]
    if refused:
        raise InvalidRequest(
            "columns exist on one side only",
            hint="say what happens to them: keep or default for new ones, drop for those gone",
            collection=work.collection,
            columns=refused,
        )
    return plan


def _known(members: set[str], schema: TableSchema | None) -> set[str]:
    """The members that were columns: older documents may have some that were dropped before."""
    if schema is None:
        return members
    return members & {column.name for column in schema.columns}
