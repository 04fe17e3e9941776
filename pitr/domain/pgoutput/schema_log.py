"""The tables of a source as rows of the log: the schema at T is the state at T of ``pitr.schemas``.

Each row is one table's document, keyed by its collection. A table that is gone, or that goes on
under another key or name, is emptied first: its old rows are no rows of the new one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa

from pitr.domain.change import Op
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.manifest import canonical_json
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.pgoutput.schema_change import difference

SCHEMAS: Final = "pitr.schemas"

NEW: Final = "its rows are read for the first time"
UNDESCRIBED: Final = "it was written to while it was something else than before and after"


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaStep:
    """What became of one table at one place in the stream.

    ``after`` is None for a table that is gone. ``empties`` are collections that have no rows from
    here on. ``reasons`` say why the table has to be read; there are none if it has not.
    """

    before: TableSchema | None
    after: TableSchema | None
    empties: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def is_another(self) -> bool:
        """Whether the rows that were known are not those of the table that is."""
        return self.after is None or bool(self.reasons)


def schema_step(before: TableSchema | None, after: TableSchema) -> SchemaStep | None:
    """Compare what is known of a table with what it is; None if nothing became of it."""
    if before is None:
        return SchemaStep(before=None, after=after, reasons=(NEW,))
    changed = difference(before, after)
    if changed.is_empty:
        return None
    if not changed.must_read_again:
        return SchemaStep(before=before, after=after.following(before))
    loses_rows = changed.key_changed or changed.recreated or changed.detached
    is_other = changed.table_renamed is not None
    empties = (before.collection,) if loses_rows or is_other else ()
    return SchemaStep(before=before, after=after, empties=empties, reasons=changed.reasons)


def schema_steps(
    known: Mapping[int, TableSchema],
    found: Mapping[int, TableSchema],
    *,
    undescribed: Collection[str] = (),
) -> list[SchemaStep]:
    """Compare all tables of a source, by relid; those that are gone come first.

    Args:
        undescribed: Collections with rows in the log that are of another shape than ``known`` and
            ``found`` say. They are emptied.
    """
    gone = [
        SchemaStep(before=before, after=None, empties=(before.collection,))
        for relid, before in known.items()
        if relid not in found
    ]
    steps = []
    for relid, after in found.items():
        before = known.get(relid)
        step = schema_step(before, after)
        names = {each.collection for each in (before, after) if each is not None}
        if not names.isdisjoint(undescribed):
            step = _emptied_first(step or SchemaStep(before=before, after=after))
        if step is not None:
            steps.append(step)
    return gone + steps


def steps_of_relation(
    known: Mapping[int, TableSchema], before: TableSchema | None, after: TableSchema
) -> list[SchemaStep]:
    """Compare one table with what it is; another that had its name is gone, or has another name.

    That one is found again, if it is still there, when all tables are looked at.
    """
    step = schema_step(before, after)
    if step is None:
        return []
    gone = [
        SchemaStep(before=other, after=None, empties=(other.collection,))
        for relid, other in known.items()
        if other.collection == after.collection and relid != after.relid
    ]
    return [*gone, step]


def _emptied_first(step: SchemaStep) -> SchemaStep:
    assert step.after is not None, "it is there"
    empties = dict.fromkeys([*step.empties, step.after.collection])
    return replace(step, empties=tuple(empties), reasons=(*step.reasons, UNDESCRIBED))


def emptying(collections: Iterable[str], *, commit_us: int | None) -> pa.Table:
    """Write that collections have no rows from here on; positions count from 0."""
    return _table([_truncate(collection) for collection in collections], commit_us)


def changes_of_steps(steps: Sequence[SchemaStep], *, commit_us: int | None) -> pa.Table:
    """Write steps as changes of ``DRAFT_SCHEMA``; positions count from 0.

    What is gone comes first: a name that one table had may be another's now.
    """
    rows: list[dict[str, Any]] = []
    for step in steps:
        rows += [_truncate(collection) for collection in step.empties]
        names = [each.collection for each in (step.before, step.after) if each is not None]
        if step.before is not None and (step.after is None or len(set(names)) == 2):
            rows.append({"collection": SCHEMAS, "key": _key(step.before), "op": Op.DELETE.value})
    for step in steps:
        if step.after is not None:
            rows.append(
                {
                    "collection": SCHEMAS,
                    "key": _key(step.after),
                    "op": Op.UPDATE.value,
                    "after": step.after.body().decode(),
                    "reason": "; ".join(step.reasons) or None,
                }
            )
    return _table(rows, commit_us)


def emptied(schemas: Iterable[TableSchema]) -> pa.Table:
    """Write that these tables have to be read anew from their beginning."""
    steps = [
        SchemaStep(before=schema, after=None, empties=(schema.collection,)) for schema in schemas
    ]
    return changes_of_steps(steps, commit_us=None)


def _key(schema: TableSchema) -> str:
    return canonical_json({"collection": schema.collection}).decode()


def _truncate(collection: str) -> dict[str, Any]:
    return {"collection": collection, "key": "", "op": Op.TRUNCATE.value}


def _table(rows: list[dict[str, Any]], commit_us: int | None) -> pa.Table:
    placed = [row | {"position": place, "commit_us": commit_us} for place, row in enumerate(rows)]
    return pa.Table.from_pylist(placed, schema=DRAFT_SCHEMA)
