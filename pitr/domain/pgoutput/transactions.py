"""Which transaction each message lies in, and what the app said about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pitr.domain.formats.flaw import Flaw
from pitr.domain.pgoutput.messages import BEGIN, COMMIT, EPOCH_US, BadMessage, message_of
from pitr.domain.pgoutput.model import Transaction, lsn_text
from pitr.domain.pgoutput.reasons import REASON_PREFIX
from pitr.domain.pgoutput.said import Said, said_by
from pitr.domain.pgoutput.tuples import Mask, Places, Source

BEGIN_KIND, COMMIT_KIND, MESSAGE_KIND = b"BCM"

Codes: TypeAlias = npt.NDArray[np.int32]
"""Places in a list; below 0 for none."""


_NOTHING_SAID: Final = Said()


class Transactions:
    """The transactions of a run of messages.

    ``flaws`` are the begins, commits and logical messages that cannot be read, with the reason;
    ``last`` is the transaction that the messages leave open.

    Args:
        messages: The run.
        kinds: The first byte of each.
        source: Their bytes, and where each begins in it.
        before: The transaction that the first of them lies in.
    """

    def __init__(
        self,
        messages: Sequence[bytes],
        kinds: npt.NDArray[np.uint8],
        lengths: Places,
        source: Source,
        starts: Places,
        before: Transaction | None,
    ) -> None:
        self.flaws: dict[int, str] = {}
        begins = self._checked(kinds == BEGIN_KIND, lengths, BEGIN.size, "begin")
        commits = self._checked(kinds == COMMIT_KIND, lengths, COMMIT.size, "commit")
        self._read_begins(source, starts[begins], before)
        # The first two are: no transaction, and the one that was open before.
        self._said = [_NOTHING_SAID]
        first = (0, 0)
        if before is not None:
            self._said.append(Said(before.actor, before.reason, before.meta))
            first = (1, 1)
        changes = begins | commits
        said = kinds == MESSAGE_KIND
        if said.any():
            changes, states = self._with_messages(messages, begins, commits, said, first)
        else:
            states = np.zeros((np.count_nonzero(changes) + 1, 2), np.int32)
            is_begin = begins[changes]
            states[0] = first
            states[1:, 0] = np.where(is_begin, np.cumsum(is_begin) + 1, 0)
        self._states = states
        self._at = np.cumsum(changes, dtype=np.int32)
        self.last = self._transaction(*states[-1].tolist())

    def _checked(self, of_kind: Mask, lengths: Places, size: int, name: str) -> Mask:
        wrong: Mask = of_kind & (lengths != size)
        for index in np.flatnonzero(wrong).tolist():
            self.flaws[index] = f"{name}: has {lengths[index]} bytes, not {size}"
        right: Mask = of_kind & ~wrong
        return right

    def _read_begins(self, source: Source, at: Places, before: Transaction | None) -> None:
        known = before or Transaction(lsn=0, commit_us=0, xid=0)
        commits = source.words(at + 9).view(np.int64) + EPOCH_US
        xids = source.words(at + 13).view(np.int64) & 0xFFFF_FFFF
        self._lsn = np.concatenate([np.array([0, known.lsn], np.uint64), source.words(at + 1)])
        self._commit_us = np.concatenate([np.array([0, known.commit_us], np.int64), commits])
        self._xid = np.concatenate([np.array([0, known.xid], np.int64), xids])

    def _with_messages(
        self,
        messages: Sequence[bytes],
        begins: Mask,
        commits: Mask,
        said: Mask,
        first: tuple[int, int],
    ) -> tuple[Mask, Codes]:
        """Go through begins, commits and what was said in between."""
        changes = begins | commits | said
        states = [first]
        transaction, words = first
        begun = 1
        for index in np.flatnonzero(changes).tolist():
            if begins[index]:
                begun += 1
                transaction, words = begun, 0
            elif commits[index]:
                transaction, words = 0, 0
            else:
                words = self._hear(index, messages[index], words, is_open=transaction > 0)
            states.append((transaction, words))
        return changes, np.array(states, np.int32)

    def _hear(self, index: int, payload: bytes, words: int, *, is_open: bool) -> int:
        try:
            message = message_of(payload)
            if not (message.transactional and message.prefix == REASON_PREFIX and is_open):
                return words
            said = said_by(message.content)
        except BadMessage as error:
            self.flaws[index] = str(error)
            return words
        except Flaw as flaw:
            self.flaws[index] = flaw.reason
            return words
        self._said.append(said)
        return len(self._said) - 1

    def _transaction(self, number: int, words: int) -> Transaction | None:
        if not number:
            return None
        said = self._said[words]
        return Transaction(
            lsn=int(self._lsn[number]),
            commit_us=int(self._commit_us[number]),
            xid=int(self._xid[number]),
            actor=said.actor,
            reason=said.reason,
            meta=said.meta,
        )

    def of(self, messages: Places) -> TransactionColumns:
        """Give what is known of some messages."""
        states = self._states[self._at[messages]]
        numbers, words = states[:, 0], states[:, 1]
        return TransactionColumns(
            commit_us=self._commits(numbers),
            tx=self._names().take(pa.array(numbers)),
            actor=self._words([said.actor for said in self._said], words),
            reason=self._words([said.reason for said in self._said], words),
            metas=[said.meta for said in self._said],
            meta_codes=words,
        )

    def _commits(self, numbers: Codes) -> pa.Array:
        none = numbers == 0
        return pa.array(self._commit_us[numbers], mask=none if none.any() else None)

    def _names(self) -> pa.Array:
        names: list[str | None] = [
            f"{xid}:{lsn_text(lsn)}"
            for xid, lsn in zip(self._xid.tolist(), self._lsn.tolist(), strict=True)
        ]
        names[0] = None
        return pa.array(names, pa.string())

    @staticmethod
    def _words(texts: list[str | None], numbers: Codes) -> pa.Array:
        if texts.count(None) == len(texts):
            return pa.nulls(len(numbers), pa.string())
        return pa.array(texts, pa.string()).take(pa.array(numbers))


class TransactionColumns(NamedTuple):
    """What messages' transactions give to their changes; ``meta_codes`` are places in ``metas``."""

    commit_us: pa.Array
    tx: pa.Array
    actor: pa.Array
    reason: pa.Array
    metas: list[str | None]
    meta_codes: Codes
