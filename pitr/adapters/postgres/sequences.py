"""Reads what sequences stand at: their moves are not in the stream of changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pitr.domain.pgoutput.source import SequenceValue
from pitr.domain.pgoutput.sql import qualified

AT_ONCE: Final = 200
"""Sequences that one statement reads."""

_SEQUENCES: Final = """
SELECT n.nspname AS schema, c.relname AS name, c.oid::bigint AS relid,
    has_sequence_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE') AS readable
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND c.relpersistence = 'p'
  AND ($1::bigint[] IS NULL OR c.oid = ANY ($1::bigint[]::oid[]))
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pitr')
ORDER BY n.nspname, c.relname
"""


async def sequence_values(
    connection: Any, relids: Sequence[int] | None = None
) -> tuple[SequenceValue, ...]:
    """Read these sequences, or all of the app's; None for values that the role may not read.

    ``pg_sequences`` does not tell what a sequence was set to before its first use.

    Raises:
        Conflict: One was dropped meanwhile.
    """
    rows = await connection.fetch(_SEQUENCES, None if relids is None else list(relids))
    readable = [row for row in rows if row["readable"]]
    values: dict[int, tuple[int, bool]] = {}
    for first in range(0, len(readable), AT_ONCE):
        query = " UNION ALL ".join(map(_reading, readable[first : first + AT_ONCE]))
        for row in await connection.fetch(query):
            values[row["relid"]] = (row["last_value"], row["is_called"])
    return tuple(
        SequenceValue(
            schema=row["schema"], name=row["name"], relid=relid, last_value=last, is_called=called
        )
        for row in rows
        for relid in [row["relid"]]
        for last, called in [values.get(relid, (None, None))]
    )


def _reading(row: Any) -> str:
    name = qualified(row["schema"], row["name"])
    return f"SELECT {row['relid']}::bigint AS relid, last_value, is_called FROM {name}"
