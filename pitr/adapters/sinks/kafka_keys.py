"""The keys of published rows, and those that topics hold already, kept on the disk."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from aiokafka import TopicPartition

from pitr.domain.errors import Unavailable
from pitr.domain.keys import BadKey, canonical_key, is_canonical

CACHE_KIB: Final = 64 * 1024
FETCHED_ROWS: Final = 1_000

_INSERT: Final = "INSERT OR IGNORE INTO held VALUES (?, ?)"
_DELETE: Final = "DELETE FROM held WHERE place = ? AND key = ?"


class _SharedKey(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    collection: str
    key: msgspec.Raw


_shared_key = msgspec.json.Decoder(_SharedKey)


def key_head(collection: str) -> str:
    """Return what stands before the canonical key, and before ``}``, in a shared topic."""
    return f'{{"collection":{msgspec.json.encode(collection).decode()},"key":'


def is_ours(key: bytes | None, *, shared: bool) -> bool:
    """Tell whether a record's key is, byte for byte, one that a restore would write."""
    if key is None or not shared:
        return key is not None and _is_row_key(key)
    try:
        found = _shared_key.decode(key)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return False
    row_key = bytes(found.key)
    return key == key_head(found.collection).encode() + row_key + b"}" and _is_row_key(row_key)


def _is_row_key(key: bytes) -> bool:
    try:
        return is_canonical(key) or canonical_key(key).encode() == key
    except BadKey:
        return False


class HeldKeys:
    """Keys that partitions hold with a value, in a temporary file; memory holds a part of it.

    By partition, as another producer may have put a key elsewhere than we would. Not for several
    threads at once.
    """

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._numbers: dict[TopicPartition, int] = {}
        self.strange: Counter[str] = Counter()
        """Records by topic whose keys are not ours."""
        with _translated():
            # The empty name is a private file, which is gone when it is closed.
            self._file = sqlite3.connect("", isolation_level=None, check_same_thread=False)
            self._file.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            self._file.execute("PRAGMA journal_mode=OFF")
            self._file.execute("PRAGMA synchronous=OFF")
            self._file.execute(
                "CREATE TABLE held (place INT, key BLOB, PRIMARY KEY (place, key)) WITHOUT ROWID"
            )

    def add(self, found: Mapping[TopicPartition, Iterable[Any]]) -> None:
        """Take in consumed records, in their order."""
        with self._at_once():
            for place, records in found.items():
                for record in records:
                    self._add(place, record.key, record.value)

    def _add(self, place: TopicPartition, key: bytes | None, value: bytes | None) -> None:
        if not is_ours(key, shared=self._shared):
            self.strange[place.topic] += 1
            return
        query = _INSERT if value is not None else _DELETE
        self._file.execute(query, (self._number(place), key))

    def discard(self, keys: Iterable[tuple[TopicPartition, bytes]]) -> None:
        """Forget keys, known or not."""
        with self._at_once():
            self._file.executemany(_DELETE, ((self._number(place), key) for place, key in keys))

    def left(self) -> Iterator[tuple[TopicPartition, bytes]]:
        """Yield what is still known, partition by partition."""
        for place, number in self._numbers.items():
            with _translated():
                cursor = self._file.execute("SELECT key FROM held WHERE place = ?", (number,))
                while rows := cursor.fetchmany(FETCHED_ROWS):
                    yield from ((place, key) for (key,) in rows)

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        """Do many steps in one transaction: one by one, each would write to the disk."""
        with _translated():
            self._file.execute("BEGIN")
            yield
            self._file.execute("COMMIT")

    def close(self) -> None:
        """Free the space."""
        self._file.close()

    def _number(self, place: TopicPartition) -> int:
        return self._numbers.setdefault(place, len(self._numbers))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise Unavailable("the topic's keys cannot be kept aside", reason=error) from error
