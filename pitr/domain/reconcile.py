"""What a comparison of live tables with the log says, and when a repair of the log is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pitr.domain.errors import Conflict
from pitr.domain.log import Gap
from pitr.domain.pgoutput.notes import Notes
from pitr.domain.pgoutput.schema import TableSchema
from pitr.domain.pgoutput.schema_change import difference

DELETES_MAX: Final = 100
DELETES_SHARE: Final = 10
"""A repair deletes at most so many rows of a collection, or one in so many of those in the log."""

GONE: Final = "the table is gone, or captured no longer; the log does not know that yet"

Verdict = Literal["pass", "fail", "inconclusive"]
Kind = Literal["missing", "extra", "different"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedTable:
    """A published table. ``whole``: with updates and deletes; ``filtered``: only some rows."""

    relid: int
    schema: str
    name: str
    whole: bool
    filtered: bool

    @property
    def collection(self) -> str:
        """The collection of its rows."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where tables and log were compared.

    The changes below ``seq_end`` are those of transactions before ``lsn``; ``at_us`` is the time
    on the source's clock.
    """

    lsn: int
    seq_end: int
    at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A row that is not as it should be; ``columns`` are those that differ."""

    kind: Kind
    key: str
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How a collection differs from its table: rows that the log lacks, has too many, or otherwise.

    ``columns`` says in how many rows each column differs.
    """

    missing: int = 0
    extra: int = 0
    different: int = 0
    columns: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()

    @property
    def count(self) -> int:
        """Rows in all."""
        return self.missing + self.extra + self.different


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A collection that was compared, or why it could not be: ``inconclusive``."""

    collection: str
    rows_live: int | None = None
    rows_log: int | None = None
    drift: Drift | None = None
    inconclusive: str | None = None

    @property
    def verdict(self) -> Verdict:
        """What cannot be told is never said to be well (invariant 7)."""
        if self.inconclusive is not None or self.drift is None:
            return "inconclusive"
        return "fail" if self.drift.count else "pass"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What became of the drift of a collection.

    ``reads`` and ``deletes`` are the changes that were appended, or would be. ``superseded`` rows
    have a newer change in the log that tells them whole. ``left`` are still not as they should be.
    """

    collection: str
    reads: int = 0
    deletes: int = 0
    superseded: int = 0
    left: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What a repair appended, or would append. ``refused`` are the collections that the guard
    against mass deletion keeps as they are."""

    dry_run: bool
    operation_id: str | None = None
    tx: str | None = None
    collections: tuple[Repaired, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether no drift is left."""
        return not self.dry_run and not any(each.left for each in self.collections)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """Live tables against the log, at one position."""

    log: str
    source: str
    lane: str
    place: Place
    collections: tuple[Compared, ...]
    repair: Repair | None = None

    @property
    def verdict(self) -> Verdict:
        """What is wrong comes before what is not known; what was repaired is not wrong any more."""
        verdicts = {each.verdict for each in self.collections}
        repaired = self.repair is not None and self.repair.is_complete
        if "fail" in verdicts and not repaired:
            return "fail"
        if "inconclusive" in verdicts or not verdicts:
            return "inconclusive"
        return "pass"


def too_many_deletes(compared: Compared) -> bool:
    """Tell whether a repair would delete more of a collection than anybody is likely to mean."""
    if compared.drift is None or not compared.drift.extra:
        return False
    rows_log = compared.rows_log or 0
    deletes_max = max(DELETES_MAX, rows_log // DELETES_SHARE)
    return not compared.rows_live or compared.drift.extra > deletes_max


def check_deletes(compared: Iterable[Compared]) -> None:
    """Refuse a repair that deletes too much.

    Raises:
        Conflict: In some collection it does.
    """
    for each in compared:
        if too_many_deletes(each):
            assert each.drift is not None, "it has rows too many"
            raise Conflict(
                "the repair would delete many rows of the log; nothing was changed",
                hint="see with --dry-run whether they are really gone; then --allow-deletes",
                collection=each.collection,
                deletes=each.drift.extra,
                rows_log=each.rows_log,
                rows_live=each.rows_live,
            )


def not_captured(table: CapturedTable) -> str | None:
    """Say why the log is not what a table is, by what is captured of it; None if it is."""
    if not table.whole:
        return "only what is inserted into it is captured"
    return "the publication leaves out some of its rows" if table.filtered else None


def not_read(notes: Notes, collection: str) -> str | None:
    """Say why the log does not know a table's rows, by what its lane remembers; None if it does."""
    if notes.lost is not None:
        return f"the source has lost changes: {notes.lost}"
    copy = notes.copy.table(collection)
    if copy is None:
        return "its rows were not read yet"
    return None if copy.done else "its rows are still being read"


def in_gap(gaps: Iterable[Gap], lane: str, collection: str) -> str | None:
    """Say which gap lies over a collection, of those that the position is in; None if none does."""
    for gap in gaps:
        # One that neither healed nor will is a hole of the past; what is there now can be seen.
        heals = gap.healed_seq_end is not None or gap.at_max_us is None
        if heals and gap.lane == lane and gap.collection in (None, collection):
            return f"a gap in the log: {gap.reason}"
    return None


def altered(known: TableSchema | None, live: TableSchema) -> str | None:
    """Say why the rows in the log cannot be those of a table as it is; None if they can."""
    if known is None:
        return "the log does not know the table yet"
    reasons = difference(known, live).reasons
    if not reasons:
        return None
    return f"the log does not know yet that it was altered: {'; '.join(reasons)}"
