"""Blocks of whole lines that tear no transaction; lanes of files, known by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from pitr.domain.log import LaneState

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


def whole_transactions(block: bytes, changes: pa.Table, line_first: int) -> tuple[bytes, bytes]:
    """Split before the transaction that the block's end may tear.

    Returns:
        The lines to store now, and those to read again with the next block. Nothing is held back
        when the last change has no transaction, or the last one fills more than half the block.
    """
    positions, transactions = changes.column("position"), changes.column("tx")
    last = transactions[-1].as_py() if changes.num_rows else None
    if last is None:
        return block, b""
    first = changes.num_rows
    while first and transactions[first - 1].as_py() == last:
        first -= 1
    if first <= changes.num_rows // 2:
        return block, b""
    held_lines = line_first + block.count(b"\n") - positions[first].as_py()
    cut = len(block) - 1
    for _ in range(held_lines):
        cut = block.rfind(b"\n", 0, cut)
    return block[: cut + 1], block[cut + 1 :]
