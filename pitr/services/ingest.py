"""Ingests files and pipes of NDJSON: resumable, and the same content twice adds nothing twice."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa

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
from pitr.domain.errors import PitrError, TooLarge
from pitr.domain.formats import Format, decode_lines, line_count
from pitr.domain.limits import Limits
from pitr.domain.ports import Decoder, Progress
from pitr.services.append import Appender

DECODED_AHEAD = 2
"""Blocks that are decoded, or being decoded, while one is stored."""


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
    """Lines of the input with the places where they begin and end."""

    body: bytes
    place: Place
    after: Place


class FileIngest:
    """Reads the next blocks and decodes them while those before are being stored."""

    def __init__(self, catalog: Catalog, decoder: Decoder, *, limits: Limits) -> None:
        self._catalog = catalog
        self._decoder = decoder
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
        decode = partial(self._decoder.decode_lines, format=format, key_columns=key_columns)
        upcoming: deque[asyncio.Future[Batch]] = deque()
        blocks = self._blocks(reader, place, format, key_columns)
        unreadable: PitrError | None = None
        try:
            while True:
                try:
                    block = await anext(blocks)
                except StopAsyncIteration:
                    break
                except PitrError as error:
                    unreadable = error  # what came before it is good, and is stored first
                    break
                upcoming.append(asyncio.ensure_future(_decoded(block, decode)))  # noqa: TID251
                if len(upcoming) > DECODED_AHEAD:
                    await _store(appender, await upcoming.popleft(), report, progress)
            while upcoming:
                await _store(appender, await upcoming.popleft(), report, progress)
        finally:  # whatever happened, nothing that was begun here goes on
            for future in upcoming:
                future.cancel()
            await asyncio.gather(*upcoming, return_exceptions=True)
        if unreadable:
            raise unreadable
        return report

    async def _blocks(
        self, reader: Reader, place: Place, format: Format, key_columns: tuple[str, ...] | None
    ) -> AsyncIterator[_Block]:
        def last_changes(lines: bytes) -> pa.Table:
            return decode_lines(
                lines, format=format, position_first=0, key_columns=key_columns
            ).changes

        rest, last = b"", False
        while not last:
            body, rest, last = await asyncio.to_thread(self._next_lines, reader, rest)
            if not last:
                body, held = await asyncio.to_thread(whole_transactions, body, last_changes)
                rest = held + rest
            if body:
                after = await asyncio.to_thread(_advanced, place, body)
                yield _Block(body, place, after)
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


def _advanced(place: Place, body: bytes) -> Place:
    return place.advanced(body, line_count(body))


async def _decoded(block: _Block, decode: Callable[..., Awaitable[Decoded]]) -> Batch:
    decoded = await decode(block.body, position_first=block.place.line)
    return Batch(
        lane=block.place.lane,
        position_first=block.place.line,
        position_end=block.after.line,
        changes=decoded.changes,
        quarantined=decoded.quarantined,
        lane_state=block.after.state(),
        size_bytes=len(block.body),
    )


async def _store(
    appender: Appender, batch: Batch, report: IngestReport, progress: Progress
) -> None:
    appended = await appender.append(batch)
    report.lines = batch.position_end
    report.stored += appended.count
    report.quarantined += appended.quarantined_count
    if appended.count:
        report.seq_first = report.seq_first or appended.seq_first
        report.seq_end = appended.seq_end
    for item in batch.quarantined:
        report.reasons[item.code] = report.reasons.get(item.code, 0) + 1
    progress(batch.size_bytes)
