"""Request bodies in memory: read and unpacked within bounds, so that none can take it all."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import zstandard
from starlette.requests import Request

from pitr.domain.errors import Busy, InvalidRequest, TooLarge

BODIES_MAX = 256
"""Bodies being read or decoded at the same time; one more is answered 429 before it is read."""

BODY_WAIT_S = 300
"""Longest time that a client may take to send a body."""

UNKNOWN_BYTES = 64 * 1024
"""Room taken at first for a body whose length the client does not say."""

GZIP_FEED_BYTES = 64 * 1024
GZIP_STEP_BYTES = 1024 * 1024
"""Packed bytes handed to gzip at once, and most that comes out at once."""

ZSTD_FEED_BYTES = 512
"""Packed bytes handed to zstd at once: 4 bytes can become 128 KiB, so this becomes 16 MiB at most.
(zstd has no call that bounds what comes out and tells a cut-off input from one that ended.)"""

ZSTD_WINDOW_BYTES_MAX = 8 * 1024 * 1024
"""Largest window of the content encoding ``zstd`` (RFC 9659)."""


PARTS_MAX = 10_000
"""Most gzip members or zstd frames of one body."""


class UnsupportedEncoding(InvalidRequest):
    """The body has a Content-Encoding that is not read."""

    code = "unsupported_encoding"


class BodyTimeout(InvalidRequest):
    """The client took too long to send its body."""

    code = "body_timeout"


class Bodies:
    """The room that all bodies share. A single one always finds room while there is no other."""

    def __init__(self, *, bytes_max: int, count_max: int = BODIES_MAX) -> None:
        self._bytes_max = bytes_max
        self._count_max = count_max
        self._lock = threading.Lock()
        self.size_bytes = 0
        self.count = 0

    @contextmanager
    def room(self) -> Iterator[Room]:
        """Room for one body, given back at the end.

        Raises:
            Busy: There are too many already.
        """
        with self._lock:
            if self.count >= self._count_max:
                raise _busy()
            self.count += 1
        room = Room(self)
        try:
            yield room
        finally:
            with self._lock:
                self.count -= 1
                self.size_bytes -= room.size_bytes

    def take(self, room: Room, size_bytes: int) -> None:
        """Add to a room; see ``Room.grow``."""
        with self._lock:
            if self.count > 1 and self.size_bytes + size_bytes > self._bytes_max:
                raise _busy()
            self.size_bytes += size_bytes
            room.size_bytes += size_bytes


class Room:
    """What one body takes of the room that all share."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.size_bytes = 0

    def grow(self, size_bytes: int) -> None:
        """Take so many bytes more; from any thread.

        Raises:
            Busy: The other bodies leave no room.
        """
        if size_bytes > 0:
            self._bodies.take(self, size_bytes)


def _busy() -> Busy:
    return Busy("too many requests are being read", retry_after_s=1)


async def read_body(request: Request, room: Room, *, bytes_max: int) -> bytes:
    """Read the body of a request, unpacked.

    Raises:
        TooLarge: It is longer than ``bytes_max``, as it came or unpacked.
        Busy: There is no room; known length is judged before the first byte is read.
        UnsupportedEncoding: It is neither plain nor gzip nor zstd.
        InvalidRequest: It is damaged or cut off.
        BodyTimeout: It did not arrive in time.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower() or "identity"
    if encoding not in ("identity", "gzip", "x-gzip", "zstd"):
        raise UnsupportedEncoding(
            "the Content-Encoding is not known", hint="use gzip, zstd or none", encoding=encoding
        )
    raw = await _received(request, room, bytes_max=bytes_max)
    if encoding == "identity":
        return raw
    return await asyncio.to_thread(
        _unpacked, raw, encoding.removeprefix("x-"), room, bytes_max=bytes_max
    )


async def _received(request: Request, room: Room, *, bytes_max: int) -> bytes:
    announced = _content_length(request)
    if announced is not None and announced > bytes_max:
        raise _too_large(bytes_max)
    room.grow(UNKNOWN_BYTES if announced is None else announced)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WAIT_S):
            async for part in request.stream():
                if len(body) + len(part) > bytes_max:
                    raise _too_large(bytes_max)
                body += part
                room.grow(len(body) - room.size_bytes)
    except TimeoutError as error:
        raise BodyTimeout("the body did not arrive in time", wait_s=BODY_WAIT_S) from error
    return bytes(body)


def _content_length(request: Request) -> int | None:
    given = request.headers.get("content-length", "")
    return int(given) if given.isdecimal() and len(given) < 20 else None


def _unpacked(raw: bytes, encoding: str, room: Room, *, bytes_max: int) -> bytes:
    parts = _gunzip(raw) if encoding == "gzip" else _unzstd(raw)
    body = bytearray()
    try:
        for part in parts:
            if len(body) + len(part) > bytes_max:
                raise _too_large(bytes_max)
            room.grow(len(part))
            body += part
    except (zlib.error, zstandard.ZstdError, EOFError) as error:
        raise InvalidRequest(
            "the compressed body is damaged", encoding=encoding, cause=error
        ) from error
    return bytes(body)


def _gunzip(raw: bytes) -> Iterator[bytes]:
    """Unpack gzip, member after member, in bounded steps.

    Raises:
        EOFError: It is cut off.
        zlib.error: It is damaged.
    """
    place, members, member = 0, 0, zlib.decompressobj(wbits=31)
    while place < len(raw):
        fed = raw[place : place + GZIP_FEED_BYTES]
        part = member.decompress(fed, GZIP_STEP_BYTES)
        place += len(fed) - len(member.unconsumed_tail) - len(member.unused_data)
        yield part
        if member.eof:
            members = _counted(members)
            while place < len(raw) and raw[place] == 0:
                place += 1
            member = zlib.decompressobj(wbits=31) if place < len(raw) else member
    while not member.eof and (part := member.decompress(b"", GZIP_STEP_BYTES)):
        yield part
    if raw and not member.eof:
        raise EOFError("the input ends before its end marker")


def _unzstd(raw: bytes) -> Iterator[bytes]:
    """Unpack zstd, frame after frame, in bounded steps.

    Raises:
        EOFError: It is cut off.
        zstandard.ZstdError: It is damaged, or its window is too large.
    """
    unpacker = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES_MAX)
    place, frames, frame = 0, 0, unpacker.decompressobj()
    while place < len(raw):
        if frame.eof:
            frames, frame = _counted(frames), unpacker.decompressobj()
        fed = raw[place : place + ZSTD_FEED_BYTES]
        yield frame.decompress(fed)
        place += len(fed) - len(frame.unused_data)
    if raw and not frame.eof:
        raise EOFError("the input ends before its end marker")


def _counted(parts: int) -> int:
    """Count one part more: starting the next costs the same, however short it is."""
    if parts >= PARTS_MAX:
        raise InvalidRequest("the compressed body has too many parts", parts_max=PARTS_MAX)
    return parts + 1


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge("the body is too long", hint="send it in parts", bytes_max=bytes_max)
