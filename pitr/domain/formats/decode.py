"""Many inputs to one table: the fast way where it holds, one by one where it does not.

A flawed input goes to quarantine and costs its neighbours nothing but time (invariant 13).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal

import pyarrow as pa

from pitr.domain.batch import Decoded
from pitr.domain.change import Quarantined
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.formats import debezium, debezium_lines, native, native_lines
from pitr.domain.formats.bulk import Unsure
from pitr.domain.formats.detect import is_debezium
from pitr.domain.formats.draft import Draft, Hints, table_of
from pitr.domain.formats.flaw import Flaw

Format = Literal["native", "debezium", "auto"]

# A chunk is read at once. One that holds a flaw is read again in small ones, and only the small
# one that holds it is read one by one: a flaw costs about one chunk more, however many there are.
CHUNK_ITEMS = 4096
CHUNK_ITEMS_SMALL = 64
CHUNK_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Items:
    """Inputs with their positions. A value of None is a Kafka record without one."""

    values: Sequence[bytes | None]
    positions: Sequence[int]
    keys: Sequence[bytes | None] | None = None

    def chunks(self, count: int) -> Iterator[Items]:
        """Split into runs of at most ``count``."""
        for first in range(0, len(self.values), count):
            part = slice(first, first + count)
            keys = None if self.keys is None else self.keys[part]
            yield Items(self.values[part], self.positions[part], keys)

    def each(self) -> Iterator[tuple[bytes | None, int, bytes | None]]:
        """Give each value with its position and its key."""
        keys = self.keys if self.keys is not None else [None] * len(self.values)
        return zip(self.values, self.positions, keys, strict=True)


def decode(inputs: Iterable[Items], *, wanted: Format, hints: Hints) -> Decoded:
    """Decode all of them, in order."""
    tables: list[pa.Table] = []
    quarantined: list[Quarantined] = []
    for chunk in chain.from_iterable(items.chunks(CHUNK_ITEMS) for items in inputs):
        _decode_chunk(chunk, wanted, hints, tables, quarantined)
    # As one chunk it is cheap to pickle and to work with.
    changes = pa.concat_tables(tables).combine_chunks() if tables else DRAFT_SCHEMA.empty_table()
    return Decoded(changes=changes, quarantined=tuple(quarantined))


def _decode_chunk(
    chunk: Items,
    wanted: Format,
    hints: Hints,
    tables: list[pa.Table],
    quarantined: list[Quarantined],
) -> None:
    table = _table_at_once(chunk, wanted)
    if table is not None:
        tables.append(table)
    elif len(chunk.values) > CHUNK_ITEMS_SMALL:
        for part in chunk.chunks(CHUNK_ITEMS_SMALL):
            _decode_chunk(part, wanted, hints, tables, quarantined)
    else:
        tables.append(table_of(_drafts_one_by_one(chunk, wanted, hints, quarantined)))


def _table_at_once(chunk: Items, wanted: Format) -> pa.Table | None:
    """Read a chunk as good changes of one format; None where it is not that."""
    values = [value for value in chunk.values if value is not None]
    # For one or two, the table's own cost is larger than that of reading them.
    if len(values) < max(len(chunk.values), 4) or sum(map(len, values)) > CHUNK_BYTES_MAX:
        return None
    if _taken_for(values[0], wanted) == "native":
        read = partial(native_lines.table_of_items, values, chunk.positions)
    else:
        read = partial(debezium_lines.table_of_items, values, chunk.positions, chunk.keys)
    try:
        return read()
    except Unsure:
        return None


def _drafts_one_by_one(
    chunk: Items, wanted: Format, hints: Hints, quarantined: list[Quarantined]
) -> list[Draft]:
    drafts: list[Draft] = []
    for value, position, key in chunk.each():
        taken = _taken_for(value, wanted)
        try:
            if taken == "debezium":
                drafts += debezium.drafts_of(value, position=position, key=key, hints=hints)
            elif value is None:
                raise Flaw("not_an_object", "change: a Kafka record without a value")
            else:
                drafts.append(
                    native.draft_of(value, position=position, collection=hints.collection)
                )
        except Flaw as flaw:
            quarantined.append(_quarantined(flaw, value, position, key, taken))
    return drafts


def _taken_for(value: bytes | None, wanted: Format) -> Literal["native", "debezium"]:
    if wanted == "auto":
        return "debezium" if value is None or is_debezium(value) else "native"
    return wanted


def _quarantined(
    flaw: Flaw, value: bytes | None, position: int, key: bytes | None, taken: str
) -> Quarantined:
    """Keep the input as it can be read again: with its key, where its key matters."""
    body = value if value is not None else b""
    if taken == "debezium" and key is not None:
        body = b'{"key":' + key + b',"value":' + body + b"}"
    return Quarantined(
        position=position, body=body, code=flaw.code, reason=flaw.reason, format=taken
    )
