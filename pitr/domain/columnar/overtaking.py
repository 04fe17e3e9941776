"""Changes of the app that came into the log before a rewind that they followed.

Where no stream of an attached database brings a rewind into the log, the rewind tells the log
itself, right after its commit; and another lane (Kafka, HTTP) may bring the same changes once more:
its echo. A change by another lane that leaves a row as the rewind left it, and is newer than the
rewind's beginning, is the echo. What that lane says of the row after its echo happened after the
rewind, though it may stand before it in the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from pitr.domain.columnar.engine import Engine, literal, parquet

_COLUMNS = "seq, lane, collection, key, op, after"

_OVERTOOK: Final = """
WITH own AS (
    SELECT collection, key, max(seq) AS seq,
        arg_max(struct_pack(after := after), seq).after AS shown,
        (arg_max(struct_pack(after := after), seq) FILTER (op <> 'read')).after AS wrote
    FROM changes WHERE lane = {lane} GROUP BY collection, key HAVING bool_or(op <> 'read')
), others AS (
    SELECT c.lane, c.collection, c.key, c.seq, c.after, o.seq AS own_seq, o.shown,
        c.after IS NOT DISTINCT FROM o.wrote AS is_same
    FROM changes c JOIN own o USING (collection, key)
    WHERE c.lane <> {lane} AND c.op NOT IN ('truncate', 'read')
), echoes AS (
    SELECT lane, collection, key, min(seq) AS seq FROM others WHERE is_same
    GROUP BY lane, collection, key
), newest AS (
    SELECT o.collection, o.key, max(o.seq) AS seq, any_value(o.own_seq) AS own_seq,
        arg_max(struct_pack(after := o.after), o.seq).after AS after,
        arg_max(struct_pack(shown := o.shown), o.seq).shown AS shown
    FROM others o JOIN echoes e USING (lane, collection, key) WHERE o.seq > e.seq
    GROUP BY o.collection, o.key
)
SELECT collection, key, after FROM newest
WHERE seq < own_seq AND after IS DISTINCT FROM shown ORDER BY collection, key LIMIT {limit}
"""


def overtaking(
    paths: Sequence[Path],
    tail: pa.Table,
    *,
    lane: str,
    seq_first: int,
    limit: int,
    memory_bytes: int,
    spill_folder: Path,
    threads: int,
) -> list[tuple[str, str, str | None]]:
    """Return rows of which another lane said something newer before the rewind's lane spoke.

    Args:
        paths: Segments with changes from ``seq_first`` on.
        tail: With ``CHANGE_SCHEMA``.
        lane: The rewind's.
        seq_first: Where the log ended when the rewind began.
        limit: How many rows at most.
        memory_bytes: For all of it.
        spill_folder: What does not fit goes there.
        threads: How many.

    Returns:
        Collection, key, and the document that the row has had since; None if it is gone.

    Raises:
        DataLoss: A file cannot be read.
    """
    engine = Engine(memory_bytes=memory_bytes, spill_folder=spill_folder, threads=threads)
    try:
        engine.add_table("tail", tail)
        sources = ["tail", parquet(paths)] if paths else ["tail"]
        union = " UNION ALL ".join(f"SELECT {_COLUMNS} FROM {source}" for source in sources)
        engine.run(f"CREATE VIEW changes AS SELECT * FROM ({union}) WHERE seq >= {seq_first:d}")
        rows: list[Any] = engine.rows(_OVERTOOK.format(lane=literal(lane), limit=limit))
        return rows
    finally:
        engine.close()
