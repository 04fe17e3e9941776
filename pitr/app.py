"""The composition root: makes adapters and services out of settings, and takes them down again."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pitr.adapters.catalog import PostgresCatalog
from pitr.adapters.clock import SystemClock, new_uid
from pitr.adapters.decoding import ProcessDecoder
from pitr.adapters.embedded import EmbeddedPostgres
from pitr.adapters.kafka import KafkaFeed
from pitr.adapters.migrations_folder import migrations_folder
from pitr.adapters.objects import DirectoryStore
from pitr.adapters.owner import is_gone, new_owner
from pitr.adapters.postgres.attachable import attachable
from pitr.adapters.postgres.attached import AttachedDatabase
from pitr.adapters.sinks import sink_for
from pitr.adapters.sinks.postgres.rewind.database import PostgresRewind
from pitr.adapters.sinks.postgres.swap import OldTables, drop_old, list_old
from pitr.domain.catalog import Catalog
from pitr.domain.errors import Conflict, InvalidRequest, Unavailable
from pitr.domain.limits import Limits
from pitr.domain.log import LogState, Source
from pitr.domain.manifest import GENESIS_HASH
from pitr.domain.pgoutput.urls import with_password
from pitr.domain.ports import Clock, Decoder, ObjectStore, Sink
from pitr.domain.restore_plan import Into
from pitr.kafka_settings import kafka_config, kafka_topics
from pitr.services.append import Appender
from pitr.services.archive import Archive
from pitr.services.attach import Attacher
from pitr.services.capture import Capture
from pitr.services.compact import Compactor
from pitr.services.detach import Detacher
from pitr.services.find import Finder
from pitr.services.follow import Follower
from pitr.services.history import HistoryReader
from pitr.services.ingest import FileIngest
from pitr.services.lanes import LaneKeeper
from pitr.services.lease import Leases
from pitr.services.maintain import Maintenance
from pitr.services.plans import Plans
from pitr.services.publish import Publisher
from pitr.services.quarantine import Quarantine
from pitr.services.reconcile import Reconciler
from pitr.services.resolve import Resolver
from pitr.services.restore import Restorer
from pitr.services.restore_plan import RestorePlanner
from pitr.services.rewind.rewinder import Rewinder
from pitr.services.seal import Sealer
from pitr.services.snapshot import Snapshotter
from pitr.services.status import StatusReader
from pitr.services.verify import Verifier
from pitr.settings import Settings

_LOG_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(slots=True)
class App:
    """Everything that a face needs. Services are made once; each log has one appender."""

    settings: Settings
    limits: Limits
    clock: Clock
    catalog: Catalog
    store: ObjectStore
    server: EmbeddedPostgres | None = None
    archive: Archive = field(init=False)
    resolver: Resolver = field(init=False)
    finder: Finder = field(init=False)
    leases: Leases = field(init=False)
    restorer: Restorer = field(init=False)
    plans: Plans = field(init=False)
    history: HistoryReader = field(init=False)
    lanes: LaneKeeper = field(init=False)
    attacher: Attacher = field(init=False)
    detacher: Detacher = field(init=False)
    reconciler: Reconciler = field(init=False)
    quarantine: Quarantine = field(init=False)
    verifier: Verifier = field(init=False)
    status: StatusReader = field(init=False)
    publisher: Publisher = field(init=False)
    sealer: Sealer = field(init=False)
    compactor: Compactor = field(init=False)
    snapshotter: Snapshotter = field(init=False)
    maintenance: Maintenance = field(init=False)
    decoder: Decoder = field(init=False)
    file_ingest: FileIngest = field(init=False)
    captures: list[Capture] = field(default_factory=list)
    followers: dict[str, Follower] = field(default_factory=dict)
    """Those at work, by log and lane: ``main/postgres:shop``."""
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _appenders: dict[str, Appender] = field(default_factory=dict)

    def __post_init__(self) -> None:
        catalog, store, clock, limits = self.catalog, self.store, self.clock, self.limits
        scratch = process_scratch(self.settings.data)
        self.archive = Archive(catalog, store, limits=limits, scratch=scratch)
        self.resolver = Resolver(catalog, self.archive, clock)
        self.finder = Finder(catalog, self.archive, self.resolver, clock)
        self.leases = Leases(catalog, holder=new_owner(new_uid()), is_gone=is_gone)
        self.restorer = Restorer(
            catalog, self.archive, self.resolver, clock, leases=self.leases, new_id=new_uid
        )
        self.plans = self._plans()
        self.history = HistoryReader(self.archive)
        self.lanes = LaneKeeper(catalog, clock)
        password = self.settings.source_password
        self.attacher = Attacher(
            catalog, clock, connect=attachable, password=password, ensure_log=self.ensure_log
        )
        self.detacher = Detacher(catalog, self.lanes, clock, connect=attachable, password=password)
        self.reconciler = Reconciler(
            catalog,
            self.archive,
            self.resolver,
            clock,
            connect=self._attached,
            appender=self.appender,
            leases=self.leases,
            new_id=new_uid,
            new_owner=lambda: new_owner(new_uid()),
            limits=limits,
        )
        self.quarantine = Quarantine(catalog)
        self.verifier = Verifier(catalog, store, self.leases, new_id=new_uid)
        self.status = StatusReader(catalog, clock)
        self.publisher = Publisher(catalog, store)
        self.sealer = Sealer(catalog, store, clock, limits=limits)
        self.compactor = Compactor(catalog, store, self.archive, clock, limits=limits)
        self.snapshotter = Snapshotter(catalog, store, self.archive, clock, limits=limits)
        self.maintenance = Maintenance(
            catalog,
            clock,
            sealer=self.sealer,
            compactor=self.compactor,
            snapshotter=self.snapshotter,
            publisher=self.publisher,
            history=self.history,
            limits=limits,
        )
        self.decoder = self._stack.enter_context(ProcessDecoder(processes=limits.threads))
        self.file_ingest = FileIngest(catalog, self.decoder, limits=limits)

    def _plans(self) -> Plans:
        catalog, archive, resolver, clock = self.catalog, self.archive, self.resolver, self.clock
        rewinder = Rewinder(
            catalog,
            archive,
            resolver,
            clock,
            appender=self.appender,
            leases=self.leases,
            new_id=new_uid,
            limits=self.limits,
        )
        return Plans(
            catalog,
            clock,
            restores=RestorePlanner(
                *(catalog, archive, resolver, self.restorer, clock),
                leases=self.leases,
                new_id=new_uid,
            ),
            rewinder=rewinder,
            sink=self.sink,
            database=PostgresRewind,
            leases=self.leases,
            new_id=new_uid,
        )

    async def ensure_log(self, name: str) -> LogState:
        """Return the log of that name, made now if need be.

        Raises:
            InvalidRequest: The name is not one of a log.
            Conflict: There are as many logs as there may be.
        """
        if not _LOG_NAME.fullmatch(name):
            raise InvalidRequest(
                "this is no name for a log",
                hint="use up to 63 of a-z, 0-9, - and _, not - or _ first",
                log=name,
            )
        known = await self.catalog.logs()
        if len(known) >= self.settings.logs_max and name not in {log.name for log in known}:
            raise Conflict(
                "there are too many logs", hint="raise PITR_LOGS_MAX", logs_max=len(known), log=name
            )
        return await self.catalog.create_log(
            name, uid=new_uid(), created_us=self.clock.now_us(), manifest_hash=GENESIS_HASH
        )

    async def appender(self, log: str) -> Appender:
        """Return the one appender of a log; the log is made if need be."""
        if log not in self._appenders:
            await self.ensure_log(log)
        if log not in self._appenders:
            appender = Appender(
                self.catalog, self.store, self.clock, log=log, limits=self.limits, new_id=new_uid
            )
            self._appenders[log] = appender
            await self._stack.enter_async_context(appender)
        return self._appenders[log]

    async def capture(self) -> Capture:
        """Make a worker that captures what the settings say into their log; to be run once.

        Raises:
            InvalidRequest: The settings of Kafka make no sense.
        """
        log = self.settings.log
        subscription, reading = kafka_topics(self.settings)
        capture = Capture(
            self.catalog,
            await self.appender(log),
            KafkaFeed(kafka_config(self.settings), subscription),
            self.decoder,
            self.clock,
            log=log,
            owner=new_owner(new_uid()),
            reading=reading,
            limits=self.limits,
            start=self.settings.kafka_from,
        )
        self.captures.append(capture)
        return capture

    def _attached(self, source: Source) -> AttachedDatabase:
        url = with_password(source.url, self.settings.source_password)
        return AttachedDatabase(source, url=url)

    async def follower(self, log: str, source: Source) -> Follower:
        """Make what follows an attached database; to be run once."""
        return Follower(
            self.catalog,
            await self.appender(log),
            self.archive,
            self._attached(source),
            self.clock,
            log=log,
            source=source,
            owner=new_owner(new_uid()),
            is_gone=is_gone,
            limits=self.limits,
        )

    def sink(self, into: str | Into) -> Sink:
        """Choose the sink for a URL, a path, or ``-``, which means the standard output.

        Raises:
            InvalidRequest: It is no place to restore into.
        """
        given = Into(place=into) if isinstance(into, str) else into
        return sink_for(
            given.place,
            mode=given.mode,
            swap_id=given.swap_id or new_uid()[:12],
            force=given.force,
            format=given.format,
            rows_only=given.rows_only,
            drop_unknown=given.drop_unknown,
            stream=sys.stdout.buffer,
            kafka=lambda bootstrap: kafka_config(self.settings, bootstrap=bootstrap),
        )

    async def swapped(self, url: str) -> tuple[OldTables, ...]:
        """List the tables of a database that swaps replaced and nobody dropped yet.

        Raises:
            Unavailable: The database does not answer.
        """
        return await list_old(url)

    async def drop_swapped(self, url: str, swap_id: str) -> tuple[str, ...]:
        """Drop the tables that a swap replaced; return where they were.

        Raises:
            NotFound: There are none of that swap.
            Conflict: Something depends on them.
            Unavailable: The database does not answer, or somebody reads them.
        """
        return await drop_old(url, swap_id)

    async def revive_catalog(self) -> None:
        """Start the embedded PostgreSQL again if it is gone; the scheduled job of ``pitr serve``.

        Raises:
            Unavailable: It does not come up.
        """
        if self.server is None:
            return
        try:
            await self.catalog.logs()
        except Unavailable:
            again = await EmbeddedPostgres.start(self.server.folder)
            self._stack.push_async_callback(again.stop)

    async def close(self) -> None:
        """Store what waits, and let go of what was taken since the start."""
        await self._stack.aclose()


def attacher_to_look(settings: Settings) -> Attacher:
    """Make an attacher that needs no catalog, and so can only look."""
    return Attacher(None, SystemClock(), connect=attachable, password=settings.source_password)


@asynccontextmanager
async def open_app(settings: Settings) -> AsyncIterator[App]:
    """Start what the settings ask for, and take it down at the end.

    Raises:
        Unavailable: The catalog does not answer or cannot be started.
        InvalidRequest: A setting makes no sense.
    """
    clean_scratch(settings.data)
    async with AsyncExitStack() as stack:
        server, url = None, settings.catalog_url
        if url is None:
            settings.data.mkdir(parents=True, exist_ok=True)
            server = await EmbeddedPostgres.start(settings.data / "postgres")
            stack.push_async_callback(server.stop)
            url = await server.ensure_database("pitr")
        catalog = await PostgresCatalog.open(url, migrations=migrations_folder())
        stack.push_async_callback(catalog.close)
        store = DirectoryStore(settings.store_folder)
        await store.clean()
        app = App(settings, settings.limits(), SystemClock(), catalog, store, server)
        stack.push_async_callback(app.close)
        yield app


def process_scratch(data: Path) -> Path:
    """This process's folder for spilled files."""
    return data / "scratch" / str(psutil.Process().pid)


def clean_scratch(data: Path) -> None:
    """Remove what processes that are gone left behind."""
    for folder in (data / "scratch").glob("*"):
        if not (folder.name.isdigit() and psutil.pid_exists(int(folder.name))):
            shutil.rmtree(folder, ignore_errors=True)
