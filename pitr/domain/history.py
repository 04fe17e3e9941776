"""How a row came to be: its images before and after each change, and the fields that differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pitr.domain.change import Change, Op
from pitr.domain.documents import is_object, members
from pitr.domain.fold import State, apply


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldChange:
    """One top-level member: exact JSON text before and after, None where it was absent."""

    name: str
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RowChange:
    """A change with the whole row before and after it, None where the row was not there."""

    change: Change
    before: bytes | None
    after: bytes | None
    fields: tuple[FieldChange, ...]


def row_changes(changes: Sequence[Change]) -> list[RowChange]:
    """Fold one row's changes (with truncates of its collection) and tell what each did.

    The image before is the one the log knows; where the log knows none, the one that the change
    itself brought along.

    Args:
        changes: Newest first.

    Returns:
        Newest first. A truncate that met no row is left out.
    """
    state: State = {}
    found: list[RowChange] = []
    for change in reversed(changes):
        known = _image(state)
        apply(state, change)
        if change.op is Op.TRUNCATE and known is None:
            continue
        before = known if known is not None else change.before
        after = _image(state)
        fields = field_changes(before, after)
        found.append(RowChange(change=change, before=before, after=after, fields=fields))
    return found[::-1]


def _image(state: State) -> bytes | None:
    return next((row.after for row in state.values()), None)


def field_changes(before: bytes | None, after: bytes | None) -> tuple[FieldChange, ...]:
    """The members whose JSON text differs, in the order of the newer image."""
    old, new = _members(before), _members(after)
    names = [*new, *(name for name in old if name not in new)]
    return tuple(
        FieldChange(name=name, before=old.get(name), after=new.get(name))
        for name in names
        if old.get(name) != new.get(name)
    )


def _members(document: bytes | None) -> dict[str, bytes]:
    return members(document) if document is not None and is_object(document) else {}
