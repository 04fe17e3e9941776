"""Which of some tables a part of the stream has changes of, under their own numbers.

A relation message does not say that the table was written to: before the first row of a partition
that comes as its root's, the stream describes the partition, too (pgoutput.c: maybe_send_schema).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from pitr.domain.pgoutput.messages import begin_of, truncate_of
from pitr.domain.pgoutput.model import Part

_BEGIN, _TRUNCATE = b"BT"
_ROWS: Final = frozenset(b"IUD")
_RELID: Final = slice(1, 5)


def written_in(part: Part, relids: Collection[int]) -> dict[int, int | None]:
    """Return those of ``relids`` that it has changes of, in order of their first.

    Returns:
        By relid, when the transaction of the first change was committed, µs; None if not known.
    """
    wanted = {relid.to_bytes(4): relid for relid in relids}
    found: dict[int, int | None] = {}
    begun = b""
    met: tuple[int, ...]
    for message in part.messages:
        kind = message[0]
        if kind in _ROWS:
            relid = wanted.get(message[_RELID])
            met = () if relid is None else (relid,)
        elif kind == _TRUNCATE:
            met = tuple(relid for relid in truncate_of(message).relids if relid in relids)
        else:
            begun = message if kind == _BEGIN else begun
            continue
        for relid in met:
            if relid not in found:
                found[relid] = _commit_us(part, begun)
    return found


def _commit_us(part: Part, begun: bytes) -> int | None:
    under_way = begin_of(begun) if begun else part.open_before
    return under_way.commit_us if under_way is not None else None
