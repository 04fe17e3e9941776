"""Cuts the stream of a slot into parts: whole transactions, or pieces of one that is too large.

It looks at the kind of each message, and into those that are few; rows pass by as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from pitr.domain.pgoutput.lost import SlotLost
from pitr.domain.pgoutput.messages import (
    BEGIN,
    COMMIT,
    begin_of,
    commit_of,
    message_of,
    truncate_of,
)
from pitr.domain.pgoutput.model import Part, Relation, Transaction
from pitr.domain.pgoutput.reasons import REASON_PREFIX, with_reason

_BEGIN, _COMMIT, _RELATION, _TRUNCATE, _MESSAGE = b"BCRTM"
_ROWS: Final = frozenset(b"IUD")
_END_LSN: Final = slice(10, 18)
"""Where a commit says where the next transaction can begin."""

OWN_PREFIX: Final = "pitr."
MESSAGE_BYTES: Final = 90
"""What a message takes in memory besides its bytes."""


class Need(Enum):
    """What has to happen before the stream goes on."""

    MORE = auto()
    """Everything that was given is taken in."""
    CUT = auto()
    """Enough waits: cut."""
    RELATION = auto()
    """``described`` holds a relation message: relate, after a cut if the table was known."""
    MARKER = auto()
    """A transaction with messages of ours has ended: cut, then see to ``markers``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """A message of pitr's own (``pitr.copy``, ``pitr.ddl``), and the transaction it came in."""

    kind: str
    content: bytes
    transaction: Transaction


class Assembler:
    """Takes the messages of one slot in order, and gives parts.

    Args:
        lsn: Where the stream begins: the end of the last whole transaction that is stored.
        resumed: The transaction of which the log has a piece already, None if there is none. It is
            the first that the stream brings; what the log has of it is dropped again.
    """

    def __init__(
        self, *, lsn: int, resumed: Transaction | None, rows_max: int, bytes_max: int
    ) -> None:
        self._rows_max = rows_max
        self._bytes_max = bytes_max
        self._relations: dict[int, Relation] = {}
        self._resumed = resumed
        self._skip = 0
        self._begun = b""
        """The begin of the transaction that is under way; empty if there is none."""
        self._current: Transaction | None = None
        """What it says, once that was needed: most transactions are small and many."""
        self._done_before = 0
        """Row changes of the current transaction that are in earlier parts."""
        self._met: list[Marker] = []
        self._messages: list[bytes] = []
        self._open_before: Transaction | None = None
        self._rows = self._bytes = 0
        self._whole = self._whole_rows = 0
        """How many of the messages, and of their rows, are whole transactions."""
        self.lsn = lsn
        """Where the stream begins again if it breaks off: all that ended before is taken in."""
        self.described = b""
        self.markers: list[Marker] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits, and no transaction is under way."""
        return not self._messages and not self._begun

    @property
    def transaction(self) -> Transaction | None:
        """The transaction that is under way in the stream."""
        if self._current is None and self._begun:
            self._current = begin_of(self._begun)
        return self._current

    @property
    def holds_any(self) -> bool:
        """Whether messages wait to be cut."""
        return bool(self._messages)

    @property
    def rows(self) -> int:
        """How many row changes wait to be cut."""
        return self._rows

    def pass_by(self, lsn: int) -> None:
        """Say that no transaction that has not come ends at or before ``lsn``.

        The source is told that it may forget what is before: the stream cannot begin there again.
        """
        assert self.is_empty, "what has come is before it"
        self.lsn = max(self.lsn, lsn)

    def relation(self, relid: int) -> Relation | None:
        """Return what is known of a table."""
        return self._relations.get(relid)

    def relate(self, relation: Relation) -> None:
        """Say what a table is from here on."""
        self._relations = self._relations | {relation.relid: relation}

    def take(self, payloads: Sequence[bytes], start: int = 0) -> tuple[Need, int]:
        """Take in messages from ``start`` on, until something has to happen.

        Returns:
            What has to happen, and how many of ``payloads`` are taken in.

        Raises:
            SlotLost: The stream does not go on where the log stands.
        """
        place, count = start, len(payloads)
        while place < count:
            kind = payloads[place][0]
            if kind not in _ROWS:
                place += 1
                if (need := self._take_other(kind, payloads[place - 1])) is not None:
                    return need, place
            elif self._skip:
                self._skip -= 1
                place += 1
            else:
                place = self._take_rows(payloads, place)
                if self._is_full():
                    return Need.CUT, place
        return Need.MORE, count

    def _take_rows(self, payloads: Sequence[bytes], start: int) -> int:
        """Take in the row at ``start`` and those that follow it, until it is enough.

        The hot loop.

        Returns:
            Where they end.
        """
        kinds, keep = _ROWS, self._messages.append
        size_bytes, bytes_max = self._bytes, self._bytes_max
        place, end = start, min(len(payloads), start + max(self._rows_max - self._rows, 1))
        while place < end:
            payload = payloads[place]
            if payload[0] not in kinds:
                break
            keep(payload)
            place += 1
            size_bytes += len(payload) + MESSAGE_BYTES
            if size_bytes >= bytes_max:
                break
        self._bytes = size_bytes
        self._rows += place - start
        return place

    def cut(self, *, pieces: bool = False) -> Iterator[Part]:
        """Give what waits: the whole transactions, then a piece of the one that is under way.

        Args:
            pieces: Give a piece even if it is small, not only where it is too much to hold.
        """
        if self._whole:
            yield self._part(self._whole, self._whole_rows, open_after=None)
        if self._rows and (pieces or self._is_full()):
            current = self.transaction
            assert current is not None, "what is left belongs to a transaction"
            self._done_before += self._rows
            self._current = replace(current, done=self._done_before)
            yield self._part(len(self._messages), self._rows, open_after=self._current)

    def _part(self, count: int, rows: int, *, open_after: Transaction | None) -> Part:
        messages, self._messages = self._messages[:count], self._messages[count:]
        part = Part(
            messages=messages,
            relations=self._relations,
            open_before=self._open_before,
            open_after=open_after,
            lsn=self.lsn,
            rows=rows,
            size_bytes=sum(map(len, messages)),
        )
        self._open_before = open_after
        self._rows -= rows
        self._bytes -= part.size_bytes + MESSAGE_BYTES * count
        self._whole = self._whole_rows = 0
        return part

    def _is_full(self) -> bool:
        return self._rows >= self._rows_max or self._bytes >= self._bytes_max

    def _add(self, payload: bytes) -> None:
        self._messages.append(payload)
        self._bytes += len(payload) + MESSAGE_BYTES

    def _take_other(self, kind: int, payload: bytes) -> Need | None:
        if kind == _BEGIN:
            self._begin(payload)
        elif kind == _COMMIT:
            return self._commit(payload)
        elif kind == _RELATION:
            self.described = payload
            return Need.RELATION
        elif kind == _TRUNCATE:
            self._truncate(payload)
        elif kind == _MESSAGE:
            self._message(payload)
        return None

    def _begin(self, payload: bytes) -> None:
        resumed, self._resumed = self._resumed, None
        self._begun, self._current, self._done_before = payload, None, 0
        if resumed is None:
            if len(payload) != BEGIN.size:
                begin_of(payload)  # says what is wrong
            self._add(payload)
            return
        sent = begin_of(payload)
        if resumed.lsn != sent.lsn:
            raise SlotLost(
                "the source does not send the rest of a transaction", tx=resumed.tx, sent=sent.tx
            )
        self._current = self._open_before = resumed
        self._done_before = self._skip = resumed.done

    def _commit(self, payload: bytes) -> Need | None:
        self._add(payload)
        if len(payload) != COMMIT.size:
            commit_of(payload)  # says what is wrong
        self.lsn = int.from_bytes(payload[_END_LSN])
        self._begun, self._current, self._skip = b"", None, 0
        self._whole, self._whole_rows = len(self._messages), self._rows
        if self._met:
            self.markers, self._met = self._met, []
            return Need.MARKER
        return Need.CUT if self._is_full() else None

    def _truncate(self, payload: bytes) -> None:
        count = len(truncate_of(payload).relids)
        if self._skip:
            self._skip -= count
            return
        self._add(payload)
        self._rows += count

    def _message(self, payload: bytes) -> None:
        message, current = message_of(payload), self.transaction
        if current is None or not message.transactional:
            return
        if message.prefix == REASON_PREFIX:
            if not self._skip:
                self._add(payload)
                self._current = with_reason(current, message.content)
        elif message.prefix.startswith(OWN_PREFIX):
            kind = message.prefix.removeprefix(OWN_PREFIX)
            self._met.append(Marker(kind=kind, content=message.content, transaction=current))
