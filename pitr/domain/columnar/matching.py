"""The rows of a state whose documents meet conditions; and which members documents have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import pyarrow as pa

from pitr.domain.documents import is_object, members
from pitr.domain.errors import InvalidRequest, TooLarge
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.pgoutput.sequence_log import SampledSequence
from pitr.domain.ports import RestorableState
from pitr.domain.where import Condition, meeting

MEMBERS_MAX: Final = 50_000
"""Most names of members that are kept in memory; a table takes 1,600 columns."""


def check_of_rows(conditions: Sequence[Condition]) -> None:
    """Check that conditions are about rows, not about changes of them.

    Raises:
        InvalidRequest: One is about one side of a change.
    """
    for condition in conditions:
        if condition.image is not None:
            raise InvalidRequest(
                "a restore chooses rows by what they are at the moment",
                hint=f"leave out {condition.image}., or look for changes with pitr find",
                column=condition.column,
            )


class MatchingState:
    """A state of which only the rows are left that meet all conditions; see ``domain.where``.

    Making it reads every document once: call it in a thread.
    """

    counts: Mapping[str, int]
    schemas: Mapping[str, TableSchema]
    sequences: Sequence[SampledSequence]
    whole: bool

    def __init__(self, state: RestorableState, conditions: Sequence[Condition]) -> None:
        check_of_rows(conditions)
        self._state = state
        self._meets = meeting(conditions)
        self.schemas, self.sequences = state.schemas, state.sequences
        self.whole = False
        self.counts = {
            name: sum(batch.num_rows for batch in self.rows(name, documents_only=True))
            for name in state.counts
        }

    def rows(self, collection: str, *, documents_only: bool = False) -> Iterator[pa.RecordBatch]:
        """Yield the rows that are left; see ``RestorableState.rows``."""
        for batch in self._state.rows(collection, documents_only=documents_only):
            documents = batch.column("after").to_pylist()
            met = [text is not None and self._meets(None, text.encode()) for text in documents]
            if any(met):
                yield batch if all(met) else batch.filter(pa.array(met, pa.bool_()))


def members_of(state: RestorableState, collection: str) -> frozenset[str]:
    """Name the members that any document of a collection has. Blocking: call it in a thread.

    Raises:
        TooLarge: They are no columns: there are too many of them.
    """
    names: set[str] = set()
    for batch in state.rows(collection, documents_only=True):
        if len(names) > MEMBERS_MAX:
            raise TooLarge(
                "the documents have too many different members to be rows of a table",
                hint="restore into files",
                collection=collection,
                members_max=MEMBERS_MAX,
            )
        for text in batch.column("after").to_pylist():
            body = (text or "").encode()
            if is_object(body):
                names.update(members(body))
    return frozenset(names)
