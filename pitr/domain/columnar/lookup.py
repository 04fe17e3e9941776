"""The history of one row, from the few pages that hold it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.change import Change, Op
from pitr.domain.columnar.footers import FooterCache, RowGroup
from pitr.domain.columnar.pages import column_values, opened, rows_of
from pitr.domain.columnar.rows import DOCUMENT_COLUMNS, changes_of
from pitr.domain.columnar.schema import CHANGE_SCHEMA


def row_history(
    paths: Sequence[Path],
    tail: pa.Table | None,
    collection: str,
    key: str,
    *,
    footers: FooterCache,
) -> list[Change]:
    """Return the changes of a row and the truncates of its collection, newest first.

    Footers, then page bounds, then the key pages that may hold the key, then the pages of the other
    columns with just those rows. Nothing else of the files is read.

    Args:
        paths: Local segment files; no change is in two of them.
        tail: More changes, or None.
        collection: The row's collection.
        key: Its canonical key.
        footers: Kept between calls.

    Raises:
        DataLoss: A file is damaged where it was read.
    """
    keys = (key,) if key == "" else (key, "")
    changes = _tail_changes(tail, collection, keys) if tail is not None and len(tail) else []
    for path in paths:
        for each in keys:
            changes += _file_changes(path, footers, collection, each)
    return sorted(changes, key=lambda change: -change.seq)


def _tail_changes(tail: pa.Table, collection: str, keys: Sequence[str]) -> list[Change]:
    in_collection = pc.is_in(tail["collection"], pa.array([collection], pa.string()))
    of_row = pc.and_(in_collection, pc.is_in(tail["key"], pa.array(keys, pa.string())))
    return changes_of(tail.take(pc.indices_nonzero(of_row)))


def _file_changes(path: Path, footers: FooterCache, collection: str, key: str) -> Iterator[Change]:
    searched = {"collection": collection.encode(), "key": key.encode()}
    groups = footers.footer(path).groups_with(**searched)
    if not groups:
        return
    with opened(path) as file:
        for group in groups:
            for rows in rows_of(file, group, **searched):
                yield from changes_at(file, group, rows, collection=collection, key=key)


def changes_at(
    file: int, group: RowGroup, rows: range, *, collection: str, key: str
) -> Iterator[Change]:
    """Decode the changes in some rows of a group, all of one row of the app.

    Raises:
        ValueError: A page is damaged; also IndexError, struct.error.
    """
    columns = [column_values(file, group, at, rows) for at in _OTHER_COLUMNS]
    for values in zip(*columns, strict=True):
        row = dict(zip(_NAMES, values, strict=True))
        for name in _TEXTS:
            if row[name] is not None:
                row[name] = row[name].decode()
        row["op"] = Op(row["op"])
        yield Change(collection=collection, key=key, **row)


_OTHER_COLUMNS = [
    at for at, name in enumerate(CHANGE_SCHEMA.names) if name not in ("collection", "key")
]
_NAMES = [CHANGE_SCHEMA.names[at] for at in _OTHER_COLUMNS]
_TEXTS = [
    name
    for name in _NAMES
    if CHANGE_SCHEMA.field(name).type == pa.string() and name not in DOCUMENT_COLUMNS
]
