"""Input files and pipes, plain, gzip or zstd, that can be rewound to where a run before stopped."""

from __future__ import annotations

import gzip
import io
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from pitr.domain.errors import InvalidRequest, NotFound

SPOOL_BYTES_MAX = 8 * 1024 * 1024
"""Bytes of a pipe kept in memory for a rewind; more go to a temporary file."""

ZSTD_READ_BYTES = 64 * 1024
"""Packed bytes unpacked at a time; zeros grow at most some thousandfold."""

_GZIP, _ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Input:
    """A stream of bytes that can be rewound until ``forget`` is called."""

    def __init__(self, stream: BinaryIO, *, name: str, size_bytes: int | None) -> None:
        self._stream = stream
        self._seekable = stream.seekable()
        self._spool: tempfile.SpooledTemporaryFile[bytes] | None = (
            None if self._seekable else tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES_MAX)  # noqa: SIM115 - kept open
        )
        self._spooling = not self._seekable
        self.name = name
        self.size_bytes = size_bytes

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes; fewer only at the end.

        Raises:
            InvalidRequest: The compressed stream is damaged or cut off.
        """
        try:
            return self._read(size)
        except (gzip.BadGzipFile, EOFError, zstandard.ZstdError) as error:
            raise InvalidRequest(
                "the compressed input is damaged", file=self.name, cause=error
            ) from error

    def _read(self, size: int) -> bytes:
        if self._spool is None:
            return _read_full(self._stream, size)
        kept = self._spool.read(size)
        if len(kept) == size:
            return kept
        fresh = _read_full(self._stream, size - len(kept))
        if self._spooling:
            self._spool.write(fresh)
        elif not kept:
            self._spool.close()
            self._spool = None
        return kept + fresh

    def rewind(self, offset: int) -> None:
        """Go to ``offset`` bytes from the start, not beyond what was read."""
        if self._spool is not None:
            self._spool.seek(offset)
        else:
            self._stream.seek(offset)

    def forget(self) -> None:
        """Promise not to rewind any more."""
        self._spooling = False

    def close(self) -> None:
        """Close the stream, unless it is standard input."""
        if self._stream is not sys.stdin.buffer:
            self._stream.close()


def _read_full(stream: BinaryIO, size: int) -> bytes:
    parts, missing = [], size
    while missing and (part := stream.read(missing)):
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def open_input(path: str) -> Input:
    """Open a file, or standard input for ``-``; gzip and zstd are recognised by their first bytes.

    Raises:
        NotFound: There is no such file.
        InvalidRequest: It cannot be read.
    """
    if path == "-":
        return Input(_decompressed(sys.stdin.buffer), name="-", size_bytes=None)
    file = Path(path)
    try:
        stream = _decompressed(cast(BinaryIO, file.open("rb")))
    except FileNotFoundError as error:
        raise NotFound("there is no such file", file=path) from error
    except OSError as error:
        raise InvalidRequest("the file cannot be read", file=path, cause=error.strerror) from error
    plain = isinstance(stream, io.BufferedReader)
    return Input(stream, name=path, size_bytes=file.stat().st_size if plain else None)


def _decompressed(stream: BinaryIO) -> BinaryIO:
    magic = cast(io.BufferedReader, stream).peek(4)[:4]
    if magic.startswith(_GZIP):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
    if magic == _ZSTD_MAGIC:
        return cast(BinaryIO, _Zstd(stream))
    return stream


class _Zstd:
    """The text of a zstd stream, frame after frame; it cannot go back."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._packed = b""
        self._text = b""

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes, none only at the end.

        Raises:
            EOFError: The last frame is cut off.
        """
        while not self._text:
            packed = self._packed or self._stream.read(ZSTD_READ_BYTES)
            if not packed:
                if not self._frame.eof:
                    raise EOFError("the input ends inside a zstd frame")
                return b""
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._text = self._frame.decompress(packed)
            self._packed = self._frame.unused_data
        text, self._text = self._text[:size], self._text[size:]
        return text

    def seekable(self) -> bool:
        """Tell that it cannot go back."""
        return False

    def close(self) -> None:
        """Close the stream below."""
        self._stream.close()
