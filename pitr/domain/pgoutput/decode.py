"""A part of the stream as changes: thousands of messages at once, in Arrow and numpy.

Rows are sorted by table, kind and shape; in each such group all rows are read column by column.
The documents of all of them are then put together in one step, in stream order: each is a run of
slices of the messages' own bytes and of literals (``render``).

A message that cannot be read goes to quarantine and takes a position like a change (invariant 13).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa

from pitr.domain.batch import Decoded
from pitr.domain.change import DOCUMENT_BYTES_MAX, Op, Quarantined
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.pgoutput.changes import Changes, Written
from pitr.domain.pgoutput.flaws import BAD_MESSAGE, Flaw
from pitr.domain.pgoutput.messages import BadMessage, Truncate, truncate_of
from pitr.domain.pgoutput.model import Part, Relation, Transaction
from pitr.domain.pgoutput.render import Literals, NotUtf8, render
from pitr.domain.pgoutput.rows import DELETE, INSERT, UPDATE, Flawed, Rows, moved, read_rows
from pitr.domain.pgoutput.transactions import (
    BEGIN_KIND,
    COMMIT_KIND,
    MESSAGE_KIND,
    Transactions,
)
from pitr.domain.pgoutput.tuples import PADDING, Mask, Places, Slices, Source

RUN_MESSAGES: Final = 16_384
RUN_BYTES: Final = 3 * 1024 * 1024
"""How much is decoded at once; a single larger message makes a larger run."""

MESSAGE_BYTES_MAX: Final = 2 * DOCUMENT_BYTES_MAX + 1024 * 1024
"""A row message that is longer holds a document that is too large: it has two at most, and a
document is hardly shorter than the row it is made of."""

_TRUNCATE: Final = ord("T")

_encode = msgspec.json.encode


def decode_part(part: Part, *, position_first: int) -> Decoded:
    """Decode the changes of a part in stream order.

    Each change has a position of its own, from ``position_first`` on, and so has each message that
    cannot be read. An update that moves a row to another key is two changes.
    """
    before = part.open_before
    tables: list[pa.Table] = []
    quarantined: list[Quarantined] = []
    position = position_first
    for payloads, lengths in _runs(part.messages):
        run = _Run(payloads, lengths, part.relations, before)
        decoded = run.decoded(position)
        tables.append(decoded.changes)
        quarantined += decoded.quarantined
        position += decoded.changes.num_rows + len(decoded.quarantined)
        before = run.last
    # As one chunk it is cheap to pickle and to work with.
    changes = pa.concat_tables(tables).combine_chunks() if tables else DRAFT_SCHEMA.empty_table()
    return Decoded(changes=changes, quarantined=tuple(quarantined))


def _runs(messages: Sequence[bytes]) -> Iterator[tuple[Sequence[bytes], Places]]:
    """Cut messages into runs; give each with the lengths of its messages."""
    lengths = _lengths(messages)
    first, ends = 0, np.cumsum(lengths)
    while first < len(messages):
        begin = ends[first] - lengths[first]
        fitting = int(np.searchsorted(ends, begin + RUN_BYTES, "right"))
        end = max(min(fitting, first + RUN_MESSAGES), first + 1)
        yield messages[first:end], lengths[first:end]
        first = end


def _lengths(messages: Sequence[bytes]) -> Places:
    return np.fromiter(map(len, messages), np.int64, len(messages))


class _Run:
    """Messages that are decoded at once. ``last`` is the transaction that they leave open."""

    def __init__(
        self,
        payloads: Sequence[bytes],
        lengths: Places,
        relations: Mapping[int, Relation],
        before: Transaction | None,
    ) -> None:
        self._payloads = payloads
        self._relations = relations
        self._flaws: dict[int, Flaw] = {}
        self._truncates: dict[int, Truncate] = {}
        shown = self._shown(lengths)
        data = b"".join([*shown, PADDING])
        self._source = Source(data)
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths
        kinds = np.frombuffer(data, np.uint8)[self._starts]
        kinds[lengths == 0] = 0
        self._is_row = (kinds == INSERT) | (kinds == UPDATE) | (kinds == DELETE)
        known = (kinds == BEGIN_KIND) | (kinds == COMMIT_KIND) | (kinds == MESSAGE_KIND)
        self._read_others(np.flatnonzero(~(known | self._is_row)).tolist())
        self._transactions = Transactions(
            payloads, kinds, lengths, self._source, self._starts, before
        )
        for index, reason in self._transactions.flaws.items():
            self._flaws[index] = Flaw(BAD_MESSAGE, reason)
        self.last = self._transactions.last

    def _shown(self, lengths: Places) -> Sequence[bytes]:
        """Give the messages, of those that are too long only the kind."""
        too_long = np.flatnonzero(lengths > MESSAGE_BYTES_MAX).tolist()
        if not too_long:
            return self._payloads
        shown = list(self._payloads)
        for index in too_long:
            shown[index], lengths[index] = shown[index][:1], 1
            if shown[index] in (b"I", b"U", b"D"):
                reason = f"row: holds more than {DOCUMENT_BYTES_MAX} bytes"
                self._flaws[index] = Flaw("document_too_large", reason)
        return shown

    def _read_others(self, indices: list[int]) -> None:
        for index in indices:
            payload = self._payloads[index]
            if payload[:1] != b"T":
                flaw = Flaw(BAD_MESSAGE, f"message: is of the unknown kind {payload[:1]!r}")
                self._flaws[index] = flaw
                continue
            try:
                self._truncates[index] = truncate_of(payload)
            except BadMessage as error:
                self._flaws[index] = Flaw(BAD_MESSAGE, str(error))

    def decoded(self, position_first: int) -> Decoded:
        """Decode the messages, those that cannot be read left out as they are found."""
        while True:
            try:
                return self._attempt(position_first)
            except Flawed as flawed:
                assert not flawed.flaws.keys() & self._flaws.keys(), "found once, then left out"
                self._flaws |= flawed.flaws

    def _attempt(self, position_first: int) -> Decoded:
        good = self._is_row.copy()
        good[list(self._flaws)] = False
        groups, slices = read_rows(
            self._source,
            self._starts,
            self._ends,
            np.flatnonzero(good),
            self._relations,
            self._payloads,
        )
        moves = [moved(rows, slices) if rows.old and rows.new else None for rows in groups]
        literals = Literals(len(slices.bounds), _documents(groups))
        slices = _rendered(groups, slices, literals)

        counts = good.astype(np.int64)
        for rows, each in zip(groups, moves, strict=True):
            if each is not None:
                counts[rows.messages[each]] = 2
        for index, truncate in self._truncates.items():
            counts[index] = len(truncate.relids)
        counts[list(self._flaws)] = 1
        ends = np.cumsum(counts)
        firsts = ends - counts
        changes = Changes(int(ends[-1]))
        for rows, each in zip(groups, moves, strict=True):
            _add(changes, rows, firsts[rows.messages], each)
        lost = self._add_truncates(changes, firsts)
        of_slot = np.repeat(np.arange(len(counts)), counts)
        written = changes.write(slices, literals)
        if found := written.flaws():
            flaws: dict[int, Flaw] = {}
            for slot, flaw in sorted(found.items()):
                flaws.setdefault(int(of_slot[slot]), flaw)
            raise Flawed(flaws)
        lost |= {int(firsts[index]): flaw for index, flaw in self._flaws.items()}
        return self._finished(position_first, changes, written, of_slot, lost)

    def _add_truncates(self, changes: Changes, firsts: Places) -> dict[int, Flaw]:
        lost: dict[int, Flaw] = {}
        for index, truncate in self._truncates.items():
            meta = {
                name: True for name in ("cascade", "restart_identity") if getattr(truncate, name)
            }
            for slot, relid in enumerate(truncate.relids, int(firsts[index])):
                relation = self._relations.get(relid)
                if relation is None:
                    lost[slot] = Flaw(BAD_MESSAGE, f"relation: {relid} was never described")
                else:
                    changes.add_truncate(slot, relation.collection, meta)
        return lost

    def _finished(
        self,
        position_first: int,
        changes: Changes,
        written: Written,
        of_slot: Places,
        lost: dict[int, Flaw],
    ) -> Decoded:
        transactions = self._transactions.of(of_slot)
        collection, op, unchanged, meta = changes.columns(transactions)
        table = pa.Table.from_arrays(
            [
                collection,
                written.key,
                op,
                written.after,
                written.before,
                unchanged,
                transactions.commit_us,
                pa.array(np.arange(position_first, position_first + changes.count)),
                transactions.tx,
                transactions.actor,
                transactions.reason,
                meta,
            ],
            schema=DRAFT_SCHEMA,
        )
        if lost:
            keep = np.ones(changes.count, np.bool_)
            keep[list(lost)] = False
            table = table.filter(pa.array(keep))
        return Decoded(
            changes=table,
            quarantined=tuple(
                Quarantined(
                    position=position_first + slot,
                    body=self._payloads[of_slot[slot]],
                    code=lost[slot].code,
                    reason=lost[slot].reason,
                    format="pgoutput",
                    meta=self._origin(self._payloads[of_slot[slot]], transactions.tx[slot].as_py()),
                )
                for slot in sorted(lost)
            ),
        )

    def _origin(self, payload: bytes, tx: str | None) -> bytes | None:
        """Say what is needed to understand a message by itself."""
        origin: dict[str, Any] = {} if tx is None else {"tx": tx}
        relation = self._relations.get(int.from_bytes(payload[1:5], "big"))
        if relation is not None and payload[:1] in (b"I", b"U", b"D"):
            origin["collection"] = relation.collection
            origin["columns"] = [
                {"name": column.name, "type_oid": column.type_oid} for column in relation.columns
            ]
        return _encode(origin) if origin else None


def _documents(groups: Sequence[Rows]) -> Iterator[tuple[str, ...]]:
    for rows in groups:
        for columns in (rows.old, rows.new, rows.old_key, rows.new_key):
            yield tuple(column.name for column in columns)


def _rendered(groups: Sequence[Rows], slices: Slices, literals: Literals) -> Slices:
    columns = [column for rows in groups for column in rows.used()]
    try:
        return render(columns, slices, literals)
    except NotUtf8 as error:
        owners = [rows.messages for rows in groups for _ in rows.used()]
        flaws: dict[int, Flaw] = {}
        for place, row in error.places:
            flaw = Flaw("not_utf8", f"{columns[place].name}: is not UTF-8")
            flaws.setdefault(int(owners[place][row]), flaw)
        raise Flawed(flaws) from error


def _add(changes: Changes, rows: Rows, slots: Places, moves: Mask | None) -> None:
    collection = rows.relation.collection
    before = None if rows.old_is_key or not rows.old else rows.old
    if rows.kind == INSERT:
        changes.add_rows(slots, Op.CREATE, collection, key=rows.new_key, after=rows.new)
    elif rows.kind == DELETE:
        changes.add_rows(slots, Op.DELETE, collection, key=rows.old_key, before=before)
    elif moves is None or not moves.any():
        changes.add_rows(
            slots, Op.UPDATE, collection, key=rows.new_key, after=rows.new, before=before
        )
    else:
        _add_moved(changes, rows.of(moves), slots[moves])
        if not moves.all():
            _add(changes, rows.of(~moves), slots[~moves], None)


def _add_moved(changes: Changes, rows: Rows, slots: Places) -> None:
    collection = rows.relation.collection
    before = None if rows.old_is_key else rows.old
    changes.add_rows(slots, Op.DELETE, collection, key=rows.old_key, before=before)
    changes.add_rows(slots + 1, Op.CREATE, collection, key=rows.new_key, after=rows.new)
