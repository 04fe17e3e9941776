"""Ingests the bodies of HTTP requests: decoded in a thread, stored by one append, once.

A producer that numbers its changes sends a lane and the position of the first one. One that does
not sends an idempotency key. Without either, a request that is sent twice is stored twice.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal

import msgspec

from pitr.domain.batch import Batch, Decoded, Idempotency
from pitr.domain.change import Quarantined
from pitr.domain.errors import InvalidRequest, TooLarge
from pitr.domain.formats import Format, decode_array, decode_lines, decode_one, line_count
from pitr.domain.log import Appended
from pitr.services.append import Appender

LANE = "http"
"""The lane of requests that name none; it takes positions from where it stands."""

LANE_CHARS_MAX = 200
KEY_CHARS_MAX = 200
POSITION_MAX = 2**62
ITEMS_MAX = 500_000
"""Lines of one body, or elements: each may become a row of the quarantine."""

ARRAY_BYTES_MAX = 16 * 1024 * 1024
"""Longest JSON array. It is taken apart as a whole, so its cost in memory is many times its size;
lines have no such bound."""

SMALL_BYTES = 16 * 1024
"""A body up to this is decoded on the spot, in less time than a thread takes to start on it."""

_RESERVED_LANES = frozenset({LANE, "quarantine"})
_RESERVED_PREFIXES = ("file:", "kafka:", "postgres:")
_BOM = b"\xef\xbb\xbf"

_array = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder(msgspec.Raw)


class StrictRefused(InvalidRequest):
    """Some of the input cannot be read, and the caller wants all of it or nothing."""

    code = "strict_refused"

    def __init__(self, quarantined: tuple[Quarantined, ...], *, position_first: int) -> None:
        first = quarantined[0]
        super().__init__(
            "some of the changes cannot be read; nothing was stored",
            hint=f"{first.code}: {first.reason}",
            count=len(quarantined),
        )
        self.quarantined = quarantined
        self.position_first = position_first


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestRequest:
    """How to read a body and where to put it. ``shape`` is NDJSON, or one JSON value.

    ``position`` is the lane position of the first line or element; ``strict`` refuses the whole
    body for one that cannot be read.
    """

    log: str
    shape: Literal["lines", "json"] = "lines"
    format: Format = "auto"
    key_columns: tuple[str, ...] | None = None
    lane: str | None = None
    position: int | None = None
    idempotency_key: str | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestAnswer:
    """What became of a body, durable.

    ``quarantined`` are all lines of the body that cannot be read, put there now or, for a body
    that was sent before, then. ``position_first`` is the position of its first line.
    """

    appended: Appended
    position_first: int
    quarantined: tuple[Quarantined, ...]


def check_request(request: IngestRequest) -> None:
    """Check what can be checked before the body is read.

    Raises:
        InvalidRequest: Lane, position and key do not go together, or one is malformed.
    """
    if (request.lane is None) != (request.position is None):
        raise InvalidRequest(
            "lane and position go together",
            hint="send both to number your changes, or an Idempotency-Key, or neither",
        )
    if request.lane is not None:
        if request.idempotency_key is not None:
            raise InvalidRequest(
                "a lane and an Idempotency-Key do not go together",
                hint="the position in the lane already makes a repeated request harmless",
            )
        _check_lane(request.lane)
    if request.position is not None and not 0 <= request.position <= POSITION_MAX:
        raise InvalidRequest("the position is out of range", position_max=POSITION_MAX)
    if request.idempotency_key is not None:
        _check_key(request.idempotency_key)


def _check_lane(lane: str) -> None:
    if not 1 <= len(lane) <= LANE_CHARS_MAX or not lane.isprintable():
        raise InvalidRequest(
            "this is no name for a lane",
            hint=f"use 1 to {LANE_CHARS_MAX} printable characters",
        )
    if lane in _RESERVED_LANES or lane.startswith(_RESERVED_PREFIXES):
        raise InvalidRequest(
            "the lane belongs to pitr itself",
            hint="choose another name, such as that of the producer",
            lane=lane,
        )


def _check_key(key: str) -> None:
    if not 1 <= len(key) <= KEY_CHARS_MAX or not (key.isascii() and key.isprintable()):
        raise InvalidRequest(
            "the Idempotency-Key cannot be used",
            hint=f"use 1 to {KEY_CHARS_MAX} printable ASCII characters, such as a UUID",
        )


class HttpIngest:
    """Stores bodies; ``appender`` gives the one appender of a log and makes the log if need be."""

    def __init__(self, appender: Callable[[str], Awaitable[Appender]]) -> None:
        self._appender = appender

    async def batch(self, request: IngestRequest, body: bytes) -> Batch:
        """Read a body, a large one in a thread; nothing is stored yet.

        Raises:
            InvalidRequest: The body is not what its type says, as a whole.
            TooLarge: It has too many lines or elements.
            StrictRefused: Some line cannot be read and the request is strict.
        """
        check_request(request)
        if len(body) <= SMALL_BYTES:
            return _batch(request, body)
        return await asyncio.to_thread(_batch, request, body)

    async def store(self, request: IngestRequest, batch: Batch) -> IngestAnswer:
        """Store what ``batch`` made of the body; durable on return.

        Raises:
            PositionConflict: The lane stands elsewhere; ``facts['expected']`` says where.
            IdempotencyConflict: The key was used with another body.
            Busy: Too much waits already; nothing was stored.
            Unavailable: It is unknown whether it was stored: send it again.
        """
        appender = await self._appender(request.log)
        if batch.position_end == (batch.position_first or 0):
            return _nothing(batch)
        appended = await appender.append(batch)
        if batch.position_first is not None:
            return _answer(appended, batch.position_first, batch.quarantined)
        first = appended.position_end - batch.position_end
        placed = (replace(item, position=item.position + first) for item in batch.quarantined)
        return _answer(appended, first, tuple(placed))


def _answer(
    appended: Appended, position_first: int, quarantined: tuple[Quarantined, ...]
) -> IngestAnswer:
    return IngestAnswer(appended=appended, position_first=position_first, quarantined=quarantined)


def _batch(request: IngestRequest, body: bytes) -> Batch:
    first = request.position
    decoded, count = _decoded(request, body, position_first=first or 0)
    if request.strict and decoded.quarantined:
        raise StrictRefused(decoded.quarantined, position_first=first or 0)
    return Batch(
        lane=request.lane if request.lane is not None else LANE,
        position_first=first,
        position_end=(first or 0) + count,
        changes=decoded.changes,
        quarantined=decoded.quarantined,
        resume=first is not None,
        idempotency=_idempotency(request, body),
        size_bytes=len(body),
    )


def _decoded(request: IngestRequest, body: bytes, *, position_first: int) -> tuple[Decoded, int]:
    """Decode a body; the number is that of its positions, also of those without a change."""
    how, columns = request.format, request.key_columns
    if request.shape == "lines" or not body.strip():
        count = line_count(body) if request.shape == "lines" else 0
        _check_count(count)
        decoded = decode_lines(body, format=how, position_first=position_first, key_columns=columns)
        return decoded, count
    if body.removeprefix(_BOM).lstrip()[:1] != b"[":
        single = _single(body)
        decoded = decode_one(single, format=how, position=position_first, key_columns=columns)
        return decoded, 1
    if len(body) > ARRAY_BYTES_MAX:
        raise TooLarge(
            "the JSON array is too long",
            hint="send one change a line as application/x-ndjson",
            bytes_max=ARRAY_BYTES_MAX,
        )
    decoded = decode_array(body, format=how, position_first=position_first, key_columns=columns)
    count = len(_array.decode(body.removeprefix(_BOM)))
    _check_count(count)
    return decoded, count


def _single(body: bytes) -> bytes:
    """Check that the body is one JSON value, so that NDJSON of another type is not one bad line."""
    single = body.removeprefix(_BOM)
    try:
        _any.decode(single)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            "the body is not one JSON document",
            hint="send several changes as an array, or one a line as application/x-ndjson",
            error=error,
        ) from error
    return single


def _check_count(count: int) -> None:
    if count > ITEMS_MAX:
        raise TooLarge(
            "the body has too many lines", hint="send it in parts", count=count, count_max=ITEMS_MAX
        )


def _idempotency(request: IngestRequest, body: bytes) -> Idempotency | None:
    """What is remembered of a request with a key: its body, and all that decides how it is read."""
    if request.idempotency_key is None:
        return None
    how = msgspec.json.encode([request.shape, request.format, request.key_columns])
    digest = hashlib.sha256(how + b"\n")
    digest.update(body)
    return Idempotency(key=request.idempotency_key, body_sha256=digest.hexdigest())


def _nothing(batch: Batch) -> IngestAnswer:
    """The answer to an empty body."""
    end = batch.position_end
    return _answer(Appended(lane=batch.lane, seq_first=1, seq_end=1, position_end=end), end, ())
