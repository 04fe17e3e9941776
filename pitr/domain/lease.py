"""Leases: which operations are under way, what they read, and where they write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pitr.domain.errors import Conflict
from pitr.domain.times import rfc3339


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The hold of one operation, which is its id, on what it reads and where it writes.

    It reads a view of ``manifest_version``. ``sink`` names the place that it writes to, None where
    it only reads. Times are by the catalog's clock; the lease runs out at ``until_us``.
    """

    operation_id: str
    log: str
    kind: str
    actor: str | None
    holder: str
    sink: str | None
    manifest_version: int
    taken_us: int
    until_us: int


def sink_text(identity: Mapping[str, Any]) -> str | None:
    """Name the place that an identity is of; None if it is none that is shared, or not known well.

    The identity is that of an ``Outlook``, or of the place of a rewind. A database has one name by
    whatever URL: its cluster and its oid there. Where the cluster does not say which it is, only
    the database's own locks keep others off.
    """
    if "path" in identity:
        return f"file:{identity['path']}"
    if "topic" in identity:
        return f"kafka:{identity.get('brokers')}/{identity['topic']}"
    oid = identity.get("database_oid", identity.get("oid"))
    place = identity.get("system") or identity.get("url")
    return None if place is None or oid is None else f"postgresql:{place}/{oid}"


def taken_by(other: Lease) -> Conflict:
    """The error for a place that another operation writes to."""
    return Conflict(
        "another operation writes to the same place",
        hint="wait until it is done; pitr operations shows it, and how it ended. If its machine is"
        " gone for good, its hold ends by itself at the time named",
        operation=other.operation_id,
        kind=other.kind,
        log=other.log,
        actor=other.actor,
        since=rfc3339(other.taken_us),
        until=rfc3339(other.until_us),
    )
