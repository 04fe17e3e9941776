"""Which changes are of one transaction of the app, and when the log cannot say."""

from __future__ import annotations

import pytest

from pitr.domain.columnar.scan import Span
from pitr.domain.errors import Conflict, NotFound
from pitr.domain.rewind.transaction import AppTransaction, the_transaction


def span(lane: str, first: int, end: int, *, at_us: int = 10) -> Span:
    return Span(lane=lane, seq_first=first, seq_end=end, count=end - first, at_max_us=at_us)


def found(*spans: Span, open_txs: tuple[str, ...] = (), watermark_us: int = 10) -> AppTransaction:
    return the_transaction("7", spans, open_txs=open_txs, watermark_us=watermark_us)


def test_partitions_of_kafka_bring_parts_of_one_transaction() -> None:
    spans = span("kafka:shop-0", 5, 8), span("kafka:shop-1", 20, 21)
    transaction = found(*spans)
    assert (transaction.seq_first, transaction.seq_end, transaction.count) == (5, 21, 4)
    assert not transaction.is_alone and found(spans[0]).is_alone
    # Another partition may still bring a part of it.
    with pytest.raises(Conflict, match="may not have the whole"):
        found(*spans, watermark_us=9)
    assert found(span("http:a", 5, 8), watermark_us=9).count == 3, "this lane has all it will have"


def test_what_may_be_another_transaction_or_only_a_part_is_refused() -> None:
    with pytest.raises(NotFound):
        found()
    with pytest.raises(Conflict, match="several"):
        found(span("postgres:a", 5, 8), span("postgres:b", 9, 12))
    with pytest.raises(Conflict, match="several") as caught:
        found(span("postgres:a", 5, 8), span("postgres:a", 900_000, 900_001))
    assert caught.value.facts["seqs"] == ["5-7", "900000-900000"]
    with pytest.raises(Conflict, match="may not have the whole"):
        found(span("postgres:a", 5, 8), open_txs=("7",))
