"""A table read whole while it is written to, exact to a place in the stream, without locks.

Source: Andreakis and Papapanagiotou, "DBLog: A Watermark Based Change-Data-Capture Framework"
(Netflix, 2019): read the table in chunks in the order of its key, and drop of a chunk the rows that
the stream changed between two watermarks around the reading. PostgreSQL says what a reading saw
(documentation, "Transaction ID and Snapshot Information Functions"), so one mark is enough:

- A chunk is read with one snapshot, and a message is written to the stream after that. The chunk
  enters the log where the message comes.
- What the snapshot sees was committed before the message was written, so it came earlier in the
  stream, and the rows hold it.
- What it does not see and came earlier than the message is newer than the rows: it stays, and
  the rows that it changed are dropped.
- What comes after the message is newer than all of them.

A transaction is in the stream as soon as its commit is in the WAL, and visible only later, when it
leaves the array of running ones: with a synchronous standby, much later. So a snapshot may not see
what the stream brought long before. ``pitr.domain.pgoutput.window`` has the rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

CHUNK_BYTES: Final = 8 * 1024 * 1024
"""How large a chunk should be."""

CHUNK_ROWS_MIN: Final = 100
CHUNK_ROWS_MAX: Final = 50_000

_MASK: Final = 0xFFFFFFFF
_HALF: Final = 1 << 31

Xids = npt.NDArray[np.uint32]
Resume = Mapping[str, Any]
"""Where the reading of a table goes on: what the adapter that reads wrote, as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Which transactions a reading saw; numbers are those of PostgreSQL's ``xid8``."""

    xmin: int
    xmax: int
    running: tuple[int, ...] = ()

    @classmethod
    def of_text(cls, text: str) -> Snapshot:
        """Read what ``pg_current_snapshot()`` gives: ``xmin:xmax:xid,xid``."""
        xmin, xmax, running = text.split(":")
        xids = tuple(map(int, running.split(","))) if running else ()
        return cls(xmin=int(xmin), xmax=int(xmax), running=xids)

    def sees(self, xid: int) -> bool:
        """Tell whether a committed transaction is in what was read; ``xid`` as the stream has it.

        The stream has the lower 32 bits; the nearest number with these is meant.
        """
        return bool(self.sees_each(np.array([xid & _MASK], np.uint32))[0])

    def sees_each(self, xids: Xids) -> npt.NDArray[np.bool_]:
        """Tell it of many."""
        apart = ((xids.astype(np.int64) - (self.xmax & _MASK) + _HALF) & _MASK) - _HALF
        running = np.array(self.running, np.int64) - self.xmax
        seen: npt.NDArray[np.bool_] = (apart < 0) & ~np.isin(apart, running)
        return seen

    def unfinished_before(self, xid: int) -> tuple[int, ...]:
        """Return what it does not see and is older than ``xid``; of those from xmax on, one."""
        bound = self.xmax + ((xid - self.xmax + _HALF) & _MASK) - _HALF
        running = tuple(each for each in self.running if each < bound)
        return (*running, self.xmax) if self.xmax < bound else running


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Rows of one table as one snapshot saw them, in COPY's text format.

    ``last`` is where the next chunk begins, None before the first row; ``done`` says that there is
    none. ``rows_max`` is how many rows the next one should have to be of a good size.
    """

    collection: str
    snapshot: Snapshot
    data: bytes
    rows: int
    last: Resume | None
    done: bool
    rows_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableCopy:
    """How far the copy of one table is.

    ``rows`` were read so far; ``estimate`` is about how many there are, None if nobody knows.
    With ``undescribed`` the log has rows of it that are of another shape than any document tells:
    it is emptied and read once it was looked at.
    """

    collection: str
    last: Resume | None = None
    rows: int = 0
    estimate: int | None = None
    done: bool = False
    undescribed: bool = False

    @property
    def expected(self) -> int | None:
        """About how many rows there are; what was read counts for more than an estimate."""
        if self.done:
            return self.rows
        return None if self.estimate is None else max(self.estimate, self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyState:
    """How far the copies of all tables are; it is stored with the chunk that it counts.

    ``looked`` says that all tables of the source were looked at: these are all there are.
    """

    tables: tuple[TableCopy, ...] = ()
    looked: bool = False

    @classmethod
    def of_json(cls, value: Mapping[str, Any] | None) -> CopyState:
        """Read it from a lane's state."""
        tables = (value or {}).get("tables", {})
        return cls(
            tables=tuple(TableCopy(collection=name, **of) for name, of in tables.items()),
            looked=bool((value or {}).get("looked")),
        )

    def as_json(self) -> dict[str, Any]:
        """Write it for a lane's state."""
        tables = {table.collection: _facts(table) for table in self.tables}
        return {"tables": tables} | ({"looked": True} if self.looked else {})

    @property
    def to_do(self) -> tuple[str, ...]:
        """The collections with rows that are not copied yet; the first is the next."""
        return tuple(table.collection for table in self.tables if not table.done)

    @property
    def ready(self) -> tuple[str, ...]:
        """What of ``to_do`` may be copied now."""
        return tuple(
            table.collection for table in self.tables if not (table.done or table.undescribed)
        )

    @property
    def undescribed(self) -> tuple[str, ...]:
        """The collections with rows that no document tells of."""
        return tuple(table.collection for table in self.tables if table.undescribed)

    def table(self, collection: str) -> TableCopy | None:
        """Return how far one table is; None if its copy was never asked for."""
        return next((each for each in self.tables if each.collection == collection), None)

    def begun(self, collection: str, *, estimate: int | None = None) -> CopyState:
        """Add a table, at the end of what is to do; one that was copied is read again."""
        rest = self.without(collection).tables
        return replace(self, tables=(*rest, TableCopy(collection=collection, estimate=estimate)))

    def put_off(self, collection: str) -> CopyState:
        """Add a table that is ``undescribed``."""
        rest = self.without(collection).tables
        return replace(self, tables=(*rest, TableCopy(collection=collection, undescribed=True)))

    def estimated(self, estimates: Mapping[str, int]) -> CopyState:
        """Note about how many rows tables have of which that is not known; done ones need none."""
        if not any(each.collection in estimates for each in self.tables if _is_unknown(each)):
            return self
        tables = tuple(
            replace(each, estimate=estimates.get(each.collection)) if _is_unknown(each) else each
            for each in self.tables
        )
        return replace(self, tables=tables)

    def without(self, collection: str) -> CopyState:
        """Leave out a table that is gone."""
        tables = tuple(each for each in self.tables if each.collection != collection)
        return replace(self, tables=tables)

    def advanced(self, chunk: Chunk) -> CopyState:
        """Count a chunk that enters the log."""
        tables = tuple(
            replace(each, last=chunk.last, rows=each.rows + chunk.rows, done=chunk.done)
            if each.collection == chunk.collection
            else each
            for each in self.tables
        )
        return replace(self, tables=tables)


def _is_unknown(table: TableCopy) -> bool:
    return table.estimate is None and not table.done


def _facts(table: TableCopy) -> dict[str, Any]:
    facts: dict[str, Any] = {"rows": table.rows}
    if table.done:
        return facts | {"done": True}
    if table.undescribed:
        return facts | {"undescribed": True}
    if table.estimate is not None:
        facts["estimate"] = table.estimate
    return facts if table.last is None else facts | {"last": dict(table.last)}
