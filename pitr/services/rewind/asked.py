"""What is asked for against what the log has: collections, gaps, conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pitr.domain.errors import Conflict, InvalidRequest, NotFound
from pitr.domain.log import Gap, LogView
from pitr.domain.plan import is_own
from pitr.domain.rewind.chosen import conditions_of
from pitr.domain.target import Resolution
from pitr.services.restore import known_collections
from pitr.services.rewind.requests import Asked, RewindRequest


def check_request(request: Asked) -> None:
    """Check that what is asked for goes together, before anything is waited for.

    Raises:
        InvalidRequest: It does not, or a condition cannot be read.
    """
    if not isinstance(request, RewindRequest):
        return
    conditions_of(request.where)
    if request.scan and (request.keys is not None or request.where or request.with_references):
        raise InvalidRequest(
            "a scan compares whole tables",
            hint="leave out keys, conditions and references, or the scan",
        )


def asked_collections(request: RewindRequest) -> frozenset[str] | None:
    """The collections that may be touched; None is all."""
    if request.keys is not None:
        return frozenset(collection for collection, _ in request.keys)
    return request.collections


def check_known(view: LogView, asked: frozenset[str] | None) -> None:
    """Check that the log has what is asked for.

    Raises:
        NotFound: It has no such collection.
    """
    apps = {name for name in known_collections(view) if not is_own(name)}
    unknown = sorted((asked or frozenset()) - apps)
    if unknown:
        raise NotFound(
            "the log has no such collection",
            hint=f"it has: {', '.join(sorted(apps)) or 'none'}",
            collection=unknown[0],
        )


def accepted_gaps(
    resolutions: Sequence[Resolution], asked: frozenset[str] | None, *, accept: bool
) -> list[Gap]:
    """Return the gaps that what is asked for touches.

    Raises:
        Conflict: There are some, and they were not accepted.
    """
    found = dict.fromkeys(gap for each in resolutions for gap in each.gaps)
    gaps = [
        gap for gap in found if gap.collection is None or asked is None or gap.collection in asked
    ]
    if gaps and not accept:
        raise Conflict(
            "the log has a known gap in what would be taken back",
            hint="pitr status shows the gaps; --accept-gaps goes by what the log has",
            gaps=len(gaps),
            lane=gaps[0].lane,
        )
    return gaps


def notes_on_left_out(
    left_out: Mapping[str, Sequence[str]], asked: frozenset[str] | None
) -> list[str]:
    """Say which collections the conditions leave out.

    Raises:
        InvalidRequest: One of them was asked for by name.
    """
    for collection, columns in left_out.items():
        if asked is not None and collection in asked:
            raise InvalidRequest(
                "no row of the collection has a column that a condition names",
                hint="leave the collection out, or the condition",
                collection=collection,
                columns=list(columns),
            )
    return [
        f"{collection} is left out: it has no column {', '.join(columns)}"
        for collection, columns in left_out.items()
    ]
