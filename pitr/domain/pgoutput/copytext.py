"""Rows in COPY's text format become changes ``read``, without Python for each value.

Source: PostgreSQL documentation, "COPY", text format. A tab or a line feed inside of a value is
written with a backslash, so raw ones end values and rows. What the values are in JSON is for
``render`` to say: they are the texts that the stream has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pitr.domain.batch import Decoded
from pitr.domain.change import COLLECTION_BYTES_MAX, DOCUMENT_BYTES_MAX, Op, Quarantined
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.errors import DataLoss
from pitr.domain.pgoutput.changes import Changes, Written
from pitr.domain.pgoutput.flaws import Flaw
from pitr.domain.pgoutput.model import Relation, Transaction
from pitr.domain.pgoutput.render import Column, Literals, NotUtf8, render
from pitr.domain.pgoutput.rows import Flawed, empty_keys, key_columns
from pitr.domain.pgoutput.tuples import Block, Mask, Places, Slices, Slots, some

_TAB, _LINE, _BACKSLASH, _NULL_MARK = b"\t\n\\N"
_ESCAPES: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_escape: Final = re.compile(rb"\\(.)", re.DOTALL)
_encode: Final = msgspec.json.encode

ROW_BYTES_MAX: Final = 2 * DOCUMENT_BYTES_MAX + 1024 * 1024
"""A longer row is a document that is too large: at most every second byte of it is an escape's."""


def unescaped(value: bytes) -> str:
    """Return the text of one value that is not null."""
    return _escape.sub(lambda found: _ESCAPES.get(found[1], found[1]), value).decode()


def last_values(data: bytes, columns: Sequence[int]) -> list[str]:
    """Return the texts of some columns of the last row; none of them is null."""
    row = data[data.rfind(b"\n", 0, -1) + 1 : -1].split(b"\t")
    return [unescaped(row[column]) for column in columns]


def changes_of(data: bytes, relation: Relation) -> pa.Table:
    """Return the changes of ``decode_rows``, without what cannot be read."""
    return decode_rows(data, relation).changes


def decode_rows(data: bytes, relation: Relation) -> Decoded:
    """Decode whole rows as changes ``read``; a row's position is its place among them.

    The values of a row are those of the relation's columns. What only the stream tells is added
    by ``entered``.

    Raises:
        DataLoss: These are not such rows.
    """
    if not data or not relation.columns:
        return Decoded(changes=DRAFT_SCHEMA.empty_table())
    lost = _too_long(data)
    rows = _Rows(_without(data, lost), relation)
    changes = DRAFT_SCHEMA.empty_table()
    while rows.count:
        places = np.delete(np.arange(rows.count + len(lost)), list(lost))
        try:
            changes = _table(relation.collection, rows.written(), places)
            break
        except Flawed as flawed:
            lost |= {int(places[row]): flaw for row, flaw in flawed.flaws.items()}
            rows = rows.without(flawed.flaws)
    return Decoded(changes=changes, quarantined=tuple(_quarantined(data, relation, lost)))


def entered(reads: pa.Table, transaction: Transaction, *, position: int) -> pa.Table:
    """Give changes ``read`` their place in the stream: that of the message that ends their chunk.

    Args:
        transaction: Of the message. They count as its changes: all of them, or none.
        position: Of the first; the others follow.
    """
    count = len(reads)
    given = {
        "commit_us": pa.repeat(pa.scalar(transaction.commit_us, pa.int64()), count),
        "position": pa.array(np.arange(position, position + count)),
        "tx": pa.repeat(transaction.tx, count),
    }
    for name, column in given.items():
        place = DRAFT_SCHEMA.get_field_index(name)
        reads = reads.set_column(place, DRAFT_SCHEMA.field(place), column)
    return reads


def _table(collection: str, written: Written, places: Places) -> pa.Table:
    count = len(places)
    given = {
        "collection": pa.repeat(collection, count),
        "key": written.key,
        "op": pa.repeat(Op.READ.value, count),
        "after": written.after,
        "position": pa.array(places),
    }
    columns = [given.get(field.name) for field in DRAFT_SCHEMA]
    return pa.table(
        [
            pa.nulls(count, field.type) if column is None else column
            for column, field in zip(columns, DRAFT_SCHEMA, strict=True)
        ],
        schema=DRAFT_SCHEMA,
    )


def _too_long(data: bytes) -> dict[int, Flaw]:
    if len(data) <= ROW_BYTES_MAX:
        return {}
    flaw = Flaw("document_too_large", f"row: holds more than {DOCUMENT_BYTES_MAX} bytes")
    lines = enumerate(data.split(b"\n"))
    return {row: flaw for row, line in lines if len(line) > ROW_BYTES_MAX}


def _without(data: bytes, lost: dict[int, Flaw]) -> bytes:
    if not lost:
        return data
    lines = data.split(b"\n")
    return b"\n".join(line for row, line in enumerate(lines) if row not in lost)


def _quarantined(data: bytes, relation: Relation, flaws: dict[int, Flaw]) -> Iterator[Quarantined]:
    """Keep the rows that cannot be stored, with what is needed to understand them."""
    if not flaws:
        return
    lines = data.split(b"\n")
    columns = [{"name": column.name, "type_oid": column.type_oid} for column in relation.columns]
    meta = _encode({"collection": relation.collection, "columns": columns})
    for row, flaw in sorted(flaws.items()):
        yield Quarantined(
            position=row,
            body=lines[row],
            code=flaw.code,
            reason=flaw.reason,
            format="copy",
            meta=meta,
        )


class _Rows:
    """Rows of one table, to be written as documents and keys."""

    def __init__(self, data: bytes, relation: Relation) -> None:
        self._relation = relation
        cells = _Cells(data, len(relation.columns))
        self._slices = cells.slices
        self._columns = [
            Column(
                name=column.name,
                form=column.form,
                element=column.element,
                values=values,
                null=some(null),
            )
            for column, values, null in zip(
                relation.columns, cells.values.T, cells.nulls.T, strict=True
            )
        ]

    @property
    def count(self) -> int:
        """How many rows they are."""
        return len(self._columns[0].values)

    def without(self, lost: Iterable[int]) -> _Rows:
        """Leave some out."""
        left = np.ones(self.count, np.bool_)
        left[list(lost)] = False
        rows = copy(self)
        rows._columns = [column.of(left) for column in self._columns]
        return rows

    def written(self) -> Written:
        """Write them.

        Raises:
            Flawed: Some cannot be stored, by their number.
        """
        # Rendering changes columns, and some rows may have to be rendered again.
        columns = [replace(column) for column in self._columns]
        by_name = {column.name: column for column in columns}
        key = [by_name[name] for name in sorted(self._relation.key)]
        if flaws := self._key_flaws(key):
            raise Flawed(flaws)
        names = [tuple(column.name for column in each) for each in (columns, key)]
        literals = Literals(len(self._slices.bounds), names)
        try:
            slices = render(columns, self._slices, literals)
        except NotUtf8 as error:
            raise Flawed(
                {
                    row: Flaw("not_utf8", f"{columns[number].name}: is not UTF-8")
                    for number, row in error.places
                }
            ) from error
        key = list(key_columns(self._relation, key))
        changes = Changes(self.count)
        every = np.arange(self.count)
        changes.add_rows(every, Op.READ, self._relation.collection, key=key, after=columns)
        written = changes.write(slices, literals)
        if flaws := written.flaws():
            raise Flawed(flaws)
        return written

    def _key_flaws(self, key: Sequence[Column]) -> dict[int, Flaw]:
        collection = self._relation.collection
        if not key:
            flaw = Flaw("missing_key", f"key: {collection} has no columns for one")
            return dict.fromkeys(range(self.count), flaw)
        if len(collection.encode()) > COLLECTION_BYTES_MAX:
            flaw = Flaw("collection_too_long", f"collection: is over {COLLECTION_BYTES_MAX} bytes")
            return dict.fromkeys(range(self.count), flaw)
        if self._relation.is_keyed_by_row:
            flaw = Flaw("missing_key", "key: all columns are null")
            return dict.fromkeys(np.flatnonzero(empty_keys(key)).tolist(), flaw)
        return {
            row: Flaw("wrong_type", f"key: {column.name} is null")
            for column in reversed(key)
            if column.null is not None
            for row in np.flatnonzero(column.null).tolist()
        }


def _ends_in(buffer: npt.NDArray[np.uint8]) -> Places:
    """Return where the tabs and line feeds are: 9 and 10, and what is less is rare."""
    places = np.flatnonzero(buffer <= _LINE)
    low = buffer[places] < _TAB
    return places[~low] if low.any() else places


class _Cells:
    """The values of rows, as a matrix: the number of each one's slice, and which are null."""

    def __init__(self, data: bytes, width: int) -> None:
        buffer = np.frombuffer(data, np.uint8)
        ends = _ends_in(buffer)
        count, over = divmod(ends.size, width)
        kinds = buffer[ends[: count * width]].reshape(count, width)
        if over or (kinds[:, -1] != _LINE).any() or (kinds[:, :-1] != _TAB).any():
            raise DataLoss("rows do not have as many values as columns", columns=width)
        # Every second slice is a value; between them is what ends them.
        bounds = np.empty(2 * ends.size + 1, np.int32)
        bounds[0] = 0
        bounds[1::2] = ends
        bounds[2::2] = ends + 1
        self.slices = Slices(data, bounds)
        self.values: Slots = np.arange(0, bounds.size - 1, 2, dtype=np.int32)
        self._ends = ends
        nulls = self._nulls(buffer, bounds[:-1:2])
        self._unescape(buffer, nulls)
        self.values = self.values.reshape(count, width)
        self.nulls = nulls.reshape(count, width)

    def _nulls(self, buffer: npt.NDArray[np.uint8], starts: Slots) -> Mask:
        nulls: Mask = self._ends - starts == 2
        at = starts[nulls]
        nulls[nulls] = (buffer[at] == _BACKSLASH) & (buffer[at + 1] == _NULL_MARK)
        return nulls

    def _unescape(self, buffer: npt.NDArray[np.uint8], nulls: Mask) -> None:
        """Make the values anew that hold a backslash; each escape is two bytes for one."""
        at: Places = np.flatnonzero(buffer == _BACKSLASH)
        hit = np.zeros(len(nulls), np.bool_)
        hit[np.searchsorted(self._ends, at)] = True
        hit &= ~nulls
        cells = np.flatnonzero(hit)
        if not len(cells):
            return
        # With what ends each. No value holds a NUL: it stands for a backslash for a moment.
        numbers = np.repeat(self.values[cells], 2)
        numbers[1::2] += 1
        taken = self.slices.taken(numbers)
        text = bytes(memoryview(taken.buffer)[: taken.offsets[-1]]).replace(b"\\\\", b"\0")
        marks = np.frombuffer(text, np.uint8)
        ends = _ends_in(marks)
        escapes = np.searchsorted(np.flatnonzero(marks == _BACKSLASH), ends)
        lengths = np.ones(2 * len(cells), np.int32)
        lengths[::2] = np.diff(ends - escapes, prepend=-1) - 1
        for letter, byte in _ESCAPES.items():
            text = text.replace(b"\\" + letter, byte)
        block = Block(text.replace(b"\0", b"\\"), lengths)
        first = self.slices.first_numbers([block])[0]
        self.values[cells] = np.arange(first, first + 2 * len(cells), 2, dtype=np.int32)
        self.slices = self.slices.with_blocks([block])
