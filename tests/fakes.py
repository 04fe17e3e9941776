"""Fakes of the ports; each passes the contract suite of its port in tests/contract."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import orjson
import pyarrow as pa

from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.errors import Conflict, DataLoss, InvalidRequest, NotFound
from pitr.domain.manifest import ObjectRef
from pitr.domain.pgoutput.schema import Constraint, TableColumn, TableSchema
from pitr.domain.pgoutput.sequence_log import SampledSequence


class MemoryStore:
    """Objects in a dict; ``folder`` only lends files to ``verified``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects: dict[str, bytes] = {}

    async def put_new(self, name: str, source: bytes | Path, *, sha256: str) -> None:
        _check_name(name)
        body = await asyncio.to_thread(source.read_bytes) if isinstance(source, Path) else source
        if hashlib.sha256(body).hexdigest() != sha256:
            raise DataLoss("the bytes do not have the digest they came with", object=name)
        if self.objects.setdefault(name, body) != body:
            raise Conflict("the name holds other bytes", object=name)

    async def verified(self, ref: ObjectRef, *, again: bool = False) -> Path:
        _check_name(ref.name)
        body = self.objects.get(ref.name)
        if body is None or hashlib.sha256(body).hexdigest() != ref.sha256:
            facts = {"object": ref.name, "seq_first": ref.seq_first, "seq_end": ref.seq_end}
            raise DataLoss("an object is missing or damaged", **facts, collection=ref.collection)
        path = self.folder / hashlib.sha256(ref.name.encode()).hexdigest()
        path.write_bytes(body)
        return path

    async def read(self, name: str) -> bytes:
        _check_name(name)
        if name not in self.objects:
            raise NotFound("there is no such object", object=name)
        return self.objects[name]

    async def list(self, prefix: str) -> list[tuple[str, int]]:
        folder = prefix.strip("/")
        return sorted(
            (name, len(body))
            for name, body in self.objects.items()
            if not folder or name.startswith(f"{folder}/")
        )

    async def delete(self, name: str) -> None:
        _check_name(name)
        self.objects.pop(name, None)

    async def clean(self) -> int:
        return 0


def _check_name(name: str) -> None:
    if (
        name.startswith(".tmp")
        or "\\" in name
        or any(p in ("", ".", "..") for p in name.split("/"))
    ):
        raise InvalidRequest("the name cannot name an object", object=name)


class FakeState:
    """A restorable state from ``{collection: [(key, document), ...]}``; texts are kept as given.

    A key or document that is not text is encoded as JSON. ``fail_after`` raises in the middle of
    the last collection, after so many of its rows.
    """

    def __init__(
        self,
        collections: Mapping[str, Sequence[tuple[object, object]]],
        *,
        batch_rows: int = 3,
        fail_after: int | None = None,
        schemas: Mapping[str, TableSchema] | None = None,
        sequences: Sequence[SampledSequence] = (),
        whole: bool = True,
    ) -> None:
        self.schemas = schemas or {}
        self.sequences, self.whole = sequences, whole
        self._rows = {
            name: [(_text(key), _text(document)) for key, document in rows]
            for name, rows in sorted(collections.items())
        }
        self.counts = {name: len(rows) for name, rows in self._rows.items()}
        self._batch_rows = batch_rows
        self._fail_after = fail_after
        self._read: set[str] = set()

    def rows(self, collection: str, *, documents_only: bool = False) -> Iterator[pa.RecordBatch]:
        assert collection not in self._read, "each collection can be read once"
        self._read.add(collection)
        rows = self._rows[collection]
        fails = self._fail_after is not None and collection == max(self._rows)
        for first in range(0, len(rows), self._batch_rows):
            if fails and first >= (self._fail_after or 0):
                raise DataLoss("a segment is damaged", object="planted")
            yield change_batch(
                collection, rows[first : first + self._batch_rows], seq_first=first + 1
            )


def change_batch(
    collection: str, rows: Sequence[tuple[str, str]], *, seq_first: int = 1
) -> pa.RecordBatch:
    """Rows of a state as a batch with ``CHANGE_SCHEMA``; times are 1,000,000 + seq."""
    numbers = range(seq_first, seq_first + len(rows))
    columns: dict[str, object] = {
        "seq": list(numbers),
        "collection": [collection] * len(rows),
        "key": [key for key, _ in rows],
        "op": ["update"] * len(rows),
        "after": [document for _, document in rows],
        "lane": ["fake"] * len(rows),
        "position": list(numbers),
    }
    for name in ("at_us", "commit_us", "recorded_us"):
        columns[name] = [1_000_000 + number for number in numbers]
    for name in ("before", "unchanged", "tx", "actor", "reason", "meta"):
        columns[name] = [None] * len(rows)
    return pa.RecordBatch.from_pydict(columns, schema=CHANGE_SCHEMA)


def _text(value: object) -> str:
    return (
        value
        if isinstance(value, str)
        else orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    )


def table_schema(name: str, *columns: str, former: Sequence[str] = (), **types: str) -> TableSchema:
    """A captured table with these columns, the first of which is its key.

    A column is ``text`` unless ``types`` says another.
    """
    schema, _, table = f"public.{name}".rpartition(".")
    return TableSchema(
        schema=schema.removeprefix("public.") or "public",
        name=table,
        relid=1,
        kind="table",
        logged=True,
        identity="d",
        identity_columns=columns[:1],
        columns=tuple(
            TableColumn(number=number, name=each, type=types.get(each, "text"), type_oid=25)
            for number, each in enumerate(columns, 1)
        ),
        primary_key=Constraint(
            kind="primary",
            name=f"{table}_pkey",
            columns=columns[:1],
            definition=f'PRIMARY KEY ("{columns[0]}")',
        ),
        former=tuple(former),
    )
