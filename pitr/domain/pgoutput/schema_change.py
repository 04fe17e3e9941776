"""What became of a table between two documents, and whether the log still tells its rows.

DDL changes rows without a message in the stream: a new column's default, a cast, a renamed label.
Where that may be so the table has to be read again. The comparison errs on that side only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from pitr.domain.pgoutput.model import Relation
from pitr.domain.pgoutput.schema import TableColumn, TableSchema, UsedType


@dataclass(frozen=True, slots=True, kw_only=True)
class Retyped:
    """A column of another type; ``same_text`` if each value is written as it was before."""

    name: str
    before: str
    after: str
    same_text: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaChange:
    """The difference of two documents of a table.

    ``added`` are columns, ``filled`` the names of those that may have come with values;
    ``reused`` the names that old rows in the log have for another column. ``rewritten`` says that
    all rows were written anew and a column altered, ``retold`` which types write a value
    otherwise than before, ``attached`` which partitions may have come with rows, ``opened`` those
    that came empty. ``other`` says that only something differs that no row shows: an index, say.
    """

    collection: str
    added: tuple[TableColumn, ...] = ()
    filled: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    retyped: tuple[Retyped, ...] = ()
    table_renamed: tuple[str, str] | None = None
    recreated: bool = False
    key_changed: bool = False
    identity_changed: bool = False
    logging_changed: bool = False
    rewritten: bool = False
    retold: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    attached: tuple[str, ...] = ()
    detached: tuple[str, ...] = ()
    other: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs."""
        return self == SchemaChange(collection=self.collection)

    @property
    def must_read_again(self) -> bool:
        """Whether the rows in the log no longer tell what the table holds."""
        return bool(self.reasons)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the table must be read again, a phrase each."""
        return tuple(self._reasons())

    def _reasons(self) -> Iterator[str]:
        if self.table_renamed is not None:
            yield f"the table was {self.table_renamed[0]} before"
        flags = {
            "it was made anew": self.recreated,
            "its key changed": self.key_changed,
            "its replica identity changed": self.identity_changed,
            "it became logged or unlogged": self.logging_changed,
            "its rows were rewritten": self.rewritten,
        }
        yield from (reason for reason, holds in flags.items() if holds)
        yield from (f"column {old} is {new} now" for old, new in self.renamed)
        yield from (f"column {name} came with values" for name in self.filled)
        yield from (f"column {name} has a name that was another's" for name in self.reused)
        for column in self.retyped:
            if not column.same_text:
                yield f"column {column.name} was {column.before} and is {column.after}"
        yield from (f"type {name} writes values otherwise" for name in self.retold)
        yield from (f"partition {name} was attached" for name in self.attached)
        yield from (f"partition {name} was detached or dropped" for name in self.detached)


def difference(before: TableSchema, after: TableSchema) -> SchemaChange:
    """Say what changed; both are documents of one table, or of two that had one name."""
    old = {column.number: column for column in before.columns}
    new = {column.number: column for column in after.columns}
    kept = [(old[number], new[number]) for number in old if number in new]
    added = tuple(column for number, column in new.items() if number not in old)
    attached, opened, detached = _partitions(before, after)
    written = _is_written_anew(before, after)
    known = {column.name for column in before.columns} | set(before.former)
    shown = SchemaChange(
        collection=after.collection,
        added=added,
        filled=(
            *(column.name for column in added if _may_hold_values(column)),
            *(now.name for was, now in kept if was.generated and not now.generated),
        ),
        reused=tuple(column.name for column in added if column.name in known),
        dropped=tuple(column.name for number, column in old.items() if number not in new),
        renamed=tuple((was.name, now.name) for was, now in kept if was.name != now.name),
        retyped=tuple(
            _retyped(was, now, written=written) for was, now in kept if _type(was) != _type(now)
        ),
        table_renamed=_renamed(before, after),
        recreated=before.relid != after.relid or before.kind != after.kind,
        key_changed=set(before.row_key) != set(after.row_key),
        identity_changed=before.identity != after.identity,
        logging_changed=_is_logged_otherwise(before, after),
        rewritten=written and any(was.written != now.written for was, now in kept),
        retold=_retold(before.types, after.types),
        opened=opened,
        attached=attached,
        detached=detached,
    )
    return replace(shown, other=shown.is_empty and before.digest != after.digest)


def describes(schema: TableSchema, relation: Relation) -> bool:
    """Tell whether rows that the stream brings are of the shape that a document tells of.

    They may lack columns: which are published is not in the document, and what is dropped is seen
    by the next one.
    """
    generated = {column.name for column in schema.columns if column.generated is not None}
    known = {(column.name, column.type_oid, column.typmod) for column in schema.columns}
    sent = {(column.name, column.type_oid, column.typmod) for column in relation.columns}
    return (
        (schema.schema, schema.name, schema.identity)
        == (relation.schema, relation.name, relation.identity)
        and sent <= known
        and {*relation.key} - generated == {*schema.row_key} - generated
    )


def _renamed(before: TableSchema, after: TableSchema) -> tuple[str, str] | None:
    same = (before.schema, before.name) == (after.schema, after.name)
    return None if same else (before.collection, after.collection)


def _type(column: TableColumn) -> tuple[int, int, str]:
    return column.type_oid, column.typmod, column.type


def _may_hold_values(column: TableColumn) -> bool:
    """Whether rows that were there before may have something in a column that was added.

    ``missing`` alone does not tell: a rewrite of the table takes it away. A column that is never
    null was filled somehow. Generated columns are not published.
    """
    if column.generated is not None:
        return False
    return (
        column.missing is not None
        or column.default is not None
        or column.identity != ""
        or column.not_null
    )


TEXT_OID: Final = 25
VARCHAR_OID: Final = 1043
NUMERIC_OID: Final = 1700
_HEADER: Final = 4
"""PostgreSQL counts a header of four bytes in these typmods."""


def _retyped(was: TableColumn, now: TableColumn, *, written: bool) -> Retyped:
    same_text = not written and _is_wider(was, now)
    return Retyped(name=now.name, before=was.type, after=now.type, same_text=same_text)


def _is_wider(was: TableColumn, now: TableColumn) -> bool:
    """Whether every value of the old type is written alike in the new one, unless rewritten."""
    if (was.type_oid, was.typmod) == (now.type_oid, now.typmod):
        return True  # only its name is another
    unlimited = now.typmod == -1
    if was.type_oid in (TEXT_OID, VARCHAR_OID) and now.type_oid in (TEXT_OID, VARCHAR_OID):
        return unlimited or -1 < was.typmod <= now.typmod
    if was.type_oid == now.type_oid == NUMERIC_OID and was.typmod != -1:
        return unlimited or (_scale(was) == _scale(now) and was.typmod <= now.typmod)
    return False


def _scale(column: TableColumn) -> int:
    return (column.typmod - _HEADER) & 0xFFFF


def _is_written_anew(before: TableSchema, after: TableSchema) -> bool:
    """Whether rows were rewritten: by ALTER TABLE, but also by VACUUM FULL, CLUSTER, TRUNCATE."""
    was = {part.relid: part.storage for part in before.partitions} | {before.relid: before.storage}
    now = {part.relid: part.storage for part in after.partitions} | {after.relid: after.storage}
    return any(now[relid] != storage for relid, storage in was.items() if relid in now)


def _is_logged_otherwise(before: TableSchema, after: TableSchema) -> bool:
    was = {part.relid: part.logged for part in before.partitions} | {before.relid: before.logged}
    now = {part.relid: part.logged for part in after.partitions} | {after.relid: after.logged}
    return any(now[relid] != logged for relid, logged in was.items() if relid in now)


def _partitions(
    before: TableSchema, after: TableSchema
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the partitions that came, perhaps with rows, those that came empty, those gone."""
    old = {part.relid: part for part in before.partitions}
    new = {part.relid: part for part in after.partitions}
    come = [part for relid, part in new.items() if relid not in old]
    return (
        tuple(f"{part.schema}.{part.name}" for part in come if not part.born),
        tuple(f"{part.schema}.{part.name}" for part in come if part.born),
        tuple(f"{part.schema}.{part.name}" for relid, part in old.items() if relid not in new),
    )


def _retold(before: tuple[UsedType, ...], after: tuple[UsedType, ...]) -> tuple[str, ...]:
    """Name the types of which a value that was stored before may be written otherwise now."""
    now = {used.oid: used for used in after}
    pairs = ((used, now[used.oid]) for used in before if used.oid in now)
    return tuple(
        f"{new.schema}.{new.name}"
        for old, new in pairs
        if old.attributes != new.attributes or not set(old.labels) <= set(new.labels)
    )
