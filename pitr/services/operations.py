"""Operations under way: recorded with who and why, under a lease, until they end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from pitr.domain.catalog import Catalog
from pitr.domain.errors import PitrError
from pitr.domain.log import LogState
from pitr.domain.ports import Clock
from pitr.services.lease import Leases


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An operation as it begins. ``state`` is of the view that it reads.

    ``sink`` is the place that it writes to, as ``sink_text`` names it.
    """

    state: LogState
    operation_id: str
    kind: str
    actor: str | None
    reason: str | None
    started_us: int
    detail: Mapping[str, Any]
    sink: str | None = None


@dataclass(slots=True)
class Running:
    """An operation that runs. ``detail`` is recorded with its end, if it ends well.

    ``is_recorded`` says afterwards whether that end could be recorded.
    """

    detail: dict[str, Any] = field(default_factory=dict)
    is_recorded: bool = False


class Operations:
    """Records what is done to a log; a failure is recorded like anything else."""

    def __init__(self, catalog: Catalog, clock: Clock, leases: Leases) -> None:
        self._catalog = catalog
        self._clock = clock
        self._leases = leases

    @asynccontextmanager
    async def running(self, begun: Begun) -> AsyncIterator[Running]:
        """Record that an operation begins, and how it ends; hold a lease from before to after.

        Who finds it running without a lease knows that it was killed.

        Raises:
            Conflict: Another operation writes to the place; this one is recorded as failed.
            Unavailable: The catalog does not answer at the beginning.
        """
        running, told = Running(), False
        try:
            async with self._leases.held(
                begun.state,
                begun.operation_id,
                kind=begun.kind,
                actor=begun.actor,
                sink=begun.sink,
            ):
                await self._begin(begun)
                told = True
                try:
                    yield running
                except BaseException as error:
                    await self._end(begun, "failed", _why(error))
                    raise
                running.is_recorded = await self._end(begun, "done", running.detail)
        except PitrError as error:
            if not told:
                await self._refused(begun)
            if not running.is_recorded:  # what the lease has to say of it is nearer to the truth
                await self._end(begun, "failed", _why(error))
            raise

    async def note(self, operation_id: str, detail: Mapping[str, Any]) -> None:
        """Add to what is known of an operation that runs.

        Raises:
            Unavailable: The catalog does not answer.
        """
        await self._catalog.note_operation(operation_id, detail)

    async def _begin(self, begun: Begun) -> None:
        await self._catalog.begin_operation(
            begun.state,
            operation_id=begun.operation_id,
            kind=begun.kind,
            actor=begun.actor,
            reason=begun.reason,
            started_us=begun.started_us,
            detail=begun.detail,
        )

    async def _refused(self, begun: Begun) -> None:
        try:
            await self._begin(begun)
        except PitrError:
            return  # the caller is told why all the same

    async def _end(self, begun: Begun, outcome: str, detail: Mapping[str, Any]) -> bool:
        """Record the end; False if the catalog does not take it, which undoes nothing."""
        try:
            await self._catalog.end_operation(
                begun.operation_id,
                outcome=outcome,
                ended_us=self._clock.now_us(),
                detail=detail,
            )
        except PitrError:
            return False
        return True


def _why(error: BaseException) -> dict[str, Any]:
    return {"error": getattr(error, "code", type(error).__name__), "why": str(error)}
