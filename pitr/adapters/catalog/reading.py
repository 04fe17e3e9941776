"""Views of a log: every read happens in one frozen transaction, so that nothing is seen twice."""

from __future__ import annotations

from typing import Any

from pitr.adapters.catalog import rows
from pitr.adapters.catalog.connection import Connected
from pitr.adapters.catalog.entries import unknown_log
from pitr.domain.log import LaneState, LogState, LogView
from pitr.domain.manifest import ObjectRef

_NO_ROWS: list[Any] = []


class Reading(Connected):
    """The part of the catalog that is read by restores and audits."""

    def __init__(self, pool: Any) -> None:
        super().__init__(pool)
        self._objects: dict[int, tuple[int, tuple[ObjectRef, ...]]] = {}

    _LOG = f"SELECT {rows.LOG_COLUMNS} FROM pitr.logs WHERE name = $1"

    async def log(self, name: str) -> LogState:
        """Return where a log stands.

        Raises:
            NotFound: There is no such log.
        """
        async with self._connection() as connection:
            return await self._state(connection, name)

    async def _state(self, connection: Any, name: str) -> LogState:
        row = await connection.fetchrow(self._LOG, name)
        if row is None:
            raise unknown_log(name)
        return rows.log_state(row)

    _LOGS = f"SELECT {rows.LOG_COLUMNS} FROM pitr.logs ORDER BY name"

    async def logs(self) -> list[LogState]:
        """Return every log, by name."""
        async with self._connection() as connection:
            return [rows.log_state(row) for row in await connection.fetch(self._LOGS)]

    _CREATE = """
    INSERT INTO pitr.logs (name, uid, created_us, manifest_hash) VALUES ($1, $2, $3, $4)
    ON CONFLICT (name) DO NOTHING
    """

    async def create_log(
        self, name: str, *, uid: str, created_us: int, manifest_hash: str
    ) -> LogState:
        """Make a log if there is none of that name; return it either way."""
        async with self._connection() as connection:
            await connection.execute(self._CREATE, name, uid, created_us, manifest_hash)
            return await self._state(connection, name)

    _LANE = f"""
    SELECT {rows.LANE_COLUMNS} FROM pitr.lanes JOIN pitr.logs l USING (log_id)
    WHERE l.name = $1 AND lane = $2
    """

    async def lane(self, log: str, lane: str) -> LaneState | None:
        """Return where a lane stands, None if it is new."""
        async with self._connection() as connection:
            row = await connection.fetchrow(self._LANE, log, lane)
        return rows.lane_state(row) if row is not None else None

    async def head(self, log: str, lane: str) -> tuple[LogState, LaneState | None]:
        """Return where the log and one lane stand, as of one moment."""
        async with self._transaction(read_only=True) as connection:
            state = await self._state(connection, log)
            row = await connection.fetchrow(self._LANE, log, lane)
            return state, rows.lane_state(row) if row is not None else None

    _LANES_LIKE = f"""
    SELECT {rows.LANE_COLUMNS} FROM pitr.lanes JOIN pitr.logs l USING (log_id)
    WHERE l.name = $1 AND starts_with(lane, $2) ORDER BY lane
    """

    async def lanes(self, log: str, *, prefix: str = "") -> list[LaneState]:
        """Return the lanes whose name starts with ``prefix``, by name."""
        async with self._connection() as connection:
            found = await connection.fetch(self._LANES_LIKE, log, prefix)
        return [rows.lane_state(row) for row in found]

    async def view(self, log: str, *, tail: bool = True) -> LogView:
        """Return one consistent view of the log.

        Args:
            tail: Bring the tail along; without it ``tail`` is empty.
        """
        async with self._transaction(read_only=True) as connection:
            state = await self._state(connection, log)
            found = await connection.fetch(self._TAIL, state.log_id) if tail else _NO_ROWS
            lanes = await connection.fetch(self._LANES_OF, state.log_id)
            gaps = await connection.fetch(self._GAPS, state.log_id)
            objects = await self._live(connection, state)
        return LogView(
            state=state,
            objects=objects,
            tail=rows.change_table(found),
            lanes=tuple(rows.lane_state(lane) for lane in lanes),
            gaps=tuple(rows.gap(gap) for gap in gaps),
        )

    ROW_VIEW = f"""
    SELECT {", ".join(f"l.{name}" for name in rows.LOG_NAMES)},
           {", ".join(f"t.{name} AS t_{name}" for name in rows.CHANGE_COLUMNS)}
    FROM pitr.logs l LEFT JOIN pitr.tail t
      ON t.log_id = l.log_id AND t.collection = $2
     AND hashtextextended(t.key, 0) IN (hashtextextended($3, 0), hashtextextended('', 0))
     AND t.key IN ($3, '')
    WHERE l.name = $1 ORDER BY t.seq
    """

    async def row_view(self, log: str, collection: str, key: str) -> LogView:
        """Return a consistent view with only what touches one row: its changes and truncates.

        One statement, for the sake of its round trip; lanes and gaps are left out.

        Raises:
            NotFound: There is no such log.
        """
        async with self._connection() as connection:
            found = await connection.fetch(self.ROW_VIEW, log, collection, key)
        if not found:
            raise unknown_log(log)
        state = rows.log_state({name: found[0][name] for name in rows.LOG_NAMES})
        objects = self._objects.get(state.log_id)
        if objects is None or objects[0] != state.manifest_version:
            await self.view(log, tail=False)  # remembers the objects of the version now
            return await self.row_view(log, collection, key)
        changes = [tuple(row)[len(rows.LOG_NAMES) :] for row in found if row["t_seq"] is not None]
        return LogView(state=state, objects=objects[1], tail=rows.change_table(changes))

    _LANES_OF = f"SELECT {rows.LANE_COLUMNS} FROM pitr.lanes WHERE log_id = $1 ORDER BY lane"
    _GAPS = """
    SELECT lane, position_first, position_end, at_min_us, at_max_us, seq_end, reason, recorded_us,
           collection, healed_seq_end
    FROM pitr.gaps WHERE log_id = $1 ORDER BY gap_id
    """

    _TAIL = f"SELECT {', '.join(rows.CHANGE_COLUMNS)} FROM pitr.tail WHERE log_id = $1 ORDER BY seq"
    _LIVE = """
    SELECT ref FROM pitr.objects WHERE log_id = $1 AND retired_us IS NULL
    ORDER BY kind, seq_first, seq_end, name
    """

    async def _live(self, connection: Any, state: LogState) -> tuple[ObjectRef, ...]:
        """The live objects, remembered by manifest version: each version has one list for ever."""
        known = self._objects.get(state.log_id)
        if known is None or known[0] != state.manifest_version:
            found = await connection.fetch(self._LIVE, state.log_id)
            known = (state.manifest_version, tuple(rows.object_ref(row["ref"]) for row in found))
            self._objects[state.log_id] = known
        return known[1]

    _TORN = """
    SELECT tx, seq_first FROM pitr.transactions
    WHERE log_id = $1 AND parts > 1
      AND (seq_first < $2 AND seq_last >= $2
           OR $3::bigint IS NOT NULL AND at_min_us <= $3 AND at_max_us > $3)
    UNION
    SELECT tx, seq_first FROM pitr.transactions
    WHERE log_id = $1 AND seq_first < $2 AND md5(tx) IN (
        SELECT md5(state->>'open_tx') FROM pitr.lanes
        WHERE log_id = $1 AND state->>'open_tx' IS NOT NULL)
    """

    async def torn(self, state: LogState, *, seq_end: int, at_us: int | None) -> dict[str, int]:
        """Return the transactions that a cut would tear.

        Those that came in parts and lie on both sides of it, and those of which the source has not
        sent the rest yet (a lane's state names it as ``open_tx``).

        Returns:
            Their first seq, by transaction.
        """
        async with self._connection() as connection:
            found = await connection.fetch(self._TORN, state.log_id, seq_end, at_us)
        return {row["tx"]: row["seq_first"] for row in found}
