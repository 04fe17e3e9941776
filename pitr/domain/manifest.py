"""The manifest: the hash-chained list of what was sealed, compacted, snapshotted and expired."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import orjson

from pitr.domain.errors import DataLoss

FORMAT_VERSION = 1
GENESIS_HASH = "0" * 64

ObjectKind = Literal["segment", "snapshot"]
EntryKind = Literal["append", "seal", "compact", "snapshot", "expire"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRef:
    """One immutable object of the store, with all that is needed to trust and to skip it.

    ``name`` is relative to the store. ``[seq_first, seq_end)`` is the range it covers; a snapshot
    part covers ``[1, seq_end)`` of one ``collection``. ``at_min_us`` and ``at_max_us`` bound the
    log time of every change in that range, for a snapshot also of those that left no row.
    ``ops`` counts its rows by collection and op.
    """

    kind: ObjectKind
    name: str
    seq_first: int
    seq_end: int
    at_min_us: int
    at_max_us: int
    row_count: int
    size_bytes: int
    sha256: str
    ops: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    collection: str | None = None


def canonical_json(value: object) -> bytes:
    """Encode as canonical JSON: sorted names, no spaces, UTF-8 (orjson)."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def sha256_hex(body: bytes) -> str:
    """SHA-256, 64 hex digits."""
    return hashlib.sha256(body).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One step of the manifest. ``previous`` is the hash of the step before, hex."""

    log: str
    log_id: str
    version: int
    previous: str
    kind: EntryKind
    recorded_us: int
    seq_end: int
    add: tuple[ObjectRef, ...] = ()
    retire: tuple[str, ...] = ()
    expire: tuple[str, ...] = ()
    note: Mapping[str, Any] = field(default_factory=dict)

    def body(self) -> bytes:
        """The canonical JSON that is hashed, stored and published."""
        return canonical_json({"format": FORMAT_VERSION, **asdict(self)})

    def hash(self) -> str:
        """SHA-256 of ``body()``, hex."""
        return sha256_hex(self.body())


def entry_from_body(body: bytes) -> Entry:
    """Read an entry back.

    Raises:
        DataLoss: The bytes are not an entry of a known format version.
    """
    try:
        fields: dict[str, Any] = orjson.loads(body)
        if fields.pop("format") != FORMAT_VERSION:
            raise ValueError("unknown format version")
        fields["add"] = tuple(ObjectRef(**ref) for ref in fields["add"])
        fields["retire"] = tuple(fields["retire"])
        fields["expire"] = tuple(fields["expire"])
        return Entry(**fields)
    except (ValueError, KeyError, TypeError) as error:
        raise DataLoss("a manifest entry cannot be read", reason=str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The live objects of a log as of one version; fold entries with ``replay_entries``."""

    version: int = 0
    hash: str = GENESIS_HASH
    objects: Mapping[str, ObjectRef] = field(default_factory=dict)
    retired: Mapping[str, ObjectRef] = field(default_factory=dict)


def replay_entries(entries: Sequence[tuple[bytes, str]]) -> Manifest:
    """Fold ``(body, hash)`` pairs from version 1 on into the manifest they describe.

    Raises:
        DataLoss: A hash does not match its body, the chain is broken, or a version is missing.
    """
    manifest = Manifest()
    for body, digest in entries:
        manifest = apply_entry(manifest, body, digest)
    return manifest


def apply_entry(manifest: Manifest, body: bytes, digest: str) -> Manifest:
    """Take the next entry into a manifest.

    Raises:
        DataLoss: It is not the next one, its hash is wrong, or it names objects that are not there.
    """
    entry = entry_from_body(body)
    _check_link(manifest, entry, body=body, digest=digest)
    try:
        return _applied(manifest, entry, digest)
    except KeyError as error:
        raise DataLoss(
            "a manifest entry names an unknown object", version=entry.version, name=error.args[0]
        ) from error


def _check_link(manifest: Manifest, entry: Entry, *, body: bytes, digest: str) -> None:
    if entry.version != manifest.version + 1:
        raise DataLoss(
            "a manifest entry is missing", expected=manifest.version + 1, found=entry.version
        )
    if sha256_hex(body) != digest or entry.previous != manifest.hash:
        raise DataLoss("the manifest chain is broken", version=entry.version)


def _applied(manifest: Manifest, entry: Entry, digest: str) -> Manifest:
    objects, retired = dict(manifest.objects), dict(manifest.retired)
    for name in entry.retire:
        retired[name] = objects.pop(name)
    for name in entry.expire:
        retired.pop(name)
    objects.update({ref.name: ref for ref in entry.add})
    return Manifest(version=entry.version, hash=digest, objects=objects, retired=retired)
