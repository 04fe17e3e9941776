"""States of which only some rows are left, and the names of their members."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest

from pitr.domain.columnar.matching import MatchingState, check_of_rows, members_of
from pitr.domain.errors import InvalidRequest
from pitr.domain.where import parse_conditions
from tests.fakes import FakeState


class ReadableState(FakeState):
    """One that can be read again, as those of logs can."""

    def rows(self, collection: str, *, documents_only: bool = False) -> Iterator[pa.RecordBatch]:
        self._read.discard(collection)
        return super().rows(collection, documents_only=documents_only)


def state_of(*documents: str) -> FakeState:
    rows = [(f'{{"id":{n}}}', text) for n, text in enumerate(documents)]
    return ReadableState({"a": rows, "b": []})


def test_only_rows_that_meet_all_conditions_are_left() -> None:
    state = state_of('{"t":"x","n":1}', '{"t":"y","n":1}', '{"t":"x","n":20}', '{"n":1}', "7")
    left = MatchingState(state, parse_conditions(["t = x", "n < 10"]))
    assert left.counts == {"a": 1, "b": 0}
    assert not left.whole
    rows = [row for batch in left.rows("a") for row in batch.to_pylist()]
    assert [row["after"] for row in rows] == ['{"t":"x","n":1}']
    assert MatchingState(state, ()).counts == {"a": 5, "b": 0}


def test_a_row_has_one_side_only() -> None:
    for text in ("before.t = x", "after.t = x"):
        with pytest.raises(InvalidRequest, match="chooses rows"):
            check_of_rows(parse_conditions([text]))


def test_members_are_those_of_all_documents() -> None:
    assert members_of(state_of('{"a":1}', '{"b":1,"a":2}', "[1]"), "a") == {"a", "b"}
    assert members_of(state_of(), "b") == frozenset()
