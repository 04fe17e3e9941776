"""The log side of a scan: the whole state of a moment, kept for a database to compare with."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pitr.domain.columnar.difference import CollectionDifference
from pitr.domain.columnar.scanned import keep_states
from pitr.domain.log import LogView
from pitr.domain.manifest import ObjectRef
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.plan import is_own
from pitr.domain.rewind.columns import Work, is_keyed, whole_work
from pitr.domain.rewind.scope import Scope
from pitr.services.archive import Archive
from pitr.services.restore import known_collections


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeStates:
    """What is to be compared; ``notes`` are on what cannot be."""

    works: tuple[Work, ...]
    notes: tuple[str, ...]
    objects: Sequence[ObjectRef]


async def whole_states(
    archive: Archive,
    view: LogView,
    scope: Scope,
    found: Mapping[str, CollectionDifference],
    schemas: tuple[Mapping[str, TableSchema], Mapping[str, TableSchema]],
    folder: Path,
) -> WholeStates:
    """Keep the state of a moment in files.

    Args:
        archive: Where it is read.
        view: The log.
        scope: Which moment, which collections.
        found: What differs by the log.
        schemas: What the tables were, and are.
        folder: Where the files are written.

    Raises:
        DataLoss: An object is missing, damaged or another one.
        Conflict: Rows are not all keyed by the same columns; or the log does not know what rows
            were that it has now.
    """
    known = frozenset(name for name in known_collections(view) if not is_own(name))
    names = known if scope.collections is None else scope.collections
    then = scope.then
    reads = archive.reads(view, then.cut, torn=dict(then.torn), collections=names)
    async with archive.state(view, reads, collections=names) as state:
        states = await asyncio.to_thread(keep_states, state.all_rows(), folder)
    works: list[Work] = []
    notes: list[str] = []
    for name in sorted(names):
        was, is_ = (each.get(name) for each in schemas)
        if scope.collections is None and not all(map(is_keyed, (was, is_))):
            notes.append(f"{name} was not compared: its rows have no key")
            continue
        work = whole_work(name, found.get(name), states.get(name), was, is_)
        if work is None:
            notes.append(f"{name} was not compared: the log has had no row of it since then")
        else:
            works.append(work)
    return WholeStates(works=tuple(works), notes=tuple(notes), objects=reads.objects)
