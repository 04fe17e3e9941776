"""Random logs in files and tail, cut into groups and pages of any size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import strategies as st

from pitr.domain.change import Change
from pitr.domain.columnar import encoding
from pitr.domain.columnar.encoding import Packing
from pitr.domain.columnar.rows import tail_table
from tests.domain.columnar.builders import change, segment_file

TXS = [None, "t", "tt", "7:é", ""]


@st.composite
def logs(draw: st.DrawFn) -> list[Change]:
    """Changes with equal and late times, in two lanes, of transactions anywhere."""
    facts = st.tuples(
        st.integers(0, 9),
        st.sampled_from(["a", "b"]),
        st.sampled_from(TXS),
        st.sampled_from(["x", "y"]),
        st.integers(0, 6),
    )
    rows = draw(st.lists(facts, min_size=draw(st.sampled_from([1, 25])), max_size=40))
    if draw(st.integers(0, 9)) == 9:
        rows = [(at_us, lane, None, name, key) for at_us, lane, _, name, key in rows]
    return [
        change(
            seq,
            key=f'{{"id":{key}}}',
            at_us=at_us,
            lane=lane,
            tx=tx,
            collection=name,
            after=b'{"seq":%d}' % seq,
        )
        for seq, (at_us, lane, tx, name, key) in enumerate(rows, 1)
    ]


@dataclass(frozen=True, slots=True)
class Stored:
    """A log in files, each with its seqs, and a tail."""

    files: Sequence[tuple[range, Path]]
    tail: pa.Table

    def paths(self, seqs: range) -> list[Path]:
        """The files with some of the seqs."""
        return [path for own, path in self.files if own.start < seqs.stop and own.stop > seqs.start]


@contextmanager
def stored(data: st.DataObject, changes: Sequence[Change]) -> Iterator[Stored]:
    """Write a log as segments and a tail."""
    ends = data.draw(st.lists(st.integers(0, len(changes)), max_size=3).map(sorted))
    packing = Packing(level=1, page_rows_max=data.draw(st.integers(1, 9)), page_bytes=1 << 20)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(encoding, "PAGE_ROWS_MIN", 1)
        patch.setattr(encoding, "ROW_GROUP_ROWS_MAX", data.draw(st.sampled_from([6, 1000])))
        files = [
            (
                range(first + 1, end + 1),
                segment_file(Path(folder), changes[first:end], packing=packing),
            )
            for first, end in zip([0, *ends], ends, strict=False)
            if first < end
        ]
        yield Stored(files, tail_table(changes[ends[-1] if ends else 0 :]))
