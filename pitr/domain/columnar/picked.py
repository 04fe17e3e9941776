"""Picks the rows of many keys out of a file: each page that may hold one is read once."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from pitr.domain.columnar import values
from pitr.domain.columnar.footers import COLLECTION, KEY, FooterCache, PageBounds, RowGroup
from pitr.domain.columnar.pages import decoded, opened, page_at
from pitr.domain.columnar.schema import CHANGE_SCHEMA

Keys = Mapping[str, Sequence[str]]
"""Canonical keys by collection."""

PickedRow = tuple[str, str, tuple[Any, ...]]
"""Collection, key, and the values of columns: bytes, int or None."""


@dataclass(frozen=True, slots=True)
class _Search:
    """A page of keys that may hold some of ``keys``, which are in order.

    The page ascends if it is of one collection; ``are_objects`` if its keys begin with a brace.
    """

    collection: bytes
    page: int
    keys: list[bytes]
    is_alone: bool
    are_objects: bool


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
    sought = {
        name.encode(): sorted(key.encode() for key in wanted) for name, wanted in keys.items()
    }
    with opened(path) as file:
        groups = footers.footer(path).groups
        return [row for group in groups for row in _picked(file, group, sought, numbers)]


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


ROW_BYTES: Final = 500
"""What a picked row takes beside its values, about."""


def _size(row: PickedRow) -> int:
    _, key, values_ = row
    return ROW_BYTES + len(key) + sum(len(each) for each in values_ if isinstance(each, bytes))


# Where the rows are -----------------------------------------------------------------------------


def _searches(file: int, group: RowGroup, keys: Mapping[bytes, list[bytes]]) -> Iterator[_Search]:
    least, most = group.chunks[COLLECTION].bounds
    least_key, most_key = group.chunks[KEY].bounds
    for name, wanted in keys.items():
        inside = wanted[bisect_left(wanted, least_key) : bisect_right(wanted, most_key)]
        if inside and least <= name <= most:
            yield from _searches_of(file, group, name, inside)


def _searches_of(file: int, group: RowGroup, name: bytes, keys: list[bytes]) -> Iterator[_Search]:
    """Find the pages that may hold keys of a collection."""
    count = len(group.pages(file, KEY).rows_first)
    bounds = group.page_bounds(file, KEY)
    if bounds is None:
        yield from (_Search(name, page, keys, False, False) for page in range(count))
        return
    for run, is_alone in _ascending(count, name, *_collections_of(file, group)):
        found: dict[int, list[bytes]] = {}
        for key in keys:
            page = bisect_left(bounds.most, key, run.start, run.stop)
            while page < run.stop and bounds.least[page] <= key:
                found.setdefault(page, []).append(key)
                page += 1
        for page, sought in found.items():
            are_objects = bounds.least[page][:1] == bounds.most[page][:1] == b"{"
            yield _Search(name, page, sought, is_alone, are_objects)


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


def _found(file: int, group: RowGroup, search: _Search) -> list[tuple[int, bytes]]:
    """Return the rows of a group that a search finds, and their keys, in order."""
    pages = group.pages(file, KEY)
    first, page = pages.rows_first[search.page], page_at(file, *pages.place(search.page))
    if page.encoding != values.PLAIN:
        raise ValueError(f"keys in encoding {page.encoding}")
    are_objects = search.is_alone and search.are_objects
    places = values.rows_of_keys(page.body, page.rows_count, search.keys, are_objects=are_objects)
    found = [(first + place, key) for place, key in places]
    if search.is_alone:
        return found
    names = _values(file, group, COLLECTION, [row for row, _ in found])
    return [each for each, name in zip(found, names, strict=True) if name == search.collection]


# What they have ---------------------------------------------------------------------------------


def _picked(
    file: int, group: RowGroup, keys: Mapping[bytes, list[bytes]], columns: Sequence[int]
) -> Iterator[PickedRow]:
    """Return the rows of a group that have a wanted key, with what they have in some columns."""
    found = sorted(
        (row, search.collection.decode(), key.decode())
        for search in _searches(file, group, keys)
        for row, key in _found(file, group, search)
    )
    rows = [row for row, _, _ in found]
    picks = [_values(file, group, column, rows) for column in columns]
    for (_, collection, key), *values_ in zip(found, *picks, strict=True):
        yield collection, key, tuple(values_)


def _values(file: int, group: RowGroup, column: int, rows: Sequence[int]) -> list[Any]:
    """Return what rows of a group have in a column; they are in order. Each page is read once."""
    pages = group.pages(file, column)
    found: list[Any] = []
    at = 0
    while at < len(rows):
        number = bisect_right(pages.rows_first, rows[at]) - 1
        first, page = pages.rows_first[number], page_at(file, *pages.place(number))
        end = bisect_left(rows, first + page.rows_count, at)
        if end == at:
            raise ValueError("a page has too few rows")
        found += decoded(file, group, column, page, [row - first for row in rows[at:end]])
        at = end
    return found
