"""Finds changes by what they are, and tells what their transactions did; in bounded memory.

Narrow columns decide which changes can match. Documents are read only where conditions on columns
ask for them, a row group at a time, and only where such changes are. What is found stays in DuckDB,
which spills, as seq and transaction; then the few transactions that are shown are looked at.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pitr.domain.change import Op
from pitr.domain.columnar.engine import Engine, literal, literals, parquet, translated
from pitr.domain.errors import Unavailable
from pitr.domain.search import EXAMPLES_MAX, Found, FoundRow, Match, Query, Tally
from pitr.domain.where import meeting

_NARROW: Final = ("seq", "collection", "key", "op", "at_us", "lane", "tx", "actor", "reason")
_DOCUMENTS: Final = ("seq", "before", "after")
_TAIL_ROWS: Final = 16_384
"""Changes of the tail whose documents are looked at together."""

_COPIED_ROWS: Final = 64

_SHOWN_SCHEMA: Final = pa.schema([("number", pa.int32()), ("tx", pa.string()), ("seq", pa.int64())])
_SEQ_SCHEMA: Final = pa.schema([("seq", pa.int64())])


class Search:
    """One search. Close it at the end.

    Args:
        paths: Local segment files that can hold a match; no change is in two of them.
        tail: More changes.
        query: What is searched for; its patterns of collections are not looked at.
        collections: The collections that are searched, by their names.
        without_tx: Transactions that are not whole: their changes are left out.
        memory_bytes: Budget of the whole process.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        tail: pa.Table,
        query: Query,
        *,
        collections: frozenset[str],
        without_tx: frozenset[str] = frozenset(),
        memory_bytes: int,
        spill_folder: Path,
        threads: int,
    ) -> None:
        self._paths = paths
        self._tail = tail
        self._query = query
        self._collections = collections
        self._without_tx = without_tx
        self._ended = threading.Event()
        self._engine = Engine(memory_bytes=memory_bytes, spill_folder=spill_folder, threads=threads)

    def interrupt(self) -> None:
        """End the search that runs in another thread; it raises there."""
        self._ended.set()
        self._engine.interrupt()

    def close(self) -> None:
        """Free memory and disk."""
        self._engine.close()

    def run(self) -> Found:
        """Search; once.

        Raises:
            DataLoss: A file cannot be read.
            Unavailable: The spill folder is full.
        """
        engine = self._engine
        engine.add_table("tail", self._tail.select(_NARROW))
        sources = ["tail", parquet(self._paths)] if self._paths else ["tail"]
        union = " UNION ALL ".join(f"SELECT {', '.join(_NARROW)} FROM {each}" for each in sources)
        engine.run(f"CREATE VIEW changes AS {union}")
        conditions, given = _conditions(self._query, self._collections, self._without_tx)
        engine.run(f"CREATE TABLE hits AS SELECT seq, tx FROM changes WHERE {conditions}", given)
        if self._query.where:
            self._keep_those_that_meet()
        return self._found()

    def _keep_those_that_meet(self) -> None:
        """Leave in ``hits`` only changes whose documents meet the conditions."""
        engine = self._engine
        engine.run("CREATE TABLE met (seq BIGINT)")
        meets = meeting(self._query.where)
        for table in self._documents():
            met = [meets(before, after) for before, after in _pairs(table)]
            seqs = table["seq"].filter(pa.array(met, pa.bool_()))
            engine.add_table("more", pa.table([seqs], schema=_SEQ_SCHEMA))
            engine.run("INSERT INTO met SELECT * FROM more; DROP TABLE more")
        engine.run("CREATE TABLE kept AS SELECT hits.* FROM hits SEMI JOIN met USING (seq)")
        engine.run("DROP TABLE hits; ALTER TABLE kept RENAME TO hits")

    def _documents(self) -> Iterator[pa.Table]:
        """Yield seq and documents of the changes in ``hits``, a row group at a time."""
        for first in range(0, self._tail.num_rows, _TAIL_ROWS):
            part = self._tail.slice(first, _TAIL_ROWS).select(_DOCUMENTS)
            yield part.filter(self._is_hit(part["seq"]))
        for path in self._paths:
            with (
                translated(),
                pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True) as file,
            ):
                for number in range(file.num_row_groups):
                    hit = self._is_hit(_read(file, number, ["seq"])["seq"])
                    if pc.any(hit).as_py():
                        yield _read(file, number, list(_DOCUMENTS)).filter(hit)

    def _is_hit(self, seqs: pa.ChunkedArray) -> pa.ChunkedArray:
        if self._ended.is_set():
            raise Unavailable("the search was ended")
        self._engine.add_table("candidates", pa.table([seqs], schema=_SEQ_SCHEMA))
        hits = list(self._engine.stream("SELECT seq FROM candidates SEMI JOIN hits USING (seq)"))
        self._engine.run("DROP TABLE candidates")
        return pc.is_in(seqs, pa.Table.from_batches(hits, _SEQ_SCHEMA)["seq"])

    def _found(self) -> Found:
        query, engine = self._query, self._engine
        engine.run(_TRANSACTIONS.format(count_min=int(query.count_min)))
        engine.run(_SINGLES if query.count_min <= 1 else _NO_SINGLES)
        counted: Any = engine.rows(_COUNTS)
        order = "ASC" if query.oldest_first else "DESC"
        shown: Any = engine.rows(_SHOWN.format(order=order, limit=int(query.limit)))
        matches = self._matches(shown) if shown else ()
        return Found(matches=matches, match_count=counted[0][0], change_count=counted[0][1])

    def _matches(self, shown: Sequence[tuple[str | None, int]]) -> tuple[Match, ...]:
        """Look closely at transactions and single changes, named by (tx, first seq)."""
        engine = self._engine
        rows = [(number, tx, seq) for number, (tx, seq) in enumerate(shown)]
        named = [dict(zip(_SHOWN_SCHEMA.names, row, strict=True)) for row in rows]
        engine.add_table("shown", pa.Table.from_pylist(named, schema=_SHOWN_SCHEMA))
        engine.run(_CHOSEN)
        ((first, last),) = engine.rows("SELECT min(seq), max(seq) FROM chosen")
        of_chosen = f"changes c JOIN chosen USING (seq) WHERE c.seq BETWEEN {first} AND {last}"
        spans: Any = engine.rows(_SPANS.format(of_chosen=of_chosen))
        counted: Any = engine.rows(_TALLIES.format(of_chosen=of_chosen))
        tallies: defaultdict[int, list[Tally]] = defaultdict(list)
        for number, collection, op, count in counted:
            tallies[number].append(Tally(collection=collection, op=Op(op), count=count))
        examples = self._examples()
        return tuple(
            Match(
                tx=shown[number][0],
                seq_first=seq_first,
                seq_end=seq_last + 1,
                at_min_us=at_min_us,
                at_max_us=at_max_us,
                actor=actor,
                actor_count=actor_count,
                reason=reason,
                reason_count=reason_count,
                tallies=tuple(tallies[number]),
                examples=tuple(examples[number]),
            )
            for (
                number,
                seq_first,
                seq_last,
                at_min_us,
                at_max_us,
                actor,
                actor_count,
                reason,
                reason_count,
            ) in spans
        )

    def _examples(self) -> Mapping[int, list[FoundRow]]:
        """The first rows of each match, by its number."""
        query = f"SELECT number, min(seq, {EXAMPLES_MAX}) FROM chosen GROUP BY number"
        firsts: Any = self._engine.rows(query)
        number_of = {seq: number for number, seqs in firsts for seq in seqs}
        seqs = sorted(number_of)
        chosen = f"seq BETWEEN {seqs[0]} AND {seqs[-1]} AND seq IN {literals(seqs)}"
        rows: Any = self._engine.rows(
            f"SELECT seq, collection, op, key FROM changes WHERE {chosen} ORDER BY seq"
        )
        found: defaultdict[int, list[FoundRow]] = defaultdict(list)
        for seq, collection, op, key in rows:
            row = FoundRow(seq=seq, collection=collection, op=Op(op), key=key)
            found[number_of[seq]].append(row)
        return found


_TRANSACTIONS: Final = """
CREATE TABLE transactions AS
SELECT tx, min(seq) AS seq, count(*) AS count FROM hits WHERE tx IS NOT NULL GROUP BY tx
HAVING count(*) >= {count_min}
"""
_SINGLES: Final = "CREATE VIEW singles AS SELECT tx, seq FROM hits WHERE tx IS NULL"
_NO_SINGLES: Final = "CREATE VIEW singles AS SELECT tx, seq FROM hits WHERE false"
_COUNTS: Final = """
SELECT (SELECT count(*) FROM transactions) + (SELECT count(*) FROM singles),
       (SELECT count(*) FROM hits)
"""
_SHOWN: Final = """
SELECT tx, seq FROM (SELECT tx, seq FROM transactions UNION ALL SELECT tx, seq FROM singles)
ORDER BY seq {order} LIMIT {limit}
"""
_CHOSEN: Final = """
CREATE TABLE chosen AS
SELECT number, h.seq FROM hits h JOIN shown USING (tx)
UNION ALL SELECT number, seq FROM shown WHERE tx IS NULL
"""
_SPANS: Final = """
SELECT number, min(c.seq), max(c.seq), min(at_us), max(at_us),
       arg_min(actor, c.seq) FILTER (actor IS NOT NULL), count(DISTINCT actor),
       arg_min(reason, c.seq) FILTER (reason IS NOT NULL), count(DISTINCT reason)
FROM {of_chosen} GROUP BY number ORDER BY number
"""
_TALLIES: Final = """
SELECT number, collection, op, count(*) FROM {of_chosen} GROUP BY number, collection, op
ORDER BY number, count(*) DESC, collection, op
"""


def _conditions(
    query: Query, collections: frozenset[str], without_tx: frozenset[str]
) -> tuple[str, list[object]]:
    """Write what a change must be as SQL, with the values of its parameters."""
    given: list[object] = []

    def value(text: str) -> str:
        given.append(text)
        return f"${len(given)}"

    found = [_in("collection", collections)]
    if query.ops:
        found.append(_in("op", query.ops))
    if query.since_us is not None:
        found.append(f"at_us >= {query.since_us:d}")
    if query.until_us is not None:
        found.append(f"at_us <= {query.until_us:d}")
    if query.key is not None:
        found.append(f"key = {value(query.key)}")
    if query.reason is not None:
        found.append(f"contains(reason, {value(query.reason)})")
    for name, pattern in (("actor", query.actor), ("lane", query.lane)):
        if pattern is not None:
            found.append(f"{name} LIKE {value(_like(pattern))} ESCAPE '\\'")
    if query.txs:
        found.append(f"tx IN ({', '.join(value(tx) for tx in sorted(query.txs))})")
    if without_tx:
        left_out = ", ".join(value(tx) for tx in sorted(without_tx))
        found.append(f"(tx IS NULL OR tx NOT IN ({left_out}))")
    return " AND ".join(found), given


def _in(column: str, values: frozenset[Any]) -> str:
    names = sorted(str(value) for value in values)
    if len(names) == 1:
        return f"{column} = {literal(names[0])}"
    return f"{column} IN {literals(names)}" if names else "false"


def _like(pattern: str) -> str:
    """Write a pattern with ``*`` as one of SQL."""
    for special in ("\\", "%", "_"):
        pattern = pattern.replace(special, f"\\{special}")
    return pattern.replace("*", "%")


def _read(file: pq.ParquetFile, number: int, columns: list[str]) -> pa.Table:
    return file.read_row_group(number, columns=columns, use_threads=False).select(columns)


def _pairs(table: pa.Table) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Yield the documents before and after each change; a few at a time are copied."""
    for first in range(0, table.num_rows, _COPIED_ROWS):
        part = table.slice(first, _COPIED_ROWS)
        before, after = (part[name].cast(pa.binary()).to_pylist() for name in ("before", "after"))
        yield from zip(before, after, strict=True)
