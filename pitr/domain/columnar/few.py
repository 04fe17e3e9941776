"""The state of few rows, and which few rows changed, without an engine.

What it computes is ``domain.fold.fold`` for some keys. Changes that are young lie in the tail and
in small segments: these are read whole. What a row was before is one row of a large file: its pages
are picked out. Where there is too much of either, the caller takes ``changed`` and ``replay``.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pitr.domain.change import Change, Op
from pitr.domain.columnar.changed import CHANGED_SCHEMA, TORN_SHOWN, Between, Changed
from pitr.domain.columnar.difference import BATCH_ROWS, STATE_SCHEMA
from pitr.domain.columnar.engine import translated
from pitr.domain.columnar.large import longest_document
from pitr.domain.columnar.picked import Picks
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.fold import patched_document
from pitr.domain.plan import OWN_PREFIX
from pitr.domain.target import Cut

ROWS_MAX: Final = 10_000
"""Rows of which a state is taken this way."""

PICKED_MAX: Final = 4_000
"""Rows that are picked out of large files: for more an engine reads these whole in less time."""

CHANGES_MAX: Final = 100_000
"""Changes that are read whole."""

BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of these changes, and of the documents that are picked, each at the most."""

Row = tuple[str, str]

_COLUMNS: Final = [
    *("seq", "collection", "key", "op", "after", "unchanged", "at_us", "lane", "tx", "reason")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The files of one snapshot, and where it ends; changes before that are in it."""

    paths: Sequence[Path] = ()
    seq_end: int = 1


# Young changes ----------------------------------------------------------------------------------


def fit(paths: Sequence[Path]) -> bool:
    """Tell whether files are small enough to be read whole.

    Raises:
        DataLoss: One is none of this format.
    """
    rows, size = 0, 0
    with translated():
        for path in paths:
            metadata = pq.read_metadata(path)
            rows += metadata.num_rows
            groups = map(metadata.row_group, range(metadata.num_row_groups))
            size += sum(group.total_byte_size for group in groups)
            if rows > CHANGES_MAX or size > BYTES_MAX:
                return False
    return True


def changes_in(path: Path) -> pa.Table:
    """Read a file that fits.

    Raises:
        DataLoss: It cannot be read.
    """
    with translated(), pq.ParquetFile(path, page_checksum_verification=True) as file:
        return young_changes(file.read(columns=_COLUMNS, use_threads=False))


class YoungFiles:
    """Files that fit, read whole, and kept: a rewind reads what its plan has read."""

    def __init__(self, *, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._known: OrderedDict[Path, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def changes(self, path: Path) -> pa.Table:
        """Return the changes in a file; see ``changes_in``."""
        with self._lock:
            known = self._known.get(path)
            if known is not None:
                self._known.move_to_end(path)
                return known
        found = changes_in(path)
        with self._lock:
            self._known[path] = found
            size = sum(table.nbytes for table in self._known.values())
            while size > self._bytes_max:
                _, oldest = self._known.popitem(last=False)
                size -= oldest.nbytes
        return found


def young_changes(table: pa.Table) -> pa.Table:
    """Return what states are made from of changes."""
    return table.select(_COLUMNS).cast(_SCHEMA)


_SCHEMA: Final = pa.schema([CHANGE_SCHEMA.field(name).with_nullable(True) for name in _COLUMNS])

# Which rows changed -----------------------------------------------------------------------------


def few_changed(changes: pa.Table, between: Between, path: Path) -> Changed | None:
    """Do as ``changed_rows`` does; None where that takes more than young changes.

    Args:
        changes: All that one of the two cuts may hold and the other may not.
        between: Its paths and its tail do not matter.
        path: Where the keys are written.
    """
    differs = pc.xor(_inside(changes, between.then), _inside(changes, between.now))
    own = pc.starts_with(changes["collection"], OWN_PREFIX)
    narrow = [name for name in _COLUMNS if name not in ("after", "unchanged", "lane", "at_us")]
    rows = changes.select(narrow).filter(pc.and_not(differs, own)).to_pylist()
    asked, brought = _names(between.keys or ()), _names(between.brought)
    chosen = [row for row in rows if _is_meant(between, row, asked, brought)]
    if any(row["op"] == Op.TRUNCATE for row in chosen):
        return None
    first: dict[Row, tuple[int, str]] = {}
    for row in chosen:
        place, mine = (row["collection"], row["key"]), (row["seq"], row["op"])
        first[place] = min(first.get(place, mine), mine)
    if len(first) > ROWS_MAX:
        return None
    ordered = sorted(first)
    columns = [[name for name, _ in ordered], [key for _, key in ordered]]
    columns.append([first[place][1] for place in ordered])
    pq.write_table(pa.table(columns, schema=CHANGED_SCHEMA), path, compression="zstd")
    torn = sorted(_torn(rows, chosen, between))
    return Changed(
        path=path,
        counts=dict(Counter(columns[0])),
        seq_first=min((row["seq"] for row in chosen), default=0),
        torn_count=len(torn),
        torn=tuple(torn[:TORN_SHOWN]),
        rows=tuple(ordered),
    )


def _inside(changes: pa.Table, cut: Cut) -> pa.ChunkedArray:
    inside = pc.less(changes["seq"], cut.seq_end)
    if cut.at_us is not None:
        inside = pc.and_(inside, pc.less_equal(changes["at_us"], cut.at_us))
    if cut.without_tx:
        torn = pc.is_in(changes["tx"], pa.array(sorted(cut.without_tx), pa.string()))
        inside = pc.and_not(inside, torn)
    return inside


def _names(keys: Iterable[Row]) -> frozenset[str]:
    return frozenset(name for name, _ in keys)


def _is_meant(
    between: Between, row: Mapping[str, Any], asked: frozenset[str], brought: frozenset[str]
) -> bool:
    """Tell whether a change is of what was asked for; a truncate is of every row."""

    def among(keys: Iterable[Row], names: frozenset[str]) -> bool:
        return (row["collection"], row["key"]) in keys or (
            row["op"] == Op.TRUNCATE and row["collection"] in names
        )

    meant = between.collections is None or row["collection"] in between.collections
    if between.keys is not None:
        meant = meant and among(between.keys, asked)
    if between.reason is not None:
        reason = row["reason"] or ""
        meant = meant and (reason == between.reason or reason.startswith(f"{between.reason}:"))
    return meant or among(between.brought, brought)


def _torn(
    rows: Sequence[Mapping[str, Any]], chosen: Sequence[Mapping[str, Any]], between: Between
) -> set[str]:
    """Find the transactions that changed chosen rows and others; only a part can have them."""
    if between.reason is not None or (between.collections is None and between.keys is None):
        return set()
    ours = {row["seq"] for row in chosen}
    others = {row["tx"] for row in rows if row["seq"] not in ours}
    return {row["tx"] for row in chosen if row["tx"] is not None} & others


# What rows were ---------------------------------------------------------------------------------


def few_states(
    keys: Sequence[Row], base: Base, changes: pa.Table, cut: Cut, *, picks: Picks
) -> Iterator[pa.RecordBatch] | None:
    """Return the rows that have these keys at ``cut``; None if that is not for this way.

    Args:
        keys: In order.
        base: What was before ``changes``.
        changes: Young changes, all from the end of the base on that touch these rows.
        picks: Kept between calls.

    Returns:
        Batches of ``STATE_SCHEMA``, in the order of ``keys``.

    Raises:
        DataLoss: A file is damaged where it was read.
    """
    chains, emptied = _chains(keys, changes, base.seq_end, cut)
    wanted: dict[str, list[str]] = {}
    for collection, key in keys:
        chain = chains.get((collection, key))
        if collection not in emptied and (chain is None or chain[0][0] == Op.PATCH):
            wanted.setdefault(collection, []).append(key)
    count = sum(map(len, wanted.values()))
    longest = max((longest_document(path) for path in base.paths), default=0) if count else 0
    if count > PICKED_MAX or count * longest > BYTES_MAX:
        return None
    before: dict[Row, bytes | None] = {}
    for path in base.paths if wanted else ():
        for collection, key, (after,) in picks.rows(path, wanted, ["after"]):
            before[collection, key] = after
    return _batches((row, _folded(before.get(row), chains.get(row, ()))) for row in keys)


def _chains(
    keys: Sequence[Row], changes: pa.Table, seq_end: int, cut: Cut
) -> tuple[dict[Row, list[Step]], set[str]]:
    """Collect what happened to each row since its newest full image; and what was emptied."""
    names = pa.array(sorted({name for name, _ in keys}), pa.string())
    only = pa.array([*{key for _, key in keys}, ""], pa.string())
    near = pc.and_(_inside(changes, cut), pc.greater_equal(changes["seq"], seq_end))
    near = pc.and_(near, pc.is_in(changes["collection"], names))
    near = pc.and_(near, pc.is_in(changes["key"], only))
    wanted, emptied = frozenset(keys), set[str]()
    chains: dict[Row, list[Step]] = {}
    found = changes.filter(near).select(_STEPS).sort_by("seq")
    steps = zip(*(found[name].to_pylist() for name in _STEPS[1:]), strict=True)
    for collection, key, op, after, unchanged in steps:
        row = (collection, key)
        if op == Op.TRUNCATE:
            emptied.add(collection)
            chains = {each: chain for each, chain in chains.items() if each[0] != collection}
        elif row in wanted and op == Op.PATCH:
            chains.setdefault(row, []).append((op, after, unchanged))
        elif row in wanted:
            chains[row] = [(op, after, unchanged)]
    return chains, emptied


Step = tuple[str, str | None, str | None]
"""What happened to a row: operation, ``after`` and ``unchanged``."""

_STEPS: Final = ["seq", "collection", "key", "op", "after", "unchanged"]


def young_ones(changes: pa.Table) -> list[Change]:
    """Return changes in seq order; what was not read of them is empty."""
    rows = changes.select([name for name in _COLUMNS if name != "reason"]).sort_by("seq")
    return [
        Change(
            seq=row["seq"],
            collection=row["collection"],
            key=row["key"],
            op=Op(row["op"]),
            after=_body(row["after"]),
            unchanged=_body(row["unchanged"]),
            at_us=row["at_us"],
            commit_us=row["at_us"],
            recorded_us=row["at_us"],
            lane=row["lane"],
            position=0,
            tx=row["tx"],
        )
        for row in rows.to_pylist()
    ]


def _folded(before: bytes | None, chain: Sequence[Step]) -> bytes | None:
    document = before
    for op, after, unchanged in chain:
        if op == Op.PATCH:
            document = patched_document(document, (after or "").encode(), _body(unchanged))
        else:
            document = None if op == Op.DELETE else _body(after)
    return document


def _body(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _batches(rows: Iterable[tuple[Row, bytes | None]]) -> Iterator[pa.RecordBatch]:
    found = [(*row, after.decode()) for row, after in rows if after is not None]
    for first in range(0, len(found), BATCH_ROWS):
        columns = zip(*found[first : first + BATCH_ROWS], strict=True)
        arrays = [pa.array(column, pa.string()) for column in columns]
        yield pa.record_batch(arrays, schema=STATE_SCHEMA)
