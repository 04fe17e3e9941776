"""What a rewind is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from pitr.domain.rewind.columns import ColumnRules

WAIT_US: Final = 10_000_000
"""How long a rewind waits for the capture of an attached database, µs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewindRequest:
    """Take rows back to a moment. What is None or empty does not restrict which.

    Args:
        target: As in ``docs/targets.md``.
        collections: All rows of these.
        keys: These rows, as (collection, canonical key).
        where: Conditions as in ``docs/targets.md``, without ``before.`` and ``after.``; a row is
            taken back if its document then, or its document now, meets all of them.
        with_references: Bring along missing rows that those which are put back refer to.
        scan: Compare whole tables with the state, not only rows that the log says changed.
        rules: For columns that exist on one side only.
        accept_gaps: Go by what the log has where it has a known gap.
        wait_us: How long to wait for the capture of an attached database to catch up.
    """

    log: str
    target: str
    collections: frozenset[str] | None = None
    keys: frozenset[tuple[str, str]] | None = None
    where: tuple[str, ...] = ()
    with_references: bool = False
    scan: bool = False
    rules: ColumnRules = field(default_factory=ColumnRules)
    accept_gaps: bool = False
    wait_us: int = WAIT_US


@dataclass(frozen=True, slots=True, kw_only=True)
class UndoRequest:
    """Undo a rewind: its rows, and no others, as they were before it."""

    log: str
    operation_id: str
    rules: ColumnRules = field(default_factory=ColumnRules)
    wait_us: int = WAIT_US


@dataclass(frozen=True, slots=True, kw_only=True)
class RevertRequest:
    """Undo what one transaction of the app did, and nothing else; ``tx`` is its id in the log."""

    log: str
    tx: str
    rules: ColumnRules = field(default_factory=ColumnRules)
    accept_gaps: bool = False
    wait_us: int = WAIT_US


Asked = RewindRequest | UndoRequest | RevertRequest
