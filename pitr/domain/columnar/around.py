"""The transactions that a seq would tear, found in the changes around it (invariant 5).

Changes behind the seq name them. In front of it, where the large files are, only these names are
searched, by their bytes in the pages of transactions: a page is decoded if it has one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pitr.domain.columnar import values
from pitr.domain.columnar.engine import translated
from pitr.domain.columnar.footers import FooterCache, RowGroup
from pitr.domain.columnar.pages import column_values, opened, page_at
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.columnar.single import SEQ, TooMuch, page_integers, page_rows

NAMES_MAX: Final = 64
"""Transactions that are searched for by their bytes."""

PAGES_MAX: Final = 16
"""Pages of a file that are decoded row by row: for more pyarrow reads whole columns."""

BATCH_ROWS: Final = 65_536
"""Rows in memory at a time, of two columns."""

TX: Final = CHANGE_SCHEMA.get_field_index("tx")

FirstSeqs = dict[str, int]
"""First seq by transaction."""


def transactions_around(
    before: Sequence[Path],
    after: Sequence[Path],
    tail: pa.Table,
    *,
    window: range,
    seq_end: int,
    footers: FooterCache,
) -> list[tuple[int, str]]:
    """Return what tells which transactions have changes on both sides of ``seq_end``.

    Args:
        before: The files with changes of the window in front of ``seq_end``.
        after: Those with changes of the window from there on.
        tail: More changes.
        window: The seqs that are looked at.

    Returns:
        The first (seq, tx) in the window of transactions that have some in it, on each side, in
        seq order; in front only of those that have some behind.

    Raises:
        DataLoss: A file is damaged where it was read.
    """
    front, back = range(window.start, seq_end), range(seq_end, window.stop)
    with translated():
        waiting = tail.select(_NARROW).to_batches()
        behind = _first_of(chain(waiting, *(_changes(path, back) for path in after)), back)
        if not behind:
            return []
        names = frozenset(behind)
        found = [behind, _first_of(waiting, front, names)]
        found += [_first_in(path, names, front, footers) for path in before]
    return sorted((seq, tx) for each in found for tx, seq in each.items())


def _first_in(path: Path, names: frozenset[str], seqs: range, footers: FooterCache) -> FirstSeqs:
    try:
        if len(names) <= NAMES_MAX:
            return _first_picked(path, names, seqs, footers)
    except TooMuch:
        pass
    return _first_of(_changes(path, seqs), seqs, names)


# As bytes in pages ------------------------------------------------------------------------------


def _first_picked(
    path: Path, names: frozenset[str], seqs: range, footers: FooterCache
) -> FirstSeqs:
    found: FirstSeqs = {}
    groups = footers.footer(path).groups
    with opened(path) as file:
        with_names = _pages_with(file, groups, names, seqs)
        for count, (group, rows) in enumerate(with_names):
            if count == PAGES_MAX:
                raise TooMuch
            wanted = column_values(file, group, TX, rows)
            for seq, tx in zip(column_values(file, group, SEQ, rows), wanted, strict=True):
                if seq in seqs and tx is not None and (name := tx.decode()) in names:
                    found[name] = min(seq, found.get(name, seq))
    return found


def _pages_with(
    file: int, groups: Iterable[RowGroup], names: frozenset[str], seqs: range
) -> Iterator[tuple[RowGroup, range]]:
    """Yield the rows of pages that have some of the seqs, and some of the names."""
    texts = [len(name).to_bytes(4, "little") + name for name in map(str.encode, sorted(names))]
    some = re.compile(b"|".join(map(re.escape, texts)))
    for group in groups:
        if group.chunks[TX].is_null:
            continue
        pages, bounds = group.pages(file, TX), page_integers(file, group, SEQ)
        if bounds is None or pages.rows_first != group.pages(file, SEQ).rows_first:
            raise TooMuch
        for number, (least, most) in enumerate(bounds):
            if least < seqs.stop and most >= seqs.start:
                page = page_at(file, *pages.place(number))
                if page.encoding != values.PLAIN:
                    raise TooMuch
                if some.search(_distinct(page.body)):
                    yield group, page_rows(file, group, TX, number)


def _distinct(body: bytes) -> bytes:
    """Return a page of nullable PLAIN text; if it is one text again and again, that one."""
    start = 4 + int.from_bytes(body[:4], "little")
    one = body[start : start + 4 + int.from_bytes(body[start : start + 4], "little")]
    again = one * ((len(body) - start) // max(len(one), 1))
    return one if again == body[start:] else body


# As columns -------------------------------------------------------------------------------------


def _changes(path: Path, seqs: range) -> Iterator[pa.RecordBatch]:
    """Yield (seq, tx) of the row groups of a file that have some of the seqs."""
    with (
        pa.OSFile(str(path)) as source,
        pq.ParquetFile(source, page_checksum_verification=True) as file,
    ):
        groups = [
            number
            for number in range(file.num_row_groups)
            if _overlaps(file.metadata.row_group(number).column(SEQ).statistics, seqs)
        ]
        yield from file.iter_batches(
            BATCH_ROWS, row_groups=groups, columns=_NARROW, use_threads=False
        )


_NARROW: Final = ["seq", "tx"]


def _overlaps(statistics: pq.Statistics | None, seqs: range) -> bool:
    if statistics is None or not statistics.has_min_max:
        return True
    return bool(statistics.min < seqs.stop and statistics.max >= seqs.start)


def _first_of(
    batches: Iterable[pa.RecordBatch], seqs: range, names: frozenset[str] | None = None
) -> FirstSeqs:
    """Return the first of ``seqs`` of each transaction, or of those with the given names."""
    wanted = None if names is None else pa.array(sorted(names), pa.string())
    found: FirstSeqs = {}
    for batch in batches:
        seq = batch["seq"].to_numpy()
        chosen = (seq >= seqs.start) & (seq < seqs.stop)
        if wanted is not None:
            chosen &= pc.is_in(batch["tx"], wanted).to_numpy(zero_copy_only=False)
        elif batch["tx"].null_count:
            chosen &= batch["tx"].is_valid().to_numpy(zero_copy_only=False)
        near = batch if chosen.all() else batch.filter(pa.array(chosen))
        coded = near["tx"].dictionary_encode()
        first = np.full(len(coded.dictionary), _NEVER)
        np.minimum.at(first, coded.indices.to_numpy(), near["seq"].to_numpy())
        for tx, least in zip(coded.dictionary.to_pylist(), first.tolist(), strict=True):
            found[tx] = min(least, found.get(tx, least))
    return found


_NEVER: Final = np.iinfo(np.int64).max
