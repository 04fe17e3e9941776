"""Rewinds: which columns are written, what counts as a conflict, the plan as a document.

A rewind takes rows of a live database back to what they were, and no other row. What differs comes
from the log; the database is asked only whether its rows are what the log says they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import orjson

from pitr.domain.columnar.difference import CollectionDifference
from pitr.domain.errors import Conflict, InvalidRequest
from pitr.domain.manifest import canonical_json, sha256_hex
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.target import Cut, Resolution
from pitr.domain.times import rfc3339

FORMAT_VERSION: Final = 1

CONFLICTS_SHOWN: Final = 20
"""Conflicts of a collection that a plan or an error names."""

CONFLICTS_MAX: Final = 10_000
"""Most conflicts that can be overwritten or skipped at once: they are kept in memory."""

MARK_PREFIX: Final = "before-rewind-"
REASON_PREFIX: Final = "rewind:"
LANE_PREFIX: Final = "rewind:"

Kind = Literal["rewind", "undo"]
OnConflict = Literal["refuse", "overwrite", "skip"]
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


# What is found in the database ------------------------------------------------------------------

ConflictKind = Literal["changed", "gone", "appeared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowConflict:
    """A row of the database that is not what the log says it is now.

    It ``changed`` in ``columns``, is ``gone``, or ``appeared``. ``live`` is the row as it is, JSON,
    where that was asked for.
    """

    collection: str
    key: str
    kind: ConflictKind
    columns: tuple[str, ...] = ()
    live: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which database it is. ``system`` is its cluster's identifier, None if that is not told."""

    url: str
    system: str | None
    database: str
    database_oid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSight:
    """A table of the database as a rewind sees it."""

    collection: str
    table: str
    columns: ColumnPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSight:
    """A sequence that is moved, because a row that is put back has a value past it."""

    sequence: str
    table: str
    column: str
    to: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a rewind sees in a database before it changes anything.

    ``tables`` come parents first. ``conflicts`` are some of those there are, ``conflict_counts``
    all of them by collection. ``settled`` rows are as they were already. Sequences and conflicts
    are only looked at for a plan.
    """

    place: Place
    tables: tuple[TableSight, ...]
    conflicts: tuple[RowConflict, ...] = ()
    conflict_counts: Mapping[str, int] = field(default_factory=dict)
    settled: Mapping[str, int] = field(default_factory=dict)
    sequences: tuple[SequenceSight, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Rows of one collection that were written."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0

    @property
    def count(self) -> int:
        """All of them."""
        return self.inserted + self.updated + self.deleted


# The plan ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CutWithTorn:
    """A cut, with the first seq of each transaction that it leaves out."""

    seq_end: int
    at_us: int | None = None
    torn: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, resolution: Resolution) -> CutWithTorn:
        """The cut of a resolved target."""
        cut = resolution.cut
        return cls(
            seq_end=cut.seq_end,
            at_us=cut.at_us,
            torn={tx: resolution.torn.get(tx, 1) for tx in cut.without_tx},
        )

    @property
    def cut(self) -> Cut:
        """As replays take it."""
        return Cut(seq_end=self.seq_end, at_us=self.at_us, without_tx=frozenset(self.torn))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What a rewind is about; all that can change by it.

    ``then`` is the moment it goes back to, ``now`` what it goes back from. ``operation`` is the
    one that an undo undoes.
    """

    kind: Kind
    log: str
    log_id: str
    then: CutWithTorn
    now: CutWithTorn
    collections: frozenset[str] | None = None
    keys: frozenset[tuple[str, str]] | None = None
    operation: str | None = None
    rules: ColumnRules = field(default_factory=ColumnRules)

    def document(self) -> dict[str, Any]:
        """As it stands in a plan."""
        return {
            "kind": self.kind,
            "log": self.log,
            "log_id": self.log_id,
            "then": _cut_document(self.then),
            "now": _cut_document(self.now),
            "collections": None if self.collections is None else sorted(self.collections),
            "keys": None if self.keys is None else [list(row) for row in sorted(self.keys)],
            "operation": self.operation,
            "rules": asdict(self.rules),
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Scope:
        """Read it back."""
        collections, keys = document["collections"], document["keys"]
        return cls(
            kind=document["kind"],
            log=document["log"],
            log_id=document["log_id"],
            then=_cut_of(document["then"]),
            now=_cut_of(document["now"]),
            collections=None if collections is None else frozenset(collections),
            keys=None if keys is None else frozenset((name, key) for name, key in keys),
            operation=document["operation"],
            rules=ColumnRules(**document["rules"]),
        )


def _cut_document(cut: CutWithTorn) -> dict[str, Any]:
    at = None if cut.at_us is None else rfc3339(cut.at_us)
    return {"seq_end": cut.seq_end, "at_us": cut.at_us, "at": at, "without_tx": dict(cut.torn)}


def _cut_of(document: Mapping[str, Any]) -> CutWithTorn:
    return CutWithTorn(
        seq_end=document["seq_end"], at_us=document["at_us"], torn=document["without_tx"]
    )


def does(
    scope: Scope, differences: Mapping[str, CollectionDifference], sight: Sight
) -> dict[str, Any]:
    """Write down what a rewind would do: the part of a plan that its hash is over."""
    columns = {each.collection: each for each in sight.tables}
    return {
        "format": FORMAT_VERSION,
        "scope": scope.document(),
        "collections": [
            _collection_document(each, columns[each.collection])
            for each in differences.values()
            if each.count
        ],
        "order": [each.table for each in sight.tables],
        "sink": asdict(sight.place),
    }


def _collection_document(difference: CollectionDifference, table: TableSight) -> dict[str, Any]:
    return {
        "collection": difference.collection,
        "table": table.table,
        "key": list(difference.key),
        "insert": difference.inserts,
        "update": difference.updates,
        "delete": difference.deletes,
        "unknown": difference.unknown,
        "rows_sha256": difference.sha256,
        "columns": list(table.columns.written),
        "columns_on_one_side": [asdict(each) for each in table.columns.one_sided],
    }


def plan_hash(does: Mapping[str, Any]) -> str:
    """SHA-256, hex, of what a rewind would do."""
    return sha256_hex(canonical_json(does))


@dataclass(frozen=True, slots=True, kw_only=True)
class RewindPlan:
    """A rewind as it was shown. ``does`` is what is hashed; ``seen`` is only for its reader."""

    does: Mapping[str, Any]
    hash: str
    seen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scope(self) -> Scope:
        """What it is about."""
        return Scope.of_document(self.does["scope"])

    @property
    def row_count(self) -> int:
        """Rows that differ."""
        return sum(
            each["insert"] + each["update"] + each["delete"] for each in self.does["collections"]
        )

    def document(self) -> dict[str, Any]:
        """The plan as JSON has it."""
        return {"does": self.does, "seen": self.seen, "hash": self.hash}

    def body(self) -> bytes:
        """The plan as canonical JSON."""
        return canonical_json(self.document())

    @classmethod
    def of_body(cls, body: bytes) -> RewindPlan:
        """Read a plan back.

        Raises:
            InvalidRequest: It is none, or was altered.
        """
        try:
            document = orjson.loads(body)
            does, seen, digest = document["does"], document["seen"], document["hash"]
            if does["format"] != FORMAT_VERSION:
                raise ValueError("unknown format version")
            plan = cls(does=does, seen=seen, hash=digest)
            scope = plan.scope
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidRequest("this is no plan of a rewind", reason=str(error)) from error
        if plan_hash(does) != digest or scope.document() != does["scope"]:
            raise InvalidRequest("the plan was altered", hint="make it anew", hash=digest)
        return plan


def check_same(planned: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Check that what would be done is what was planned.

    Raises:
        Conflict: It is not; facts say what changed.
    """
    if plan_hash(planned) == plan_hash(found):
        return
    raise Conflict(
        "the plan does not hold any more",
        hint="make it anew, and look at what it says now",
        changed="; ".join(_changes(planned, found)),
    )


def _changes(planned: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    changes = []
    if planned["sink"] != found["sink"]:
        changes.append("the database is another one")
    before = {each["collection"]: each for each in planned["collections"]}
    after = {each["collection"]: each for each in found["collections"]}
    for name in sorted(before.keys() | after.keys()):
        was, is_ = before.get(name, {}), after.get(name, {})
        if was.get("rows_sha256") != is_.get("rows_sha256"):
            changes.append(f"rows of {name} changed since")
        elif was != is_:
            changes.append(f"the table of {name} changed")
    if planned["order"] != found["order"] and not changes:
        changes.append("foreign keys changed")
    return changes or ["the target"]


def reason_of(operation_id: str, reason: str | None = None) -> str:
    """The reason that the changes of a rewind give: its id, and what its caller says."""
    named = f"{REASON_PREFIX}{operation_id}"
    return named if reason is None else f"{named}: {reason}"
