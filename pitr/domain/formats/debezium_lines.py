"""The Debezium format, thousands of envelopes at once, several times faster than one by one.

It gives exactly what ``debezium.drafts_of`` gives for each of its records, or gives up (see
``bulk``): on records without a key, on stand-ins for values, on rows that moved to another key, on
truncates, tombstones, flattened records and documents within strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa

from pitr.domain.duplicates import distinct_names
from pitr.domain.formats.bulk import (
    ABSENT_JSON,
    Documents,
    Unsure,
    decoded,
    positions_column,
    require_distinct_names,
)
from pitr.domain.formats.debezium import OPS, tx_of, tx_text, unwrapped_key
from pitr.domain.formats.draft import table_of_columns
from pitr.domain.formats.fields import checked_collection, key_of, members
from pitr.domain.formats.flaw import Flaw
from pitr.domain.formats.times import commit_us
from pitr.domain.formats.unavailable import may_hold_unavailable
from pitr.domain.keys import column_names, is_canonical

_Time = int | None | msgspec.UnsetType


class _Keyed(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    key: msgspec.Raw
    value: msgspec.Raw


class _WithSchema(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    payload: msgspec.Raw
    schema: msgspec.Raw = ABSENT_JSON


class _Envelope(msgspec.Struct, gc=False):
    op: str
    source: msgspec.Raw
    before: msgspec.Raw = ABSENT_JSON
    after: msgspec.Raw = ABSENT_JSON
    transaction: msgspec.Raw = ABSENT_JSON
    ts_us: _Time = msgspec.UNSET
    ts_ns: _Time = msgspec.UNSET
    ts_ms: _Time = msgspec.UNSET


class _Source(msgspec.Struct, gc=False):
    ts_us: int | None = None
    ts_ns: int | None = None
    ts_ms: int | None = None
    schema: str | None = None
    db: str | None = None
    table: str | None = None
    collection: str | None = None
    txId: int | str | None = None  # noqa: N815 (Debezium's name)
    gtid: str | None = None


_keyed = msgspec.json.Decoder(_Keyed)
_with_schema = msgspec.json.Decoder(_WithSchema)
_envelopes = msgspec.json.Decoder(_Envelope)
_sources = msgspec.json.Decoder(_Source)

_ROW_OPS: Final = {name: str(op) for name, op in OPS.items() if name != "t"}


def table_of_items(
    items: Sequence[bytes], positions: Sequence[int], keys: Sequence[bytes | None] | None
) -> pa.Table:
    """Read many envelopes at once, all of them good.

    Args:
        items: At least one, all in the same form: with or without key, with or without schema.
        positions: Where each stands in its lane.
        keys: The records' keys; None where the items hold them.

    Raises:
        Unsure: At least one is flawed, or unusual.
    """
    blob = b"\n".join(items)
    if may_hold_unavailable(blob):
        raise Unsure
    keys, envelopes, names_count = _unwrapped(blob, items, keys)
    rows = _Rows(envelopes, keys)
    require_distinct_names(blob, items, names_count + rows.names_count)
    nothing = pa.nulls(len(items), pa.string())
    return table_of_columns(
        [
            pa.array(rows.collections(), pa.string()),
            pa.array(rows.keys, pa.string()),
            pa.array(rows.ops(), pa.string()),
            rows.after.column(),
            rows.before.column(),
            nothing,
            pa.array(rows.commits_us(), pa.int64()),
            positions_column(positions),
            pa.array(rows.txs(), pa.string()),
            nothing,
            nothing,
            pa.array(rows.metas(), pa.string()),
        ]
    )


def _unwrapped(
    blob: bytes, items: Sequence[bytes], keys: Sequence[bytes | None] | None
) -> tuple[Sequence[bytes | None], list[_Envelope], int]:
    """Take the envelopes out of what they come in, and count the names of that."""
    if not items[0].startswith((b'{"key"', b'{"value"', b'{"schema"', b'{"payload"')):
        if keys is None:
            raise Unsure
        return keys, decoded(blob, items, _envelopes), 0
    names_count = 0
    values: Any = None
    if items[0].startswith((b'{"key"', b'{"value"')):
        records = decoded(blob, items, _keyed)
        key_documents = Documents([record.key for record in records])
        keys = key_documents.values()
        names_count = len(items) + key_documents.names_count()
        values = [record.value for record in records]
        if not bytes(values[0]).startswith((b'{"schema"', b'{"payload"')):
            return keys, _decoded_parts(values, _envelopes), names_count
    records = (
        decoded(blob, items, _with_schema)
        if values is None
        else _decoded_parts(values, _with_schema)
    )
    if keys is None:
        raise Unsure
    names_count += len(items) + _schema_names_count([record.schema for record in records])
    return keys, _decoded_parts([record.payload for record in records], _envelopes), names_count


def _decoded_parts(parts: list[msgspec.Raw], decoder: msgspec.json.Decoder[Any]) -> list[Any]:
    """Decode values that are known to be one valid JSON text each."""
    try:
        return decoder.decode_lines(b"\n".join(parts))
    except msgspec.MsgspecError as error:
        raise Unsure from error


def _schema_names_count(schemas: list[msgspec.Raw]) -> int:
    """Count the names of the schemas, and the field that holds each. Most are the same."""
    counts = {b"": 0}
    total = 0
    for raw in schemas:
        schema = bytes(raw)
        if schema not in counts:
            counts[schema] = 1 + max(distinct_names(schema), 0)
        total += counts[schema]
    return total


class _Rows:
    """The columns of a batch of envelopes."""

    def __init__(self, envelopes: list[_Envelope], keys: Sequence[bytes | None]) -> None:
        self.envelopes = envelopes
        source, self.before, self.after, transaction = (
            Documents([getattr(envelope, name) for envelope in envelopes])
            for name in ("source", "before", "after", "transaction")
        )
        self.before_members = self.before.objects
        self.after_members = self.after.objects
        self.keys = _canonical_keys(keys)
        if not source.objects_only:
            raise Unsure
        self.source_texts = source.values()
        self.transaction_texts = transaction.values()
        self.names_count = (
            len(envelopes)  # Each has its op.
            + source.names_count()
            + transaction.names_count()
            + self.before.present_count
            + self.after.present_count
            + sum(map(len, self.before_members))
            + sum(map(len, self.after_members))
            + sum(
                (each.ts_us is not msgspec.UNSET)
                + (each.ts_ns is not msgspec.UNSET)
                + (each.ts_ms is not msgspec.UNSET)
                for each in envelopes
            )
        )
        try:
            self.sources: list[_Source] = _sources.decode_lines(source.joined)
        except msgspec.MsgspecError as error:
            raise Unsure from error

    def collections(self) -> list[str]:
        known: dict[tuple[str | None, ...], str] = {}
        found = []
        for source in self.sources:
            place = (source.schema, source.db, source.table, source.collection)
            if place not in known:
                known[place] = _collection(source)
            found.append(known[place])
        return found

    def ops(self) -> list[str]:
        """Give the ops, sure that each has the images that it needs, and that no row moved."""
        before, after = iter(self.before_members), iter(self.after_members)
        ops = []
        for envelope, key, first_before, first_after in zip(
            self.envelopes, self.keys, self.before.firsts(), self.after.firsts(), strict=True
        ):
            op = _ROW_OPS.get(envelope.op)
            if op is None or (first_after == b"{") == (op == "delete"):
                raise Unsure
            row_before = next(before) if first_before == b"{" else None
            row_after = next(after) if first_after == b"{" else None
            if op == "update" and row_before and _may_have_moved(key, row_before, row_after or {}):
                raise Unsure
            ops.append(op)
        return ops

    def commits_us(self) -> list[int | None]:
        try:
            found = map(_commit_us, self.sources)
            return [
                commit if commit is not None else _commit_us(envelope)
                for commit, envelope in zip(found, self.envelopes, strict=True)
            ]
        except Flaw as flaw:
            raise Unsure from flaw

    def txs(self) -> list[str | None]:
        try:
            return [
                _tx(source, envelope, transaction)
                for source, envelope, transaction in zip(
                    self.sources, self.envelopes, self.transaction_texts, strict=True
                )
            ]
        except Flaw as flaw:
            raise Unsure from flaw

    def metas(self) -> list[bytes]:
        return [
            b'{"source":' + source + b"}"
            if transaction in (b"", b"null")
            else b'{"source":' + source + b',"transaction":' + transaction + b"}"
            for source, transaction in zip(self.source_texts, self.transaction_texts, strict=True)
        ]


def _canonical_keys(keys: Sequence[bytes | None]) -> list[str]:
    found = []
    for key in keys:
        if key is not None and is_canonical(key):
            found.append(key.decode())
        else:
            found.append(_canonical_key(key))
    return found


def _canonical_key(key: bytes | None) -> str:
    try:
        unwrapped = unwrapped_key(key)
        if unwrapped is None:
            raise Unsure
        return key_of(unwrapped)
    except Flaw as flaw:
        raise Unsure from flaw


def _collection(source: _Source) -> str:
    table = source.table if source.table is not None else source.collection
    space = source.schema if source.schema is not None else source.db
    if not table:
        raise Unsure
    try:
        return checked_collection(f"{space}.{table}" if space else table)
    except Flaw as flaw:
        raise Unsure from flaw


def _may_have_moved(
    key: str, before: dict[str, msgspec.Raw], after: dict[str, msgspec.Raw]
) -> bool:
    return any(
        name in before and name in after and bytes(before[name]) != bytes(after[name])
        for name in column_names(key)
    )


def _commit_us(times: _Source | _Envelope) -> int | None:
    """Take the first time there is, in µs. UNSET is false, and so is the 0 of the unknowing."""
    if times.ts_us:
        return commit_us(times.ts_us)
    if times.ts_ns:
        return commit_us(times.ts_ns // 1000)
    if times.ts_ms:
        return commit_us(times.ts_ms * 1000)
    return None


def _tx(source: _Source, envelope: _Envelope, transaction: bytes) -> str | None:
    if transaction not in (b"", b"null"):
        if transaction[:1] != b"{":
            raise Unsure
        tx = tx_of([(members(transaction), "id")])
        if tx is not None:
            return tx
    if envelope.op == "r":
        return None
    if source.txId == 0:
        raise Unsure  # It may have been spelled -0.
    text = source.txId if source.txId is not None else source.gtid
    return None if text is None else tx_text(str(text))
