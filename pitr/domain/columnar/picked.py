"""Picks the rows of many keys out of a file: each page that may hold one is read once."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pitr.domain.columnar import values
from pitr.domain.columnar.footers import COLLECTION, KEY, FooterCache, PageBounds, RowGroup
from pitr.domain.columnar.pages import Page, dictionary_of, opened, page_at
from pitr.domain.columnar.schema import CHANGE_SCHEMA

Keys = Mapping[str, Sequence[str]]
"""Canonical keys by collection."""

PickedRow = tuple[str, str, tuple[Any, ...]]
"""Collection, key, and the values of columns: bytes, int or None."""


@dataclass(frozen=True, slots=True)
class _Search:
    """A page of keys that may hold some; ``is_alone`` if it is of one collection."""

    group: RowGroup
    collection: bytes
    page: int
    keys: list[bytes]
    is_alone: bool


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of a group with a wanted key."""

    group: RowGroup
    number: int
    collection: bytes
    key: bytes


def picked(
    path: Path, keys: Keys, columns: Sequence[str], *, footers: FooterCache
) -> list[PickedRow]:
    """Return the rows that have a wanted key; the order is any.

    Args:
        columns: Which values are wanted of each.

    Raises:
        DataLoss: The file is damaged where it was read.
    """
    numbers = [CHANGE_SCHEMA.get_field_index(name) for name in columns]
    with opened(path) as file:
        searches = _searches(file, footers.footer(path).groups, keys)
        rows = list(chain.from_iterable(_found(file, search) for search in searches))
        picks = zip(*(_values_of_many(file, rows, number) for number in numbers), strict=True)
        return [
            (row.collection.decode(), row.key.decode(), pick)
            for row, pick in zip(rows, picks, strict=True)
        ]


class Picks:
    """What was picked last, so that a rewind does not read again what its plan has read.

    Files are immutable, so what is remembered stays right; it is forgotten when there is more.
    """

    def __init__(self, footers: FooterCache, *, bytes_max: int = 16 * 1024 * 1024) -> None:
        self._footers = footers
        self._bytes_max = bytes_max
        self._known: OrderedDict[object, list[PickedRow]] = OrderedDict()
        self._bytes: dict[object, int] = {}
        self._lock = threading.Lock()

    def rows(self, path: Path, keys: Keys, columns: Sequence[str]) -> list[PickedRow]:
        """Return the rows of a file that have a wanted key; see ``picked``."""
        asked = (path, tuple((name, *wanted) for name, wanted in keys.items()), tuple(columns))
        with self._lock:
            if asked in self._known:
                return self._known[asked]
        found = picked(path, keys, columns, footers=self._footers)
        size = sum(_size(row) for row in found) + sum(map(len, chain.from_iterable(asked[1])))
        with self._lock:
            if size <= self._bytes_max:
                self._known[asked], self._bytes[asked] = found, size
            while sum(self._bytes.values()) > self._bytes_max:
                oldest, _ = self._known.popitem(last=False)
                del self._bytes[oldest]
        return found


MANY_ROWS: Final = 64
"""Rows from which on it is worth the while to read by two threads."""

ROW_BYTES: Final = 500
"""What a picked row takes beside its values, about."""


def _size(row: PickedRow) -> int:
    _, key, values_ = row
    return ROW_BYTES + len(key) + sum(len(each) for each in values_ if isinstance(each, bytes))


# Where the rows are -----------------------------------------------------------------------------


def _searches(file: int, groups: Sequence[RowGroup], keys: Keys) -> Iterator[_Search]:
    sought = {
        name.encode(): sorted(key.encode() for key in wanted) for name, wanted in keys.items()
    }
    for group in groups:
        least, most = group.chunks[COLLECTION].bounds
        least_key, most_key = group.chunks[KEY].bounds
        for name, wanted in sought.items():
            inside = [key for key in wanted if least_key <= key <= most_key]
            if inside and least <= name <= most:
                yield from _searches_of(file, group, name, inside)


def _searches_of(file: int, group: RowGroup, name: bytes, keys: list[bytes]) -> Iterator[_Search]:
    """Find the pages that may hold keys of a collection."""
    count = len(group.pages(file, KEY).rows_first)
    bounds = group.page_bounds(file, KEY)
    if bounds is None:
        yield from (_Search(group, name, page, keys, False) for page in range(count))
        return
    for run, is_alone in _ascending(count, name, *_collections_of(file, group)):
        found: dict[int, list[bytes]] = {}
        for key in keys:
            page = bisect_left(bounds.most, key, run.start, run.stop)
            while page < run.stop and bounds.least[page] <= key:
                found.setdefault(page, []).append(key)
                page += 1
        for page, sought in found.items():
            yield _Search(group, name, page, sought, is_alone)


def _collections_of(file: int, group: RowGroup) -> tuple[bool, PageBounds | None]:
    """Tell whether a group is of one collection; if not, the collections of each page of keys."""
    least, most = group.chunks[COLLECTION].bounds
    if least == most:
        return True, None
    same = group.pages(file, COLLECTION).rows_first == group.pages(file, KEY).rows_first
    return False, group.page_bounds(file, COLLECTION) if same else None


def _ascending(
    count: int, name: bytes, is_alone: bool, named: PageBounds | None
) -> Iterator[tuple[range, bool]]:
    """Yield runs of pages in which the collection's keys ascend, and whether it is alone there."""
    if is_alone:
        yield range(count), True
        return
    if named is None:
        yield from ((range(page, page + 1), False) for page in range(count))
        return
    first = bisect_left(named.most, name)
    while first < count and named.least[first] <= name:
        end = first
        while end < count and named.least[end] == named.most[end] == name:
            end += 1
        yield range(first, max(end, first + 1)), end > first
        first = max(end, first + 1)


def _found(file: int, search: _Search) -> Iterator[_Row]:
    group, name, pages = search.group, search.collection, search.group.pages(file, KEY)
    first, page = pages.rows_first[search.page], page_at(file, *pages.place(search.page))
    if page.encoding != values.PLAIN:
        raise ValueError(f"keys in encoding {page.encoding}")
    if search.is_alone:
        for place, key in values.rows_of_keys(page.body, page.rows_count, search.keys):
            yield _Row(group, first + place, name, key)
        return
    wanted = frozenset(search.keys)
    every = values.all_text(page.body, page.rows_count)
    rows = [_Row(group, first + at, name, key) for at, key in enumerate(every) if key in wanted]
    for row, found in zip(rows, _values(file, rows, COLLECTION), strict=True):
        if found == name:
            yield row


# What they have ---------------------------------------------------------------------------------


def _values_of_many(file: int, rows: Sequence[_Row], column: int) -> list[Any]:
    """Return what ``_values`` does; of many rows by two threads, as each has a page of its own.

    To read, check and decompress pages is most of the work, and needs no lock of the interpreter.
    """
    if len(rows) < MANY_ROWS:
        return _values(file, rows, column)
    half = len(rows) // 2
    with ThreadPoolExecutor(1, thread_name_prefix="picks") as beside:
        later = beside.submit(_values, file, rows[half:], column)
        found = _values(file, rows[:half], column)
        return found + later.result()


def _values(file: int, rows: Sequence[_Row], column: int) -> list[Any]:
    """Return what the rows have in a column. Rows of a page come together and in order."""
    found: list[Any] = []
    first = 0
    while first < len(rows):
        group, number = rows[first].group, rows[first].number
        pages = group.pages(file, column)
        [place, *_] = pages.covering(range(number, number + 1))
        start = pages.rows_first[place]
        page = page_at(file, *pages.place(place))
        here = []
        while first < len(rows) and rows[first].group is group:
            if not start <= rows[first].number < start + page.rows_count:
                break
            here.append(rows[first].number - start)
            first += 1
        for run in _runs(here):
            found += _decoded(file, group, column, page, run)
    return found


def _runs(rows: list[int]) -> Iterator[range]:
    first = rows[0]
    for row, following in zip(rows, [*rows[1:], -1], strict=True):
        if following != row + 1:
            yield range(first, row + 1)
            first = following


def _decoded(file: int, group: RowGroup, column: int, page: Page, rows: range) -> list[Any]:
    field = CHANGE_SCHEMA.field(column)
    if field.type == pa.int64():
        return list(values.integer_values(page.body, page.encoding, rows))
    return list(
        values.text_values(
            page.body,
            page.encoding,
            rows,
            nullable=field.nullable,
            dictionary=dictionary_of(file, group, column),
        )
    )
