"""What a snapshot sees, and how far copies are."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pitr.domain.pgoutput.copying import Chunk, CopyState, Snapshot, TableCopy

EPOCH = 1 << 32


# What a snapshot sees ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seen", "unseen"),
    [
        ("10:10:", [1, 9], [10, 11]),
        ("10:20:10,14", [9, 11, 13, 19], [10, 14, 20, 21, 4_000]),
        # Numbers go round: 2**32 is 0 in the stream, and 3 is a normal number after the last.
        (f"{EPOCH - 2}:{EPOCH + 5}:{EPOCH - 2},{EPOCH + 3}", [2**32 - 1, 4], [2**32 - 2, 3, 5, 6]),
        (f"{3 * EPOCH + 7}:{3 * EPOCH + 7}:", [6, 2**32 - 1, 2**31 + 8], [7, 8, 2**31 + 6]),
    ],
)
def test_a_snapshot_sees_what_had_ended(text: str, seen: list[int], unseen: list[int]) -> None:
    snapshot = Snapshot.of_text(text)

    assert [snapshot.sees(xid) for xid in seen] == [True] * len(seen)
    assert [snapshot.sees(xid) for xid in unseen] == [False] * len(unseen)


@given(
    xmax=st.integers(3, 2**40),
    apart=st.lists(st.integers(1, 50), max_size=5),
    xids=st.lists(st.integers(-60, 60), min_size=1, max_size=8),
)
def test_the_stream_has_the_lower_half_of_a_number(
    xmax: int, apart: list[int], xids: list[int]
) -> None:
    running = tuple(sorted({xmax - each for each in apart if xmax - each > 2}))
    snapshot = Snapshot(xmin=running[0] if running else xmax, xmax=xmax, running=running)
    for xid in (xmax + each for each in xids if xmax + each > 2):
        assert snapshot.sees(xid % EPOCH) == (xid < xmax and xid not in running)


def test_a_snapshot_tells_what_is_not_over_yet() -> None:
    snapshot = Snapshot.of_text(f"{EPOCH + 10}:{EPOCH + 20}:{EPOCH + 10},{EPOCH + 14}")

    assert snapshot.unfinished_before(10) == ()
    assert snapshot.unfinished_before(11) == (EPOCH + 10,)
    assert snapshot.unfinished_before(20) == (EPOCH + 10, EPOCH + 14)
    assert snapshot.unfinished_before(21) == (EPOCH + 10, EPOCH + 14, EPOCH + 20)


# How far copies are -----------------------------------------------------------------------------


def chunk_of(collection: str, *, rows: int, last: dict[str, Any] | None, done: bool) -> Chunk:
    return Chunk(
        collection=collection,
        snapshot=Snapshot(xmin=3, xmax=3),
        data=b"",
        rows=rows,
        last=last,
        done=done,
        rows_max=100,
    )


def test_a_copy_state_survives_json_at_every_step() -> None:
    state = CopyState.of_json(None)
    assert state == CopyState() and state.as_json() == {"tables": {}}
    state = state.begun("public.a", estimate=7).begun("public.b").begun("public.c", estimate=0)
    steps = [
        chunk_of("public.a", rows=5, last={"order": "1:23:0", "key": ["5"]}, done=False),
        chunk_of("public.a", rows=2, last={"order": "1:23:0", "key": ["7"]}, done=True),
        chunk_of("public.b", rows=0, last=None, done=True),
    ]
    to_do = []
    for step in steps:
        state = state.advanced(step)
        again = CopyState.of_json(json.loads(json.dumps(state.as_json())))
        assert again.to_do == state.to_do
        assert again.as_json() == state.as_json()
        to_do.append(state.to_do)

    assert to_do == [
        ("public.a", "public.b", "public.c"),
        ("public.b", "public.c"),
        ("public.c",),
    ]
    assert state.as_json()["tables"] == {
        "public.a": {"rows": 7, "done": True},
        "public.b": {"rows": 0, "done": True},
        "public.c": {"rows": 0, "estimate": 0},
    }
    # An empty table is known; one that was never asked for is not.
    assert state.table("public.b") == TableCopy(collection="public.b", done=True)
    assert state.table("public.d") is None
    looked = replace(state, looked=True)
    assert CopyState.of_json(looked.as_json()).looked and not CopyState.of_json({}).looked
    # Read again from its beginning, after the others.
    state = state.begun("public.a")
    assert state.to_do == ("public.c", "public.a")
    assert state.without("public.c").to_do == ("public.a",)
