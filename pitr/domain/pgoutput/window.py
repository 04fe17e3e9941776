"""What the stream brought that a chunk did not see: it decides which rows of the chunk are news.

``copying`` explains the method. A row of a chunk that a transaction changed which the chunk did not
see, and which the stream brought before the chunk's place, is older than the log: it is dropped.
But where all these changes left out unchanged values (TOAST), the log has never had the values, so
the row stays, with the changes filled in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.change import Op
from pitr.domain.documents import fill_unchanged
from pitr.domain.pgoutput.copying import Snapshot, Xids

WINDOW_BYTES_MAX: Final = 64 * 1024 * 1024
"""Most that is kept of changes that no snapshot has seen yet; then only their transactions are."""

UNSEEN_MAX: Final = 1_000_000
"""Most transactions that are kept by their numbers; then only the newest of them is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What of a chunk enters the log.

    ``unknown`` are transactions that the chunk did not see and of which it is not known what they
    changed: the chunk has to be read again, a little later and with fewer rows; ``rows`` is None.
    ``dropped`` rows have newer changes in the log; ``completed`` ones were merged with theirs.
    """

    rows: pa.Table | None
    unknown: tuple[int, ...] = ()
    dropped: int = 0
    completed: int = 0


@dataclass(frozen=True, slots=True)
class _Piece:
    """Changes of one batch that a snapshot may not see, and the transaction of each."""

    changes: pa.Table
    xids: Xids

    def unseen(self, snapshot: Snapshot) -> _Piece:
        seen = snapshot.sees_each(self.xids)
        if not seen.any():
            return self
        return _Piece(self.changes.filter(pa.array(~seen)), self.xids[~seen])


@dataclass(slots=True)
class Window:
    """Keeps what the stream brought until a snapshot sees it.

    It is told of all changes in the order of the stream, from the first of a session on. Several
    chunks may be in hand at once, of one table or of more; each is decided at its place.

    Args:
        watched: The collections with rows that are to be copied.
        since: A transaction number that was given out after the last session ended: the log may
            have changes of older ones that this window was not told of. None if it has none.
    """

    watched: frozenset[str]
    since: int | None = None
    bytes_max: int = WINDOW_BYTES_MAX
    unseen_max: int = UNSEEN_MAX
    size_bytes: int = field(default=0, init=False)
    _pieces: list[_Piece] = field(default_factory=list, init=False)
    _forgotten: Xids = field(default_factory=lambda: np.empty(0, np.uint32), init=False)
    _in_hand: list[Snapshot] = field(default_factory=list, init=False)
    _newest: Snapshot | None = field(default=None, init=False)

    def watch(self, collection: str, *, since: int) -> None:
        """Begin with one more collection; ``since`` is a transaction number given out just now."""
        self.watched |= {collection}
        self.since = since if self.since is None else _latest(np.array([self.since, since]))

    def unwatch(self, collection: str) -> None:
        """End with a collection: it is copied, or gone."""
        self.watched -= {collection}
        self._pieces = [
            _Piece(piece.changes.filter(pa.array(stays)), piece.xids[stays])
            for piece in self._pieces
            if (stays := _mask(pc.not_equal(piece.changes["collection"], collection))).any()
        ]
        self._measure()

    def took(self, snapshot: Snapshot) -> None:
        """Say that a chunk was read; snapshots come in the order in which they were taken."""
        self._in_hand.append(snapshot)
        self._newest = snapshot
        self._prune()

    def give_up(self) -> None:
        """Forget the chunks in hand: they are read again, or not at all."""
        self._in_hand.clear()
        self._prune()

    def add(self, changes: pa.Table) -> None:
        """Take in changes as they come in the stream, before the next chunk is decided.

        Args:
            changes: Of ``DRAFT_SCHEMA``, each with ``tx`` as ``Transaction.tx`` writes it.
        """
        if not self.watched:
            return
        watched = pc.is_in(changes["collection"], value_set=pa.array(sorted(self.watched)))
        rows = np.flatnonzero(_mask(watched))
        xids = _xids_of(changes["tx"].take(pa.array(rows)))
        if (oldest := self._oldest()) is not None:
            unseen = ~oldest.sees_each(xids)
            rows, xids = rows[unseen], xids[unseen]
        if not len(rows):
            return
        self._pieces.append(_Piece(_kept(changes, rows), xids))
        self.size_bytes += self._pieces[-1].changes.nbytes
        if self.size_bytes > self.bytes_max:
            self._forget()

    def unknown(self, snapshot: Snapshot) -> tuple[int, ...]:
        """Return transactions that it does not see and that nothing is known of.

        A chunk that has some need not wait for its place: it has to be read again.
        """
        lost = self._forgotten[~snapshot.sees_each(self._forgotten)].tolist()
        if self.since is not None:
            lost += snapshot.unfinished_before(self.since)
        return tuple(lost)

    def decide(self, collection: str, rows: pa.Table, snapshot: Snapshot) -> Verdict:
        """Decide on a chunk in hand, at its place in the stream.

        Args:
            rows: Of ``DRAFT_SCHEMA``.
            snapshot: What they were read with.
        """
        self._in_hand.remove(snapshot)
        verdict = self._decided(collection, rows, snapshot)
        self._prune()
        return verdict

    def _decided(self, collection: str, rows: pa.Table, snapshot: Snapshot) -> Verdict:
        if unknown := self.unknown(snapshot):
            return Verdict(rows=None, unknown=unknown)
        unseen = [piece.unseen(snapshot).changes for piece in self._pieces]
        if not unseen:
            return Verdict(rows=rows)
        newer = pa.concat_tables(unseen)
        newer = newer.filter(pc.equal(newer["collection"], collection)).combine_chunks()
        if pc.any(pc.equal(newer["op"], Op.TRUNCATE.value)).as_py():
            return Verdict(rows=rows.slice(0, 0), dropped=len(rows))
        stays = ~_mask(pc.is_in(rows["key"], value_set=_one(newer["key"])))
        documents = _completed(rows, newer)
        if documents:
            places = np.array(sorted(documents))
            stays[places] = True
            merged = np.zeros(len(rows), np.bool_)
            merged[places] = True
            after = pc.replace_with_mask(
                _one(rows["after"]),
                pa.array(merged),
                pa.array([documents[place] for place in places.tolist()], pa.string()),
            )
            rows = rows.set_column(rows.schema.get_field_index("after"), "after", after)
        left = rows.filter(pa.array(stays))
        return Verdict(rows=left, dropped=len(rows) - len(left), completed=len(documents))

    def _oldest(self) -> Snapshot | None:
        return self._in_hand[0] if self._in_hand else self._newest

    def _prune(self) -> None:
        """Drop what all chunks in hand and all later ones see: what is seen once stays so."""
        oldest = self._oldest()
        if oldest is None:
            return
        pieces = (piece.unseen(oldest) for piece in self._pieces)
        self._pieces = [piece for piece in pieces if len(piece.xids)]
        self._measure()
        self._forgotten = self._forgotten[~oldest.sees_each(self._forgotten)]
        if self.since is not None and not oldest.unfinished_before(self.since):
            self.since = None

    def _measure(self) -> None:
        self.size_bytes = sum(piece.changes.nbytes for piece in self._pieces)

    def _forget(self) -> None:
        """Keep only the numbers of the transactions; of too many, only the newest."""
        numbers = [self._forgotten, *(piece.xids for piece in self._pieces)]
        self._forgotten = np.unique(np.concatenate(numbers))
        self._pieces, self.size_bytes = [], 0
        if self._forgotten.size > self.unseen_max:
            after = (_latest(self._forgotten) + 1) & 0xFFFFFFFF
            self.since = after if self.since is None else _latest(np.array([self.since, after]))
            self._forgotten = self._forgotten[:0]


def _completed(rows: pa.Table, newer: pa.Table) -> dict[int, str]:
    """Return the documents of the rows that newer changes know only in part, by place."""
    partly = pc.equal(newer["op"], Op.PATCH.value)
    if not pc.any(partly).as_py():
        return {}
    patches, whole = newer.filter(partly), newer.filter(pc.invert(partly))
    alone = pc.invert(pc.is_in(patches["key"], value_set=_one(whole["key"])))
    patches = patches.filter(alone)
    places = pc.index_in(patches["key"], value_set=_one(rows["key"])).to_pylist()
    documents: dict[int, str] = {}
    for place, after, unchanged in zip(
        places, patches["after"].to_pylist(), patches["unchanged"].to_pylist(), strict=True
    ):
        if place is not None:
            target = documents.get(place) or rows["after"][place].as_py()
            filled = fill_unchanged(target.encode(), after.encode(), unchanged.encode())
            documents[place] = filled.decode()
    return documents


def _kept(changes: pa.Table, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Table:
    """Take what is needed of some changes: documents of patches only."""
    kept = changes.select(["collection", "key", "op"]).take(pa.array(rows))
    whole = ~_mask(pc.equal(kept["op"], Op.PATCH.value))
    places = pa.array(rows, mask=whole)
    for name in ("after", "unchanged"):
        texts = pa.nulls(len(rows), pa.string()) if whole.all() else changes[name].take(places)
        kept = kept.append_column(name, texts)
    return kept


def _xids_of(tx: pa.ChunkedArray) -> Xids:
    coded = pc.dictionary_encode(_one(tx))
    numbers = [int(text.partition(":")[0]) for text in coded.dictionary.to_pylist()]
    xids: Xids = np.array(numbers, np.uint32)[coded.indices.to_numpy()]
    return xids


def _latest(xids: np.ndarray[tuple[int], np.dtype[np.integer]]) -> int:
    """Return the newest of transaction numbers, which go round."""
    ahead = (xids.astype(np.int64) - int(xids[0]) + (1 << 31)) & 0xFFFFFFFF
    return int(xids[int(ahead.argmax())])


def _one(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _mask(column: pa.ChunkedArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array(column, np.bool_)
