"""Inserts, updates and deletes of many tables: which rows they tell of, and what is in these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow.compute as pc

from pitr.domain.change import COLLECTION_BYTES_MAX
from pitr.domain.pgoutput.flaws import Flaw, misshapen
from pitr.domain.pgoutput.model import Relation
from pitr.domain.pgoutput.render import Column
from pitr.domain.pgoutput.tuples import (
    Cells,
    Mask,
    Places,
    Slices,
    Slots,
    Source,
    Words,
    read_tuples,
)

INSERT, UPDATE, DELETE = b"IUD"
NEW, KEY, OLD = b"NKO"
"""What a message has of a row: the new one, the old one's key, the whole old one."""

HEADER: Final = 8
"""Kind, relid, what the first row is, and how many columns it has."""

_MARKERS: Final = {INSERT: (NEW,), UPDATE: (NEW, KEY, OLD), DELETE: (KEY, OLD)}
_SECOND: Final = 3
"""What the second row is, and how many columns it has."""


class Flawed(Exception):
    """Some messages cannot be read, by their index."""

    def __init__(self, flaws: dict[int, Flaw]) -> None:
        super().__init__("messages cannot be read")
        self.flaws = flaws


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Messages of one kind about one table, in stream order, and their columns.

    ``old`` is empty where the messages have no old row, and has ``key`` only where ``old_is_key``.
    """

    kind: int
    relation: Relation
    messages: Places
    old_is_key: bool
    old: tuple[Column, ...]
    new: tuple[Column, ...]

    @property
    def old_key(self) -> tuple[Column, ...]:
        """The columns of the old row's key, sorted by name."""
        return key_columns(self.relation, _key_of(self.relation, self.old))

    @property
    def new_key(self) -> tuple[Column, ...]:
        """The columns of the new row's key, sorted by name."""
        return key_columns(self.relation, _key_of(self.relation, self.new))

    def of(self, rows: Mask) -> Rows:
        """Give some of the messages, with their columns rendered."""
        return replace(
            self,
            messages=self.messages[rows],
            old=tuple(column.of(rows) for column in self.old),
            new=tuple(column.of(rows) for column in self.new),
        )

    def used(self) -> Iterator[Column]:
        """Give the columns that changes are made of."""
        yield from _key_of(self.relation, self.old) if self.old_is_key else self.old
        yield from self.new


def _key_of(relation: Relation, columns: tuple[Column, ...]) -> tuple[Column, ...]:
    if not columns:
        return ()
    by_name = {column.name: column for column in columns}
    return tuple(by_name[name] for name in sorted(relation.key) if name in by_name)


def key_columns(relation: Relation, columns: Sequence[Column]) -> tuple[Column, ...]:
    """Give rendered columns as a key has them: a key of a whole row leaves nulls out."""
    if not relation.is_keyed_by_row:
        return tuple(columns)
    return tuple(replace(column, absent=column.without_value(), null=None) for column in columns)


@dataclass(slots=True, eq=False)
class _Group:
    """Messages of one kind, table and marker, before their columns have numbers."""

    kind: int
    marker: int
    relation: Relation
    messages: Places
    cells: list[Cells]


def read_rows(
    source: Source,
    starts: Places,
    ends: Places,
    rows: Places,
    relations: Mapping[int, Relation],
    payloads: Sequence[bytes],
) -> tuple[list[Rows], Slices]:
    """Read row messages.

    Args:
        source: The bytes of all messages.
        starts: Where each message begins.
        ends: Where each message ends.
        rows: The indices of the row messages.
        relations: The tables by their relid.
        payloads: The messages one by one.

    Raises:
        Flawed: Some are no row messages, of no known table, or have no key.
    """
    flaws: dict[int, Flaw] = {}
    groups: list[_Group] = []
    bad: list[int] = []
    for header, messages in _alike(source.words(starts[rows]), rows):
        group, wrong = _read_group(source, starts, ends, header, messages, relations)
        if group is None or wrong.any():
            bad += messages[wrong].tolist()
        elif len(group.relation.collection.encode()) > COLLECTION_BYTES_MAX:
            reason = f"collection: is over {COLLECTION_BYTES_MAX} bytes"
            flaws |= dict.fromkeys(messages.tolist(), Flaw("collection_too_long", reason))
        else:
            groups.append(group)
    flaws |= {index: misshapen(payloads[index], relations) for index in bad}
    if flaws:
        raise Flawed(flaws)
    found, slices = _numbered(groups, source, len(payloads))
    for each in found:
        flaws |= _key_flaws(each)
    if flaws:
        raise Flawed(flaws)
    return found, slices


def _alike(headers: Words, rows: Places) -> Iterator[tuple[int, Places]]:
    """Sort messages by their header, each kind in stream order."""
    if not len(headers):
        return
    if (headers == headers[0]).all():
        yield int(headers[0]), rows
        return
    order = np.argsort(headers, kind="stable")
    headers, rows = headers[order], rows[order]
    edges = np.flatnonzero(headers[1:] != headers[:-1]) + 1
    for messages in np.split(rows, edges):
        yield int(headers[0]), messages
        headers = headers[len(messages) :]


def _read_group(
    source: Source,
    starts: Places,
    ends: Places,
    header: int,
    messages: Places,
    relations: Mapping[int, Relation],
) -> tuple[_Group | None, Mask]:
    kind, marker = header >> 56, header >> 16 & 0xFF
    relation = relations.get(header >> 24 & 0xFFFF_FFFF)
    if relation is None or marker not in _MARKERS[kind] or header & 0xFFFF != len(relation.columns):
        return None, np.ones(len(messages), np.bool_)
    width = len(relation.columns)
    cells, at, wrong = read_tuples(source, starts[messages] + HEADER, width)
    if kind == UPDATE and marker != NEW:
        second = source.words(at) >> np.uint64(40)
        more, end, wrong_too = read_tuples(source, at + _SECOND, width)
        wrong |= wrong_too | (second != NEW << 16 | width) | (end != ends[messages])
        cells += more
    else:
        wrong |= at != ends[messages]
    return _Group(kind, marker, relation, messages, cells), wrong


def _numbered(
    groups: list[_Group], source: Source, messages_count: int
) -> tuple[list[Rows], Slices]:
    """Number all values in the order in which they stand."""
    counts = np.zeros(messages_count, np.int64)
    for group in groups:
        counts[group.messages] = 2 * len(group.cells)
    ends = np.cumsum(counts)
    firsts = ends - counts + 1
    bounds = np.zeros(int(ends[-1]) + 1 if messages_count else 1, np.int32)
    found = []
    for group in groups:
        first = firsts[group.messages]
        width = 2 * len(group.cells)
        if width and first[-1] - first[0] == width * (len(first) - 1):
            # No other rows are between these.
            own = bounds[first[0] : first[-1] + width].reshape(-1, width)
            for place, cells in enumerate(group.cells):
                own[:, 2 * place] = cells.starts
                own[:, 2 * place + 1] = cells.ends
        else:
            for place, cells in enumerate(group.cells):
                bounds[first + 2 * place] = cells.starts
                bounds[first + (2 * place + 1)] = cells.ends
        found.append(_rows_of(group, first.astype(np.int32)))
    return found, Slices(source.data, bounds)


def _rows_of(group: _Group, first: Slots) -> Rows:
    columns = tuple(
        Column(
            name=column.name,
            form=column.form,
            element=column.element,
            values=first + np.int32(2 * place),
            null=cells.null,
            absent=cells.absent,
        )
        for place, (column, cells) in enumerate(
            zip(group.relation.columns * 2, group.cells, strict=False)
        )
    )
    width = 0 if group.marker == NEW else len(group.relation.columns)
    rows = Rows(
        kind=group.kind,
        relation=group.relation,
        messages=group.messages,
        old_is_key=group.marker == KEY,
        old=columns[:width],
        new=columns[width:],
    )
    if rows.old and rows.new:
        for before, now in zip(rows.old, rows.new, strict=True):
            _complete(now, before, old_is_key=rows.old_is_key)
    return rows


def _complete(now: Column, before: Column, *, old_is_key: bool) -> None:
    """Take values that were not sent from the old row; in a key, nulls stand for the rest."""
    if now.absent is None:
        return
    known = now.absent.copy()
    if before.absent is not None:
        known &= ~before.absent
    if before.null is not None and old_is_key:
        known &= ~before.null
    now.values = np.where(known, before.values, now.values)
    if before.null is not None:
        null = known & before.null
        now.null = null if now.null is None else now.null | null
    absent = now.absent & ~known
    now.absent = absent if absent.any() else None


def _key_flaws(rows: Rows) -> dict[int, Flaw]:
    """Tell which messages have a key that lacks a value."""
    flaws: dict[int, Flaw] = {}
    relation = rows.relation
    for columns in filter(None, (rows.new, rows.old)):
        by_name = {column.name: column for column in columns}
        for name in sorted(relation.key):
            column = by_name.get(name)
            if column is None or column.absent is not None:
                lacking = rows.messages if column is None else rows.messages[column.absent]
                _add(flaws, lacking, Flaw("missing_key", f"key: lacks {name}"))
            if column is not None and column.null is not None and not relation.is_keyed_by_row:
                _add(flaws, rows.messages[column.null], Flaw("wrong_type", f"key: {name} is null"))
        if relation.is_keyed_by_row and columns:
            nothing = empty_keys(columns)
            _add(flaws, rows.messages[nothing], Flaw("missing_key", "key: all columns are null"))
    if not relation.key:
        reason = f"key: {relation.collection} has no columns for one"
        _add(flaws, rows.messages, Flaw("missing_key", reason))
    return flaws


def empty_keys(columns: Sequence[Column]) -> Mask:
    """Tell of which rows no column has a value."""
    nothing = np.ones(len(columns[0].values), np.bool_)
    for column in columns:
        lacking = column.without_value()
        nothing &= False if lacking is None else lacking
    return nothing


def _add(flaws: dict[int, Flaw], messages: Places, flaw: Flaw) -> None:
    for index in messages.tolist():
        flaws.setdefault(index, flaw)


def moved(rows: Rows, slices: Slices) -> Mask:
    """Tell which rows have another key than before."""
    found = np.zeros(len(rows.messages), np.bool_)
    for before, now in zip(rows.old_key, rows.new_key, strict=True):
        same = pc.equal(slices.taken(before.values).array, slices.taken(now.values).array)
        differs = ~same.to_numpy(zero_copy_only=False)
        if before.absent is not None or now.absent is not None:
            was, is_ = (_absent(column) for column in (before, now))
            differs = np.where(was | is_, was != is_, differs)
        found |= differs
    return found


def _absent(column: Column) -> Mask:
    return np.zeros(len(column.values), np.bool_) if column.absent is None else column.absent
