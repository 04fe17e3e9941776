"""How long a restore will take: by this machine's own speed where that is known; a rough figure.

What was read for the plan, and compared for a rewind, has to be read again: that took so long just
now. Writing goes by the newest operation into the same kind of place, else by figures of a 2-core
machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

ROWS_PER_S: Final[Mapping[str, float]] = {
    "postgres": 150_000.0,
    "kafka": 60_000.0,
    "files": 250_000.0,
    "stdout": 300_000.0,
    "rewind": 120_000.0,
}
"""Rows a second that are written where nothing is known of it yet, by the kind of work."""

START_S: Final[Mapping[str, float]] = {
    "postgres": 0.1,
    "kafka": 1.0,
    "files": 0.02,
    "stdout": 0.01,
    "rewind": 0.05,
}
"""What it takes to write nothing: connections, locks, the commit."""

TABLE_S: Final[Mapping[str, float]] = {"postgres": 0.02}
"""What each table takes besides its rows: its definition, indexes, ANALYZE."""

LEARNT_ROWS_MIN: Final = 1_000
"""Operations of fewer rows tell nothing of the speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """What is to be written. ``work`` is a kind of place, or ``rewind``; ``mode`` how."""

    work: str
    mode: str
    row_count: int
    table_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How long an earlier operation wrote, s."""

    work: str
    mode: str
    row_count: int
    write_s: float
    table_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Seconds. ``by`` is ``operations`` where an earlier one says how fast it goes."""

    seconds: float
    read_s: float
    write_s: float
    by: str

    def document(self) -> dict[str, Any]:
        """As it stands in a plan; more digits would be pretence."""
        return {
            name: round(value, 2) if isinstance(value, float) else value
            for name, value in asdict(self).items()
        }


def estimate(writing: Writing, *, read_s: float, done: Iterable[Done] = ()) -> Estimate:
    """Say how long it will take to read once more what took ``read_s``, and to write it.

    Args:
        done: Earlier operations, newest first.
    """
    fixed_s = _fixed_s(writing)
    rows_per_s, by = ROWS_PER_S[writing.work], "figures"
    for each in done:
        alike = (each.work, each.mode) == (writing.work, writing.mode)
        if alike and each.row_count >= LEARNT_ROWS_MIN:
            # What is fixed is a part of that, too; of a quick one it would be nearly all.
            spent_s = max(each.write_s - _fixed_s(each), each.write_s / 8, 1e-6)
            rows_per_s, by = each.row_count / spent_s, "operations"
            break
    write_s = fixed_s + writing.row_count / rows_per_s
    return Estimate(seconds=read_s + write_s, read_s=read_s, write_s=write_s, by=by)


def _fixed_s(of: Writing | Done) -> float:
    """What it takes besides the rows."""
    return START_S[of.work] + TABLE_S.get(of.work, 0.0) * of.table_count


def done_of(operations: Iterable[Mapping[str, Any]]) -> list[Done]:
    """Read what earlier operations say of their speed; those that say nothing are left out."""
    found = []
    for each in operations:
        detail = each["detail"]
        if each["outcome"] == "done" and {"work", "mode", "write_s", "row_count"} <= detail.keys():
            found.append(
                Done(
                    work=detail["work"],
                    mode=detail["mode"],
                    row_count=detail["row_count"],
                    write_s=detail["write_s"],
                    table_count=len(detail.get("rows", ())),
                )
            )
    return found
