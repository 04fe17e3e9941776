"""The SQL of a replay, for DuckDB; each function returns one statement.

Views: ``narrow`` has the changes inside the cut without their documents, ``wide`` has all
changes with documents; rows of ``wide`` are picked by seq, never by the cut. Long documents are
already null in ``wide``: nothing above a scan ever holds a batch of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pitr.domain.columnar.engine import literal, literals, parquet
from pitr.domain.columnar.large import LARGE_BYTES, LARGE_COLUMNS
from pitr.domain.columnar.ranges import Range
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.target import Cut

_NARROW = "seq, collection, key, op"

DOCUMENT_ONLY = ("seq", "collection", "key", "op", "after")
"""What is read of a row that is only wanted for its document; seq finds and orders it."""

UNNEEDED = tuple(f.name for f in CHANGE_SCHEMA if f.nullable and f.name not in DOCUMENT_ONLY)

# The kind of a change travels in the lowest bits of its seq, so that one maximum finds both.
_CODE = "CASE op WHEN 'delete' THEN 1 WHEN 'patch' THEN 2 ELSE 0 END"


def narrow_view(
    *,
    base: Sequence[Path],
    segments: Sequence[Path],
    has_tail: bool,
    base_seq_end: int,
    cut: Cut,
    collections: frozenset[str] | None,
) -> str:
    """The changes inside the cut; a base is inside as a whole."""
    named = (
        [] if collections is None else [f"collection IN {literals(sorted(collections) or [''])}"]
    )
    inside = [*named, *_inside(cut), *_from(base_seq_end)]
    parts = [_select(_NARROW, "empty", [])]
    if base:
        parts.append(_select(_NARROW, parquet(base), named))
    if segments:
        parts.append(_select(_NARROW, parquet(segments), inside))
    if has_tail:
        parts.append(_select(_NARROW, "tail", inside))
    return "CREATE VIEW narrow AS " + " UNION ALL ".join(parts)


def wide_view(
    *, base: Sequence[Path], segments: Sequence[Path], has_tail: bool, base_seq_end: int
) -> str:
    """All changes with their documents, long ones null."""
    columns = ", ".join(_short(name) for name in CHANGE_SCHEMA.names)
    parts = [_select(columns, "empty", [])]
    if base:
        parts.append(_select(columns, parquet(base), []))
    if segments:
        parts.append(_select(columns, parquet(segments), _from(base_seq_end)))
    if has_tail:
        parts.append(_select(columns, "tail", _from(base_seq_end)))
    return "CREATE VIEW wide AS " + " UNION ALL ".join(parts)


def base_outside(base: Sequence[Path], *, base_seq_end: int, cut: Cut) -> str:
    """Count rows of the base that do not belong to the cut."""
    inside = " AND ".join([*_inside(cut), f"seq < {base_seq_end}"])
    return f"SELECT count(*) FROM {parquet(base)} WHERE NOT ({inside})"


def newest_table(*, has_patches: bool, has_truncates: bool, has_keys: bool) -> str:
    """The newest change of each key; for patches also where the chain back may end.

    ``anchor`` is the newest change that is not a patch, as seq * 2 + (1 if it is a delete).
    """
    where = ["op <> 'truncate'"] if has_truncates else []
    if has_keys:
        where.append("(collection, key) IN (SELECT (collection, key) FROM wanted)")
    anchor = "max(CASE WHEN op <> 'patch' THEN seq * 2 + (op = 'delete')::BIGINT END)"
    columns = f"collection, key, max(seq * 4 + {_CODE}) AS newest"
    columns += f", {anchor} AS anchor" if has_patches else ", NULL::BIGINT AS anchor"
    query = _select(columns, "narrow", where)
    return f"CREATE TABLE newest AS {query} GROUP BY collection, key"


def truncates_table(*, has_truncates: bool) -> str:
    """The newest truncate of each collection."""
    where = ["op = 'truncate'" if has_truncates else "false"]
    query = _select("collection, max(seq) AS seq", "narrow", where)
    return f"CREATE TABLE truncates AS {query} GROUP BY collection"


LIVING_VIEW = """
CREATE VIEW living AS
SELECT n.collection, n.key, n.newest // 4 AS seq, n.newest % 4 = 2 AS patched,
       coalesce(n.anchor, 0) AS anchor, coalesce(t.seq, 0) AS truncated
FROM newest n LEFT JOIN truncates t USING (collection)
WHERE n.newest % 4 <> 1 AND n.newest // 4 > coalesce(t.seq, 0)
"""

COUNTS = """
SELECT collection, sum(living)::BIGINT FROM (
    SELECT collection, count(*) AS living FROM living GROUP BY collection
    UNION ALL SELECT DISTINCT collection, 0 FROM newest
    UNION ALL SELECT collection, 0 FROM truncates
) GROUP BY collection
"""

# A chain is the patches of a row since its newest full image, with that image in front.
CHAIN_TABLE = """
CREATE TABLE chain AS
SELECT n.collection, n.key, n.seq FROM narrow n JOIN living l USING (collection, key)
WHERE l.patched AND n.seq > l.truncated AND n.op NOT IN ('delete', 'truncate')
  AND n.seq >= l.anchor // 2
"""


def needed_table(*, has_patches: bool) -> str:
    """The seqs of all rows whose documents the state is made from."""
    chain = " UNION SELECT seq FROM chain" if has_patches else ""
    return f"CREATE TABLE needed AS SELECT seq FROM living{chain}"


def state_rows(
    *,
    has_patches: bool,
    has_large: bool,
    collection: str | None,
    part: Range,
    documents_only: bool = False,
) -> str:
    """The living rows of a range in (collection, key) order; patched ones without ``after``.

    With ``documents_only`` other columns than collection, key, op and ``after`` are null, and
    the order is any, unless there are patches: those come from a second stream in the same order.
    """
    given = {name: f'w."{name}"' for name in CHANGE_SCHEMA.names}
    if documents_only:
        given |= {
            field.name: "0::BIGINT" if field.type == pa.int64() else "''"
            for field in CHANGE_SCHEMA
            if field.name not in DOCUMENT_ONLY and not field.nullable
        }
        given |= {f.name: "NULL::VARCHAR" for f in CHANGE_SCHEMA if f.name in UNNEEDED}
    if has_patches:
        given["op"] = "CASE WHEN s.patched THEN 'update' ELSE w.op END"
        given["after"] = "CASE WHEN NOT s.patched THEN w.after END"
    del given["before"], given["unchanged"]
    columns = [f'{value} AS "{name}"' for name, value in given.items()]
    columns.append("s.patched" if has_patches else "false AS patched")
    return _picked(
        "living",
        columns,
        has_large=has_large,
        collection=collection,
        part=part,
        ordered=has_patches or not documents_only,
    )


def chain_rows(*, has_large: bool, collection: str | None, part: Range) -> str:
    """The changes that patched rows are folded from, in (collection, key, seq) order."""
    columns = ["w.seq", "w.collection", "w.key", "w.op", "w.after", "w.unchanged"]
    return _picked("chain", columns, has_large=has_large, collection=collection, part=part)


def _picked(
    table: str,
    columns: list[str],
    *,
    has_large: bool,
    collection: str | None,
    part: Range,
    ordered: bool = True,
) -> str:
    chosen, scanned = part.exactly("p"), part.roughly("w")
    if collection is not None:
        chosen.append(f"p.collection = {literal(collection)}")
        scanned.append(f"w.collection = {literal(collection)}")
    source = f"wide w JOIN ({_select('*', f'{table} p', chosen)}) s ON w.seq = s.seq"
    if has_large:
        source += " LEFT JOIN large g ON g.seq = w.seq"
    places = [
        f"{f'g.{name}_{fact}' if has_large else 'NULL::BIGINT'} AS {name}_{fact}"
        for name in LARGE_COLUMNS
        for fact in ("offset", "bytes")
    ]
    query = _select(", ".join([*columns, *places]), source, scanned)
    return f"{query} ORDER BY w.collection, w.key, w.seq" if ordered else query


def _short(name: str) -> str:
    if name not in LARGE_COLUMNS:
        return f'"{name}"'
    return f'CASE WHEN strlen("{name}") <= {LARGE_BYTES} THEN "{name}" END AS "{name}"'


def _inside(cut: Cut) -> list[str]:
    conditions = [f"seq < {cut.seq_end}"]
    if cut.at_us is not None:
        conditions.append(f"at_us <= {cut.at_us}")
    if cut.without_tx:
        conditions.append("(tx IS NULL OR tx NOT IN (SELECT tx FROM torn))")
    return conditions


def _from(base_seq_end: int) -> list[str]:
    return [f"seq >= {base_seq_end}"] if base_seq_end > 1 else []


def _select(columns: str, source: str, where: list[str]) -> str:
    query = f"SELECT {columns} FROM {source}"
    return f"{query} WHERE {' AND '.join(where)}" if where else query
