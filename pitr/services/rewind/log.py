"""A rewind in the log: who brings its changes there, and how they come in where nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from pitr.domain.batch import Batch
from pitr.domain.catalog import Catalog
from pitr.domain.change import Op
from pitr.domain.columnar.difference import CollectionDifference
from pitr.domain.columnar.scanned import Scanned
from pitr.domain.errors import Busy
from pitr.domain.formats.draft import Draft, table_of
from pitr.domain.log import POSTGRES_PREFIX, LaneState
from pitr.domain.pgoutput.notes import Notes
from pitr.domain.rewind.plan import LANE_PREFIX
from pitr.domain.rewind.sight import Place, RowConflict
from pitr.services.append import Appender

BATCH_ROWS: Final = 10_000
SETTLED_ROWS: Final = 1_000
BATCH_BYTES: Final = 8 * 1024 * 1024
BUSY_PAUSE_S: Final = 0.05


async def capturing(catalog: Catalog, log: str, place: Place) -> list[tuple[LaneState, Notes]]:
    """Return the lanes by which the changes of a database come into the log, with their notes.

    Args:
        place: The database. Where it does not tell which cluster it is, its URL has to do.
    """
    sources = await catalog.sources(log)
    if not sources:
        return []
    lanes = {each.lane: each for each in await catalog.lanes(log, prefix=POSTGRES_PREFIX)}
    found = []
    for source in sources:
        lane = lanes.get(source.lane)
        if lane is None or "replaced_by" in lane.state:
            continue
        notes = Notes.of_json(lane.state)
        if _is_place(source.url, notes, place):
            found.append((lane, notes))
    return found


async def captured_by(catalog: Catalog, log: str, place: Place) -> dict[str, str]:
    """Tell by which lane the changes of a database come into the log, by collection."""
    return {
        table.collection: lane.lane
        for lane, notes in await capturing(catalog, log, place)
        for table in notes.copy.tables
    }


def _is_place(url: str, notes: Notes, place: Place) -> bool:
    parts, other = urlsplit(url), urlsplit(place.url)
    same_database = unquote(parts.path.lstrip("/")) in (place.database, "")
    if notes.system is not None and place.system is not None:
        return same_database and notes.system == place.system
    return same_database and parts.hostname == other.hostname and parts.port == other.port


class RewindLog:
    """Appends the changes of one rewind to a lane of its own, as one transaction."""

    def __init__(
        self,
        appender: Callable[[str], Awaitable[Appender]],
        *,
        log: str,
        operation_id: str,
        actor: str | None,
        reason: str,
    ) -> None:
        self._appender = appender
        self._log = log
        self._lane = f"{LANE_PREFIX}{operation_id}"
        self._actor = actor
        self._reason = reason
        self._position = 0

    @property
    def lane(self) -> str:
        """The lane."""
        return self._lane

    @property
    def count(self) -> int:
        """How many changes it has appended."""
        return self._position

    async def append(
        self,
        differences: Sequence[CollectionDifference],
        conflicts: Sequence[RowConflict],
        settled: Iterable[tuple[str, str]],
        *,
        skipped: bool,
        scanned: Sequence[Scanned] = (),
    ) -> int:
        """Append what was done; return how many changes that is.

        Rows that were not what the log says come first, as they were found, so that the state
        before the rewind is what it overwrote.

        Args:
            differences: What was to be done.
            conflicts: Rows that somebody else had changed.
            settled: Rows that were as they were to be, already; they were not written.
            skipped: Whether conflicts were skipped; otherwise they were overwritten.
            scanned: What was done to tables that were compared as a whole.

        Raises:
            Unavailable: The catalog or the store is away.
        """
        found = [] if skipped else list(conflicts)
        left = {(each.collection, each.key) for each in conflicts} if skipped else set()
        as_were = set(settled)
        for each in _batches(differences, as_were.__contains__):
            await self._store(self._found(each), None)
        if found:
            await self._store(self._found([_conflict_draft(each) for each in found]), None)
        for each in _as_found(scanned):
            await self._store(self._found(each), None)
        left |= as_were
        first, held = self._position, None
        for batch in _batches([*differences, *scanned], lambda row: row not in left):
            if held is not None:
                await self._store(self._stamped(held), self._lane)
            held = batch
        if held is not None:
            await self._store(self._stamped(held), None)
        return self._position - first

    async def say_again(self, rows: Sequence[tuple[str, str, str | None]]) -> None:
        """Append rows as they have been since, as something else says that is newer.

        Raises:
            Unavailable: The catalog or the store is away.
        """
        drafts = [_draft(collection, key, None, after) for collection, key, after in rows]
        await self._store(self._read(drafts, f"after {self._reason}"), None)

    def _stamped(self, drafts: Sequence[Draft]) -> pa.Table:
        return table_of(
            [
                draft._replace(tx=self._lane, actor=self._actor, reason=self._reason)
                for draft in drafts
            ]
        )

    def _found(self, drafts: Sequence[Draft]) -> pa.Table:
        """Rows as they were before the rewind, that is as it found them."""
        return self._read(drafts, f"found by {self._reason}")

    def _read(self, drafts: Sequence[Draft], reason: str) -> pa.Table:
        return table_of(
            [
                draft._replace(
                    op=(Op.DELETE if draft.after is None else Op.READ).value,
                    before=None,
                    reason=reason,
                )
                for draft in drafts
            ]
        )

    async def _store(self, drafts: pa.Table, open_tx: str | None) -> None:
        """Store a batch; while ``open_tx`` is named, no state has a part of that transaction."""
        first, self._position = self._position, self._position + drafts.num_rows
        positions = pa.array(range(first, self._position), pa.int64())
        place = drafts.schema.get_field_index("position")
        state: Mapping[str, Any] = {"open_tx": open_tx}
        batch = Batch(
            lane=self._lane,
            position_first=first,
            position_end=self._position,
            changes=drafts.set_column(place, drafts.schema.field(place), positions),
            lane_state=state,
        )
        appender = await self._appender(self._log)
        while True:
            try:
                await appender.append(batch)
            except Busy:
                await asyncio.sleep(BUSY_PAUSE_S)
            else:
                return


def _as_found(scanned: Iterable[Scanned]) -> Iterator[list[Draft]]:
    """Yield rows as a scan found them: what it changed, and what the log is wrong about."""
    for each in scanned:
        for batch in each.pairs():
            rows = zip(batch["key"].to_pylist(), batch["now"].to_pylist(), strict=True)
            yield [_draft(each.collection, key, None, live) for key, live in rows]
        drafts: list[Draft] = []
        for key, then in each.settled():
            drafts.append(_draft(each.collection, key, None, then))
            if len(drafts) == SETTLED_ROWS:
                yield drafts
                drafts = []
        if drafts:
            yield drafts


def _batches(
    differences: Iterable[CollectionDifference | Scanned], chosen: Callable[[tuple[str, str]], bool]
) -> Iterator[list[Draft]]:
    """Yield the changes in batches of a good size."""
    drafts: list[Draft] = []
    size_bytes = 0
    for difference in differences:
        for key, now, then in _pairs(difference):
            if not chosen((difference.collection, key)):
                continue
            drafts.append(_draft(difference.collection, key, now, then))
            size_bytes += len(now or "") + len(then or "")
            if len(drafts) >= BATCH_ROWS or size_bytes >= BATCH_BYTES:
                yield drafts
                drafts, size_bytes = [], 0
    if drafts:
        yield drafts


def _pairs(
    difference: CollectionDifference | Scanned,
) -> Iterator[tuple[str, str | None, str | None]]:
    for batch in difference.pairs():
        columns = (batch[name].to_pylist() for name in ("key", "now", "then"))
        yield from zip(*columns, strict=True)


def _draft(collection: str, key: str, now: str | None, then: str | None) -> Draft:
    op = Op.DELETE if then is None else Op.CREATE if now is None else Op.UPDATE
    return Draft(
        collection=collection,
        key=key,
        op=op.value,
        after=None if then is None else then.encode(),
        before=None if now is None else now.encode(),
        unchanged=None,
        commit_us=None,
        position=0,
        tx=None,
        actor=None,
        reason=None,
        meta=None,
    )


def _conflict_draft(conflict: RowConflict) -> Draft:
    """A row as the rewind found it: it was changed by somebody whom the log knows nothing of."""
    return _draft(conflict.collection, conflict.key, None, conflict.live)
