"""The history of one row, from the few pages that hold it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.change import Change
from pitr.domain.columnar.footers import Footer, FooterCache
from pitr.domain.columnar.pages import COLLECTION, KEY, PageReader, rows_with
from pitr.domain.columnar.rows import changes_of


def row_history(
    paths: Sequence[Path],
    tail: pa.Table | None,
    collection: str,
    key: str,
    *,
    footers: FooterCache,
    seq_first: int = 1,
    seq_end: int | None = None,
) -> list[Change]:
    """Return the changes of a row and the truncates of its collection, newest first.

    Footers, then page bounds, then the key pages that may hold the key, then the other columns of
    just those rows. Nothing else of the files is read.

    Args:
        paths: Local segment files; no change is in two of them.
        tail: More changes, or None.
        collection: The row's collection.
        key: Its canonical key.
        footers: Kept between calls.
        seq_first: Leave out changes before.
        seq_end: Leave out changes from here on.

    Raises:
        DataLoss: A file is damaged where it was read.
    """
    wanted = (key,) if key == "" else (key, "")
    gathered = PageReader()
    for path in paths:
        _gather(gathered, path, footers.footer(path), collection, wanted)
    table = gathered.table()
    if tail is not None:
        table = pa.concat_tables([table, tail])
    of_row = pc.equal(table["collection"], collection)
    of_key = pc.is_in(table["key"], pa.array(wanted))
    in_range = pc.greater_equal(table["seq"], seq_first)
    if seq_end is not None:
        in_range = pc.and_(in_range, pc.less(table["seq"], seq_end))
    places = pc.indices_nonzero(pc.and_(pc.and_(of_row, of_key), in_range))
    return sorted(changes_of(table.take(places)), key=lambda change: -change.seq)


def _gather(
    gathered: PageReader, path: Path, footer: Footer, collection: str, keys: Sequence[str]
) -> None:
    name, values = collection.encode(), [key.encode() for key in keys]
    with _opened(path) as file:
        for group in footer.groups:
            rows: list[range] = []
            for value in values:
                if group.may_hold({COLLECTION: name, KEY: value}):
                    rows += rows_with(file, group, collection=name, key=value)
            if rows:
                gathered.add(footer.schema_elements, file, group, rows)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    file = os.open(path, os.O_RDONLY)
    try:
        yield file
    finally:
        os.close(file)
