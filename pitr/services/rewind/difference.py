"""The log side of a rewind: which rows differ between two moments, and how; never a whole table."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pitr.domain.change import Op
from pitr.domain.columnar.changed import Between, Changed, changed_rows
from pitr.domain.columnar.difference import (
    CollectionDifference,
    differences,
    read_state,
    write_state,
)
from pitr.domain.columnar.few import few_changed
from pitr.domain.columnar.rows import changes_of
from pitr.domain.columnar.scanned import Scanned
from pitr.domain.limits import Limits
from pitr.domain.log import POSTGRES_PREFIX, LogView
from pitr.domain.manifest import ObjectRef
from pitr.domain.pgoutput.schema import TableSchema, schema_from_body
from pitr.domain.pgoutput.schema_log import SCHEMAS
from pitr.domain.plan import Reads
from pitr.domain.rewind.chosen import Chosen
from pitr.domain.rewind.columns import Schemas, Work
from pitr.domain.rewind.plan import reason_of
from pitr.domain.rewind.scope import CutWithTorn, Scope
from pitr.services.archive import Archive
from pitr.services.rewind.scanning import whole_states
from pitr.services.rewind.young import YoungChanges
from pitr.services.tasks import beside

Meanwhile = Callable[[Mapping[str, Schemas]], Coroutine[Any, Any, None]]
"""What is done beside the reading: told which tables it is about, by collection."""

_SAYS_NOTHING: Final = (Op.READ, Op.UPDATE, Op.PATCH)
"""Operations on a row that the log knows nothing of before: it was there, but not as what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Differing:
    """What differs, while its files are there.

    ``size_bytes`` is what was read of objects. ``left_out`` are collections without a column that a
    condition names, with the columns that they lack. ``folder`` is for files that are needed with
    it. ``schemas`` are what the tables of attached databases are, by collection.
    """

    works: tuple[Work, ...]
    differences: dict[str, CollectionDifference]
    changed: Changed
    size_bytes: int
    folder: Path
    schemas: Mapping[str, TableSchema]
    left_out: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def scanned(self, found: Mapping[str, Path], names: Collection[str]) -> list[Scanned]:
        """Return what was done to tables that were compared as a whole, by what was found there."""
        return [
            Scanned(state=work.scanned, logged=work.difference, found=found[work.collection])
            for work in self.works
            if work.scanned is not None and work.collection in names
        ]


class DifferenceReader:
    """Compares states of a log, in bounded memory."""

    def __init__(self, archive: Archive, *, limits: Limits) -> None:
        self._archive = archive
        self._limits = limits

    @asynccontextmanager
    async def differing(
        self,
        view: LogView,
        scope: Scope,
        *,
        now: CutWithTorn | None = None,
        meanwhile: Meanwhile | None = None,
    ) -> AsyncIterator[Differing]:
        """Find the rows of a scope that differ.

        Args:
            now: Where the rows are taken to be now; by default at ``scope.now``. Which rows
                changed is a matter of the scope alone.
            meanwhile: Done beside the reading, once it is known which tables it is about.

        Raises:
            DataLoss: An object is missing, damaged or another one.
            Conflict: The rows of a collection are not all keyed by the same columns.
        """
        now = now or scope.now
        async with self._archive.scratch_folder() as folder:
            young = YoungChanges(self._archive, view)
            changed, read = await self._changed(view, scope, folder, young)
            found: dict[str, CollectionDifference] = {}
            works: list[Work] = []
            chosen = Chosen(scope.where, scope.brought)
            was, is_now = [await self._schemas(view, cut, young) for cut in (scope.then, now)]
            if changed.counts:
                tables = {
                    name: Schemas(then=was.get(name), now=is_now.get(name))
                    for name in changed.counts
                }
                async with beside(meanwhile(tables)) if meanwhile else nullcontext():
                    found, objects = await self._compared(
                        view, scope, now, changed, folder, young, chosen
                    )
                read += objects
                works = [
                    Work(
                        difference=each,
                        schema_then=tables[name].then,
                        schema_now=tables[name].now,
                    )
                    for name, each in found.items()
                    if each.count
                ]
            notes: tuple[str, ...] = ()
            if scope.scan:
                whole = await whole_states(self._archive, view, scope, found, (was, is_now), folder)
                read += whole.objects
                works, notes = list(whole.works), whole.notes
                found = {work.collection: work.difference for work in works}
            sizes = {ref.name: ref.size_bytes for ref in read}
            yield Differing(
                works=tuple(works),
                differences=found,
                changed=changed,
                size_bytes=sum(sizes.values()),
                folder=folder,
                schemas=is_now,
                left_out=chosen.left_out(),
                notes=notes,
            )

    async def _compared(
        self,
        view: LogView,
        scope: Scope,
        now: CutWithTorn,
        changed: Changed,
        folder: Path,
        young: YoungChanges,
        chosen: Chosen,
    ) -> tuple[dict[str, CollectionDifference], list[ObjectRef]]:
        """Compare the rows that changed; return also what was read for that."""
        names = frozenset(changed.counts)
        reads_then, then_rows = await self._then(view, scope.then, changed, folder, young)
        reads = self._archive.reads(view, now.cut, torn=dict(now.torn), collections=names)
        if not scope.now.torn and not now.torn:
            reads = _newest_reads(reads, view, changed)
        async with self._rows(view, reads, changed, young) as now_rows:
            found = await asyncio.to_thread(
                differences,
                changed.path,
                then_rows,
                now_rows,
                folder=folder,
                is_meant=chosen.is_meant,
                says_nothing=_SAYS_NOTHING if scope.kind == "revert" else (Op.READ,),
            )
        return found, [*reads_then.objects, *reads.objects]

    async def _changed(
        self, view: LogView, scope: Scope, folder: Path, young: YoungChanges
    ) -> tuple[Changed, list[ObjectRef]]:
        refs = [ref for ref in view.segments if _may_differ(ref, scope.then, scope.now)]
        emptied = any("truncate" in ops for ref in refs for ops in ref.ops.values())
        emptied = emptied or "truncate" in view.tail.column("op").to_pylist()
        every = list(view.segments) if emptied else refs
        names = [ref.name for ref in every]
        paths = dict(zip(names, await self._archive.verified(every), strict=True))
        undone = scope.operation
        between = Between(
            paths=[paths[ref.name] for ref in refs],
            all_paths=list(paths.values()),
            tail=view.tail,
            then=scope.then.cut,
            now=scope.now.cut,
            collections=scope.collections,
            keys=scope.keys,
            brought=scope.brought,
            reason=None if undone is None else reason_of(undone),
        )
        path = folder / "changed.parquet"
        changes = await young.of(refs)
        if changes is not None:
            changed = await asyncio.to_thread(few_changed, changes, between, path)
            if changed is not None:
                return changed, refs
        work = partial(
            changed_rows,
            between,
            path,
            memory_bytes=self._limits.memory_bytes,
            spill_folder=folder,
            threads=self._limits.threads,
        )
        return await asyncio.to_thread(work), every

    async def _then(
        self,
        view: LogView,
        moment: CutWithTorn,
        changed: Changed,
        folder: Path,
        young: YoungChanges,
    ) -> tuple[Reads, Iterator[pa.RecordBatch]]:
        """Take the rows as they were; where they are many, from a file, as they come only once."""
        names, torn = frozenset(changed.counts), dict(moment.torn)
        reads = self._archive.reads(view, moment.cut, torn=torn, collections=names)
        few = await young.few_states(reads, changed)
        if few is not None:
            return reads, few
        path = folder / "then.arrow"
        async with self._archive.state(view, reads, collections=names, keys=changed.path) as state:
            await asyncio.to_thread(lambda: write_state(path, state.all_rows()))
        return reads, read_state(path)

    @asynccontextmanager
    async def _rows(
        self, view: LogView, reads: Reads, changed: Changed, young: YoungChanges
    ) -> AsyncIterator[Iterator[pa.RecordBatch]]:
        few = await young.few_states(reads, changed)
        if few is not None:
            yield few
            return
        names = frozenset(changed.counts)
        async with self._archive.state(view, reads, collections=names, keys=changed.path) as state:
            yield state.all_rows()

    async def _schemas(
        self, view: LogView, moment: CutWithTorn, young: YoungChanges
    ) -> dict[str, TableSchema]:
        """Read what the tables of attached databases were, by collection."""
        own = frozenset((SCHEMAS,))
        named = any(SCHEMAS in ref.ops for ref in view.objects)
        if not named and SCHEMAS not in view.tail.column("collection").unique().to_pylist():
            return {}
        reads = self._archive.reads(view, moment.cut, torn=dict(moment.torn), collections=own)
        rows = await young.small_state(reads, SCHEMAS)
        if rows is None:
            async with self._archive.state(view, reads, collections=own) as state:
                batches = await asyncio.to_thread(list, state.rows(SCHEMAS))
            rows = list(chain.from_iterable(map(changes_of, batches)))
        bodies = [
            row.after
            for row in rows
            if row.after is not None and row.lane.startswith(POSTGRES_PREFIX)
        ]
        return {schema.collection: schema for schema in map(schema_from_body, bodies)}


def _newest_reads(reads: Reads, view: LogView, changed: Changed) -> Reads:
    """What is to be read for the rows that changed, as they are now, where that has all changes.

    Each of them has a change from the first one on that made a difference, so its newest change is
    there, too. Only patches need what was before.
    """
    recent = tuple(ref for ref in view.segments if ref.seq_end > changed.seq_first)
    patched = any("patch" in ops for ref in recent for ops in ref.ops.values())
    if patched or Op.PATCH in view.tail.column("op").to_pylist():
        return reads
    segments = tuple(
        ref
        for ref in recent
        if ref.seq_first < reads.cut.seq_end and not changed.counts.keys().isdisjoint(ref.ops)
    )
    return replace(reads, base=(), base_seq_end=changed.seq_first, segments=segments)


def _may_differ(ref: ObjectRef, then: CutWithTorn, now: CutWithTorn) -> bool:
    """Tell whether a segment may hold changes that are in one of two cuts only."""
    return any(_is_beyond(ref, cut) for cut in (then, now)) and not (
        _is_outside(ref, then) and _is_outside(ref, now)
    )


def _is_beyond(ref: ObjectRef, cut: CutWithTorn) -> bool:
    torn = any(first < ref.seq_end for first in cut.torn.values())
    late = cut.at_us is not None and ref.at_max_us > cut.at_us
    return torn or late or ref.seq_end > cut.seq_end


def _is_outside(ref: ObjectRef, cut: CutWithTorn) -> bool:
    late = cut.at_us is not None and ref.at_min_us > cut.at_us
    return late or ref.seq_first >= cut.seq_end
