"""What a monitoring system reads: Prometheus counters of this process, and how its logs stand."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pitr.domain.log import Appended, LaneState
from pitr.domain.pgoutput.progress import progress_of
from pitr.faces.api.bodies import Bodies
from pitr.services.status import LogStatus

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """One registry with all metrics of one API; docs/http-api.md names them."""

    def __init__(self, bodies: Bodies) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "pitr_http_requests",
            "Requests answered",
            ["method", "route", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "pitr_http_request_seconds",
            "From the first byte of a request to the last of its answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._append_seconds = Histogram(
            "pitr_append_seconds",
            "From a decoded body to its durable changes",
            buckets=_SECONDS,
            registry=registry,
        )
        self._stored = Counter(
            "pitr_changes_stored", "Changes stored over HTTP", ["log"], registry=registry
        )
        self._quarantined = Counter(
            "pitr_changes_quarantined", "Inputs quarantined over HTTP", ["log"], registry=registry
        )
        self._clamped = Counter(
            "pitr_changes_clamped", "Changes dated too far ahead", ["log"], registry=registry
        )
        self._waiting_bytes = Gauge(
            "pitr_append_waiting_bytes", "Bodies that wait for their commit", registry=registry
        )
        Gauge(
            "pitr_http_bodies_bytes", "Bodies being read or decoded", registry=registry
        ).set_function(lambda: bodies.size_bytes)
        self._logs = _LogGauges(registry)

    @contextmanager
    def waiting(self, size_bytes: int) -> Iterator[None]:
        """Count a body as waiting for its commit meanwhile."""
        self._waiting_bytes.inc(size_bytes)
        try:
            yield
        finally:
            self._waiting_bytes.dec(size_bytes)

    def appended(self, log: str, appended: Appended, seconds: float) -> None:
        """Count what an append stored."""
        self._append_seconds.observe(seconds)
        if not appended.duplicate:
            self._stored.labels(log).inc(appended.count)
            self._quarantined.labels(log).inc(appended.quarantined_count)
            self._clamped.labels(log).inc(appended.clamped_count)

    def exposition(self, statuses: Sequence[LogStatus] | None) -> bytes:
        """The text that Prometheus reads; ``statuses`` None says that the catalog is away."""
        self._logs.show(statuses)
        return generate_latest(self.registry)


class _LogGauges:
    """How the logs stand, set anew at each scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"pitr_log_{name}", text, ["log"], registry=registry)

        self._up = Gauge("pitr_catalog_up", "1 if the catalog answers", registry=registry)
        self._changes = gauge("changes", "Changes in the log")
        self._tail = gauge("tail_changes", "Changes not sealed yet")
        self._tail_bytes = gauge("tail_bytes", "Bytes not sealed yet")
        self._tail_age = gauge("tail_age_seconds", "Age of the oldest change not sealed yet")
        self._segments = gauge("segments", "Live segments")
        self._bytes = gauge("store_bytes", "Bytes of live segments and the newest snapshot")
        self._snapshot_lag = gauge("snapshot_lag_changes", "Changes since the newest snapshot")
        self._lag = gauge("watermark_lag_seconds", "How far the watermark is behind the present")
        self._unpublished = gauge("unpublished_entries", "Manifest entries not in the store yet")
        self._waiting = gauge("quarantine_waiting", "Inputs that wait in quarantine")
        self._gaps = gauge("gaps", "Known holes that have not healed")

        def lane(name: str, text: str) -> Gauge:
            return Gauge(f"pitr_lane_{name}", text, ["log", "lane"], registry=registry)

        self._lane_lag = lane("lag", "Records of a pulled lane that are not captured yet")
        self._lane_lag_bytes = lane("lag_bytes", "WAL of an attached database not captured yet")
        self._copy_tables = lane("copy_tables_left", "Tables whose rows are still being read")
        self._copy_rows = lane("copy_rows_left", "About how many rows are still to be read")
        self._copy_rate = lane("copy_rate", "Rows a second that are read of them")
        self._lane_rate = lane("rate", "Changes a second that a pulled lane gets")
        self._lane_problem = lane("problem", "1 if a pulled lane does not move, or soon will not")

    def show(self, statuses: Sequence[LogStatus] | None) -> None:
        self._up.set(0 if statuses is None else 1)
        for gauge in vars(self).values():
            if gauge is not self._up:
                gauge.clear()
        for status in statuses or ():
            self._show(status)

    def _show(self, status: LogStatus) -> None:
        state, name = status.state, status.state.name
        oldest_us = status.tail.oldest_us
        tail_age_us = 0 if oldest_us is None else max(0, status.now_us - oldest_us)
        snapshot_end = status.snapshot[0].seq_end if status.snapshot else 1
        self._changes.labels(name).set(state.seq_next - 1)
        self._tail.labels(name).set(status.tail.row_count)
        self._tail_bytes.labels(name).set(status.tail.size_bytes)
        self._tail_age.labels(name).set(tail_age_us / 1e6)
        self._segments.labels(name).set(len(status.segments))
        self._bytes.labels(name).set(status.size_bytes)
        self._snapshot_lag.labels(name).set(state.seq_next - snapshot_end)
        self._lag.labels(name).set((status.now_us - status.watermark_us) / 1e6)
        self._unpublished.labels(name).set(state.manifest_version - state.published_version)
        self._waiting.labels(name).set(status.quarantine.get("waiting", 0))
        self._gaps.labels(name).set(sum(gap.healed_seq_end is None for gap in status.gaps))
        for lane in status.lanes:
            if lane.complete_us is not None:  # not of pushed lanes: there may be very many of them
                if "copy" in lane.state:
                    self._show_copy(name, lane)
                if lane.lag_bytes is None:
                    self._lane_lag.labels(name, lane.lane).set(lane.lag or 0)
                else:
                    self._lane_lag_bytes.labels(name, lane.lane).set(lane.lag_bytes)
                self._lane_rate.labels(name, lane.lane).set(lane.rate or 0)
                self._lane_problem.labels(name, lane.lane).set(lane.problem is not None)

    def _show_copy(self, log: str, lane: LaneState) -> None:
        progress = progress_of(lane)
        self._copy_tables.labels(log, lane.lane).set(progress.tables_left)
        self._copy_rate.labels(log, lane.lane).set(progress.rate or 0)
        if progress.rows_left is not None:
            self._copy_rows.labels(log, lane.lane).set(progress.rows_left)


class Measured:
    """ASGI middleware that counts and times requests by route, never by path."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started = 500, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            route = _route(scope)
            self._metrics.requests.labels(scope["method"], route, status).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - started)


def _route(scope: Scope) -> str:
    """The template of the route that answered; one name for all paths that have none."""
    return getattr(scope.get("route"), "path", "none")
