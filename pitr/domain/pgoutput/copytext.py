"""Rows in COPY's text format become changes ``read``, without Python for each value.

Source: PostgreSQL documentation, "COPY", text format. A tab or a line feed inside of a value is
written with a backslash, so raw ones end values and rows. What the values are in JSON is ``render``'s
affair: they are the same texts that the stream has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pitr.domain.change import Op
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.errors import DataLoss, InvalidRequest
from pitr.domain.pgoutput.model import Relation, Transaction
from pitr.domain.pgoutput.render import LITERALS, Column, NotUtf8, frame_of, lay_out, render
from pitr.domain.pgoutput.tuples import Block, Mask, Places, Slices, Slots

_TAB, _LINE, _BACKSLASH, _NULL_MARK = b"\t\n\\N"
_ESCAPES: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_escape: Final = re.compile(rb"\\(.)", re.DOTALL)

_HEAD: Final = b"".join(LITERALS) + b"\t"
"""What stands before the input: the slices that ``render`` wants, and a tab."""
_HEAD_TAB: Final = len(LITERALS)
_FIRST: Final = _HEAD_TAB + 1
"""The slice of the first value; the tab or line feed behind each value is a slice as well."""


def unescaped(value: bytes) -> str:
    """Return the text of one value that is not null."""
    return _escape.sub(lambda found: _ESCAPES.get(found[1], found[1]), value).decode()


def last_values(data: bytes, columns: Sequence[int]) -> list[str]:
    """Return the texts of some columns of the last row; none of them is null."""
    row = data[data.rfind(b"\n", 0, -1) + 1 : -1].split(b"\t")
    return [unescaped(row[column]) for column in columns]


def reads_of(data: bytes, relation: Relation) -> pa.Table:
    """Return whole rows as changes ``read``, of ``DRAFT_SCHEMA``; positions count from 0.

    The values of a row are those of the relation's columns. What only the stream tells is added
    by ``entered``.

    Raises:
        DataLoss: These are not such rows.
        InvalidRequest: They are not UTF-8.
    """
    if not data or not relation.columns:
        return DRAFT_SCHEMA.empty_table()
    after, key = _documents(data, relation)
    given = {
        "collection": pa.repeat(relation.collection, len(after)),
        "key": key,
        "op": pa.repeat(Op.READ.value, len(after)),
        "after": after,
        "position": pa.array(np.arange(len(after))),
    }
    columns = [given.get(field.name) for field in DRAFT_SCHEMA]
    return pa.table(
        [
            pa.nulls(len(after), field.type) if column is None else column
            for column, field in zip(columns, DRAFT_SCHEMA, strict=True)
        ],
        schema=DRAFT_SCHEMA,
    )


def entered(reads: pa.Table, transaction: Transaction, *, position: int) -> pa.Table:
    """Give changes ``read`` their place in the stream: that of the message that ends their chunk.

    Args:
        transaction: Of the message. They count as its changes: all of them, or none.
        position: Of the first.
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


def _documents(data: bytes, relation: Relation) -> list[pa.Array]:
    """Return the documents and the keys."""
    cells = _Cells(data, len(relation.columns))
    columns = [
        Column(
            name=column.name,
            form=column.form,
            element=column.element,
            values=values,
            null=null if null.any() else None,
        )
        for column, values, null in zip(
            relation.columns, cells.values.T, cells.nulls.T, strict=True
        )
    ]
    try:
        slices = render(columns, cells.slices)
    except NotUtf8 as error:
        raise InvalidRequest(
            "the database holds text that is not UTF-8",
            hint="a database with the encoding SQL_ASCII takes such text: correct these rows",
            collection=relation.collection,
            columns=sorted({relation.columns[column].name for column, _ in error.places}),
        ) from error
    by_name = {column.name: column for column in columns}
    return _objects([columns, [by_name[name] for name in sorted(relation.key)]], slices)


def _objects(wanted: Sequence[Sequence[Column]], slices: Slices) -> list[pa.Array]:
    frames = [frame_of(tuple(column.name for column in columns)) for columns in wanted]
    blocks = [Block(frame.data, frame.lengths) for frame in frames]
    firsts = slices.first_numbers(blocks)
    slices = slices.with_blocks(blocks)
    objects = []
    for columns, first in zip(wanted, firsts, strict=True):
        count, width = len(columns[0].values), 2 * len(columns) + 1
        numbers = np.empty((count, width), np.int32)
        lay_out(columns, first, numbers)
        taken = slices.taken(numbers.ravel())
        bounds = np.ascontiguousarray(taken.offsets[::width])
        objects.append(
            pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(bounds), taken.buffer])
        )
    return objects


class _Cells:
    """The values of rows, as a matrix: the number of each one's slice, and which are null."""

    def __init__(self, data: bytes, width: int) -> None:
        whole = _HEAD + data
        buffer = np.frombuffer(whole, np.uint8)
        ends = np.flatnonzero(((buffer == _TAB) | (buffer == _LINE))[len(_HEAD) :]) + len(_HEAD)
        count, over = divmod(ends.size, width)
        kinds = buffer[ends[: count * width]].reshape(count, width)
        if over or (kinds[:, -1] != _LINE).any() or (kinds[:, :-1] != _TAB).any():
            raise DataLoss("rows do not have as many values as columns", columns=width)
        bounds = np.empty(_FIRST + 2 * ends.size + 1, np.int32)
        bounds[:_FIRST] = np.cumsum([0, *map(len, LITERALS)])
        bounds[_FIRST] = len(_HEAD)
        bounds[_FIRST + 1 :: 2] = ends
        bounds[_FIRST + 2 :: 2] = ends + 1
        self.slices = Slices(whole, bounds)
        self.values: Slots = np.arange(_FIRST, bounds.size - 1, 2, dtype=np.int32)
        self._ends = ends
        nulls = self._nulls(buffer, bounds[_FIRST:-1:2])
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
        # With a tab behind each. No value holds a NUL: it stands for a backslash for a moment.
        numbers = np.full(2 * len(cells), _HEAD_TAB, np.int32)
        numbers[::2] = self.values[cells]
        text = bytes(self.slices.taken(numbers).buffer).replace(b"\\\\", b"\0")
        marks = np.frombuffer(text, np.uint8)
        ends = np.flatnonzero(marks == _TAB)
        escapes = np.searchsorted(np.flatnonzero(marks == _BACKSLASH), ends)
        lengths = np.ones(2 * len(cells), np.int32)
        lengths[::2] = np.diff(ends - escapes, prepend=-1) - 1
        for letter, byte in _ESCAPES.items():
            text = text.replace(b"\\" + letter, byte)
        block = Block(text.replace(b"\0", b"\\"), lengths)
        first = self.slices.first_numbers([block])[0]
        self.values[cells] = np.arange(first, first + 2 * len(cells), 2, dtype=np.int32)
        self.slices = self.slices.with_blocks([block])
