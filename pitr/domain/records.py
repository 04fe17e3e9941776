"""Records of a pulled source, and the changes that they are."""

from __future__ import annotations

import base64
import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import msgspec
import orjson
import pyarrow as pa

from pitr.domain.batch import Decoded
from pitr.domain.documents import is_object, members
from pitr.domain.formats import Format, decode_values

Headers = Sequence[tuple[str, bytes | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What a lane's source holds over the positions ``[position_first, position_end)``, in order.

    ``positions`` rise and may have holes: those of compacted topics and of transaction markers are
    no gaps. ``times_us`` are the records' own times, None where they have none. ``headers`` is
    None if no record has any.
    """

    lane: str
    position_first: int
    position_end: int
    positions: list[int]
    values: list[bytes | None]
    keys: list[bytes | None]
    times_us: list[int | None]
    headers: list[Headers] | None = None
    size_bytes: int = 0


def joined(parts: Sequence[Records]) -> Records:
    """Join records of one lane that follow each other."""
    first, headers = parts[0], None
    if any(part.headers is not None for part in parts):
        headers = [each for part in parts for each in part.headers or [()] * len(part.values)]
    return replace(
        first,
        position_end=parts[-1].position_end,
        positions=list(chain.from_iterable([part.positions for part in parts])),
        values=list(chain.from_iterable([part.values for part in parts])),
        keys=list(chain.from_iterable([part.keys for part in parts])),
        times_us=list(chain.from_iterable([part.times_us for part in parts])),
        headers=headers,
        size_bytes=sum(part.size_bytes for part in parts),
    )


def digest_of(key: bytes | None, value: bytes | None) -> str:
    """Tell a record from another one at the same position, by 16 hex digits."""
    digest = hashlib.sha256(b"-" if key is None else b"+%d:" % len(key) + key)
    digest.update(b"-" if value is None else b"+" + value)
    return digest.hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peeked:
    """One record of a source: where it is, its digest, its time."""

    position: int
    digest: str
    time_us: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the records of a topic are read; see ``formats.decode_values``."""

    format: Format = "auto"
    collection: str | None = None
    key_columns: tuple[str, ...] | None = None


def decode_records(records: Records, reading: Reading) -> Decoded:
    """Decode records: their times date changes that have none, their headers go into ``meta``.

    Heartbeats and transaction markers of Debezium are passed over.
    """
    decoded = decode_values(
        records.values,
        format=reading.format,
        positions=records.positions,
        keys=records.keys,
        key_columns=reading.key_columns,
        collection=reading.collection,
    )
    changes = decoded.changes
    if changes["commit_us"].null_count:
        changes = _dated(changes, records)
    if records.headers is not None:
        changes = _with_headers(changes, records)
    quarantined = tuple(
        replace(flawed, meta=_place(records, flawed.position))
        for flawed in decoded.quarantined
        if reading.format == "native"
        or not is_marker(records.values[_at(records, flawed.position)])
    )
    return Decoded(changes=changes, quarantined=quarantined)


def is_marker(value: bytes | None) -> bool:
    """Tell whether a value is a heartbeat of Debezium, or the begin or end of a transaction.

    Strict, for a marker is passed over: a row may well have columns ``id`` and ``status``.
    """
    try:
        fields = members(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    if "payload" in fields and fields.keys() <= {"schema", "payload"}:
        return is_marker(fields["payload"])
    if fields.keys() == {"ts_ms"}:
        return True
    known = {"status", "id", "event_count", "data_collections"}
    return known <= fields.keys() and fields["status"] in (b'"BEGIN"', b'"END"')


def _dated(changes: pa.Table, records: Records) -> pa.Table:
    times = dict(zip(records.positions, records.times_us, strict=True))
    dated = [
        times[position] if commit_us is None else commit_us
        for commit_us, position in zip(
            changes["commit_us"].to_pylist(), changes["position"].to_pylist(), strict=True
        )
    ]
    return _replaced(changes, "commit_us", dated)


def _with_headers(changes: pa.Table, records: Records) -> pa.Table:
    assert records.headers is not None
    found = {
        position: headers
        for position, headers in zip(records.positions, records.headers, strict=True)
        if headers
    }
    metas = [
        _meta(meta, found[position]) if position in found else meta
        for meta, position in zip(
            changes["meta"].to_pylist(), changes["position"].to_pylist(), strict=True
        )
    ]
    return _replaced(changes, "meta", metas)


def _replaced(changes: pa.Table, name: str, values: list[Any]) -> pa.Table:
    at = changes.schema.get_field_index(name)
    field = changes.schema.field(at)
    return changes.set_column(at, field, pa.array(values, field.type))


def _meta(meta: str | None, headers: Headers) -> str:
    added = header_json(headers).decode()
    if meta is None:
        return f'{{"headers":{added}}}'
    document = meta.encode()
    if not is_object(document):
        return f'{{"meta":{meta},"headers":{added}}}'
    known = members(document)
    name = "headers"
    while name in known:
        name = f"record_{name}"
    comma = "," if known else ""
    return f'{meta.rstrip()[:-1]}{comma}"{name}":{added}}}'


def header_json(headers: Headers) -> bytes:
    """Write headers as a JSON object; a name that repeats has a list, bytes are in base64."""
    found: dict[str, list[Any]] = {}
    for name, value in headers:
        found.setdefault(name, []).append(_header_value(value))
    return orjson.dumps(
        {name: values if len(values) > 1 else values[0] for name, values in found.items()}
    )


def _header_value(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _at(records: Records, position: int) -> int:
    return bisect_left(records.positions, position)


def _place(records: Records, position: int) -> bytes:
    at = _at(records, position)
    headers = records.headers[at] if records.headers is not None else ()
    place: dict[str, Any] = {"lane": records.lane, "position": position}
    if records.times_us[at] is not None:
        place["time_us"] = records.times_us[at]
    if (key := records.keys[at]) is not None:
        place["key"] = _header_value(key)
    if headers:
        place["headers"] = msgspec.Raw(header_json(headers))
    return msgspec.json.encode(place)
