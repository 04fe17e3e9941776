"""Rows as NDJSON, CSV or Parquet; ``docs/restore-files.md`` says what each can hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, Final

import msgspec
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pitr.adapters.sinks.batches import Spill, slices
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.documents import is_object, members
from pitr.domain.errors import InvalidRequest

PARQUET_SCHEMA: Final = pa.schema(
    [field for field in CHANGE_SCHEMA if field.name not in ("op", "before", "unchanged")]
)
"""A row of a state: its key, its document and where its newest change came from."""

CSV_COLUMNS_MAX: Final = 16_384
"""Columns of one CSV file: as many as a spreadsheet can open."""

_RFC3339_END_US: Final = 253_402_300_800_000_000
_RFC3339_FIRST_US: Final = -62_135_596_800_000_000


def ndjson_lines(batch: pa.RecordBatch, *, rows_only: bool) -> Iterator[pa.Buffer]:
    """Yield rows as lines: documents only, or ``read`` changes in the native format.

    The document's bytes are spliced in, not encoded again. Valid JSON has raw line breaks only
    between its tokens, never in a string, so turning them into spaces changes no value.
    """
    for part in slices([batch]):
        after = part.column("after")
        if pc.any(pc.match_substring_regex(after, "[\r\n]")).as_py():
            after = pc.replace_substring_regex(after, pattern="[\r\n]", replacement=" ")
        pieces = [after, "\n"] if rows_only else _change_pieces(part, after)
        lines = pc.binary_join_element_wise(*pieces, "")
        yield _text_of(lines)


def _change_pieces(part: pa.RecordBatch, after: pa.Array) -> list[pa.Array | str]:
    collections = pc.unique(part.column("collection")).to_pylist()
    assert len(collections) == 1, "a batch holds one collection"
    head = f'{{"collection":{orjson.dumps(collections[0]).decode()},"key":'
    at = _at_texts(part.column("at_us"))
    return [head, part.column("key"), ',"op":"read","after":', after, ',"at":', at, "}\n"]


def _at_texts(at_us: pa.Array) -> pa.Array:
    """RFC 3339 in quotes, or µs as a number where a year is outside 1 to 9999."""
    bounds = pc.min_max(at_us).as_py()
    if bounds["min"] < _RFC3339_FIRST_US or bounds["max"] >= _RFC3339_END_US:
        return at_us.cast(pa.string())
    return pc.strftime(at_us.cast(pa.timestamp("us", "UTC")), format='"%Y-%m-%dT%H:%M:%SZ"')


def _text_of(strings: pa.StringArray) -> pa.Buffer:
    """The strings one after the other, as Arrow already holds them."""
    assert strings.null_count == 0 and strings.offset == 0, "made just now, without nulls"
    return strings.buffers()[2]


def write_ndjson(file: IO[bytes], rows: Iterable[pa.RecordBatch], *, rows_only: bool) -> None:
    """Write rows as NDJSON."""
    for batch in rows:
        for lines in ndjson_lines(batch, rows_only=rows_only):
            file.write(lines)


def write_csv(file: IO[bytes], rows: Iterable[pa.RecordBatch], *, collection: str) -> bool:
    """Write rows as CSV; tell whether a member that others have was absent from a document.

    The header is the key and the union of all top-level members in order of first appearance,
    so the rows pass twice, the second time from a temporary file. Null and absent are an empty
    field, the empty string is ``""``; strings are always quoted, numbers never.

    Raises:
        InvalidRequest: A document is no object, or there are too many columns.
    """
    spill, names, rows_absent = Spill(), dict[str, int](), False
    try:
        for batch in rows:
            _count_names(batch, names, collection)
            spill.add(batch)
        key_name = _free_name("_key", names)
        file.write(b",".join(_quoted(name) for name in (key_name, *names)) + b"\n")
        for batch in spill.batches():
            rows_absent |= _write_csv_batch(file, batch, names)
    finally:
        spill.close()
    return rows_absent


def _count_names(batch: pa.RecordBatch, names: dict[str, int], collection: str) -> None:
    for key, after in _pairs(batch):
        if not is_object(after):
            raise InvalidRequest(
                "CSV has columns for members only, and the document is no object",
                hint="take ndjson or parquet",
                collection=collection,
                key=key,
            )
        for name in members(after):
            names.setdefault(name, len(names))
        if len(names) > CSV_COLUMNS_MAX:
            raise InvalidRequest(
                "the documents have too many different members for CSV",
                hint="take ndjson or parquet",
                collection=collection,
                columns_max=CSV_COLUMNS_MAX,
            )


def _write_csv_batch(file: IO[bytes], batch: pa.RecordBatch, names: dict[str, int]) -> bool:
    absent, lines = False, list[bytes]()
    for key, after in _pairs(batch):
        found = members(after)
        absent |= len(found) < len(names)
        fields = [_csv_field(found[name]) if name in found else b"" for name in names]
        lines.append(b",".join([_quoted(key), *fields]) + b"\n")
    file.write(b"".join(lines))
    return absent


def _csv_field(value: bytes) -> bytes:
    match value[:1]:
        case b'"':
            return _quoted(msgspec.json.decode(value, type=str))
        case b"{" | b"[":
            return _quoted(value.decode())
        case b"n":
            return b""
        case _:
            return value


def _quoted(text: str) -> bytes:
    return b'"' + text.replace('"', '""').encode() + b'"'


def _free_name(name: str, taken: dict[str, int]) -> str:
    while name in taken:
        name = f"_{name}"
    return name


def _pairs(batch: pa.RecordBatch) -> Iterator[tuple[str, bytes]]:
    keys, documents = batch.column("key").to_pylist(), batch.column("after").to_pylist()
    for key, after in zip(keys, documents, strict=True):
        yield key, after.encode()


class ParquetFile:
    """An open Parquet file that collections are added to."""

    def __init__(self, file: IO[bytes]) -> None:
        self._writer = pq.ParquetWriter(file, PARQUET_SCHEMA, compression="zstd")

    def add(self, rows: Iterable[pa.RecordBatch]) -> None:
        """Write rows; JSON stays exact text."""
        for batch in rows:
            self._writer.write_batch(batch.select(PARQUET_SCHEMA.names))

    def close(self) -> None:
        """Write the footer; without it the file cannot be read."""
        self._writer.close()
