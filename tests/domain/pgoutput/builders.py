"""Messages of pgoutput, written as a server writes them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Literal

from pitr.domain.pgoutput.messages import EPOCH_US
from pitr.domain.pgoutput.model import Column, Form, Part, Relation, Transaction

UNCHANGED = "unchanged"
Value = bytes | str | None | Literal["unchanged"]
"""Text, a null, or the sign that a value was not sent."""


class _Unchanged(str):
    """Distinct from a text with the same letters."""


unchanged = _Unchanged(UNCHANGED)


def relation(
    relid: int,
    name: str,
    columns: Sequence[tuple[str, Form] | tuple[str, Form, Form]],
    *,
    key: Sequence[str] = ("id",),
    identity: Literal["d", "i", "f", "n"] = "d",
    schema: str = "public",
) -> Relation:
    """Describe a table by its columns' names and forms."""
    return Relation(
        relid=relid,
        schema=schema,
        name=name,
        identity=identity,
        key=tuple(key),
        columns=tuple(
            Column(
                name=column[0],
                type_oid=25,
                typmod=-1,
                form=column[1],
                element=column[2] if len(column) > 2 else None,
                in_identity=identity == "f" or column[0] in key,
            )
            for column in columns
        ),
    )


def tuple_data(values: Sequence[Value]) -> bytes:
    """Write a row."""
    out = [struct.pack(">H", len(values))]
    for value in values:
        if value is None:
            out.append(b"n")
        elif value is unchanged:
            out.append(b"u")
        else:
            text = value.encode() if isinstance(value, str) else value
            out.append(b"t" + struct.pack(">I", len(text)) + text)
    return b"".join(out)


def begin(*, lsn: int = 0x16B3748, commit_us: int = 1_772_357_400_250_001, xid: int = 7) -> bytes:
    """Begin a transaction."""
    return b"B" + struct.pack(">QqI", lsn, commit_us - EPOCH_US, xid)


def commit(*, lsn: int = 0x16B3748, commit_us: int = 1_772_357_400_250_001) -> bytes:
    """End a transaction."""
    return b"C" + struct.pack(">BQQq", 0, lsn, lsn + 48, commit_us - EPOCH_US)


def insert(relid: int, values: Sequence[Value]) -> bytes:
    """Insert a row."""
    return b"I" + struct.pack(">I", relid) + b"N" + tuple_data(values)


def update(
    relid: int,
    values: Sequence[Value],
    *,
    key: Sequence[Value] | None = None,
    old: Sequence[Value] | None = None,
) -> bytes:
    """Update a row."""
    before = b""
    if key is not None:
        before = b"K" + tuple_data(key)
    if old is not None:
        before = b"O" + tuple_data(old)
    return b"U" + struct.pack(">I", relid) + before + b"N" + tuple_data(values)


def delete(
    relid: int, *, key: Sequence[Value] | None = None, old: Sequence[Value] | None = None
) -> bytes:
    """Delete a row."""
    marker, values = (b"K", key) if key is not None else (b"O", old)
    assert values is not None
    return b"D" + struct.pack(">I", relid) + marker + tuple_data(values)


def truncate(*relids: int, flags: int = 0) -> bytes:
    """Truncate tables."""
    return b"T" + struct.pack(">IB", len(relids), flags) + struct.pack(f">{len(relids)}I", *relids)


def message(content: bytes, *, prefix: str = "pitr", transactional: bool = True) -> bytes:
    """Write a logical message."""
    head = struct.pack(">BQ", int(transactional), 0x16B3700)
    return b"M" + head + prefix.encode() + b"\0" + struct.pack(">I", len(content)) + content


def part(
    messages: Sequence[bytes],
    *relations: Relation,
    open_before: Transaction | None = None,
) -> Part:
    """Make a part of a stream."""
    return Part(
        messages=list(messages),
        relations={each.relid: each for each in relations},
        open_before=open_before,
    )
