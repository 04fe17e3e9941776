"""The log's side of a comparison: where the position lies in it, and its rows there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pitr.domain.columnar.lane_changes import Boundary, LaneChanges, boundary_of
from pitr.domain.columnar.replay import Replay
from pitr.domain.columnar.rowfile import RowFile
from pitr.domain.columnar.rows import changes_of
from pitr.domain.log import LogView
from pitr.domain.pgoutput.notes import Notes
from pitr.domain.pgoutput.schema import TableSchema, schema_from_body
from pitr.domain.pgoutput.schema_log import SCHEMAS
from pitr.domain.reconcile import altered, in_gap, not_read
from pitr.domain.target import Resolution, gaps_touched
from pitr.services.archive import Archive
from pitr.services.reconcile_live import LiveTable
from pitr.services.resolve import Resolver
from pitr.services.tasks import in_thread


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSide:
    """The log at the position. ``schemas`` are the tables that it knew there, by collection."""

    view: LogView
    lane: str
    notes: Notes
    boundary: Boundary
    resolution: Resolution
    schemas: Mapping[str, TableSchema]

    def inconclusive(self, table: LiveTable) -> str | None:
        """Say why a table that was read cannot be compared; None if it can."""
        if table.inconclusive is not None:
            return table.inconclusive
        assert table.schema is not None, "it was read"
        if table.unreadable:
            return f"{table.unreadable} of its rows cannot be stored in the log"
        name = table.collection
        if name in self.boundary.altered:
            return "the table was altered just now"
        return (
            not_read(self.notes, name)
            or in_gap(gaps_touched(self.view.gaps, self.resolution.cut), self.lane, name)
            or altered(self.schemas.get(name), table.schema)
        )


async def log_side(
    archive: Archive, resolver: Resolver, *, log: str, lane: str, seq_first: int, lsn: int
) -> LogSide:
    """Find a position in a log that has every transaction before it.

    Args:
        seq_first: Where the log ended before the position was taken.
    """
    view = await archive.view(log)
    newer = [ref for ref in view.segments if ref.seq_end > seq_first]
    changes = LaneChanges(
        paths=await archive.verified(newer), tail=view.tail, lane=lane, seq_first=seq_first
    )
    seq_next = view.state.seq_next
    boundary = await asyncio.to_thread(boundary_of, changes, lsn=lsn, seq_next=seq_next)
    resolution = await resolver.resolve(view, f"before-seq:{boundary.seq_end}")
    state = next(each.state for each in view.lanes if each.lane == lane)
    return LogSide(
        view=view,
        lane=lane,
        notes=Notes.of_json(state),
        boundary=boundary,
        resolution=resolution,
        schemas=await _schemas(archive, view, resolution, lane),
    )


async def _schemas(
    archive: Archive, view: LogView, resolution: Resolution, lane: str
) -> dict[str, TableSchema]:
    own = frozenset((SCHEMAS,))
    reads = archive.reads(view, resolution.cut, torn=resolution.torn, collections=own)
    async with archive.state(view, reads, collections=own) as state:
        batches = await asyncio.to_thread(list, state.rows(SCHEMAS))
    changes = (change for batch in batches for change in changes_of(batch))
    bodies = [each.after for each in changes if each.lane == lane and each.after is not None]
    return {schema.collection: schema for schema in map(schema_from_body, bodies)}


async def logged_rows(
    archive: Archive, side: LogSide, collections: Sequence[str], folder: Path
) -> dict[str, RowFile]:
    """Write the rows of collections at the position into files."""
    if not collections:
        return {}
    wanted, at = frozenset(collections), side.resolution
    reads = archive.reads(side.view, at.cut, torn=at.torn, collections=wanted)
    files: dict[str, RowFile] = {}
    async with archive.state(side.view, reads, collections=wanted) as state:

        def write() -> None:
            for place, name in enumerate(collections):
                files[name] = _written(state, name, RowFile(folder, f"log-{place}"))

        await in_thread(write, interrupt=state.interrupt)
    return files


def _written(state: Replay, collection: str, file: RowFile) -> RowFile:
    for batch in state.rows(collection, documents_only=True):
        file.add(batch)
    file.close()
    return file
