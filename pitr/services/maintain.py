"""The scheduled work on every log: seal, publish, merge, snapshot, expire, forget."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from pitr.domain.catalog import Catalog
from pitr.domain.errors import PitrError
from pitr.domain.limits import Limits
from pitr.domain.ports import Clock
from pitr.services.compact import Compactor
from pitr.services.history import HistoryReader
from pitr.services.publish import Publisher
from pitr.services.seal import Sealer
from pitr.services.snapshot import Snapshotter

Work = Callable[[str], Awaitable[None]]


class Maintenance:
    """One round of upkeep over all logs. A failure is logged and met again in the next round."""

    def __init__(
        self,
        catalog: Catalog,
        clock: Clock,
        *,
        sealer: Sealer,
        compactor: Compactor,
        snapshotter: Snapshotter,
        publisher: Publisher,
        history: HistoryReader,
        limits: Limits,
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._sealer = sealer
        self._compactor = compactor
        self._snapshotter = snapshotter
        self._publisher = publisher
        self._history = history
        self._limits = limits
        self._logger = structlog.get_logger("pitr.maintain")

    async def seal(self) -> None:
        """Seal what is due and publish; the job of every second."""
        await self._each("seal", self._seal)

    async def tidy(self) -> None:
        """Merge, snapshot, expire and forget; the job of every half minute."""
        await self._each("tidy", self._tidy)
        before_us = self._clock.now_us() - self._limits.answers_kept_us
        try:
            await self._catalog.forget_answers(before_us=before_us)
        except PitrError as error:
            self._logger.warning("forget_failed", error=str(error))
        try:
            await self._history.prepare()
        except PitrError as error:
            self._logger.error("prepare_failed", error=str(error))

    async def _seal(self, log: str) -> None:
        await self._sealer.seal(log)
        await self._publisher.publish(log)

    async def _tidy(self, log: str) -> None:
        await self._compactor.compact(log)
        await self._snapshotter.snapshot_if_due(log)
        await self._compactor.expire(log)
        await self._publisher.publish(log)

    async def _each(self, job: str, work: Work) -> None:
        try:
            logs = await self._catalog.logs()
        except PitrError as error:
            self._logger.warning("catalog_away", job=job, error=str(error))
            return
        for state in logs:
            try:
                await work(state.name)
            except Exception as error:  # the top of a scheduled job: say it, go on, try again
                self._logger.error(f"{job}_failed", log=state.name, error=str(error))
