"""Which tables a part has changes of: those it only describes are none."""

from __future__ import annotations

from pitr.domain.pgoutput.model import Part, Transaction
from pitr.domain.pgoutput.written import written_in
from tests.domain.pgoutput import builders as b

OPEN = Transaction(lsn=900, xid=1, commit_us=7_000_000_000_000_000)


def test_the_first_change_of_each_table_says_since_when() -> None:
    part = Part(
        messages=[
            b.insert(5, ["1"]),
            b.commit(lsn=900, commit_us=OPEN.commit_us),
            b.begin(lsn=1000, xid=2, commit_us=OPEN.commit_us + 1),
            b.truncate(1, 6),
            b.delete(5, key=["1"]),
            b.update(4, ["1"]),
            b.commit(lsn=1000, commit_us=OPEN.commit_us + 1),
        ],
        relations={},
        open_before=OPEN,
    )
    found = written_in(part, {4, 5, 6, 7})
    assert list(found.items()) == [
        (5, OPEN.commit_us),
        (6, OPEN.commit_us + 1),
        (4, OPEN.commit_us + 1),
    ]
    assert written_in(part, {7}) == {}
