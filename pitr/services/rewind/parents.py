"""Finds the rows that others refer to, as they were at a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import msgspec
import pyarrow as pa

from pitr.domain.columnar.difference import CollectionDifference
from pitr.domain.columnar.replay import Replay
from pitr.domain.documents import is_object, members
from pitr.domain.keys import canonical_key
from pitr.domain.log import LogView
from pitr.domain.numbers import Number, number_of
from pitr.domain.rewind.scope import CutWithTorn
from pitr.domain.rewind.sight import MissingParent
from pitr.services.archive import Archive

BROUGHT_MAX: Final = 10_000
"""How many rows are brought along at most."""

ROUNDS_MAX: Final = 32
"""How many generations of rows that refer to each other are brought along at most."""

Row = tuple[str, str]
Values = tuple[str | Number, ...]
Sought = dict[tuple[str, tuple[str, ...]], dict[Values, str]]
"""By collection and columns: what rows have in these, and their key if that is their key."""

_text: Final = msgspec.json.Decoder(str)


async def parents_then(
    archive: Archive,
    view: LogView,
    then: CutWithTorn,
    missing: Sequence[MissingParent],
    differences: Mapping[str, CollectionDifference],
) -> set[Row]:
    """Find rows that are referred to and missing, by collection and key.

    Values are taken from the documents of the rows that refer, not from the database: documents of
    one source are written alike. Rows are looked up by their key first; a collection is read as a
    whole only for those that are not found so.

    Raises:
        DataLoss: An object is missing, damaged or another one.
    """
    sought = await asyncio.to_thread(_sought, missing, differences)
    found: set[Row] = set()
    for (collection, columns), wanted in sought.items():
        keys = frozenset((collection, key) for key in wanted.values())
        for chosen in (keys, None):
            if wanted:
                async with _state(archive, view, then, collection, chosen) as state:
                    batches = state.all_rows()
                    found |= await asyncio.to_thread(_matching, batches, columns, wanted)
    return found


def _state(
    archive: Archive,
    view: LogView,
    then: CutWithTorn,
    collection: str,
    keys: frozenset[Row] | None,
) -> AbstractAsyncContextManager[Replay]:
    names = frozenset({collection})
    reads = archive.reads(view, then.cut, torn=dict(then.torn), collections=names)
    return archive.state(view, reads, collections=names, keys=keys)


def _sought(
    missing: Sequence[MissingParent], differences: Mapping[str, CollectionDifference]
) -> Sought:
    """Read what the missing rows have in the columns that they are referred to by."""
    found: Sought = {}
    children: dict[str, set[str]] = {}
    for each in missing:
        children.setdefault(each.collection, set()).add(each.key)
    documents = {
        (name, key): document
        for name, keys in children.items()
        for key, document in _rows(differences[name].rows("then"))
        if key in keys
    }
    for each in missing:
        document = documents.get((each.collection, each.key))
        if each.parent is None or document is None:
            continue
        raw = _raw(each.key, document, each.columns)
        values = _values(raw)
        if raw is None or values is None:
            continue
        named = zip(each.parent_columns, raw, strict=True)
        key = b"{" + b",".join(msgspec.json.encode(n) + b":" + value for n, value in named) + b"}"
        found.setdefault((each.parent, each.parent_columns), {})[values] = canonical_key(key)
    return found


def _matching(
    batches: Iterable[pa.RecordBatch], columns: tuple[str, ...], wanted: dict[Values, str]
) -> set[Row]:
    """Return the rows that have what is wanted, which is struck off then."""
    found: set[Row] = set()
    for batch in batches:
        names = batch["collection"].to_pylist()
        for name, (key, document) in zip(names, _rows([batch]), strict=True):
            values = _values(_raw(key, document, columns))
            if values is not None and values in wanted:
                found.add((name, key))
                del wanted[values]
    return found


def _rows(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, str]]:
    for batch in batches:
        yield from zip(batch["key"].to_pylist(), batch["after"].to_pylist(), strict=True)


def _raw(key: str, document: str, columns: Sequence[str]) -> list[bytes] | None:
    """What a row has in some columns, by its document or else by its key."""
    body = document.encode()
    parts = members(key.encode()) | (members(body) if is_object(body) else {})
    return [parts[name] for name in columns] if parts.keys() >= {*columns} else None


def _values(raw: Sequence[bytes] | None) -> Values | None:
    """The values of JSON texts, in a form in which equal ones are equal; None if one is null."""
    if raw is None or b"null" in raw:
        return None
    return tuple(map(_value, raw))


def _value(raw: bytes) -> str | Number:
    if raw[:1] == b'"':
        return _text.decode(raw)
    text = raw.decode()
    return number_of(text) or text
