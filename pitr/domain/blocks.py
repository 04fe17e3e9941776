"""Blocks of whole lines that tear no transaction; lanes of files, known by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from pitr.domain.log import LaneState

LAST_LINES = (64, 1_024, 16_384)
"""How many lines from a block's end are searched for the start of a transaction, step by step."""

FIRST_LINE_BYTES_MAX = 64 * 1024
"""How much of a file's first line names its lane."""


class Reader(Protocol):
    """A stream of bytes that can be rewound to what was read."""

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes; fewer only at the end."""
        ...

    def rewind(self, offset: int) -> None:
        """Go to ``offset`` bytes from the start."""
        ...

    def forget(self) -> None:
        """Promise not to rewind any more."""
        ...


@dataclass(slots=True)
class Place:
    """Where in a file an ingest stands: line and byte from 0, and the digest of all before."""

    lane: str
    line: int
    offset: int
    digest: hashlib._Hash
    resumed: bool

    def advanced(self, block: bytes, lines: int) -> Place:
        """The place after ``block``, which has ``lines`` lines."""
        digest = self.digest.copy()
        digest.update(block)
        return Place(self.lane, self.line + lines, self.offset + len(block), digest, self.resumed)

    def state(self) -> dict[str, object]:
        """What the lane keeps, to know the file again."""
        return {"bytes": self.offset, "sha256": self.digest.hexdigest()}


def lane_prefix(reader: Reader) -> str:
    """The start of the lane's name: a digest of the first line. Rewinds ``reader``."""
    line = reader.read(FIRST_LINE_BYTES_MAX).split(b"\n", 1)[0].rstrip(b"\r")
    reader.rewind(0)
    return f"file:{hashlib.sha256(line).hexdigest()[:16]}"


def find_place(reader: Reader, prefix: str, lanes: Iterable[LaneState]) -> Place:
    """Find where an ingest of this content stopped, and leave ``reader`` there.

    A lane is this file's if what it has stored is, by digest, what the file starts with; so a
    file that grew goes on, a renamed one is known, and another file with the same first line gets
    a lane of its own. Of several, the one that got farthest is taken.
    """
    known = sorted(lanes, key=lambda lane: int(lane.state.get("bytes", 0)))
    digest, read, found = hashlib.sha256(), 0, None
    for lane in known:
        wanted = int(lane.state.get("bytes", 0))
        while read < wanted and (part := reader.read(min(wanted - read, 1 << 20))):
            digest.update(part)
            read += len(part)
        if read == wanted and digest.hexdigest() == lane.state.get("sha256"):
            found = Place(lane.lane, lane.position, wanted, digest.copy(), resumed=True)
    if found is None:
        taken = {lane.lane for lane in known}
        name = next(n for n in _names(prefix) if n not in taken)
        found = Place(name, 0, 0, hashlib.sha256(), resumed=False)
    reader.rewind(found.offset)
    reader.forget()
    return found


def _names(prefix: str) -> Iterable[str]:
    yield prefix
    number = 2
    while True:
        yield f"{prefix}-{number}"
        number += 1


def whole_lines(block: bytes) -> tuple[bytes, bytes]:
    """Split after the last newline: the lines, and the start of the next one."""
    cut = block.rfind(b"\n") + 1
    return block[:cut], block[cut:]


def whole_transactions(block: bytes, decode: Callable[[bytes], pa.Table]) -> tuple[bytes, bytes]:
    """Split before the transaction that the block's end may tear.

    Args:
        block: Whole lines.
        decode: Reads lines into changes, with positions from 0; asked for the last lines only.

    Returns:
        The lines to store now, and those to read again with the next block. Nothing is held back
        when the last change has no transaction, or the last one fills more than half the block.
    """
    half = block.find(b"\n", len(block) // 2) + 1
    for count in LAST_LINES:
        start = max(_last_lines_start(block, count), half)
        changes = decode(block[start:])
        line = _last_transaction_line(changes)
        if line is None:
            return block, b""
        if line > 0:
            cut = start + _line_start(block[start:], line)
            return block[:cut], block[cut:]
        if start == half:
            break
    return block, b""


def _last_lines_start(block: bytes, count: int) -> int:
    place = len(block) - 1
    for _ in range(count):
        place = block.rfind(b"\n", 0, place)
        if place < 0:
            return 0
    return place + 1


def _line_start(block: bytes, line: int) -> int:
    place = 0
    for _ in range(line):
        place = block.index(b"\n", place) + 1
    return place


def _last_transaction_line(changes: pa.Table) -> int | None:
    """The line where the last change's transaction begins; None if it has none.

    0 also when lines before these may belong to it.
    """
    transactions = changes.column("tx").to_pylist()
    if not transactions or transactions[-1] is None:
        return None
    first = len(transactions)
    while first and transactions[first - 1] == transactions[-1]:
        first -= 1
    line: int = changes.column("position")[first].as_py() if first else 0
    return line
