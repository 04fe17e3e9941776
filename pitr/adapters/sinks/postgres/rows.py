"""Documents of one collection as the text of a COPY, and which key stands on which line.

The usual document is decoded by a type that is made from the table's columns, and its texts are
made a column at a time. Whatever does not fit that, one unusual value or a whole odd column, goes
value by value through ``values.text_of``, which also knows what to say about it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import pyarrow as pa

from pitr.adapters.sinks.postgres.fast import ABSENT, NULL, Fast, escaped, fast_for
from pitr.adapters.sinks.postgres.fitting import Fit
from pitr.adapters.sinks.postgres.tables import Column, Table
from pitr.adapters.sinks.postgres.values import Unfit, text_of
from pitr.domain.documents import is_object, members
from pitr.domain.errors import InvalidRequest

VALUE_SHOWN_MAX: Final = 200
"""Characters of a value that stand in an error."""

_HINT: Final = "add the columns, or leave the members out with --drop-unknown"
_KEY_UNKNOWN: Final = "the key has members that the table has no column for"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Some rows as COPY text for ``columns``; ``keys`` in the order of the lines."""

    columns: tuple[str, ...]
    body: bytes
    keys: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Usual:
    """How the usual document is read: by a type with a field for each of ``columns``.

    Then come fields that are not written: those of ``gone`` are last. ``nulls`` are columns that
    no document has.
    """

    decode: Callable[[str], Any]
    columns: tuple[Column, ...]
    nulls: tuple[str, ...]
    gone: tuple[str, ...]
    fast: tuple[Fast, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are written."""
        return (*(column.name for column in self.columns), *self.nulls)

    def body(self, rows: list[tuple[Any, ...]]) -> bytes | None:
        """Join the columns' texts to lines; None if a value needs a closer look."""
        values = zip(*rows, strict=True)
        try:
            columns = [
                fast.texts(column, found)
                for column, fast, found in zip(self.columns, self.fast, values, strict=False)
            ]
        except Unfit:
            return None
        end = f"\t{NULL}" * len(self.nulls) + "\n"
        lines = map("\t".join, zip(*columns, strict=True))
        return (end.join(lines) + end).encode()

    def left_out(self, rows: list[tuple[Any, ...]]) -> set[str]:
        """Name those of ``gone`` that the documents have."""
        first = -len(self.gone)
        return {
            name
            for place, name in enumerate(self.gone, first)
            if any(row[place] is not ABSENT for row in rows)
        }


class _Keys(Sequence[str]):
    """The keys of rows; mostly nobody wants to know them."""

    def __init__(self, array: pa.Array) -> None:
        self._array = array

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, row: Any) -> Any:
        return self._array[row].as_py()

    def __iter__(self) -> Iterator[str]:
        return iter(self._array.to_pylist())


class RowEncoder:
    """Encodes the rows of one collection for one table.

    ``left_out`` are members that were no columns any more at the moment of the rows: documents
    that are older have them.
    """

    def __init__(self, collection: str, table: Table, *, drop_unknown: bool) -> None:
        self._collection = collection
        self._drop_unknown = drop_unknown
        self._table = table
        self._fit = Fit(table)
        self._columns = self._fit.written
        self.left_out: set[str] = set()
        self._usual: _Usual | None = None
        self._usual_made = False

    def encoded(self, part: pa.RecordBatch) -> Iterator[Lines]:
        """Encode a slice; rows that leave other columns to their defaults come apart.

        Raises:
            InvalidRequest: A document does not fit; facts name collection, key, column and value.
        """
        keys, documents = _Keys(part.column("key")), part.column("after").to_pylist()
        if not self._usual_made:
            self._make_usual(keys[0], documents)
        odd = list(range(len(keys)))
        if self._usual is not None:
            rows, apart = _decoded(self._usual.decode, documents)
            body = self._usual.body(rows) if rows else None
            if body is not None:
                odd, left_out = apart, frozenset(apart)
                usual: Sequence[str] = keys
                if left_out:
                    usual = [key for index, key in enumerate(keys) if index not in left_out]
                self.left_out |= self._usual.left_out(rows)
                yield Lines(columns=self._usual.names, body=body, keys=usual)
        if odd:
            texts = list(keys)
            yield from self._odd_lines([(texts[index], documents[index].encode()) for index in odd])

    def _odd_lines(self, rows: list[tuple[str, bytes]]) -> Iterator[Lines]:
        groups: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
        for key, document in rows:
            texts = self._texts(key, document)
            lines, keys = groups.setdefault(tuple(texts), ([], []))
            lines.append("\t".join(texts.values()) + "\n")
            keys.append(key)
        for columns, (lines, keys) in groups.items():
            yield Lines(columns=columns, body="".join(lines).encode(), keys=keys)

    def _texts(self, key: str, document: bytes) -> dict[str, str]:
        """The escaped text of each column that the row does not leave to its default."""
        found = self._members(key, document)
        texts = {}
        for column in self._columns:
            raw = found.get(column.name)
            if raw is None and column.fills_itself:
                continue
            texts[column.name] = self._text(column, raw if raw is not None else b"null", key)
        return texts

    def _members(self, key: str, document: bytes) -> dict[str, bytes]:
        """The document's members; what only the key has is taken from there."""
        if not is_object(document):
            raise self._unfit("the document is no object", key)
        found = members(document)
        if gone := self._fit.left_out(found):
            self.left_out |= gone
            found = {name: value for name, value in found.items() if name not in gone}
        unknown = self._fit.unknown(found)
        if unknown and not self._drop_unknown:
            raise self._unfit(
                "the document has members that the table has no column for",
                key,
                hint=_HINT,
                members=unknown,
            )
        return _key_members(key) | found

    def _text(self, column: Column, raw: bytes, key: str) -> str:
        try:
            text = text_of(column, raw)
        except (Unfit, msgspec.DecodeError) as error:
            shown = raw.decode(errors="replace")[:VALUE_SHOWN_MAX]
            raise self._unfit(str(error), key, column=column.name, value=shown) from error
        return NULL if text is None else escaped(text)

    def _unfit(
        self, message: str, key: str, *, hint: str | None = None, **facts: object
    ) -> InvalidRequest:
        return InvalidRequest(message, hint=hint, collection=self._collection, key=key, **facts)

    def _make_usual(self, key: str, documents: list[str]) -> None:
        """Make the type of the usual document: every column, and nothing that has none.

        Columns that fill themselves and that no document at hand has are left to do so. The
        others of that kind, and members of the key, must be there: a document without them is
        unusual, as it takes them from the default or from its key.
        """
        self._usual_made = True
        must = _key_members(key).keys()
        strangers = sorted(must - self._fit.known)
        if strangers and not self._drop_unknown:
            raise self._unfit(_KEY_UNKNOWN, key, hint=_HINT, members=strangers)
        later = {column.name for column in self._columns if self._fit.is_later(column)}
        absent = (self._filling_themselves(documents) - must) | later
        columns = tuple(column for column in self._columns if column.name not in absent)
        if not columns:
            return
        generated = [
            column
            for column in self._table.columns
            if column.generated and column.name not in self._fit.gone
        ]
        fields, names = [], {}
        for number, column in enumerate([*columns, *generated]):
            fast = fast_for(column)
            required = not column.generated and (column.fills_itself or column.name in must)
            field = (f"c{number}", fast.type)
            fields.append(field if required else (*field, fast.absent))
            names[f"c{number}"] = column.name
        for number, name in enumerate(self._fit.gone, len(fields)):
            fields.append((f"c{number}", msgspec.Raw, ABSENT))
            names[f"c{number}"] = name
        strict = not self._drop_unknown
        try:
            row = msgspec.defstruct(
                "Row", fields, rename=names, kw_only=True, gc=False, forbid_unknown_fields=strict
            )
        except ValueError:
            return  # a column's name has a character that msgspec takes for no field
        self._usual = _Usual(
            decode=msgspec.json.Decoder(row).decode,
            columns=columns,
            nulls=tuple(each.name for each in self._columns if _is_null(each, later)),
            gone=self._fit.gone,
            fast=tuple(map(fast_for, columns)),
        )

    def _filling_themselves(self, documents: list[str]) -> set[str]:
        """The columns with a default that none of the documents has."""
        filling = {column.name for column in self._columns if column.fills_itself}
        if self._drop_unknown:
            return set()  # a later document that has one must not lose it
        for document in documents if filling else []:
            body = document.encode()
            filling -= members(body).keys() if is_object(body) else set()
        return filling


def _is_null(column: Column, later: set[str]) -> bool:
    return column.name in later and not column.fills_itself


def _decoded(
    decode: Callable[[str], Any], documents: list[str]
) -> tuple[list[tuple[Any, ...]], list[int]]:
    """Decode by type; the second list says which documents do not fit it."""
    as_tuple = msgspec.structs.astuple
    try:
        return [as_tuple(decode(document)) for document in documents], []
    except msgspec.DecodeError:
        rows, odd = [], []
        for index, document in enumerate(documents):
            try:
                rows.append(as_tuple(decode(document)))
            except msgspec.DecodeError:
                odd.append(index)
        return rows, odd


def _key_members(key: str) -> dict[str, bytes]:
    body = key.encode()
    return members(body) if is_object(body) else {}
