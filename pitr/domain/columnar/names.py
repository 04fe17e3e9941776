"""Names of objects in the store; ``docs/format.md`` says how they are made."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

COLLECTION_NAME_CHARS_MAX = 100
"""Longest form of a collection in an object name; a longer one is cut and gets a digest."""


def segment_name(log: str, *, seq_first: int, seq_end: int, sha256: str) -> str:
    """Name the segment that holds ``[seq_first, seq_end)``."""
    return f"{log}/segments/{seq_first:020}-{seq_end:020}-{sha256[:16]}.parquet"


def snapshot_name(log: str, *, seq_end: int, collection: str, part: int, sha256: str) -> str:
    """Name one part, from 0, of a collection in the snapshot before ``seq_end``."""
    folder = f"{log}/snapshots/{seq_end:020}"
    return f"{folder}/{safe_name(collection)}-{part:06}-{sha256[:16]}.parquet"


def safe_name(collection: str) -> str:
    """Write a collection so that every file system and object store takes it as one name.

    Percent-encoded (RFC 3986), also a leading dot and ``~``. Past the limit: its first
    80 characters or fewer, ``~`` and 16 hex digits of its SHA-256.
    """
    encoded = quote(collection, safe="").replace("~", "%7E")
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if len(encoded) <= COLLECTION_NAME_CHARS_MAX:
        return encoded
    digest = hashlib.sha256(collection.encode()).hexdigest()[:16]
    head = encoded[:80]
    if "%" in head[-2:]:
        head = head[: head.rindex("%")]
    return f"{head}~{digest}"
