"""A batch: what one append stores at once, with the lane position it starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pitr.domain.change import Quarantined


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What a format made of its input: ``changes`` has ``DRAFT_SCHEMA``, in input order."""

    changes: pa.Table
    quarantined: tuple[Quarantined, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Idempotency:
    """One client request of a shared commit, remembered so that its retry adds nothing."""

    key: str
    body_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Changes of one lane over the positions ``[position_first, position_end)``.

    ``position_first`` None lets the append take the positions from where the lane stands: for
    inputs that have no position of their own. ``changes.position`` and the quarantined positions
    are then relative to the batch, from 0. ``lane_state`` replaces the lane's own notes (for a
    file: bytes read and their digest) if it is given.

    ``owner`` is the worker that claimed a pulled lane: the append fails if another has since.

    With ``resume`` a batch that overlaps what its lane holds already stores only the rest (a
    client that sends again after a lost answer); without it the lane must stand exactly at
    ``position_first`` (a consumer that must never overtake another). ``resolves`` is the id of
    the quarantined input that these changes were made from. ``parted`` names the transactions of
    which another append may hold a part, None where any may: the catalog remembers these (invariant
    5). ``size_bytes`` is the size of the input, for limits and reports.
    """

    lane: str
    position_first: int | None
    position_end: int
    changes: pa.Table
    quarantined: tuple[Quarantined, ...] = ()
    lane_state: Mapping[str, Any] | None = None
    owner: str | None = None
    resume: bool = False
    idempotency: Idempotency | None = None
    resolves: int | None = None
    parted: frozenset[str] | None = None
    size_bytes: int = 0
