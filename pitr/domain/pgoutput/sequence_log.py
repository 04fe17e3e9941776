"""What the sequences of a source stood at, as rows of the log: its stream does not tell.

Each row of ``pitr.sequences`` is one source's document, keyed by its lane. What it says was read
just before its place in the log: numbers that the app drew after that are in the rows that came
since, or drawn in vain.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import pyarrow as pa

from pitr.domain.change import Op
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.errors import DataLoss
from pitr.domain.manifest import canonical_json
from pitr.domain.pgoutput.source import SequenceValue

SEQUENCES: Final = "pitr.sequences"
FORMAT_VERSION: Final = 1


class SampledSequence(msgspec.Struct, frozen=True, kw_only=True):
    """What a sequence stood at: ``last_value`` was given out if it ``is_called``."""

    schema: str
    name: str
    last_value: int
    is_called: bool


class _Document(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    sequences: tuple[SampledSequence, ...]


def sampled(values: Iterable[SequenceValue]) -> tuple[SampledSequence, ...]:
    """Return what a document says of these; those that the role may not read are left out."""
    found = (
        SampledSequence(
            schema=each.schema, name=each.name, last_value=each.last_value, is_called=each.is_called
        )
        for each in values
        if each.last_value is not None and each.is_called is not None
    )
    return tuple(sorted(found, key=lambda each: (each.schema, each.name)))


def change_of_sample(lane: str, sample: Sequence[SampledSequence], *, commit_us: int) -> pa.Table:
    """Write a sample as one change of ``DRAFT_SCHEMA``."""
    sequences = [msgspec.to_builtins(each) for each in sample]
    row = {
        "collection": SEQUENCES,
        "key": canonical_json({"lane": lane}).decode(),
        "op": Op.UPDATE.value,
        "after": canonical_json({"format": FORMAT_VERSION, "sequences": sequences}).decode(),
        "position": 0,
        "commit_us": commit_us,
    }
    return pa.Table.from_pylist([row], schema=DRAFT_SCHEMA)


def sample_of_body(body: bytes) -> tuple[SampledSequence, ...]:
    """Read a document back.

    Raises:
        DataLoss: The bytes are not a document of a known format version.
    """
    try:
        document = msgspec.json.decode(body, type=_Document)
        if document.format != FORMAT_VERSION:
            raise ValueError("unknown format version")
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise DataLoss("a document of sequences cannot be read", reason=str(error)) from error
    return document.sequences
