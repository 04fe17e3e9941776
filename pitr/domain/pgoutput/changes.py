"""The table of changes that a run of messages becomes, filled in group by group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.change import DOCUMENT_BYTES_MAX, KEY_BYTES_MAX, Op
from pitr.domain.keys import BadKey, canonical_key
from pitr.domain.pgoutput.flaws import Flaw
from pitr.domain.pgoutput.render import Column, Literals, lay_out
from pitr.domain.pgoutput.transactions import Codes, TransactionColumns
from pitr.domain.pgoutput.tuples import Mask, Places, Slices

_OPS: Final = pa.array([str(op) for op in Op])
_OP_CODES: Final = {op: code for code, op in enumerate(Op)}

_KEY, _AFTER, _BEFORE = range(3)
_AREAS: Final = 3

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True, eq=False)
class _Documents:
    """Documents of the same members, and the changes that they belong to."""

    area: int
    slots: Places
    columns: Sequence[Column]


@dataclass(slots=True, eq=False)
class Changes:
    """``count`` slots, one for each change in stream order; some stay empty."""

    count: int
    _ops: npt.NDArray[np.int8] = field(init=False)
    _collections: Codes = field(init=False)
    _unchanged: Codes = field(init=False)
    _widths: npt.NDArray[np.int64] = field(init=False)
    _names: list[str] = field(default_factory=lambda: [""])
    """The collections; the first stands for none, in slots that stay empty."""
    _unchanged_texts: list[str] = field(default_factory=list)
    _own_meta: dict[int, dict[str, Any]] = field(default_factory=dict)
    _documents: list[_Documents] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ops = np.zeros(self.count, np.int8)
        self._collections = np.zeros(self.count, np.int32)
        self._unchanged = np.full(self.count, -1, np.int32)
        self._widths = np.zeros((_AREAS, self.count), np.int64)

    def add_rows(
        self,
        slots: Places,
        op: Op,
        collection: str,
        *,
        key: Sequence[Column],
        after: Sequence[Column] | None = None,
        before: Sequence[Column] | None = None,
    ) -> None:
        """Add changes of rows; an update that lacks values is a patch, a create says so."""
        self._ops[slots] = _OP_CODES[op]
        self._add_collection(slots, collection)
        for area, columns in ((_KEY, key), (_AFTER, after), (_BEFORE, before)):
            if columns is not None:
                self._documents.append(_Documents(area, slots, columns))
                self._widths[area, slots] = 2 * len(columns) + 1
        lacking = [column for column in after or () if column.absent is not None]
        if lacking:
            self._add_lacking(slots, op, lacking)

    def add_truncate(self, slot: int, collection: str, own_meta: dict[str, Any]) -> None:
        """Add the truncation of a collection."""
        self._ops[slot] = _OP_CODES[Op.TRUNCATE]
        self._add_collection(np.array([slot]), collection)
        if own_meta:
            self._own_meta[slot] = own_meta

    def _add_collection(self, slots: Places, collection: str) -> None:
        self._collections[slots] = len(self._names)
        self._names.append(collection)

    def _add_lacking(self, slots: Places, op: Op, columns: Sequence[Column]) -> None:
        absent = np.stack(
            [column.absent for column in columns if column.absent is not None], axis=1
        )
        rows = np.flatnonzero(absent.any(axis=1))
        patterns, codes = np.unique(absent[rows], axis=0, return_inverse=True)
        names = [
            [column.name for column, lacks in zip(columns, pattern, strict=True) if lacks]
            for pattern in patterns.tolist()
        ]
        if op is Op.UPDATE:
            self._ops[slots[rows]] = _OP_CODES[Op.PATCH]
            self._unchanged[slots[rows]] = codes.reshape(-1) + len(self._unchanged_texts)
            self._unchanged_texts += [_encode(each).decode() for each in names]
        else:
            for slot, code in zip(slots[rows].tolist(), codes.reshape(-1).tolist(), strict=True):
                self._own_meta[slot] = {"pitr": {"unknown": names[code]}}

    def write(self, slices: Slices, literals: Literals) -> Written:
        """Put all documents together."""
        ends = np.cumsum(self._widths)
        edges = np.concatenate([[0], ends])
        numbers = np.empty(int(edges[-1]), np.int32)
        for documents in self._documents:
            width = 2 * len(documents.columns) + 1
            first = edges[documents.slots + documents.area * self.count]
            if first[-1] - first[0] == width * (len(first) - 1):
                own = numbers[first[0] : first[-1] + width].reshape(-1, width)
                lay_out(documents.columns, literals, own)
            else:
                out = np.empty((len(first), width), np.int32)
                lay_out(documents.columns, literals, out)
                numbers[first[:, None] + np.arange(width)] = out
        taken = slices.taken(numbers)
        return Written(self, taken.offsets[edges], taken.buffer)

    def columns(self, transactions: TransactionColumns) -> list[pa.Array]:
        """Give what is the same for many changes: op, collection, unchanged, meta."""
        return [
            pa.array(self._names, pa.string()).take(pa.array(self._collections)),
            _OPS.take(pa.array(self._ops)),
            coded(self._unchanged_texts, self._unchanged),
            self._metas(transactions),
        ]

    def _metas(self, transactions: TransactionColumns) -> pa.Array:
        texts, codes = list(transactions.metas), transactions.meta_codes
        if self._own_meta:
            codes = codes.copy()
            for slot, own in self._own_meta.items():
                text = _with_own(texts[codes[slot]], own)
                codes[slot] = len(texts)
                texts.append(text)
        return coded(texts, codes)

    def array_keys(self) -> Places:
        """Give the slots with arrays in their keys."""
        slots = [
            documents.slots
            for documents in self._documents
            if documents.area == _KEY
            and any(column.form == "array" for column in documents.columns)
        ]
        return np.concatenate(slots) if slots else np.empty(0, np.int64)

    def has(self, area: int) -> Mask:
        """Tell which changes have a document; an empty one has a literal too."""
        mask: Mask = self._widths[area] > 0
        return mask


class Written:
    """The documents of all changes."""

    def __init__(self, changes: Changes, bounds: npt.NDArray[np.int32], data: pa.Buffer) -> None:
        self._changes = changes
        self._bounds = bounds
        self._data = data
        self.key, self.after, self.before = (
            self._texts(area, changes.has(area) if area != _KEY else None) for area in range(_AREAS)
        )

    def _texts(self, area: int, there: Mask | None) -> pa.Array:
        count = self._changes.count
        bounds = self._bounds[area * count : (area + 1) * count + 1]
        validity = None
        if there is not None and not there.all():
            validity = pa.py_buffer(np.packbits(there, bitorder="little"))
        return pa.Array.from_buffers(
            pa.string(), count, [validity, pa.py_buffer(bounds), self._data]
        )

    def flaws(self) -> dict[int, Flaw]:
        """Tell which changes cannot be stored, by their slot."""
        flaws: dict[int, Flaw] = {}
        lengths = np.diff(self._bounds)
        count = self._changes.count
        too_long = np.flatnonzero(lengths[:count] > KEY_BYTES_MAX)
        for slot in [*self._null_keys(), *too_long.tolist()]:
            try:
                canonical_key(self.key[slot].as_py().encode())
            except BadKey as error:
                flaws.setdefault(slot, Flaw(error.flaw, f"key: {error}"))
        for place in np.flatnonzero(lengths[count:] > DOCUMENT_BYTES_MAX).tolist():
            name = "after" if place < count else "before"
            flaw = Flaw("document_too_large", f"{name}: is over {DOCUMENT_BYTES_MAX} bytes")
            flaws.setdefault(place % count, flaw)
        return flaws

    def _null_keys(self) -> list[int]:
        """Give the changes with a key that may hold a null; only in an array it has gone unseen."""
        slots = self._changes.array_keys()
        if not len(slots):
            return []
        found = pc.match_substring(self.key.take(pa.array(slots)), "null")
        may: list[int] = slots[found.to_numpy(zero_copy_only=False)].tolist()
        return may


def coded(texts: Sequence[str | None], codes: Codes) -> pa.Array:
    """Give the texts with these codes; below 0 there is none."""
    if texts.count(None) == len(texts):
        return pa.nulls(len(codes), pa.string())
    return pa.array([*texts, None], pa.string()).take(
        pa.array(np.where(codes < 0, len(texts), codes))
    )


def _with_own(said: str | None, own: dict[str, Any]) -> str:
    """Add members to what the app said; beside it, if it is no object or has them already."""
    if said is None:
        return _encode(own).decode()
    if said.startswith("{"):
        members = _members.decode(said)
        if not members.keys() & own.keys():
            return _encode(members | own).decode()
    return _encode({"meta": msgspec.Raw(said.encode())} | own).decode()
