"""The read side of a log: views, verified files, replays; every path to an object is here."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from pitr.domain.catalog import Catalog
from pitr.domain.columnar.few import YoungFiles
from pitr.domain.columnar.footers import FooterCache
from pitr.domain.columnar.halves import Halves, half_transactions
from pitr.domain.columnar.picked import Picks
from pitr.domain.columnar.replay import Replay, ReplayInput
from pitr.domain.columnar.search import Search
from pitr.domain.columnar.torn import torn_transactions
from pitr.domain.limits import Limits
from pitr.domain.log import LogView
from pitr.domain.manifest import ObjectRef
from pitr.domain.plan import Reads, plan_reads
from pitr.domain.ports import ObjectStore
from pitr.domain.search import Found, Query
from pitr.domain.target import Cut, may_straddle
from pitr.services.tasks import in_thread

VERIFY_AT_ONCE = 4
"""Objects that are fetched and hashed at the same time."""


class Archive:
    """Reads logs. Objects are checked against the manifest before they are used (invariant 8)."""

    def __init__(
        self, catalog: Catalog, store: ObjectStore, *, limits: Limits, scratch: Path
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._limits = limits
        self._scratch = scratch
        self.footers = FooterCache()
        """Of files that single rows are read from, for the life of a process."""
        self.picks = Picks(self.footers)
        self.young_files = YoungFiles()

    async def view(self, log: str, *, tail: bool = True) -> LogView:
        """Return one consistent view of the log; see ``Catalog.view``."""
        return await self._catalog.view(log, tail=tail)

    async def row_view(self, log: str, collection: str, key: str) -> LogView:
        """Return what touches one row; see ``Catalog.row_view``."""
        return await self._catalog.row_view(log, collection, key)

    async def verified(self, refs: Sequence[ObjectRef]) -> list[Path]:
        """Return local files with the objects' bytes, in order.

        Raises:
            DataLoss: One is missing, damaged or another one.
        """
        turn = asyncio.Semaphore(VERIFY_AT_ONCE)

        async def one(ref: ObjectRef) -> Path:
            async with turn:
                return await self._store.verified(ref)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(ref)) for ref in refs]
                if tasks:  # an error at the end of a group would leave us marked as cancelled
                    await asyncio.wait(tasks)
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        return [task.result() for task in tasks]

    @asynccontextmanager
    async def scratch_folder(self) -> AsyncIterator[Path]:
        """A folder for spilled and half-made files, gone afterwards."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        folder = await asyncio.to_thread(tempfile.TemporaryDirectory, dir=self._scratch)
        try:
            yield Path(folder.name)
        finally:
            await asyncio.to_thread(folder.cleanup)

    def reads(
        self,
        view: LogView,
        cut: Cut,
        *,
        torn: dict[str, int] | None = None,
        collections: Iterable[str] | None = None,
        use_snapshots: bool = True,
    ) -> Reads:
        """Choose what to read for the state at ``cut``; see ``plan_reads``."""
        return plan_reads(
            view,
            cut,
            torn=torn,
            collections=frozenset(collections) if collections is not None else None,
            use_snapshots=use_snapshots,
        )

    async def torn(self, view: LogView, cut: Cut) -> dict[str, int]:
        """Return the transactions that ``cut`` would tear, if they may come by several lanes.

        Raises:
            DataLoss: A segment is missing, damaged or another one.
        """
        if not may_straddle(view) or (cut.at_us is None and cut.seq_end >= view.state.seq_next):
            return {}
        paths = await self.verified(view.segments)
        async with self.scratch_folder() as folder:
            return await asyncio.to_thread(
                torn_transactions,
                paths,
                view.tail,
                cut,
                memory_bytes=self._limits.memory_bytes,
                spill_folder=folder,
                threads=self._limits.threads,
            )

    async def halves(self, view: LogView, cut: Cut, collections: Collection[str]) -> Halves:
        """Find transactions after ``cut`` that changed these collections and others, too.

        Raises:
            DataLoss: A segment is missing, damaged or another one.
        """
        refs = [
            ref
            for ref in view.segments
            if (ref.seq_end > cut.seq_end or cut.without_tx)
            or (cut.at_us is not None and ref.at_max_us > cut.at_us)
        ]
        paths = await self.verified(refs)
        async with self.scratch_folder() as folder:
            return await asyncio.to_thread(
                half_transactions,
                paths,
                view.tail,
                cut,
                collections,
                memory_bytes=self._limits.memory_bytes,
                spill_folder=folder,
                threads=self._limits.threads,
            )

    async def search(
        self,
        view: LogView,
        refs: Sequence[ObjectRef],
        query: Query,
        *,
        collections: frozenset[str],
        without_tx: frozenset[str] = frozenset(),
    ) -> Found:
        """Search the tail and the segments that can hold a match; see ``Search``.

        Raises:
            DataLoss: A segment is missing, damaged or another one.
        """
        paths = await self.verified(refs)
        async with self.scratch_folder() as folder:
            search = Search(
                paths,
                view.tail,
                query,
                collections=collections,
                without_tx=without_tx,
                memory_bytes=self._limits.memory_bytes,
                spill_folder=folder,
                threads=self._limits.threads,
            )
            try:
                return await in_thread(search.run, interrupt=search.interrupt)
            finally:
                await asyncio.to_thread(search.close)

    @asynccontextmanager
    async def state(
        self,
        view: LogView,
        reads: Reads,
        *,
        collections: frozenset[str] | None = None,
        keys: frozenset[tuple[str, str]] | Path | None = None,
    ) -> AsyncIterator[Replay]:
        """Replay what ``reads`` names into the rows of its moment.

        Raises:
            DataLoss: An object is missing, damaged or another one.
        """
        paths = await self.verified(reads.objects)
        async with self.scratch_folder() as folder:
            given = ReplayInput(
                base=tuple(paths[: len(reads.base)]),
                base_seq_end=reads.base_seq_end,
                segments=tuple(paths[len(reads.base) :]),
                tail=view.tail if reads.tail else None,
                cut=reads.cut,
                collections=collections,
                keys=keys,
                has_patches=reads.has_patches or reads.tail,
                has_truncates=reads.has_truncates or reads.tail,
            )
            replay = Replay(
                given,
                memory_bytes=self._limits.memory_bytes,
                spill_folder=folder,
                threads=self._limits.threads,
            )
            try:
                await in_thread(replay.__enter__, interrupt=replay.interrupt)
                empty = dict.fromkeys(reads.collections, 0)
                replay.counts = dict(sorted((empty | dict(replay.counts)).items()))
                yield replay
            finally:
                await asyncio.to_thread(replay.close)
