"""The stream is cut into parts anywhere, and begun again at any of them: each change is in once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.domain.pgoutput.assembler import Assembler, Need
from pitr.domain.pgoutput.decode import decode_part
from pitr.domain.pgoutput.lost import SlotLost
from pitr.domain.pgoutput.model import Part, Transaction
from tests.domain.pgoutput import builders as b

ROWS = b.relation(1, "rows", [("id", "integer"), ("n", "integer")])
OTHERS = b.relation(2, "others", [("id", "integer"), ("n", "integer")])
Stream = list[tuple[int, list[bytes]]]
"""Transactions, each with the position where it ends."""


def stream_of(dice: random.Random, transactions: int) -> Stream:
    found: Stream = []
    for number in range(1, transactions + 1):
        lsn = number * 1000
        messages = [b.begin(lsn=lsn, xid=number, commit_us=1_772_357_400_000_000 + number)]
        for _ in range(dice.choice([0, 1, 1, 2, 7, 30])):
            key = str(dice.randrange(9))
            messages.append(
                dice.choice(
                    [
                        b.insert(dice.choice([1, 2]), [key, "1"]),
                        b.update(1, [key, "2"]),
                        b.update(1, [key, "3"], key=[str(dice.randrange(9)), None]),
                        b.delete(2, key=[key, None]),
                        b.truncate(1, 2),
                        b.message(b'{"actor":"a%d"}' % dice.randrange(3)),
                        b.message(b"", prefix="somebody"),
                    ]
                )
            )
        messages.append(b.commit(lsn=lsn, commit_us=1_772_357_400_000_000 + number))
        found.append((lsn + 48, messages))
    return found


def assembler(*, lsn: int = 0, resumed: Transaction | None = None, rows_max: int) -> Assembler:
    made = Assembler(lsn=lsn, resumed=resumed, rows_max=rows_max, bytes_max=10**6)
    made.relate(ROWS)
    made.relate(OTHERS)
    return made


def parts_of(made: Assembler, stream: Stream, dice: random.Random) -> list[Part]:
    """Feed what comes after where it begins, in polls of any size, cut at any time."""
    messages = [each for end, of in stream if end > made.lsn for each in of]
    parts: list[Part] = []
    while messages:
        count = dice.randrange(1, 12)
        polled, messages = messages[:count], messages[count:]
        taken, need = 0, Need.CUT
        while need is not Need.MORE:
            need, taken = made.take(polled, taken)
            assert need in (Need.MORE, Need.CUT)
            if need is Need.CUT:
                parts += made.cut()
        if dice.random() < 0.4:
            parts += made.cut(pieces=dice.random() < 0.5)
    return [*parts, *made.cut()]


def changes_of(parts: list[Part]) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    for part in parts:
        decoded = decode_part(part, position_first=0)
        assert not decoded.quarantined
        names = ("collection", "key", "op", "after", "tx", "actor", "commit_us")
        found += zip(*(decoded.changes[name].to_pylist() for name in names), strict=True)
    return found


@settings(max_examples=60)
@given(st.randoms(use_true_random=False), st.integers(1, 12), st.integers(1, 20))
def test_cut_anywhere_and_begun_again_anywhere(
    dice: random.Random, transactions: int, rows_max: int
) -> None:
    stream = stream_of(dice, transactions)
    whole = b.part([each for _, of in stream for each in of], ROWS, OTHERS)
    expected = changes_of([whole])
    parts = parts_of(assembler(rows_max=rows_max), stream, dice)
    assert changes_of(parts) == expected
    for index, last in enumerate(parts):
        again = assembler(lsn=last.lsn, resumed=last.open_after, rows_max=dice.randrange(1, 9))
        rest = parts_of(again, stream, dice)
        assert changes_of([*parts[: index + 1], *rest]) == expected


@given(st.randoms(use_true_random=False), st.integers(1, 12))
def test_parts_are_whole_transactions_where_they_fit(dice: random.Random, count: int) -> None:
    made = assembler(rows_max=10**6)
    messages = [each for _, of in stream_of(dice, count) for each in of]
    made.take(messages[:-1])
    for part in made.cut():
        assert part.open_before is part.open_after is None
        assert part.messages[-1][:1] == b"C"
    made.take(messages[-1:])
    list(made.cut())
    assert made.is_empty
    assert made.lsn == count * 1000 + 48


def test_a_part_is_full_by_rows_or_by_bytes() -> None:
    rows = [b.insert(1, [str(n), "1"]) for n in range(10)]
    made = assembler(rows_max=4)
    assert made.take([b.begin(), *rows]) == (Need.CUT, 5)
    [part] = made.cut()
    assert (part.rows, part.open_after and part.open_after.done) == (4, 4)
    made = Assembler(lsn=0, resumed=None, rows_max=100, bytes_max=500)
    assert made.take([b.begin(), *rows])[0] is Need.CUT


def test_own_messages_end_a_part_with_their_transaction() -> None:
    made = assembler(rows_max=100)
    messages = [b.begin(), b.message(b"7", prefix="pitr.copy"), b.insert(1, ["1", "1"]), b.commit()]
    assert made.take([*messages, *messages]) == (Need.MARKER, 4)
    [marker] = made.markers
    assert (marker.kind, marker.content, marker.transaction.lsn) == ("copy", b"7", 0x16B3748)
    [part] = made.cut()
    assert part.rows == 1
    outside = b.message(b"8", prefix="pitr.copy", transactional=False)
    assert made.take([outside, b.begin(), outside]) == (Need.MORE, 3)


def test_the_rest_of_a_transaction_that_does_not_come_is_a_loss() -> None:
    resumed = Transaction(lsn=5, commit_us=1, xid=3, done=2)
    made = assembler(resumed=resumed, rows_max=10)
    with pytest.raises(SlotLost, match="does not send the rest"):
        made.take([b.begin(lsn=9)])


def test_what_the_app_says_goes_on_in_the_next_piece() -> None:
    made = assembler(rows_max=2)
    said = b.message(b'{"actor":"a","reason":"r","meta":{"n":[1]}}')
    rows = [b.insert(1, [str(n), "1"]) for n in range(4)]
    made.take([b.begin(), said, *rows[:2]])
    [first] = made.cut()
    made.take([*rows[2:], b.message(b"\xff")])
    [second] = made.cut()
    assert second.open_before == first.open_after
    assert second.open_before is not None
    assert (second.open_before.actor, second.open_before.reason) == ("a", "r")
    assert second.open_before.meta == '{"n":[1]}'
    assert [row[5] for row in changes_of([first, second])] == ["a"] * 4
