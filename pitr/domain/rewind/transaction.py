"""Which changes one transaction of the app made, and whether the log has all of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pitr.domain.columnar.scan import Span
from pitr.domain.errors import Conflict, NotFound
from pitr.domain.target import PULLED_PREFIXES

_BY_ROWS = "take its rows back with --key, to the moment before it"


@dataclass(frozen=True, slots=True, kw_only=True)
class AppTransaction:
    """``count`` changes of ``[seq_first, seq_end)``; others may lie among them."""

    tx: str
    seq_first: int
    seq_end: int
    count: int
    lanes: tuple[str, ...]

    @property
    def is_alone(self) -> bool:
        """Whether no other change lies among its changes."""
        return self.count == self.seq_end - self.seq_first


def the_transaction(
    tx: str, spans: Sequence[Span], *, open_txs: Collection[str], watermark_us: int
) -> AppTransaction:
    """Tell which transaction is meant by an id.

    Args:
        spans: Where changes give this id, in seq order.
        open_txs: Transactions of which the source has not sent the rest yet.
        watermark_us: The log is complete up to here.

    Raises:
        NotFound: There is none.
        Conflict: There are several; or the log does not have the whole of it.
    """
    if not spans:
        raise NotFound("there is no such transaction", hint="pitr find lists them", tx=tx)
    sources = {_source(span.lane) for span in spans}
    per_lane = {span.lane for span in spans}
    if len(sources) > 1 or len(per_lane) < len(spans):
        raise Conflict(
            "several transactions have this id",
            hint=_BY_ROWS,
            tx=tx,
            seqs=[f"{span.seq_first}-{span.seq_end - 1}" for span in spans],
            lanes=sorted(per_lane),
        )
    is_spread = any(span.lane.startswith(PULLED_PREFIXES[0]) for span in spans)
    is_late = is_spread and max(span.at_max_us for span in spans) > watermark_us
    if tx in open_txs or is_late:
        raise Conflict(
            "the log may not have the whole transaction yet",
            hint="let the capture catch up, and try again",
            tx=tx,
        )
    return AppTransaction(
        tx=tx,
        seq_first=min(span.seq_first for span in spans),
        seq_end=max(span.seq_end for span in spans),
        count=sum(span.count for span in spans),
        lanes=tuple(sorted(per_lane)),
    )


def check_not_overtaken(tx: str, rows: Sequence[tuple[str, str, str | None]]) -> None:
    """Refuse a transaction whose rows another one changed before it ended.

    Raises:
        Conflict: There are such rows: what they would be without it cannot be said.
    """
    if rows:
        raise Conflict(
            "another transaction changed rows among the changes of this one",
            hint=_BY_ROWS,
            tx=tx,
            rows=[f"{collection} {key}" for collection, key, _ in rows],
            other=next((other for _, _, other in rows if other is not None), None),
        )


def _source(lane: str) -> str:
    """The source of a lane: all partitions of Kafka are taken for one, as for targets."""
    kafka = PULLED_PREFIXES[0]
    return kafka if lane.startswith(kafka) else lane
