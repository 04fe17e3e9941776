"""Seals, compactions, snapshots and expiry: what becomes of changes after their append."""

from __future__ import annotations

import pyarrow as pa

from pitr.adapters.catalog import rows
from pitr.adapters.catalog.connection import Connected
from pitr.adapters.catalog.entries import add_entry, locked_log
from pitr.domain.errors import Conflict
from pitr.domain.log import TailStats
from pitr.domain.manifest import Entry, EntryKind, ObjectRef

TRANSACTIONS_KEPT = 100_000
"""Changes after which a transaction that came in one append is forgotten: it is whole by then."""


class Sealing(Connected):
    """The part of the catalog that turns the tail into objects and objects into others."""

    _STATS = """
    SELECT count(*) AS row_count, min(recorded_us) AS oldest_us,
           coalesce(sum(octet_length(after) + coalesce(octet_length(before), 0)), 0) AS size_bytes
    FROM pitr.tail JOIN pitr.logs USING (log_id) WHERE name = $1
    """

    async def tail_stats(self, log: str) -> TailStats:
        """Return how much of the log is not sealed yet."""
        async with self._connection() as connection:
            row = await connection.fetchrow(self._STATS, log)
        return TailStats(
            row_count=row["row_count"],
            size_bytes=int(row["size_bytes"]),
            oldest_us=row["oldest_us"],
        )

    _RUN = f"""
    WITH oldest AS (
        SELECT t.* FROM pitr.tail t JOIN pitr.logs l USING (log_id)
        WHERE l.name = $1 ORDER BY t.seq LIMIT $2
    ), sized AS (
        SELECT *, seq - row_number() OVER (ORDER BY seq) AS run,
               sum(octet_length(coalesce(after, '')) + octet_length(coalesce(before, '')) + 200)
                   OVER (ORDER BY seq) AS bytes_so_far
        FROM oldest
    )
    SELECT {", ".join(rows.CHANGE_COLUMNS)} FROM sized
    WHERE run = (SELECT min(run) FROM sized)
      AND (bytes_so_far <= $3 OR seq = (SELECT min(seq) FROM sized))
    ORDER BY seq
    """

    async def oldest_run(self, log: str, *, rows_max: int, bytes_max: int) -> pa.Table:
        """Return the oldest tail changes without a hole in seq, within both limits, at least one.

        Empty when nothing waits. Holes are where larger appends became segments at once.
        """
        async with self._connection() as connection:
            return rows.change_table(await connection.fetch(self._RUN, log, rows_max, bytes_max))

    _CUT_TAIL = "DELETE FROM pitr.tail WHERE log_id = $1 AND seq >= $2 AND seq < $3"
    _FORGET = "DELETE FROM pitr.transactions WHERE log_id = $1 AND parts = 1 AND seq_last < $2"

    async def seal(self, log: str, segment: ObjectRef, *, recorded_us: int) -> Entry:
        """List a durable segment in place of the tail changes that it holds.

        Raises:
            Conflict: Another sealer was faster; nothing changed.
        """
        async with self._transaction() as connection:
            state = await locked_log(connection, log)
            await connection.execute("SELECT set_config('pitr.sealer', 'on', true)")
            done = await connection.execute(
                self._CUT_TAIL, state.log_id, segment.seq_first, segment.seq_end
            )
            if done != f"DELETE {segment.row_count}":
                raise Conflict("the tail was sealed by another", seq_first=segment.seq_first)
            await connection.execute(self._FORGET, state.log_id, state.seq_next - TRANSACTIONS_KEPT)
            return await add_entry(
                connection, state, kind="seal", add=(segment,), recorded_us=recorded_us
            )

    async def replace_objects(
        self,
        log: str,
        *,
        kind: EntryKind,
        add: tuple[ObjectRef, ...] = (),
        retire: tuple[str, ...] = (),
        expire: tuple[str, ...] = (),
        recorded_us: int,
    ) -> Entry:
        """List durable objects, retire others, forget retired ones, in one entry.

        Raises:
            Conflict: The manifest moved: an object to retire is not live any more.
        """
        async with self._transaction() as connection:
            state = await locked_log(connection, log)
            return await add_entry(
                connection,
                state,
                kind=kind,
                add=add,
                retire=retire,
                expire=expire,
                recorded_us=recorded_us,
            )

    _ENTRIES = """
    SELECT m.version, m.body, m.hash FROM pitr.manifest m JOIN pitr.logs l USING (log_id)
    WHERE l.name = $1 AND m.version >= $2 ORDER BY m.version LIMIT $3
    """

    async def entries(
        self, log: str, *, version_first: int, limit: int = 1_000
    ) -> list[tuple[int, bytes, str]]:
        """Return (version, body, hash) of manifest entries from ``version_first`` on, in order."""
        async with self._connection() as connection:
            found = await connection.fetch(self._ENTRIES, log, version_first, limit)
        return [(row["version"], bytes(row["body"]), row["hash"]) for row in found]

    _PUBLISHED = """
    UPDATE pitr.logs SET published_version = greatest(published_version, $2) WHERE name = $1
    """

    async def published(self, log: str, version: int) -> None:
        """Note that entries up to ``version`` are in the store."""
        async with self._connection() as connection:
            await connection.execute(self._PUBLISHED, log, version)
