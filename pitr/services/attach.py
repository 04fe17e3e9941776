"""Attaches a database to a log: makes what capture needs there, and notes it in the catalog.

The note comes last. Whatever broke off before is completed by the same request again: what is
there already stays as it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from pitr.domain.catalog import Catalog
from pitr.domain.errors import Conflict
from pitr.domain.log import Source
from pitr.domain.pgoutput.attach import AttachOptions, AttachPlan
from pitr.domain.pgoutput.attach_ports import Attachable, Connect
from pitr.domain.pgoutput.attach_request import (
    AttachRequest,
    fit_name,
    is_detaching,
    kept_options,
    options_for,
    selection_for,
    slot_names,
)
from pitr.domain.pgoutput.attach_results import Done
from pitr.domain.pgoutput.selection import Selection
from pitr.domain.pgoutput.urls import with_password
from pitr.domain.ports import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """What attaching did. ``again`` says that the database was attached before."""

    source: Source
    done: tuple[Done, ...]
    again: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What attaching would do; nothing is changed yet. ``known`` is what the catalog has."""

    database: str
    name: str
    url: str
    selection: Selection
    options: AttachOptions
    plan: AttachPlan
    known: Source | None


class Attacher:
    """Attaches databases.

    Args:
        catalog: None to look only.
        password: For URLs that have none.
        ensure_log: Makes a log if need be.
    """

    def __init__(
        self,
        catalog: Catalog | None,
        clock: Clock,
        *,
        connect: Connect,
        password: str | None,
        ensure_log: Callable[[str], Awaitable[object]] | None = None,
    ) -> None:
        self._catalog = catalog
        self._clock = clock
        self._connect = connect
        self._password = password
        self._ensure_log = ensure_log

    @asynccontextmanager
    async def preparing(self, log: str, request: AttachRequest) -> AsyncIterator[Attaching]:
        """Connect, look at the database, and plan.

        Raises:
            Unavailable: It does not answer.
            InvalidRequest: The URL, a name or an option cannot be used, or it is pitr's catalog.
            NotFound: There is no such database, or none of the tables that were named.
            Conflict: The name is another database's.
        """
        url = with_password(request.url, request.password or self._password)
        async with self._connect(url) as database:
            prepared = await self._prepare(database, log, request)
            yield Attaching(self, database, log, prepared)

    async def _prepare(self, database: Attachable, log: str, request: AttachRequest) -> Prepared:
        called = await database.name()
        name = request.name or fit_name(called)
        names = slot_names(name)
        known = await self._known(log, name)
        if known is not None and known.options.get("database") != called:
            raise Conflict(
                "another database is attached under that name",
                hint=f"give this one another --name, or pitr detach {name}",
                name=name,
                attached=known.options.get("database"),
            )
        selection, options = selection_for(request, known), options_for(request, known)
        return Prepared(
            database=called,
            name=name,
            url=request.url,
            selection=selection,
            options=options,
            plan=await database.plan(names, selection=selection, options=options),
            known=known,
        )

    async def _known(self, log: str, name: str) -> Source | None:
        if self._catalog is None:
            return None
        found = await self._catalog.sources(log)
        return next((source for source in found if source.name == name), None)

    async def check(self, log: str, prepared: Prepared) -> None:
        """See that nobody captures this already.

        Raises:
            Conflict: It is attached; or the slot is another's.
        """
        plan, known = prepared.plan, prepared.known
        if known is not None:
            if not is_detaching(known) and not plan.missing and not plan.refused:
                raise Conflict(
                    "the database is attached already",
                    hint="pitr serve or pitr capture follows it; to begin anew:"
                    f" pitr detach {known.name}, then attach again",
                    name=known.name,
                    log=log,
                )
            return
        if plan.slot is None or self._catalog is None:
            return
        for other in await self._catalog.logs():
            for source in await self._catalog.sources(other.name):
                place = (source.slot, source.options.get("database"))
                if place == (plan.names.slot, prepared.database):
                    raise Conflict(
                        "the replication slot is that of another attached database",
                        hint="give this one another --name",
                        slot=source.slot,
                        log=other.name,
                        attached=source.name,
                    )
        if plan.slot.is_active:
            raise Conflict(
                "somebody captures with that replication slot",
                hint="give another --name; if nobody should, stop the process that uses it",
                slot=plan.names.slot,
                pid=plan.slot.active_pid,
                application=plan.slot.active_application,
            )

    async def apply(self, database: Attachable, log: str, prepared: Prepared) -> Attached:
        """Make what is missing, then note it."""
        assert self._catalog is not None and self._ensure_log is not None, "it is not a look only"
        plan, known = prepared.plan, prepared.known
        plan.check()
        await self._ensure_log(log)
        done = await database.apply(plan)
        source = Source(
            name=prepared.name,
            url=prepared.url,
            slot=plan.names.slot,
            publication=plan.names.publication,
            created_us=self._clock.now_us(),
            options=kept_options(
                plan, prepared.selection, prepared.options, database=prepared.database
            ),
        )
        if known is None or not await self._catalog.change_source(log, source):
            await self._catalog.add_source(log, source)
        return Attached(source=source, done=done, again=known is not None)


class Attaching:
    """A database that is looked at, and not attached yet."""

    def __init__(
        self, attacher: Attacher, database: Attachable, log: str, prepared: Prepared
    ) -> None:
        self._attacher = attacher
        self._database = database
        self._log = log
        self.prepared = prepared

    async def check(self) -> None:
        """See that nobody captures this already.

        Raises:
            Conflict: It is attached, or the slot is another's.
        """
        await self._attacher.check(self._log, self.prepared)

    async def apply(self) -> Attached:
        """Make what is missing, then note it in the catalog.

        Raises:
            InvalidRequest: The plan says what has to be seen to first, or the role may not do it.
            Conflict: Something else has the name of what is to be made.
            Unavailable: Somebody holds a lock, or a transaction stays open: do it again later.
        """
        return await self._attacher.apply(self._database, self._log, self.prepared)
