"""Messages of the stream that are few, one at a time: what they say, field by field.

Source: PostgreSQL documentation, "Logical Replication Message Formats", protocol version 1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from pitr.domain.pgoutput.model import Transaction

EPOCH_US: Final = 946_684_800_000_000
"""2000-01-01 UTC, where PostgreSQL's timestamps begin, in µs since 1970."""

BEGIN: Final = struct.Struct(">xQqI")
COMMIT: Final = struct.Struct(">xBQQq")
_TRUNCATE: Final = struct.Struct(">xIB")
_MESSAGE: Final = struct.Struct(">xBQ")
_RELATION: Final = struct.Struct(">xI")
_COLUMN: Final = struct.Struct(">Ii")
_COUNT: Final = struct.Struct(">H")
_LENGTH: Final = struct.Struct(">I")

_CASCADE: Final = 1
_RESTART_IDENTITY: Final = 2
_TRANSACTIONAL: Final = 1
_IN_IDENTITY: Final = 1


class BadMessage(ValueError):
    """The bytes are not the message that they are taken for; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """The end of a transaction. ``end_lsn`` is where the next one can begin."""

    flags: int
    commit_lsn: int
    end_lsn: int
    commit_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RawColumn:
    """A column as a relation message has it."""

    name: str
    type_oid: int
    typmod: int
    in_identity: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRelation:
    """A relation message. ``identity`` is the letter of its replica identity."""

    relid: int
    schema: str
    name: str
    identity: str
    columns: tuple[RawColumn, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawType:
    """A type message: the name of a type that is not built in."""

    oid: int
    schema: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncate:
    """Tables that were truncated by one statement."""

    relids: tuple[int, ...]
    cascade: bool
    restart_identity: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LogicalMessage:
    """What ``pg_logical_emit_message`` wrote."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


def begin_of(payload: bytes) -> Transaction:
    """Read the begin of a transaction.

    Raises:
        BadMessage: It cannot be read; so below.
    """
    if len(payload) != BEGIN.size:
        raise BadMessage(f"begin: has {len(payload)} bytes, not {BEGIN.size}")
    lsn, commit, xid = BEGIN.unpack(payload)
    return Transaction(lsn=lsn, commit_us=commit + EPOCH_US, xid=xid)


def commit_of(payload: bytes) -> Commit:
    """Read the end of a transaction."""
    if len(payload) != COMMIT.size:
        raise BadMessage(f"commit: has {len(payload)} bytes, not {COMMIT.size}")
    flags, commit_lsn, end_lsn, commit = COMMIT.unpack(payload)
    return Commit(flags=flags, commit_lsn=commit_lsn, end_lsn=end_lsn, commit_us=commit + EPOCH_US)


def relation_of(payload: bytes) -> RawRelation:
    """Read the description of a table."""
    read = _Reader(payload, "relation")
    (relid,) = read.fields(_RELATION)
    schema, name = read.text("schema") or "pg_catalog", read.text("name")
    identity = read.take(1).decode("latin-1")
    (count,) = read.fields(_COUNT)
    columns = []
    for _ in range(count):
        flags = read.take(1)[0]
        column = read.text("column")
        type_oid, typmod = read.fields(_COLUMN)
        columns.append(
            RawColumn(
                name=column,
                type_oid=type_oid,
                typmod=typmod,
                in_identity=bool(flags & _IN_IDENTITY),
            )
        )
    read.end()
    return RawRelation(
        relid=relid, schema=schema, name=name, identity=identity, columns=tuple(columns)
    )


def type_of(payload: bytes) -> RawType:
    """Read the name of a type."""
    read = _Reader(payload, "type")
    (oid,) = read.fields(_RELATION)
    schema, name = read.text("schema") or "pg_catalog", read.text("name")
    read.end()
    return RawType(oid=oid, schema=schema, name=name)


def truncate_of(payload: bytes) -> Truncate:
    """Read which tables were truncated."""
    read = _Reader(payload, "truncate")
    count, flags = read.fields(_TRUNCATE)
    relids = struct.unpack(f">{count}I", read.take(4 * count))
    read.end()
    return Truncate(
        relids=relids,
        cascade=bool(flags & _CASCADE),
        restart_identity=bool(flags & _RESTART_IDENTITY),
    )


def message_of(payload: bytes) -> LogicalMessage:
    """Read a logical message. A prefix that is not UTF-8 is none of ours, and written with \\x."""
    read = _Reader(payload, "message")
    flags, lsn = read.fields(_MESSAGE)
    prefix = read.until_nul().decode(errors="backslashreplace")
    (length,) = read.fields(_LENGTH)
    content = read.take(length)
    read.end()
    return LogicalMessage(
        transactional=bool(flags & _TRANSACTIONAL), lsn=lsn, prefix=prefix, content=content
    )


class _Reader:
    """Takes a message apart from its beginning to its end."""

    def __init__(self, payload: bytes, what: str) -> None:
        self._payload = payload
        self._what = what
        self._place = 0

    def take(self, count: int) -> bytes:
        end = self._place + count
        if end > len(self._payload):
            raise BadMessage(f"{self._what}: ends too early")
        taken = self._payload[self._place : end]
        self._place = end
        return taken

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def until_nul(self) -> bytes:
        end = self._payload.find(b"\0", self._place)
        if end < 0:
            raise BadMessage(f"{self._what}: ends too early")
        return self.take(end + 1 - self._place)[:-1]

    def text(self, field: str) -> str:
        try:
            return self.until_nul().decode()
        except UnicodeDecodeError as error:
            raise BadMessage(f"{self._what}: {field}: is not UTF-8") from error

    def end(self) -> None:
        if self._place != len(self._payload):
            raise BadMessage(f"{self._what}: has bytes past its end")
