"""The little of Thrift's compact protocol that Parquet's own structures need.

Source: the Apache Thrift compact protocol specification (thrift/doc/specs/thrift-compact-protocol).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

LIST: Final = 9
STRUCT: Final = 12

Struct = dict[int, Any]
"""Values by field id: int, bytes, bool, float, list or Struct."""


class Reader:
    """Reads values one after the other from ``place`` on.

    Raises:
        ValueError: The bytes are not Thrift.
        IndexError: They end too early.
    """

    def __init__(self, body: bytes, place: int = 0) -> None:
        self._body = body
        self.place = place

    def varint(self) -> int:
        """Read an unsigned integer."""
        body, place = self._body, self.place
        byte = body[place]
        value, shift = byte & 0x7F, 7
        while byte & 0x80:
            place += 1
            byte = body[place]
            value |= (byte & 0x7F) << shift
            shift += 7
        self.place = place + 1
        return value

    def integer(self) -> int:
        """Read a zigzag integer."""
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def binary(self) -> bytes:
        """Read bytes with their length in front."""
        length = self.varint()
        self.place += length
        return self._body[self.place - length : self.place]

    def fields(self) -> Any:
        """Yield (id, type) of each field of a struct; the caller reads the value."""
        field = 0
        while True:
            header = self._body[self.place]
            self.place += 1
            if header == 0:
                return
            delta = header >> 4
            field = field + delta if delta else self.integer()
            yield field, header & 0x0F

    def struct(self) -> Struct:
        """Read a struct."""
        return {field: self.value(kind) for field, kind in self.fields()}

    def values(self) -> list[Any]:
        """Read a list."""
        header = self._body[self.place]
        self.place += 1
        count, kind = header >> 4, header & 0x0F
        if count == 15:
            count = self.varint()
        if kind in (1, 2):
            self.place += count
            return [byte == 1 for byte in self._body[self.place - count : self.place]]
        if kind == 8:
            return self._binaries(count)
        return [self.value(kind) for _ in range(count)]

    def _binaries(self, count: int) -> list[bytes]:
        """Read that many binaries; most are short, and there are thousands."""
        body, found = self._body, []
        for _ in range(count):
            length = body[self.place]
            if length > 0x7F:
                found.append(self.binary())
                continue
            start = self.place + 1
            self.place = start + length
            found.append(body[start : self.place])
        return found

    def list_header(self, *, field: int, kind: int) -> int:
        """Read the header of a struct's first field, a list of ``kind``; return its length."""
        if next(self.fields(), None) != (field, LIST):
            raise ValueError(f"field {field} is not a list")
        header = self._body[self.place]
        self.place += 1
        if header & 0x0F != kind:
            raise ValueError(f"field {field} is a list of something else")
        return header >> 4 if header >> 4 < 15 else self.varint()

    def value(self, kind: int) -> Any:
        """Read a value of a compact type."""
        match kind:
            case 1 | 2:
                return kind == 1
            case 4 | 5 | 6:
                return self.integer()
            case 8:
                return self.binary()
            case 9 | 10:
                return self.values()
            case 12:
                return self.struct()
            case 3 | 7:
                self.place += 1 if kind == 3 else 8
                return None
        raise ValueError(f"not a Thrift type that Parquet uses: {kind}")


VARINT_BYTES_MAX: Final = 9
"""Of the varints that are decoded many at once: they have 63 bits."""


def varints(body: bytes, place: int, count: int) -> npt.NDArray[np.int64]:
    """Decode that many unsigned integers that stand one after the other, all at once.

    Raises:
        ValueError: There are fewer, or one is too long.
    """
    octets = np.frombuffer(body, np.uint8, offset=place)
    ends = np.flatnonzero(octets < 0x80)[:count]
    if len(ends) < count:
        raise ValueError("integers end too early")
    starts = np.zeros(count, np.int64)
    starts[1:] = ends[:-1] + 1
    found = (octets[starts] & 0x7F).astype(np.int64)
    following = 1
    while len(longer := np.flatnonzero(ends - starts >= following)):
        if following == VARINT_BYTES_MAX:
            raise ValueError("an integer is too long")
        part = octets[starts[longer] + following] & 0x7F
        found[longer] |= part.astype(np.int64) << 7 * following
        following += 1
    return found


def integer(encoded: bytes) -> int:
    """Decode one zigzag integer."""
    value = 0
    for byte in reversed(encoded):
        value = value << 7 | byte & 0x7F
    return (value >> 1) ^ -(value & 1)
