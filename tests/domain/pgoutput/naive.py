"""Decodes a part one message after the other, plainly; what ``decode_part`` must agree with."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from pitr.domain.change import DOCUMENT_BYTES_MAX, KEY_BYTES_MAX
from pitr.domain.keys import BadKey, canonical_key
from pitr.domain.pgoutput.messages import EPOCH_US
from pitr.domain.pgoutput.model import Column, Form, Part, Relation, Transaction

ABSENT = object()
"""A value that was not sent."""


class Lost(Exception):
    """The message cannot be read."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Naive:
    """Changes as dicts of ``DRAFT_SCHEMA``, and (position, body, code) of what is quarantined.

    ``last`` is the transaction that the part leaves open.
    """

    changes: list[dict[str, Any]] = field(default_factory=list)
    quarantined: list[tuple[int, bytes, str]] = field(default_factory=list)
    last: Transaction | None = None


def decode(part: Part, *, position_first: int) -> Naive:
    """Decode a part."""
    found = Naive(last=part.open_before)
    position = position_first
    for payload in part.messages:
        for each in changes_of(payload, part, found):
            if isinstance(each, Lost):
                found.quarantined.append((position, payload, each.code))
                position += 1
            else:
                for change in each:
                    found.changes.append(complete(change, position, found.last))
                    position += 1
    return found


ROWS = (b"I", b"U", b"D", b"T")


def changes_of(payload: bytes, part: Part, found: Naive) -> list[Any]:
    """Decode a message: for each of its row changes the changes, or why there are none."""
    kind = payload[:1]
    try:
        if kind == b"B":
            need(len(payload) == 21)
            lsn, commit, xid = struct.unpack(">QqI", payload[1:])
            found.last = Transaction(lsn=lsn, commit_us=commit + EPOCH_US, xid=xid)
        elif kind == b"C":
            need(len(payload) == 26)
            found.last = None
        elif kind == b"M":
            found.last = hear(payload, found.last)
        elif kind == b"T":
            return truncated(payload, part.relations)
        else:
            need(kind in ROWS)
            return [row_changes(payload, part.relations)]
    except Lost as lost:
        return [lost]
    return []


def need(holds: bool, code: str = "bad_message") -> None:
    if not holds:
        raise Lost(code)


def complete(change: dict[str, Any], position: int, tx: Transaction | None) -> dict[str, Any]:
    own = change.pop("own_meta", None)
    meta = tx.meta if tx else None
    if own and meta is None:
        meta = dumps(own)
    elif own:
        said = json.loads(meta)
        if isinstance(said, dict) and not said.keys() & own.keys():
            # The members of what was said keep their text.
            meta = meta.strip()[:-1] + ("," if said else "") + dumps(own)[1:]
        else:
            meta = '{"meta":' + meta + "," + dumps(own)[1:]
    return {
        "collection": change["collection"],
        "key": change["key"],
        "op": change["op"],
        "after": change.get("after"),
        "before": change.get("before"),
        "unchanged": change.get("unchanged"),
        "commit_us": tx.commit_us if tx else None,
        "position": position,
        "tx": f"{tx.xid}:{tx.lsn >> 32:X}/{tx.lsn % 2**32:X}" if tx else None,
        "actor": tx.actor if tx else None,
        "reason": tx.reason if tx else None,
        "meta": meta,
    }


def hear(payload: bytes, tx: Transaction | None) -> Transaction | None:
    need(len(payload) >= 10)
    prefix, nul, rest = payload[10:].partition(b"\0")
    need(nul == b"\0" and len(rest) >= 4)
    content = rest[4:]
    need(struct.unpack(">I", rest[:4])[0] == len(content))
    if not payload[1] & 1 or prefix != b"pitr" or tx is None:
        return tx
    try:
        said = json.loads(content.decode(), object_pairs_hook=distinct)
    except ValueError as error:
        raise Lost("bad_message") from error
    need(isinstance(said, dict))
    for name in ("actor", "reason"):
        text = said.get(name)
        need(text is None or (isinstance(text, str) and "\0" not in text))
    meta = said.get("meta")
    raw = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    return replace(
        tx,
        actor=said.get("actor"),
        reason=said.get("reason"),
        meta=None if meta is None else bytes(raw["meta"]).decode(),
    )


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)


def truncated(payload: bytes, relations: dict[int, Relation]) -> list[Any]:
    need(len(payload) >= 6)
    count, flags = struct.unpack(">IB", payload[1:6])
    need(len(payload) == 6 + 4 * count)
    own = {}
    if flags & 1:
        own["cascade"] = True
    if flags & 2:
        own["restart_identity"] = True
    changes: list[Any] = []
    for relid in struct.unpack(f">{count}I", payload[6:]):
        relation = relations.get(relid)
        if relation is None:
            changes.append(Lost("bad_message"))
        else:
            change = {"collection": relation.collection, "op": "truncate", "key": ""}
            changes.append([change | {"own_meta": dict(own)}])
    return changes


def row_changes(payload: bytes, relations: dict[int, Relation]) -> list[dict[str, Any]]:
    kind = chr(payload[0])
    need(len(payload) >= 6)
    relation = relations.get(struct.unpack(">I", payload[1:5])[0])
    if relation is None:
        raise Lost("bad_message")
    marker, old, new = images(payload, kind, relation)
    need(len(relation.collection.encode()) <= 512, "collection_too_long")
    need(relation.key != (), "missing_key")
    if old and new:
        for at, value in enumerate(new):
            if value is ABSENT and not (marker == "K" and old[at] is None):
                new[at] = old[at]
    for values in (new, old):
        if values:
            check_key(relation, values)
    if marker == "K":
        names = [column.name for column in relation.columns]
        old = [old[at] if name in relation.key else None for at, name in enumerate(names)]
    for value in new + old:
        if isinstance(value, bytes):
            check_utf8(value)
    return written(kind, marker, relation, old, new)


def images(payload: bytes, kind: str, relation: Relation) -> tuple[str, list[Any], list[Any]]:
    """Take the marker, the old row and the new row from a message."""
    marker = chr(payload[5])
    need(marker in {"I": "N", "U": "KON", "D": "KO"}[kind])
    old: list[Any] = []
    new: list[Any] = []
    if marker == "N":
        new, place = read_tuple(payload, 6, relation)
    else:
        old, place = read_tuple(payload, 6, relation)
        if kind == "U":
            need(payload[place : place + 1] == b"N")
            new, place = read_tuple(payload, place + 1, relation)
    need(place == len(payload))
    return marker, old, new


def check_utf8(value: bytes) -> None:
    try:
        value.decode()
    except UnicodeDecodeError as error:
        raise Lost("not_utf8") from error


def check_key(relation: Relation, values: list[Any]) -> None:
    by_name = dict(zip([column.name for column in relation.columns], values, strict=True))
    for name in sorted(relation.key):
        need(by_name.get(name, ABSENT) is not ABSENT, "missing_key")
        need(by_name[name] is not None or relation.is_keyed_by_row, "wrong_type")
    need(any(by_name[name] is not None for name in relation.key), "missing_key")


def written(
    kind: str, marker: str, relation: Relation, old: list[Any], new: list[Any]
) -> list[dict[str, Any]]:
    pairs = list(zip(relation.columns, new, strict=True)) if new else []
    absent = [column.name for column, value in pairs if value is ABSENT]

    def change(op: str, key: list[Any], **documents: list[Any]) -> dict[str, Any]:
        found = {"collection": relation.collection, "op": op, "key": checked_key(relation, key)}
        found |= {name: document(relation.columns, values) for name, values in documents.items()}
        if op == "create" and absent:
            found["own_meta"] = {"pitr": {"unknown": absent}}
        if op == "patch":
            found["unchanged"] = dumps(absent)
        return found

    before = {"before": old} if marker == "O" else {}
    if kind == "I":
        return [change("create", new, after=new)]
    if kind == "D":
        return [change("delete", old, **before)]
    if old and key_of(relation, old) != key_of(relation, new):
        return [change("delete", old, **before), change("create", new, after=new)]
    return [change("patch" if absent else "update", new, after=new, **before)]


def key_of(relation: Relation, values: list[Any]) -> str:
    pairs = [
        (column, value)
        for column, value in zip(relation.columns, values, strict=True)
        if column.name in relation.key and not (value is None and relation.is_keyed_by_row)
    ]
    pairs.sort(key=lambda pair: pair[0].name)
    return "{" + ",".join(member(column, value) for column, value in pairs) + "}"


def checked_key(relation: Relation, values: list[Any]) -> str:
    text = key_of(relation, values)
    try:
        key = canonical_key(text.encode())
    except BadKey as error:
        raise Lost(error.flaw) from error
    assert key == text
    assert len(key.encode()) <= KEY_BYTES_MAX
    return key


def document(columns: tuple[Column, ...], values: list[Any]) -> str:
    pairs = zip(columns, values, strict=True)
    text = "{" + ",".join(member(c, v) for c, v in pairs if v is not ABSENT) + "}"
    need(len(text.encode()) <= DOCUMENT_BYTES_MAX, "document_too_large")
    return text


def member(column: Column, value: bytes | None) -> str:
    if value is None:
        return dumps(column.name) + ":null"
    return dumps(column.name) + ":" + rendered(column.form, column.element, value.decode())


NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def rendered(form: Form, element: Form | None, text: str) -> str:
    if form in ("integer", "number") and NUMBER.fullmatch(text):
        return text
    if form == "boolean" and text in ("t", "f"):
        return "true" if text == "t" else "false"
    if form == "array" and text.startswith("{"):
        try:
            items, place = array_items(text, 0)
        except ValueError:
            return dumps(text)
        if place == len(text):
            return array_json(items, element or "string")
    return dumps(text)


def array_json(items: list[Any], element: Form) -> str:
    texts = []
    for item in items:
        if isinstance(item, list):
            texts.append(array_json(item, element))
        else:
            texts.append("null" if item is None else rendered(element, None, item))
    return "[" + ",".join(texts) + "]"


def array_items(text: str, place: int, depth: int = 1) -> tuple[list[Any], int]:
    """Read from a brace to the one that closes it."""
    if depth > 6:
        raise ValueError("more dimensions than PostgreSQL has")
    items: list[Any] = []
    place += 1
    if text[place : place + 1] == "}":
        return items, place + 1
    while True:
        first = text[place : place + 1]
        if first == "{":
            item, place = array_items(text, place, depth + 1)
        elif first == '"':
            item, place = quoted_item(text, place + 1)
        else:
            end = place
            while text[end : end + 1] not in ("", "{", "}", ",", '"', "\\"):
                end += 1
            if end == place:
                raise ValueError("no element")
            item = text[place:end]
            item, place = None if item == "NULL" else item, end
        items.append(item)
        if text[place : place + 1] == "}":
            return items, place + 1
        if text[place : place + 1] != ",":
            raise ValueError("neither a comma nor an end")
        place += 1


def quoted_item(text: str, place: int) -> tuple[str, int]:
    out = ""
    while text[place : place + 1] != '"':
        if text[place : place + 1] == "\\":
            place += 1
        if place >= len(text):
            raise ValueError("no end")
        out += text[place]
        place += 1
    return out, place + 1


def read_tuple(payload: bytes, place: int, relation: Relation) -> tuple[list[Any], int]:
    need(len(payload) >= place + 2)
    count = struct.unpack(">H", payload[place : place + 2])[0]
    need(count == len(relation.columns))
    place += 2
    values: list[Any] = []
    for _ in range(count):
        kind, place = payload[place : place + 1], place + 1
        if kind == b"n":
            values.append(None)
        elif kind == b"u":
            values.append(ABSENT)
        else:
            need(kind == b"t" and len(payload) >= place + 4)
            length = struct.unpack(">I", payload[place : place + 4])[0]
            place += 4
            need(len(payload) >= place + length)
            values.append(payload[place : place + length])
            place += length
    return values, place


ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}


def dumps(value: Any) -> str:
    """Write JSON as short as possible, one character after the other."""
    if isinstance(value, str):
        return (
            '"'
            + "".join(
                ESCAPES.get(each) or (f"\\u{ord(each):04x}" if each < " " else each)
                for each in value
            )
            + '"'
        )
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
