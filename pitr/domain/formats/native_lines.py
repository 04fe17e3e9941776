"""The native format, thousands of changes at once, several times faster than one by one.

It gives exactly what ``native.draft_of`` gives for each of its items, or gives up (see ``bulk``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.change import COLLECTION_BYTES_MAX, KEY_BYTES_MAX
from pitr.domain.formats.bulk import (
    ABSENT_JSON,
    Documents,
    Unsure,
    columns_of,
    decoded,
    is_shortest,
    positions_column,
    require_distinct_names,
)
from pitr.domain.formats.draft import table_of_columns
from pitr.domain.formats.fields import TEXT_BYTES_MAX, key_of
from pitr.domain.formats.flaw import Flaw
from pitr.domain.formats.times import commit_us_column
from pitr.domain.keys import CANONICAL_SIMPLE, SIMPLIFICATIONS

Text = TypeVar("Text", str | None, str | int | None)

_ABSENT: Final = "\0absent"
"""Stands for an absent text. A text with a NUL is refused, so no change can hold it. It is known
by its identity, which a text of one character would share with all that are equal to it."""

_RowOp = Literal["create", "update", "patch", "read", "delete"]


class _Line(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    collection: str
    key: msgspec.Raw
    op: _RowOp | msgspec.UnsetType | None = msgspec.UNSET
    after: msgspec.Raw = ABSENT_JSON
    before: msgspec.Raw = ABSENT_JSON
    at: str | int | None = _ABSENT
    tx: str | None = _ABSENT
    actor: str | None = _ABSENT
    reason: str | None = _ABSENT
    meta: msgspec.Raw = ABSENT_JSON


_lines = msgspec.json.Decoder(_Line)

_OP_OF: Final = {
    (op, first): actual
    for ops, firsts, actual in (
        (["create"], [b"{"], "create"),
        (["update", None, msgspec.UNSET], [b"{"], "update"),
        (["patch"], [b"{"], "patch"),
        (["read"], [b"{"], "read"),
        (["delete"], [b"", b"n"], "delete"),
        ([None, msgspec.UNSET], [b"n"], "delete"),
    )
    for op in ops
    for first in firsts
}
"""The op, by what ``op`` says and how ``after`` begins. What is not here is read one by one."""


def table_of_items(items: Sequence[bytes], positions: Sequence[int]) -> pa.Table:
    """Read many changes at once, all of them good.

    Args:
        items: At least one.
        positions: Where each stands in its lane.

    Raises:
        Unsure: At least one is flawed, or unusual.
    """
    blob = b"\n".join(items)
    lines = decoded(blob, items, _lines)
    collection, key, op, after, before, at, tx, actor, reason, meta = columns_of(lines)
    documents = [Documents(each) for each in (after, before, meta)]
    keys = Documents(key)
    if not (
        is_shortest(lines, len(blob) - (len(items) - 1))
        and all(column.repeat_no_name() for column in documents)
    ):
        names_count = sum(column.names_count() for column in [keys, *documents])
        names_count += len(lines) - op.count(msgspec.UNSET)
        names_count += sum(len(lines) - texts.count(_ABSENT) for texts in (at, tx, actor, reason))
        names_count += len(lines)  # Each has its collection.
        require_distinct_names(blob, items, names_count)
    return table_of_columns(
        [
            _collection_column(collection),
            _key_column(keys),
            _op_column(op, documents[0]),
            documents[0].column(),
            documents[1].column(),
            pa.nulls(len(lines), pa.string()),
            _time_column(at),
            positions_column(positions),
            _text_column(tx),
            _text_column(actor),
            _text_column(reason),
            documents[2].column(),
        ]
    )


def _collection_column(values: Sequence[str]) -> pa.Array:
    for value in set(values):
        if not value or "\0" in value or len(value.encode()) > COLLECTION_BYTES_MAX:
            raise Unsure
    return pa.array(values, pa.string())


def _key_column(documents: Documents) -> pa.Array:
    """Give the canonical keys. None of them repeats a name."""
    keys = documents.texts()
    if _all_simple(keys):
        return keys
    for pattern, replacement in SIMPLIFICATIONS:
        keys = pc.replace_substring_regex(keys, pattern, replacement)
    if _all_simple(keys):
        return keys
    try:
        return pa.array(map(key_of, documents.values()), pa.string())
    except Flaw as flaw:
        raise Unsure from flaw


def _all_simple(keys: pa.Array) -> bool:
    if pc.max(pc.binary_length(keys)).as_py() > KEY_BYTES_MAX:
        return False
    return bool(pc.all(pc.match_substring_regex(keys, CANONICAL_SIMPLE)).as_py())


def _op_column(ops: Sequence[str | msgspec.UnsetType | None], after: Documents) -> pa.Array:
    firsts = after.firsts()
    try:
        actual = {said: _OP_OF[said] for said in set(zip(ops, firsts, strict=True))}
    except KeyError as error:
        raise Unsure from error
    if all(op == meant for (op, _), meant in actual.items()):
        return pa.array(ops, pa.string())
    return pa.array(map(actual.__getitem__, zip(ops, firsts, strict=True)), pa.string())


def _time_column(values: Sequence[str | int | None]) -> pa.Array:
    try:
        return commit_us_column(_present(values))
    except Flaw as flaw:
        raise Unsure from flaw


def _text_column(values: Sequence[str | None]) -> pa.Array:
    texts = pa.array(_present(values), pa.string())
    if texts.null_count == len(texts):
        return texts
    if b"\0" in texts.buffers()[2].to_pybytes():
        raise Unsure
    if pc.max(pc.binary_length(texts)).as_py() > TEXT_BYTES_MAX:
        raise Unsure
    return texts


def _present(values: Sequence[Text]) -> list[Text | None]:
    """Turn what is absent into None, and nothing else: a text may well be a NUL."""
    if _ABSENT not in values:
        return list(values)
    return [None if value is _ABSENT else value for value in values]
