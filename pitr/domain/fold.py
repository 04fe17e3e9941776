"""What a change means: the one definition, plain Python; what is fast is tested against it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pitr.domain.change import Change, Op
from pitr.domain.documents import fill_unchanged, merge_patch
from pitr.domain.target import Cut

State = dict[tuple[str, str], Change]
"""Living rows by (collection, key); each is its newest change, with ``after`` complete."""


def fold(changes: Iterable[Change], cut: Cut) -> State:
    """Fold changes, in seq order, into the state at ``cut``."""
    state: State = {}
    for change in changes:
        if cut.holds(seq=change.seq, at_us=change.at_us, tx=change.tx):
            apply(state, change)
    return state


def apply(state: State, change: Change) -> None:
    """Apply one change to ``state``, in place."""
    row = (change.collection, change.key)
    match change.op:
        case Op.TRUNCATE:
            for other in [other for other in state if other[0] == change.collection]:
                del state[other]
        case Op.DELETE:
            state.pop(row, None)
        case Op.PATCH:
            state[row] = patched(state.get(row), change)
        case Op.CREATE | Op.UPDATE | Op.READ:
            state[row] = change


def patched(previous: Change | None, change: Change) -> Change:
    """Resolve a patch against the row's previous image.

    The result is the patch's own change as an ``update`` with the whole row in ``after``; a patch
    of a row that does not exist patches the empty object (RFC 7396).
    """
    assert change.after is not None, "a patch has a document"
    target = previous.after if previous is not None else None
    after = patched_document(target, change.after, change.unchanged)
    return replace(change, op=Op.UPDATE, after=after, before=None, unchanged=None)


def patched_document(target: bytes | None, after: bytes, unchanged: bytes | None) -> bytes:
    """Resolve a patch against the row's document, None if there is no row."""
    if unchanged is None:
        return merge_patch(target, after)
    return fill_unchanged(target, after, unchanged)
