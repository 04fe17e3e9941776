"""Leases held while something is read or written for long.

A lease does two things: retention does not delete what its holder reads, and no other operation
writes to the same place. It is a courtesy among processes, not what makes a restore whole: that is
the place's own transaction. So a catalog that is away for a while ends nothing, and a lease that
ran out meanwhile is taken up again if nothing came of it. Only when another has the place by now,
or when objects have been deleted, the work is ended, before it commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from pitr.domain.catalog import Catalog
from pitr.domain.errors import Conflict, DataLoss, PitrError, Unavailable
from pitr.domain.lease import Lease, taken_by
from pitr.domain.log import LogState
from pitr.services.tasks import single

LEASE_US: Final = 60_000_000
"""How long a lease outlives its holder; it is renewed three times as often."""

RETRY_PART: Final = 15
"""After the catalog was away it is asked again in this part of a lease's length."""

TAKEOVERS_MAX: Final = 3
"""How many dead holders of a place are met at most; each left one lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A lease as it is asked for, again and again."""

    state: LogState
    operation_id: str
    kind: str
    actor: str | None
    sink: str | None


class Leases:
    """Takes leases for this process, whose name is ``holder``; see ``adapters.owner``."""

    def __init__(
        self,
        catalog: Catalog,
        *,
        holder: str,
        is_gone: Callable[[str], bool] = lambda _: False,
        length_us: int = LEASE_US,
    ) -> None:
        self._catalog = catalog
        self._holder = holder
        self._is_gone = is_gone
        self._length_us = length_us

    @asynccontextmanager
    async def held(
        self,
        state: LogState,
        operation_id: str,
        *,
        kind: str,
        actor: str | None = None,
        sink: str | None = None,
    ) -> AsyncIterator[None]:
        """Hold a lease while the body runs.

        Args:
            state: Of the view that is read.
            sink: The place that is written to, as ``sink_text`` names it; None to read only.

        Raises:
            Conflict: Another operation writes to the place, or objects of the view were deleted;
                now, or while the body ran, which was ended then.
            Unavailable: The catalog does not answer at the start.
        """
        wanted = _Wanted(state=state, operation_id=operation_id, kind=kind, actor=actor, sink=sink)
        await self._take(wanted)
        failed: BaseException | None = None
        done = False
        try:
            async with asyncio.TaskGroup() as group:
                renewing = group.create_task(self._renew(wanted))
                try:
                    yield
                    done = True
                except asyncio.CancelledError:
                    raise
                except BaseException as error:  # not for the group, which would wrap it
                    failed = error
                finally:
                    renewing.cancel()
        except BaseExceptionGroup as errors:
            if not done:
                raise single(errors) from errors
        finally:
            await self._release(operation_id)
        if failed is not None:
            await self._explain(wanted, failed)
            raise failed

    @asynccontextmanager
    async def reading(
        self, log: str, operation_id: str, *, kind: str, actor: str | None = None
    ) -> AsyncIterator[None]:
        """Hold a lease on whatever views the body takes of a log, and on what they hold.

        It is on the log as it stands before the first of them: what is retired later is kept.

        Raises:
            NotFound: There is no such log.
            Unavailable: The catalog does not answer at the start.
        """
        async with self.held(await self._catalog.log(log), operation_id, kind=kind, actor=actor):
            yield

    async def operations(self, log: str, *, limit: int = 20) -> list[dict[str, Any]]:
        """Return the newest operations of a log, newest first; see ``Catalog.operations``.

        Of processes on this machine it is known at once that they are gone: what they did is lost
        before their leases run out.
        """
        found = await self._catalog.operations(log, limit=limit)
        for each in found:
            if each["outcome"] == "running" and self._is_gone(each["holder"]):
                each["outcome"] = "lost"
        return found

    async def _take(self, wanted: _Wanted) -> None:
        standing = await self._ask(wanted)
        for _ in range(TAKEOVERS_MAX):
            if standing.operation_id == wanted.operation_id or not self._is_gone(standing.holder):
                break
            await self._catalog.release_lease(standing.operation_id, standing.holder)
            standing = await self._ask(wanted)
        if standing.operation_id != wanted.operation_id:
            raise taken_by(standing)

    async def _ask(self, wanted: _Wanted) -> Lease:
        return await self._catalog.take_lease(
            wanted.state,
            operation_id=wanted.operation_id,
            kind=wanted.kind,
            actor=wanted.actor,
            holder=self._holder,
            sink=wanted.sink,
            length_us=self._length_us,
        )

    async def _renew(self, wanted: _Wanted) -> None:
        """Renew until cancelled.

        Raises:
            Conflict: The lease ran out, and cannot be taken up again.
        """
        pause_s = self._length_us / 3e6
        while True:
            await asyncio.sleep(pause_s)
            try:
                standing = await self._ask(wanted)
            except Unavailable:
                pause_s = self._length_us / 1e6 / RETRY_PART
                continue
            pause_s = self._length_us / 3e6
            if standing.operation_id != wanted.operation_id:
                raise taken_by(standing)

    async def _release(self, operation_id: str) -> None:
        try:
            await self._catalog.release_lease(operation_id, self._holder)
        except PitrError:
            return  # it runs out by itself

    async def _explain(self, wanted: _Wanted, error: BaseException) -> None:
        """Say what happened, where an object is missing because the lease had run out.

        Raises:
            Conflict: That is so; nothing is wrong with the store.
        """
        if not isinstance(error, DataLoss):
            return
        try:
            await self._ask(wanted)
        except Conflict as conflict:
            raise conflict from error
        except PitrError:
            return
        await self._release(wanted.operation_id)
