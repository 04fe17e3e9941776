"""What a change is; it knows no format, no storage and no time but its own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

KEY_BYTES_MAX = 8 * 1024
"""Longest canonical key, in UTF-8 bytes. A longer one goes to quarantine."""

COLLECTION_BYTES_MAX = 512
"""Longest collection name, in UTF-8 bytes."""

DOCUMENT_BYTES_MAX = 64 * 1024 * 1024
"""Longest ``after``, ``before`` or ``meta``, in bytes."""


class Op(StrEnum):
    """What happened to the row; ``truncate`` happens to the whole collection and has key ``""``."""

    CREATE = "create"
    UPDATE = "update"
    PATCH = "patch"
    DELETE = "delete"
    TRUNCATE = "truncate"
    READ = "read"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One row created, updated, patched, deleted or read, or one collection truncated.

    ``after``, ``before`` and ``meta`` are JSON texts, byte for byte as they came. ``unchanged``
    belongs to ``patch`` only: a JSON array with the names of top-level members whose values the
    source did not send. With it, ``after`` is the whole row but for those members (a ``null`` in
    it is a null); without it, ``after`` is an RFC 7396 merge patch (a ``null`` removes).
    """

    seq: int
    collection: str
    key: str
    op: Op
    after: bytes | None
    before: bytes | None = None
    unchanged: bytes | None = None
    at_us: int
    commit_us: int
    recorded_us: int
    lane: str
    position: int
    tx: str | None = None
    actor: str | None = None
    reason: str | None = None
    meta: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """Input that could not be read, kept with its bytes, its place and its reason (invariant 13).

    ``position`` is where in its lane it stood; ``code`` is one word of ``docs/quarantine.md``;
    ``reason`` names the field and what is wrong with it, for people; ``format`` is what the bytes
    were taken for: ``native``, ``debezium`` or ``pgoutput``; ``meta`` is JSON about where it came
    from.
    """

    position: int
    body: bytes
    code: str
    reason: str
    format: str
    meta: bytes | None = None
