"""A small world for services: a real catalog, a real store, one log, and the naive oracle."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pitr.adapters.catalog import PostgresCatalog
from pitr.adapters.clock import new_uid
from pitr.adapters.objects import DirectoryStore
from pitr.domain.catalog import Catalog
from pitr.domain.change import Change
from pitr.domain.columnar.rows import changes_of
from pitr.domain.fold import State, fold
from pitr.domain.limits import Limits
from pitr.domain.log import Appended
from pitr.domain.ports import ObjectStore
from pitr.domain.target import Cut
from pitr.services.append import Appender
from pitr.services.archive import Archive
from pitr.services.compact import Compactor
from pitr.services.lease import Leases
from pitr.services.publish import Publisher
from pitr.services.resolve import Resolver
from pitr.services.seal import Sealer
from pitr.services.snapshot import Snapshotter
from pitr.services.verify import Verifier
from tests.conftest import ManualClock

LIMITS = Limits(
    segment_rows_min=6,
    segment_rows_max=7,
    compact_count_min=2,
    snapshots_kept=3,
    skew_us=2,
    retired_kept_us=1_000,
    memory_bytes=512 * 2**20,
    threads=1,
)


@dataclass
class World:
    """Services over one log; ``catalog`` and ``store`` may be wrapped to fail."""

    catalog: Catalog
    store: ObjectStore
    clock: ManualClock
    log: str
    scratch: Path
    limits: Limits = LIMITS
    archive: Archive = field(init=False)

    def __post_init__(self) -> None:
        self.archive = Archive(self.catalog, self.store, limits=self.limits, scratch=self.scratch)
        self.leases = Leases(self.catalog, holder="test")
        self.resolver = Resolver(self.catalog, self.archive, self.clock)
        parts: tuple[Any, ...] = (self.catalog, self.store, self.clock)
        self.sealer = Sealer(*parts, limits=self.limits)
        heavy: tuple[Any, ...] = (self.catalog, self.store, self.archive, self.clock)
        self.compactor = Compactor(*heavy, limits=self.limits)
        self.snapshotter = Snapshotter(*heavy, limits=self.limits)
        self.publisher = Publisher(self.catalog, self.store)
        self.verifier = Verifier(self.catalog, self.store, self.leases, new_id=new_uid)

    async def append(self, *batches: Any) -> list[Appended]:
        async with Appender(
            self.catalog, self.store, self.clock, log=self.log, limits=self.limits, new_id=new_uid
        ) as appender:
            return [await appender.append(one) for one in batches]

    async def state(self, target: str, *, use_snapshots: bool = True) -> dict[Any, Any]:
        """The restored rows at a target: (after, seq) by (collection, key)."""
        view = await self.archive.view(self.log)
        resolution = await self.resolver.resolve(view, target)
        reads = self.archive.reads(
            view, resolution.cut, torn=resolution.torn, use_snapshots=use_snapshots
        )
        async with self.archive.state(view, reads) as state:
            found = [row for batch in state.all_rows() for row in changes_of(batch)]
        return image({(row.collection, row.key): row for row in found})

    async def changes(self) -> list[Change]:
        """Every change there is, in seq order, read as plainly as can be."""
        view = await self.catalog.view(self.log)
        found = changes_of(view.tail)
        for ref in view.segments:
            import pyarrow.parquet as pq

            found += changes_of(pq.read_table(await self.store.verified(ref)))
        return sorted(found, key=lambda change: change.seq)


def image(state: State) -> dict[Any, Any]:
    """A state without what a test does not compare."""
    return {row: (change.after, change.seq) for row, change in state.items()}


def oracle(changes: list[Change], cut: Cut) -> dict[Any, Any]:
    """The state at a cut by the definition."""
    return image(fold(changes, cut))


__all__ = ["DirectoryStore", "PostgresCatalog", "World", "image", "oracle"]
