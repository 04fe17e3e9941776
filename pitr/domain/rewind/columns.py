"""Which columns of a table a rewind writes, compares, keeps and leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pitr.domain.columnar.difference import CollectionDifference
from pitr.domain.errors import Conflict, InvalidRequest
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
class Schemas:
    """What the table of a collection was at both moments; None if it is none that is captured."""

    then: TableSchema | None = None
    now: TableSchema | None = None

    @property
    def newest(self) -> TableSchema | None:
        """What it is, or was at last."""
        return self.now or self.then


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be done with one collection, and what its table was on both sides.

    Schemas are None for what is no table of an attached database. ``scanned`` is the whole state,
    if the table is compared with that.
    """

    difference: CollectionDifference
    scanned: CollectionDifference | None = None
    schema_then: TableSchema | None = None
    schema_now: TableSchema | None = None

    @property
    def collection(self) -> str:
        """The collection of the rows."""
        return self.difference.collection

    @property
    def schemas(self) -> Schemas:
        """What its table was on both sides."""
        return Schemas(then=self.schema_then, now=self.schema_now)

    @property
    def key(self) -> tuple[str, ...]:
        """The columns of its rows' key."""
        if self.difference.key or self.scanned is None:
            return self.difference.key
        return self.scanned.key

    @property
    def members_then(self) -> set[str]:
        """What documents of then have."""
        state = set[str]() if self.scanned is None else self.scanned.members_then
        return self.difference.members_then | state

    @property
    def has_rows(self) -> bool:
        """Whether rows are put back or changed, as far as the log can tell."""
        each = self.difference
        return bool(each.inserts or each.updates or (self.scanned and self.scanned.inserts))


def whole_work(
    collection: str,
    difference: CollectionDifference | None,
    state: CollectionDifference | None,
    schema_then: TableSchema | None,
    schema_now: TableSchema | None,
) -> Work | None:
    """Say what it takes to compare a table with a whole state; None if its key is not known.

    Args:
        collection: Which one.
        difference: What the log says differs; None if nothing does.
        state: Its rows then; None if there were none.
        schema_then: What its table was.
        schema_now: What its table is.

    Raises:
        Conflict: It was keyed otherwise then; or the log cannot say what some rows were.
    """
    difference = difference or CollectionDifference(collection=collection)
    if difference.unknown:
        raise Conflict(
            "the log does not know what rows of the table were then",
            hint="go to a later moment, or do not scan: these rows then stay as they are",
            collection=collection,
            rows=difference.unknown,
        )
    state = state or CollectionDifference(collection=collection)
    schema = schema_now or schema_then
    named = () if schema is None else tuple(sorted(schema.row_key))
    keys = {each for each in (difference.key, state.key) if each}
    if len(keys) > 1:
        raise Conflict(
            "the rows of the table had another key at the target",
            hint="restore the table into an empty database instead",
            collection=collection,
        )
    difference.key = next(iter(keys), named)
    if not difference.key:
        return None
    return Work(
        difference=difference, scanned=state, schema_then=schema_then, schema_now=schema_now
    )


def is_keyed(schema: TableSchema | None) -> bool:
    """Tell whether the rows of a table have a key, as far as that is known."""
    if schema is None or (schema.identity in ("d", "i") and schema.identity_columns):
        return True
    return schema.primary_key is not None and not schema.primary_key.deferrable


def check_keyed(work: Work) -> None:
    """Refuse rows without a key: which of two equal ones is meant cannot be said.

    Raises:
        InvalidRequest: They have none.
    """
    if not (is_keyed(work.schema_then) and is_keyed(work.schema_now)):
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
    then = _known(work.members_then | {*work.key}, work.schema_then)
    now = _known(difference.members_now | {*work.key}, work.schema_now)
    plain = [column.name for column in live if not column.generated]
    names = {column.name for column in live}
    was = None if work.schema_then is None else {each.name for each in work.schema_then.columns}
    has_rows = work.has_rows
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
