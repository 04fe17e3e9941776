"""Bytes to changes: NDJSON, JSON arrays and single values, in the native and Debezium formats.

Nothing here raises for a bad input among good ones: it comes back as ``Quarantined``, with its
bytes, its position, a code of ``docs/quarantine.md`` and a reason that names the field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from pitr.domain.batch import Decoded
from pitr.domain.errors import InvalidRequest
from pitr.domain.formats.decode import Format, Items, decode
from pitr.domain.formats.draft import Hints
from pitr.domain.formats.flaw import CODES

__all__ = [
    "CODES",
    "Format",
    "decode_array",
    "decode_lines",
    "decode_one",
    "decode_values",
    "line_count",
]

BLOCK_BYTES: Final = 768 * 1024
"""Lines are taken apart in blocks of this size, more or less."""

_BOM = b"\xef\xbb\xbf"
_array = msgspec.json.Decoder(list[msgspec.Raw])


def decode_lines(
    body: bytes,
    *,
    format: Format,
    position_first: int,
    key_columns: tuple[str, ...] | None = None,
    collection: str | None = None,
) -> Decoded:
    """Decode NDJSON: one input a line, ended by LF or CR LF; the last line may lack its end.

    Args:
        body: UTF-8; a byte order mark at its start is skipped.
        format: ``auto`` recognises each line on its own.
        position_first: The position of the first line. Each line has one, also a blank one, which
            holds no change.
        key_columns: The key of Debezium records that have none: these members of the row.
        collection: The collection of changes that name none.
    """
    hints = Hints(key_columns, collection)
    return decode(_items_of_lines(body, position_first), wanted=format, hints=hints)


def decode_array(
    body: bytes,
    *,
    format: Format,
    position_first: int,
    key_columns: tuple[str, ...] | None = None,
    collection: str | None = None,
) -> Decoded:
    """Decode a JSON array of inputs; the position of each is ``position_first`` plus its index.

    Raises:
        InvalidRequest: The body as a whole is not a JSON array, so that no element has a place.
    """
    try:
        elements = [bytes(element) for element in _array.decode(body.removeprefix(_BOM))]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(
            "the body is not a JSON array of changes",
            hint="send one change a line as application/x-ndjson, and a bad one spoils no other",
            error=error,
        ) from error
    positions = range(position_first, position_first + len(elements))
    return decode([Items(elements, positions)], wanted=format, hints=Hints(key_columns, collection))


def decode_values(
    values: Sequence[bytes | None],
    *,
    format: Format,
    positions: Sequence[int],
    keys: Sequence[bytes | None] | None = None,
    key_columns: tuple[str, ...] | None = None,
    collection: str | None = None,
) -> Decoded:
    """Decode the values of Kafka records, each with its own position; None is a null value.

    Args:
        values: One input each, line feeds and all.
        format: As in ``decode_lines``.
        positions: As many, rising, holes allowed.
        keys: As many record keys, for Debezium; the native format does not read them.
        key_columns: As in ``decode_lines``.
        collection: As in ``decode_lines``.
    """
    items = Items(values, positions, keys)
    return decode([items], wanted=format, hints=Hints(key_columns, collection))


def decode_one(
    body: bytes,
    *,
    format: Format,
    position: int,
    key: bytes | None = None,
    key_columns: tuple[str, ...] | None = None,
    collection: str | None = None,
) -> Decoded:
    """Decode one input, such as a quarantined one."""
    return decode_values(
        [body],
        format=format,
        positions=[position],
        keys=[key],
        key_columns=key_columns,
        collection=collection,
    )


def line_count(body: bytes) -> int:
    """Count the positions that ``decode_lines`` gives out for ``body``."""
    return body.count(b"\n") + (not body.endswith(b"\n") and body not in (b"", _BOM))


def _items_of_lines(body: bytes, position_first: int) -> Iterator[Items]:
    for block in _blocks(body):
        lines = _lines(block)
        positions: Sequence[int] = range(position_first, position_first + len(lines))
        position_first += len(lines)
        if not all(lines) or any(map(bytes.isspace, lines)):
            full = [place for place, line in enumerate(lines) if line and not line.isspace()]
            positions = [positions[place] for place in full]
            lines = [lines[place] for place in full]
        yield Items(lines, positions)


def _blocks(body: bytes) -> Iterator[bytes]:
    """Cut a body into whole lines, not too many at once: their copies fit a processor's cache."""
    first = len(_BOM) if body.startswith(_BOM) else 0
    while first < len(body):
        end = body.find(b"\n", first + BLOCK_BYTES) + 1 or len(body)
        yield body[first:end]
        first = end


def _lines(block: bytes) -> list[bytes]:
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if b"\r" in block:
        return [line.removesuffix(b"\r") for line in lines]
    return lines
