"""About how many rows tables have, without reading them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import asyncpg

LOCK_WAIT_MS: Final = 200

# The statistics that the server gathers all the time are nearest; a crash loses them, and then
# what the last VACUUM or ANALYZE saw counts. Where neither tells anything, it is what the planner
# takes: as many rows as fit into the pages, each as wide as its types usually are (PostgreSQL,
# table_block_relation_estimate_size and get_typavgwidth).
_GUESS: Final = """
    pg_relation_size(c.oid) * (current_setting('block_size')::float8 - 24)
    / current_setting('block_size')::float8
    / (28 + (SELECT coalesce(sum(CASE WHEN a.attlen > 0 THEN a.attlen ELSE 32 END), 0)
             FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped))
"""

_ESTIMATES: Final = """
SELECT wanted.relid, sum(found.rows)::bigint AS rows
FROM unnest($1::bigint[]) AS wanted (relid)
CROSS JOIN LATERAL (
    SELECT wanted.relid::oid AS leaf
    UNION SELECT t.relid FROM pg_partition_tree(wanted.relid::oid::regclass) t
) AS below
JOIN pg_class c ON c.oid = below.leaf AND c.relkind = 'r'
CROSS JOIN LATERAL (
    SELECT CASE WHEN pg_stat_get_live_tuples(c.oid) > 0 THEN pg_stat_get_live_tuples(c.oid)
                WHEN c.reltuples >= 0 THEN c.reltuples
                ELSE {guess} END AS rows
) AS found
GROUP BY wanted.relid
HAVING count(found.rows) > 0
"""


async def estimated_rows(connection: Any, relids: Sequence[int]) -> dict[int, int]:
    """Return about how many rows each of these tables has, with its partitions; by relid.

    Tables that are gone are left out, and those of which nothing is known but their size while
    somebody holds a lock.
    """
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_WAIT_MS}ms'")
            rows = await connection.fetch(_ESTIMATES.format(guess=_GUESS), list(relids))
    except asyncpg.LockNotAvailableError:
        rows = await connection.fetch(_ESTIMATES.format(guess="NULL"), list(relids))
    return {row["relid"]: row["rows"] for row in rows}
