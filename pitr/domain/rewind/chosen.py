"""Rows chosen by conditions on their columns, as they were or as they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pitr.domain.documents import is_object, members
from pitr.domain.errors import InvalidRequest
from pitr.domain.where import Condition, meeting, parse_conditions


def conditions_of(texts: Collection[str]) -> tuple[Condition, ...]:
    """Read the conditions of a rewind.

    Raises:
        InvalidRequest: One cannot be read, or names a document of a change.
    """
    found = parse_conditions(tuple(texts))
    for text, condition in zip(texts, found, strict=True):
        if condition.image is not None:
            raise InvalidRequest(
                "before and after are documents of a change, and this is about rows",
                hint="name the column alone: a row is chosen as it was, or as it is",
                where=text,
            )
    return found


class Chosen:
    """Tells which rows are meant; remembers which collections have the columns that are named.

    A row is meant if its document then or its document now meets all conditions; rows ``brought``
    are meant in any case.
    """

    def __init__(
        self,
        where: Collection[str],
        brought: Collection[tuple[str, str]] = (),
        columns: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        conditions = conditions_of(where)
        self._meets = meeting(conditions)
        self._needed = frozenset(condition.column for condition in conditions)
        self._brought = frozenset(brought)
        self._seen: dict[str, set[str]] = {}
        for collection, names in (columns or {}).items():
            self._seen[collection] = {*names}

    def is_meant(self, collection: str, key: str, now: str | None, then: str | None) -> bool:
        """Tell whether a row is chosen by its documents."""
        if not self._needed or (collection, key) in self._brought:
            return True
        before = None if then is None else then.encode()
        after = None if now is None else now.encode()
        seen = self._seen.setdefault(collection, set())
        if not self._needed <= seen:
            for document in (before, after):
                if document is not None and is_object(document):
                    seen.update(members(document))
        return self._meets(before, after)

    def left_out(self) -> dict[str, list[str]]:
        """Return the collections that lack a named column, with the columns that they lack."""
        return {
            collection: sorted(self._needed - seen)
            for collection, seen in sorted(self._seen.items())
            if not self._needed <= seen
        }
