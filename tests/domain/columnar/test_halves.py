"""Transactions of which only a part would be taken back: as plain Python finds them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.domain.change import Change
from pitr.domain.columnar.halves import Halves, half_transactions
from pitr.domain.columnar.rows import tail_table
from pitr.domain.target import Cut
from tests.domain.columnar.builders import MEMORY_BYTES, change, segment_file

CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "pitr.own"]),
        st.sampled_from([None, "t1", "t2", "t3"]),
        st.integers(1, 3),
    ),
    max_size=10,
)
CUTS = st.builds(
    Cut,
    seq_end=st.integers(1, 12),
    at_us=st.sampled_from([None, 1, 2]),
    without_tx=st.sampled_from([frozenset[str](), frozenset({"t1"})]),
)


def naive(changes: list[Change], cut: Cut) -> Halves:
    touched: dict[str, set[bool]] = {}
    for each in changes:
        inside = cut.holds(seq=each.seq, at_us=each.at_us, tx=each.tx)
        if each.tx is not None and not inside and not each.collection.startswith("pitr."):
            touched.setdefault(each.tx, set()).add(each.collection == "a")
    found = sorted(tx for tx, sides in touched.items() if len(sides) == 2)
    return Halves(count=len(found), examples=tuple(found))


@settings(deadline=None, max_examples=40)
@given(CHANGES, CUTS, st.integers(0, 10))
def test_it_finds_what_plain_python_finds(
    drawn: list[tuple[str, str | None, int]], cut: Cut, sealed: int
) -> None:
    changes = [
        change(seq, collection=name, tx=tx, at_us=at_us)
        for seq, (name, tx, at_us) in enumerate(drawn, start=1)
    ]
    with tempfile.TemporaryDirectory() as folder:
        paths = [segment_file(Path(folder), changes[:sealed])] if changes[:sealed] else []
        found = half_transactions(
            paths,
            tail_table(changes[sealed:]),
            cut,
            {"a"},
            memory_bytes=MEMORY_BYTES,
            spill_folder=Path(folder),
            threads=1,
        )
    assert found == naive(changes, cut)
