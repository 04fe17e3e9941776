"""Ingests files and pipes of NDJSON: resumable, and the same content twice adds nothing twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pyarrow.compute as pc

from pitr.domain.batch import Batch, Decoded
from pitr.domain.blocks import (
    Place,
    Reader,
    find_place,
    lane_prefix,
    whole_lines,
    whole_transactions,
)
from pitr.domain.catalog import Catalog
from pitr.domain.errors import TooLarge
from pitr.domain.formats import Format, decode_lines, line_count
from pitr.domain.limits import Limits
from pitr.domain.ports import Progress
from pitr.services.append import Appender


@dataclass(slots=True, kw_only=True)
class IngestReport:
    """What an ingest did. Lines count from the input's start; ``skipped`` were there before."""

    lane: str
    resumed: bool
    lines: int = 0
    skipped_lines: int = 0
    stored: int = 0
    quarantined: int = 0
    seq_first: int | None = None
    seq_end: int | None = None
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Block:
    batch: Batch
    decoded: Decoded


class FileIngest:
    """Decodes blocks of lines in a thread while the block before is being stored."""

    def __init__(self, catalog: Catalog, *, limits: Limits) -> None:
        self._catalog = catalog
        self._limits = limits

    async def ingest(
        self,
        reader: Reader,
        *,
        log: str,
        appender: Appender,
        format: Format = "auto",
        key_columns: tuple[str, ...] | None = None,
        progress: Progress = lambda _: None,
    ) -> IngestReport:
        """Store every change of the input that is not stored yet.

        Raises:
            TooLarge: A line is longer than a block may be.
            PositionConflict: Another ingest of the same content runs at the same time.
            Unavailable: The catalog did not answer; run the same command again to go on.
        """
        prefix = await asyncio.to_thread(lane_prefix, reader)
        lanes = await self._catalog.lanes(log, prefix=prefix)
        place = await asyncio.to_thread(find_place, reader, prefix, lanes)
        report = IngestReport(
            lane=place.lane, resumed=place.resumed, lines=place.line, skipped_lines=place.line
        )
        blocks = self._blocks(reader, place, format, key_columns)
        upcoming = _ahead(blocks)
        try:
            while (block := await upcoming) is not None:
                upcoming = _ahead(blocks)
                await _store(appender, block, report)
                progress(block.batch.size_bytes)
        finally:
            upcoming.cancel()
            await asyncio.gather(upcoming, return_exceptions=True)
        return report

    async def _blocks(
        self, reader: Reader, place: Place, format: Format, key_columns: tuple[str, ...] | None
    ) -> AsyncIterator[_Block]:
        rest = b""
        while True:
            block, rest, last = await asyncio.to_thread(self._next_lines, reader, rest)
            if not block:
                return
            decoded = await asyncio.to_thread(
                decode_lines,
                block,
                format=format,
                position_first=place.line,
                key_columns=key_columns,
            )
            if not last:
                block, held = whole_transactions(block, decoded.changes, place.line)
                rest = held + rest
            after = place.advanced(block, line_count(block))
            yield _Block(_batch(place, after, decoded, len(block)), decoded)
            place = after

    def _next_lines(self, reader: Reader, rest: bytes) -> tuple[bytes, bytes, bool]:
        """Return whole lines, the start of the next one, and whether the input ends here."""
        wanted = self._limits.ingest_bytes_max
        size = max(wanted - len(rest), wanted // 2)
        fresh = reader.read(size)
        if len(fresh) < size:
            return rest + fresh, b"", True
        lines, rest = whole_lines(rest + fresh)
        while not lines:
            if len(rest) > self._limits.segment_bytes_max:
                raise TooLarge("a line is too long", bytes_max=self._limits.segment_bytes_max)
            fresh = reader.read(wanted)
            if not fresh:
                return rest, b"", True
            lines, rest = whole_lines(rest + fresh)
        return lines, rest, False


def _ahead(blocks: AsyncIterator[_Block]) -> asyncio.Future[_Block | None]:
    """Make the next block while the one before is stored; who calls awaits or cancels it."""
    return asyncio.ensure_future(anext(blocks, None))  # noqa: TID251 - see above


def _batch(place: Place, after: Place, decoded: Decoded, size_bytes: int) -> Batch:
    inside = pc.less(decoded.changes.column("position"), after.line)
    return Batch(
        lane=place.lane,
        position_first=place.line,
        position_end=after.line,
        changes=decoded.changes.filter(inside),
        quarantined=tuple(q for q in decoded.quarantined if q.position < after.line),
        lane_state=after.state(),
        size_bytes=size_bytes,
    )


async def _store(appender: Appender, block: _Block, report: IngestReport) -> None:
    appended = await appender.append(block.batch)
    report.lines = block.batch.position_end
    report.stored += appended.count
    report.quarantined += appended.quarantined_count
    if appended.count:
        report.seq_first = report.seq_first or appended.seq_first
        report.seq_end = appended.seq_end
    for item in block.batch.quarantined:
        report.reasons[item.code] = report.reasons.get(item.code, 0) + 1
