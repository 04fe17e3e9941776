"""Compares the live tables of an attached database with the log, at one exact position.

A snapshot of the source names the position: it shows what was committed before an LSN. The tables
are read under it into files, while the log is waited for to come as far. Then the state of the log
at that position, which is found by the lane's transactions, is written into files too, and the
files are compared. Memory holds batches, whatever the tables are; the source is let go of once it
is read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pitr.domain.catalog import Catalog
from pitr.domain.columnar.compare import Comparison
from pitr.domain.columnar.engine import Engine
from pitr.domain.columnar.rowfile import RowFile
from pitr.domain.errors import InvalidRequest, NotFound, Unavailable
from pitr.domain.limits import Limits
from pitr.domain.log import Source
from pitr.domain.pgoutput.frozen_ports import LiveDatabase
from pitr.domain.pgoutput.notes import Notes
from pitr.domain.ports import Clock, Progress
from pitr.domain.reconcile import (
    GONE,
    CapturedTable,
    Compared,
    Place,
    Reconciled,
    check_deletes,
)
from pitr.services.append import Appender
from pitr.services.archive import Archive
from pitr.services.lease import Leases
from pitr.services.reconcile_live import NOBODY, LiveSide, LiveTable
from pitr.services.reconcile_log import LogSide, log_side, logged_rows
from pitr.services.reconcile_repair import Repairer
from pitr.services.reconcile_write import Found
from pitr.services.resolve import Resolver
from pitr.services.tasks import in_thread


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileRequest:
    """What to compare, and what to do about it.

    ``name`` None is the only attached database, ``collections`` None all that it has. ``wait_us``
    is how long the lane may stand still. With ``dry_run`` a repair only says what it would do.
    """

    log: str
    name: str | None = None
    collections: frozenset[str] | None = None
    examples_max: int = 10
    wait_us: int = 60_000_000
    repair: bool = False
    dry_run: bool = False
    allow_deletes: bool = False
    actor: str | None = None
    reason: str | None = None


class Reconciler:
    """Compares tables with the log, and repairs the log where it is asked to."""

    def __init__(
        self,
        catalog: Catalog,
        archive: Archive,
        resolver: Resolver,
        clock: Clock,
        *,
        connect: Callable[[Source], LiveDatabase],
        appender: Callable[[str], Awaitable[Appender]],
        leases: Leases,
        new_id: Callable[[], str],
        new_owner: Callable[[], str],
        limits: Limits,
    ) -> None:
        self._catalog = catalog
        self._archive = archive
        self._resolver = resolver
        self._clock = clock
        self._connect = connect
        self._appender = appender
        self._leases = leases
        self._new_id = new_id
        self._new_owner = new_owner
        self._limits = limits

    async def reconcile(
        self, request: ReconcileRequest, *, progress: Progress = lambda _: None
    ) -> Reconciled:
        """Compare, and repair if it is asked for.

        Args:
            progress: Gets how many live rows were read, again and again.

        Raises:
            NotFound: No database is attached under that name, or it has no such collection.
            InvalidRequest: Several are attached, and none was named; or the source has no free
                replication slot, or the role may not replicate.
            Unavailable: The source or the catalog is away, or nobody captures.
            Conflict: It is another cluster, or the repair would delete too much.
        """
        source = await self._source(request)
        database = self._connect(source)
        try:
            operation_id = self._new_id()
            reading = self._leases.reading(
                request.log, operation_id, kind="reconcile", actor=request.actor
            )
            async with reading, self._archive.scratch_folder() as folder:
                result, found = await self._compared(request, source, database, folder, progress)
                if not request.repair:
                    return result
                return await self._repaired(request, result, found, folder, operation_id)
        finally:
            await database.close()

    async def _source(self, request: ReconcileRequest) -> Source:
        await self._catalog.log(request.log)
        found = {source.name: source for source in await self._catalog.sources(request.log)}
        if request.name in found:
            return found[request.name]
        if request.name is None and len(found) == 1:
            return next(iter(found.values()))
        names = ", ".join(sorted(found))
        if request.name is None and found:
            raise InvalidRequest("say which database", hint=f"attached are {names}")
        facts = {} if request.name is None else {"name": request.name}
        raise NotFound(
            "no such database is attached",
            hint=f"attached are {names}" if found else "pitr attach URL attaches one",
            **facts,
            log=request.log,
        )

    async def _compared(
        self,
        request: ReconcileRequest,
        source: Source,
        database: LiveDatabase,
        folder: Path,
        progress: Progress,
    ) -> tuple[Reconciled, list[Found]]:
        state, lane = await self._catalog.head(request.log, source.lane)
        if lane is None:
            raise Unavailable("nobody has followed the database yet", hint=NOBODY, lane=source.lane)
        notes = Notes.of_json(lane.state)
        side = LiveSide(
            self._catalog,
            database,
            log=request.log,
            lane=source.lane,
            slot=f"pitr_reconcile_{self._new_id().replace('-', '')[:16]}",
            wait_s=request.wait_us / 1e6,
            folder=folder,
        )
        live = await side.read(partial(_chosen, notes, request.collections), notes, progress)
        log = await log_side(
            self._archive,
            self._resolver,
            log=request.log,
            lane=source.lane,
            seq_first=state.seq_next,
            lsn=live.lsn,
        )
        compared, found = await self._compared_tables(request, live.tables, log, folder)
        result = Reconciled(
            log=request.log,
            source=source.name,
            lane=source.lane,
            place=Place(lsn=live.lsn, seq_end=log.boundary.seq_end, at_us=live.at_us),
            collections=tuple(
                sorted([*compared, *_gone(live.tables, log, request.collections)], key=_by_name)
            ),
        )
        return result, found

    async def _compared_tables(
        self, request: ReconcileRequest, tables: list[LiveTable], log: LogSide, folder: Path
    ) -> tuple[list[Compared], list[Found]]:
        """Compare what can be; with what a repair needs, if there will be one."""
        for table in tables:
            table.inconclusive = log.inconclusive(table)
        names = [table.collection for table in tables if table.inconclusive is None]
        logged = await logged_rows(self._archive, log, names, folder)
        engine = Engine(
            memory_bytes=self._limits.memory_bytes,
            spill_folder=folder,
            threads=self._limits.threads,
        )
        compared: list[Compared] = []
        found: list[Found] = []
        try:
            for number, table in enumerate(tables):
                if table.inconclusive is not None:
                    compared.append(
                        Compared(collection=table.collection, inconclusive=table.inconclusive)
                    )
                    continue
                mended = None
                if request.repair:
                    mended = Found.new(table.collection, folder, number)
                    found.append(mended)
                rows = logged.pop(table.collection)
                work = partial(
                    _compare, engine, table, rows, mended, folder, request.examples_max, compared
                )
                await in_thread(work, interrupt=engine.interrupt)
        finally:
            engine.close()
        return compared, found

    async def _repaired(
        self,
        request: ReconcileRequest,
        result: Reconciled,
        found: list[Found],
        folder: Path,
        operation_id: str,
    ) -> Reconciled:
        if not (request.allow_deletes or request.dry_run):
            check_deletes(result.collections)
        repairer = Repairer(
            self._catalog,
            self._archive,
            self._clock,
            appender=self._appender,
            owner=self._new_owner(),
            operation_id=operation_id,
            folder=folder,
            limits=self._limits,
        )
        return await repairer.repaired(
            result,
            found,
            dry_run=request.dry_run,
            allow_deletes=request.allow_deletes,
            actor=request.actor,
            reason=request.reason,
            wait_us=request.wait_us,
        )


def _compare(
    engine: Engine,
    table: LiveTable,
    logged: RowFile,
    found: Found | None,
    folder: Path,
    examples_max: int,
    compared: list[Compared],
) -> None:
    """Compare one table, and forget its rows but for those that a repair needs."""
    assert table.rows is not None and table.relation is not None, "it was read"
    comparison = Comparison(
        engine,
        table.rows,
        logged,
        columns=[column.name for column in table.relation.columns],
        keyed_by_row=table.relation.is_keyed_by_row,
        folder=folder,
    )
    drift = comparison.drift(examples_max=examples_max)
    if found is not None:
        comparison.to_repair(found.reads, found.deletes)
        found.close()
    compared.append(
        Compared(
            collection=table.collection,
            rows_live=table.rows.count,
            rows_log=logged.count,
            drift=drift,
        )
    )
    table.rows.delete()
    logged.delete()


def _chosen(
    notes: Notes, asked: frozenset[str] | None, captured: Sequence[CapturedTable]
) -> list[CapturedTable]:
    """The live tables that are asked for, by name.

    Raises:
        NotFound: One is asked for that is not captured, and never was.
    """
    live = {table.collection: table for table in captured}
    known = live.keys() | {table.collection for table in notes.copy.tables}
    if unknown := sorted((asked or frozenset()) - known):
        raise NotFound(
            "the database has no such table that is captured",
            hint=f"it has: {', '.join(sorted(live)) or 'none'}",
            collection=unknown[0],
        )
    return [table for name, table in sorted(live.items()) if asked is None or name in asked]


def _gone(tables: list[LiveTable], log: LogSide, asked: frozenset[str] | None) -> list[Compared]:
    """The tables that the log has, and that are not captured any more."""
    live = {table.collection for table in tables}
    known = {*log.schemas, *(table.collection for table in log.notes.copy.tables)}
    return [
        Compared(collection=name, inconclusive=GONE)
        for name in sorted(known - live)
        if asked is None or name in asked
    ]


def _by_name(compared: Compared) -> str:
    return compared.collection
