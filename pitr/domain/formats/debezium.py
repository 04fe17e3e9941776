"""The Debezium format: envelopes with and without their schema, and flattened records.

Source: the Debezium documentation of its connectors (change event values) and of the
``ExtractNewRecordState`` transformation; ``docs/formats.md`` says what pitr makes of each.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

from pitr.domain.change import Op
from pitr.domain.documents import joined
from pitr.domain.formats.draft import Draft, Hints
from pitr.domain.formats.fields import (
    checked_collection,
    checked_text,
    document,
    is_null,
    key_of,
    kind,
    members,
    object_members,
    text_of,
)
from pitr.domain.formats.flaw import Flaw
from pitr.domain.formats.times import commit_us
from pitr.domain.formats.unavailable import is_unavailable, without_unavailable
from pitr.domain.keys import BadKey, column_names, key_from_members

OPS: Final = {
    "c": Op.CREATE,
    "u": Op.UPDATE,
    "d": Op.DELETE,
    "r": Op.READ,
    "t": Op.TRUNCATE,
}

_FLAT_NAMES = frozenset(
    {
        *("__op", "__deleted", "__table", "__schema", "__db", "__collection", "__name"),
        *("__connector", "__version", "__snapshot", "__sequence", "__ts_ms", "__ts_us", "__ts_ns"),
        *("__lsn", "__txId", "__xmin", "__file", "__pos", "__row", "__gtid", "__server_id"),
        *("__thread", "__query", "__scn", "__commit_scn", "__change_lsn", "__commit_lsn"),
        *("__event_serial_no", "__ord", "__rs"),
    }
)
_FLAT_PREFIXES = ("__source_", "__transaction_")

_integer = re.compile(rb"-?[0-9]{1,19}")
_postgres_tx = re.compile(r"([0-9]+):[0-9]+")
_encode = msgspec.json.encode


class _Facts(NamedTuple):
    """What a record says besides its row."""

    collection: str
    commit_us: int | None
    tx: str | None
    meta: bytes
    position: int


class _Record(NamedTuple):
    """The row before and after, as objects, and the record's key, as it came."""

    key: bytes | None
    before: bytes | None
    after: bytes | None


def drafts_of(
    value: bytes | None, *, position: int, key: bytes | None = None, hints: Hints
) -> list[Draft]:
    """Read one record.

    A tombstone (no value, or a null one) follows a delete and is no change of its own. An update
    that moved the row to another key is two: a delete and a create.

    Args:
        value: The record's value, or both as ``{"key":…,"value":…}``.
        position: Where it stands in its lane.
        key: The record's key, where it came on its own.
        hints: What the caller knows and the record does not say.

    Raises:
        Flaw: It cannot be read.
    """
    if value is None or value.strip() in (b"", b"null"):
        return []
    fields = object_members(value, name="value")
    if fields.keys() == {"key", "value"}:
        key = fields["key"]
        inner = fields["value"]
        if inner == b"null":
            return []
        fields = _object(inner, "value")
    if "payload" in fields and fields.keys() <= {"schema", "payload"}:
        if fields["payload"] == b"null":
            return []
        fields = _object(fields["payload"], "payload")
    if is_envelope(fields):
        return _of_envelope(fields, unwrapped_key(key), position, hints)
    if is_flattened(fields):
        return _of_flattened(fields, unwrapped_key(key), position, hints)
    raise _no_change(fields)


def is_envelope(fields: dict[str, bytes]) -> bool:
    """Tell whether an object is a change event value without its schema."""
    return "op" in fields and "source" in fields


def is_flattened(fields: dict[str, bytes]) -> bool:
    """Tell whether an object is a row with fields that ``ExtractNewRecordState`` adds."""
    return any(map(is_flat_name, fields))


def is_flat_name(name: str) -> bool:
    """Tell whether ``ExtractNewRecordState`` added a field; a row's own ``__v`` is not one."""
    return name in _FLAT_NAMES or name.startswith(_FLAT_PREFIXES)


def _no_change(fields: dict[str, bytes]) -> Flaw:
    if {"ddl", "tableChanges", "databaseName"} & fields.keys():
        return Flaw("not_a_change", "ddl: a schema change, not a change of a row")
    if {"status", "id"} <= fields.keys():
        return Flaw("marker", "status: the begin or end of a transaction")
    if fields.keys() == {"ts_ms"}:
        return Flaw("marker", "ts_ms: a heartbeat")
    return Flaw("missing_field", "op, source: absent, and no __op, __table or __source_* either")


def _object(value: bytes, name: str) -> dict[str, bytes]:
    if value[:1] != b"{":
        raise Flaw("wrong_type", f"{name}: must be an object, is {kind(value)}")
    return members(value)


# ------------------------------------------------------------------------------- envelopes


def _of_envelope(
    fields: dict[str, bytes], key: bytes | None, position: int, hints: Hints
) -> list[Draft]:
    name = text_of(fields["op"], name="op")
    if name == "m":
        raise Flaw("not_a_change", "op: 'm' is a logical message, not a change of a row")
    op = _op(name, field="op")
    facts = _envelope_facts(fields, op, position, hints)
    record = _Record(key, _row(fields, "before"), _row(fields, "after"))
    if record.after is None and {"updateDescription", "patch"} & fields.keys() and op is Op.UPDATE:
        raise Flaw(
            "unresolvable",
            "after: absent; the record says which fields changed, not the document. Set "
            "capture.mode to change_streams_update_full",
        )
    return _drafts(op, record, facts, hints)


def _op(name: str, *, field: str) -> Op:
    if name not in OPS:
        raise Flaw("unknown_op", f"{field}: {name[:40]!r} is not one of {', '.join(OPS)}, m")
    return OPS[name]


def _row(fields: dict[str, bytes], name: str) -> bytes | None:
    """Take a row byte for byte. MongoDB's documents come as JSON within a string."""
    value = fields.get(name)
    if value is None or value[:1] != b'"':
        return document(value, name=name)
    text = text_of(value, name=name).encode()
    if text.strip()[:1] != b"{":
        raise Flaw("wrong_type", f"{name}: must be an object, is a string")
    object_members(text, name=name)
    return document(text.strip(b" \t\r\n"), name=name)


def _envelope_facts(fields: dict[str, bytes], op: Op, position: int, hints: Hints) -> _Facts:
    source = _object(fields["source"], "source")
    parts = {"source": fields["source"]}
    transaction: dict[str, bytes] = {}
    if not is_null(fields.get("transaction")):
        parts["transaction"] = fields["transaction"]
        transaction = _object(fields["transaction"], "transaction")
    # The rows of an initial copy carry the transaction that read them. None of them changed in it.
    tx_fields = ("txId", "gtid") if op is not Op.READ else ()
    return _Facts(
        collection=_collection(source, "source.", hints),
        commit_us=_commit_us((source, "source.", ""), (fields, "", "")),
        tx=tx_of([(transaction, "id"), *((source, name) for name in tx_fields)]),
        meta=_meta(parts),
        position=position,
    )


def _collection(source: dict[str, bytes], prefix: str, hints: Hints) -> str:
    def text(*names: str) -> str:
        for name in names:
            if not is_null(source.get(name)):
                return text_of(source[name], name=prefix + name)
        return ""

    table, space = text("table", "collection"), text("schema", "db")
    if table:
        return checked_collection(f"{space}.{table}" if space else table)
    if hints.collection is None:
        raise Flaw("missing_field", f"{prefix}table: absent, so the collection is not known")
    return hints.collection


def _commit_us(*places: tuple[dict[str, bytes], str, str]) -> int | None:
    """Take the first time there is: µs, else ns, else ms; of the source, else of Debezium."""
    for fields, shown, prefix in places:
        for unit, multiply, divide in (("ts_us", 1, 1), ("ts_ns", 1, 1000), ("ts_ms", 1000, 1)):
            value = fields.get(prefix + unit)
            if value is None or value == b"null":
                continue
            name = f"{shown}{prefix}{unit}"
            if not _integer.fullmatch(value):
                raise Flaw("wrong_type", f"{name}: must be a 64-bit integer, is {kind(value)}")
            # Connectors that do not know the time write 0.
            if int(value) != 0:
                return commit_us(int(value) * multiply // divide, name=name)
    return None


def tx_of(places: list[tuple[dict[str, bytes], str]]) -> str | None:
    """Take the first transaction there is."""
    for fields, name in places:
        value = fields.get(name)
        if value is None or value == b"null":
            continue
        return tx_text(text_of(value, name=name) if value[:1] == b'"' else value.decode())
    return None


def tx_text(text: str) -> str:
    """Take what names the whole transaction out of a transaction's id.

    Debezium's PostgreSQL connector writes ``transaction.id`` as transaction and LSN, and the LSN
    is the change's own: only the part before the colon is the same for a whole transaction.
    """
    match = _postgres_tx.fullmatch(text)
    return checked_text(match[1] if match else text, name="tx")


def _meta(parts: dict[str, bytes]) -> bytes:
    meta = document(joined(parts), name="meta")
    assert meta is not None, "a joined object is an object"
    return meta


# ------------------------------------------------------------------------ flattened records


def _of_flattened(
    fields: dict[str, bytes], key: bytes | None, position: int, hints: Hints
) -> list[Draft]:
    added = {name: value for name, value in fields.items() if is_flat_name(name)}
    op = _flattened_op(added)
    source = {name.removeprefix("__"): value for name, value in added.items()}
    source |= {
        name.removeprefix("source_"): value
        for name, value in source.items()
        if name.startswith("source_")
    }
    tx_fields = ("txId", "gtid") if op is not Op.READ else ()
    facts = _Facts(
        collection=_collection(source, "__", hints),
        commit_us=_commit_us((added, "", "__source_"), (added, "", "__")),
        tx=tx_of([(added, "__transaction_id"), *((source, name) for name in tx_fields)]),
        meta=_meta(added),
        position=position,
    )
    row = document(joined({n: v for n, v in fields.items() if n not in added}), name="after")
    if op is Op.DELETE:
        return _drafts(op, _Record(key, row, None), facts, hints)
    return _drafts(op, _Record(key, None, None if op is Op.TRUNCATE else row), facts, hints)


def _flattened_op(added: dict[str, bytes]) -> Op:
    if added.get("__deleted") in (b'"true"', b"true"):
        return Op.DELETE
    if is_null(added.get("__op")):
        return Op.UPDATE
    return _op(text_of(added["__op"], name="__op"), field="__op")


# -------------------------------------------------------------------------- keys and changes


def unwrapped_key(key: bytes | None) -> bytes | None:
    """Take a record's key out of its schema; None where there is none."""
    if key is None or key.strip() in (b"", b"null"):
        return None
    if key.strip()[:1] != b"{":
        return key
    fields = object_members(key, name="key")
    if fields.keys() == {"schema", "payload"}:
        return None if fields["payload"] == b"null" else fields["payload"]
    return key


def _drafts(op: Op, record: _Record, facts: _Facts, hints: Hints) -> list[Draft]:
    if op is Op.TRUNCATE:
        return [_draft(facts, op, "")]
    before = None if record.before is None else without_unavailable(record.before)[0]
    if op is Op.DELETE:
        if record.after is not None:
            raise Flaw("unexpected_field", "after: a delete leaves no row")
        return [_draft(facts, op, _key(record.key, record.before, hints), before=before)]
    if record.after is None:
        raise Flaw("missing_field", f"after: absent or null; {op} needs the row")
    key = _key(record.key, record.after, hints)
    moved = _moved(key, record) if op is Op.UPDATE and record.before is not None else None
    if moved is None:
        return [_draft_of_row(facts, op, key, record.after, before=before)]
    key_old, key_new = moved
    return [
        _draft(facts, Op.DELETE, key_old, before=before),
        _draft_of_row(facts, Op.CREATE, key_new, record.after, filled_from=before),
    ]


def _key(key: bytes | None, row: bytes | None, hints: Hints) -> str:
    if key is not None:
        return key_of(key)
    if hints.key_columns is None:
        raise Flaw(
            "missing_key",
            'key: the record has none; send it as {"key":…,"value":…} or name the key columns',
        )
    values = members(row) if row is not None else {}
    absent = [name for name in hints.key_columns if is_null(values.get(name))]
    if absent or any(is_unavailable(values[name]) for name in hints.key_columns):
        raise Flaw("missing_key", f"key: the row has no {', '.join(absent) or 'key value'}")
    return _key_of_columns(hints.key_columns, values)


def _key_of_columns(columns: tuple[str, ...], values: dict[str, bytes]) -> str:
    try:
        return key_from_members({name: values[name] for name in columns})
    except BadKey as error:
        raise Flaw(error.flaw, f"key: {error}") from error


def _moved(key: str, record: _Record) -> tuple[str, str] | None:
    """Give the old and the new key of a row that moved; None if it stayed, or nobody can tell.

    ``before`` holds null, or nothing, where the source does not send the old value of a column.
    """
    assert record.before is not None, "asked only with both images"
    assert record.after is not None, "asked only with both images"
    columns, before, after = column_names(key), members(record.before), members(record.after)
    for name in columns:
        for values in (before, after):
            if is_null(values.get(name)) or is_unavailable(values[name]):
                return None
    if all(before[name] == after[name] for name in columns):
        return None
    key_old, key_new = _key_of_columns(columns, before), _key_of_columns(columns, after)
    return (key_old, key_new) if key_old != key_new else None


def _draft_of_row(
    facts: _Facts,
    op: Op,
    key: str,
    row: bytes,
    *,
    before: bytes | None = None,
    filled_from: bytes | None = None,
) -> Draft:
    """Make the change that leaves ``row``: a patch if the source left values out of it."""
    after, names = without_unavailable(row)
    if names and filled_from is not None:
        known = members(filled_from)
        found = {name: known[name] for name in names if name in known}
        after = joined(members(after) | found)
        names = tuple(name for name in names if name not in found)
    if not names:
        return _draft(facts, op, key, after=after, before=before)
    return _draft(facts, Op.PATCH, key, after=after, before=before, unchanged=_encode(names))


def _draft(
    facts: _Facts,
    op: Op,
    key: str,
    *,
    after: bytes | None = None,
    before: bytes | None = None,
    unchanged: bytes | None = None,
) -> Draft:
    return Draft(
        collection=facts.collection,
        key=key,
        op=op,
        after=after,
        before=before,
        unchanged=unchanged,
        commit_us=facts.commit_us,
        position=facts.position,
        tx=facts.tx,
        actor=None,
        reason=None,
        meta=facts.meta,
    )
