"""Single changes beside a log time or a seq, from the few pages that can hold them.

The best is searched first (branch and bound): row groups, then their pages, wait in the order of
the best row that their bounds allow, and what can hold none better than the one found is never
read. Where bounds tell too little, as of times deep in merged history, the engine of ``scan`` reads
whole columns.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pitr.domain.change import Change
from pitr.domain.columnar import scan
from pitr.domain.columnar.engine import translated
from pitr.domain.columnar.footers import COLLECTION, KEY, FooterCache, RowGroup
from pitr.domain.columnar.lookup import changes_at
from pitr.domain.columnar.pages import column_values, opened
from pitr.domain.columnar.rows import changes_of
from pitr.domain.columnar.schema import CHANGE_SCHEMA

PAGES_MAX: Final = 8
"""Pages of one search: where it takes more, the engine takes less time."""

AT_US: Final = CHANGE_SCHEMA.get_field_index("at_us")
SEQ: Final = CHANGE_SCHEMA.get_field_index("seq")

_ANY: Final = (1 << 63) - 1


def neighbours(
    paths: Sequence[Path], tail: pa.Table | None, at_us: int, *, footers: FooterCache
) -> tuple[Change | None, Change | None]:
    """Return the last change with log time up to ``at_us``, and the first one after it.

    Of equal times the higher seq is later.

    Raises:
        DataLoss: A file is damaged where it was read.
    """
    with translated():
        try:
            before = _Order(columns=(AT_US, SEQ), limit=(at_us, _ANY), sign=1)
            after = _Order(columns=(AT_US, SEQ), limit=(-at_us - 1, _ANY), sign=-1)
            return _best(paths, tail, before, footers), _best(paths, tail, after, footers)
        except TooMuch:
            return scan.neighbours(paths, tail, at_us)


def changes_beside(
    paths: Sequence[Path], tail: pa.Table | None, seq_end: int, *, footers: FooterCache
) -> tuple[Change | None, Change | None]:
    """Return the change right before ``seq_end``, and the one that has it.

    Raises:
        DataLoss: A file is damaged where it was read.
    """
    with translated():
        try:
            before = _Order(columns=(SEQ,), limit=(seq_end - 1,), sign=1)
            after = _Order(columns=(SEQ,), limit=(-seq_end,), sign=-1)
            beside = [_best(paths, tail, before, footers), _best(paths, tail, after, footers)]
        except TooMuch:
            span = {"seq_first": seq_end - 1, "seq_end": seq_end + 1}
            beside = [*scan.changes_between(paths, tail, **span)]
    found = {change.seq: change for change in beside if change is not None}
    return found.get(seq_end - 1), found.get(seq_end)


class TooMuch(Exception):
    """A search that is not for this way."""


Rank = tuple[int, ...]
"""Values of a row, with the sign of their order: of two rows the one with more is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """The best row has the most in the first of ``columns``, then in the next, with none over
    ``limit``. With ``sign`` -1 all values are negative: it has the least."""

    columns: tuple[int, ...]
    limit: Rank
    sign: int

    def best_of(self, bounds: Sequence[tuple[int, int]]) -> Rank | None:
        """Return the best that rows within the bounds of each column can have."""
        ends = [(self.sign * least, self.sign * most) for least, most in bounds]
        if any(min(pair) > most for pair, most in zip(ends, self.limit, strict=True)):
            return None
        return tuple(min(max(pair), most) for pair, most in zip(ends, self.limit, strict=True))

    def best_row(self, values: Sequence[npt.NDArray[np.int64]]) -> tuple[Rank, int] | None:
        """Return the best of some rows: what it has in each column, and which it is."""
        rows, rank = np.arange(len(values[0])), list[int]()
        for column, most in zip(values, self.limit, strict=True):
            ranks = self.sign * column[rows]
            inside = ranks[ranks <= most]
            if not len(inside):
                return None
            rank.append(int(inside.max()))
            rows = rows[ranks == rank[-1]]
        return tuple(rank), int(rows[0])


@dataclass(frozen=True, slots=True)
class _Part:
    """A row group, or the ``page`` of one."""

    path: Path
    group: RowGroup
    page: int | None = None


def _best(
    paths: Sequence[Path], tail: pa.Table | None, order: _Order, footers: FooterCache
) -> Change | None:
    """Return the best change of files and tail."""
    best, newest = _best_in_tail(tail, order)
    found: tuple[Path, RowGroup, int] | None = None
    number, pages = count(), 0
    waiting: list[tuple[Rank, bool, int, _Part]] = []

    def wait(parts: Iterator[tuple[_Part, list[tuple[int, int]]]]) -> None:
        for part, bounds in parts:
            rank = order.best_of(bounds)
            if rank is not None and (best is None or rank > best):
                is_group = part.page is None  # of equals a page is first: it may end the search
                heapq.heappush(waiting, (_opposite(rank), is_group, next(number), part))

    for path in paths:
        wait(_groups(path, order, footers))
    while waiting:
        opposite, _, _, part = heapq.heappop(waiting)
        if best is not None and _opposite(opposite) <= best:
            break
        if part.page is None:
            wait(_pages(part, order))
            continue
        pages += 1
        if pages > PAGES_MAX:
            raise TooMuch
        in_page = _best_in_page(part, part.page, order)
        if in_page is not None and (best is None or in_page[0] > best):
            best, found = in_page[0], (part.path, part.group, in_page[1])
    return newest if found is None else _change(*found)


def _opposite(rank: Rank) -> Rank:
    return tuple(-value for value in rank)


def _groups(
    path: Path, order: _Order, footers: FooterCache
) -> Iterator[tuple[_Part, list[tuple[int, int]]]]:
    for group in footers.footer(path).groups:
        bounds = [group.chunks[column].bounds for column in order.columns]
        if any(len(value) != _INT64.size for pair in bounds for value in pair):
            raise TooMuch
        yield _Part(path, group), [(_integer(least), _integer(most)) for least, most in bounds]


def _pages(part: _Part, order: _Order) -> Iterator[tuple[_Part, list[tuple[int, int]]]]:
    group = part.group
    with opened(part.path) as file:
        bounds = [page_integers(file, group, column) for column in order.columns]
        firsts = [group.pages(file, column).rows_first for column in order.columns]
    known = [each for each in bounds if each is not None]
    if len(known) < len(bounds) or any(each != firsts[0] for each in firsts):
        raise TooMuch
    for page, pairs in enumerate(zip(*known, strict=True)):
        yield _Part(part.path, group, page), list(pairs)


def page_integers(file: int, group: RowGroup, column: int) -> list[tuple[int, int]] | None:
    """Return the least and the most integer of each page, None where the file does not say."""
    bounds = group.page_bounds(file, column)
    if bounds is None:
        return None
    ends = [struct.unpack(f"<{len(each)}q", b"".join(each)) for each in (bounds.least, bounds.most)]
    return list(zip(*ends, strict=True))


def page_rows(file: int, group: RowGroup, column: int, page: int) -> range:
    """Return the rows of a page, counted from the first of the group."""
    firsts = [*group.pages(file, column).rows_first, group.rows_count]
    return range(firsts[page], firsts[page + 1])


def _best_in_page(part: _Part, page: int, order: _Order) -> tuple[Rank, int] | None:
    with opened(part.path) as file:
        rows = page_rows(file, part.group, order.columns[0], page)
        found = order.best_row(
            [np.array(column_values(file, part.group, at, rows)) for at in order.columns]
        )
    return None if found is None else (found[0], rows.start + found[1])


def _best_in_tail(tail: pa.Table | None, order: _Order) -> tuple[Rank | None, Change | None]:
    if tail is None or not len(tail):
        return None, None
    found = order.best_row([tail.column(at).to_numpy() for at in order.columns])
    return (None, None) if found is None else (found[0], changes_of(tail.slice(found[1], 1))[0])


def _change(path: Path, group: RowGroup, row: int) -> Change:
    one = range(row, row + 1)
    with opened(path) as file:
        [collection], [key] = (column_values(file, group, at, one) for at in (COLLECTION, KEY))
        [found] = changes_at(file, group, one, collection=collection.decode(), key=key.decode())
    return found


_INT64: Final = struct.Struct("<q")


def _integer(value: bytes) -> int:
    return int(_INT64.unpack(value)[0])
