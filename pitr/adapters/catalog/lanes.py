"""Lanes of a source that is pulled: claims, reports of where the source stands, gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pitr.adapters.catalog import rows
from pitr.adapters.catalog.connection import Connected
from pitr.adapters.catalog.entries import locked_log
from pitr.domain.admission import AT_US_MIN
from pitr.domain.errors import LaneTaken, PositionConflict
from pitr.domain.log import Gap, LaneReport, LaneState


class Lanes(Connected):
    """The part of the catalog that capture works with besides appends."""

    _CLAIM = f"""
    INSERT INTO pitr.lanes AS lane
        (log_id, lane, position, at_us, recorded_us, complete_us, owner, seen_us)
    SELECT $1, starts.lane, starts.position, $4, $5, $4, $6, $5
    FROM unnest($2::text[], $3::bigint[]) AS starts (lane, position)
    ON CONFLICT (log_id, lane) DO UPDATE
    SET owner = CASE WHEN lane.state ? 'replaced_by' THEN lane.owner ELSE excluded.owner END,
        seen_us = CASE WHEN lane.state ? 'replaced_by' THEN lane.seen_us ELSE excluded.seen_us END,
        complete_us = CASE WHEN lane.state ? 'replaced_by' THEN lane.complete_us
                           ELSE coalesce(lane.complete_us, excluded.complete_us) END
    RETURNING {rows.LANE_COLUMNS}
    """

    async def claim(
        self, log: str, owner: str, starts: Mapping[str, int], *, recorded_us: int
    ) -> dict[str, LaneState]:
        """Make ``owner`` the only one that may append to these lanes.

        Under the log's lock: once this returns, no append of an earlier owner can succeed. A lane
        that was replaced stays as it is: it gets nothing more, and is nobody's.

        Args:
            starts: The lanes, with the position that a new one starts from.
            recorded_us: Now, which is when the new owner was seen first.

        Returns:
            Where each lane stands.
        """
        async with self._transaction() as connection:
            state = await locked_log(connection, log)
            found = await connection.fetch(
                self._CLAIM,
                *(state.log_id, list(starts), list(starts.values())),
                *(AT_US_MIN, recorded_us, owner),
            )
        return {row["lane"]: rows.lane_state(row) for row in found}

    _REPORT = """
    UPDATE pitr.lanes AS lane
    SET source_first = coalesce(said.source_first, lane.source_first),
        source_end = coalesce(said.source_end, lane.source_end),
        seen_us = coalesce(said.seen_us, lane.seen_us),
        rate = said.rate, problem = said.problem, lag_bytes = said.lag_bytes,
        copy_rate = said.copy_rate,
        complete_us = CASE WHEN lane.position = said.position
                           THEN greatest(lane.complete_us, said.complete_us)
                           ELSE lane.complete_us END
    FROM pitr.logs AS log,
         unnest($3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
                $8::float8[], $9::text[], $10::bigint[], $11::bigint[], $12::float8[])
         AS said (lane, position, source_first, source_end, seen_us, rate, problem, complete_us,
                  lag_bytes, copy_rate)
    WHERE log.name = $1 AND lane.log_id = log.log_id AND lane.owner = $2 AND lane.lane = said.lane
    """

    async def report(self, log: str, owner: str, reports: Sequence[LaneReport]) -> None:
        """Note what an owner sees of its lanes; lanes that it lost meanwhile stay as they are.

        ``complete_us`` counts only while the lane stands where the report says.
        """
        columns = [
            [getattr(report, name) for report in reports]
            for name in (
                *("lane", "position", "source_first", "source_end", "seen_us"),
                *("rate", "problem", "complete_us", "lag_bytes", "copy_rate"),
            )
        ]
        async with self._connection() as connection:
            await connection.execute(self._REPORT, log, owner, *columns)

    _LEAVE = """
    UPDATE pitr.lanes AS lane SET owner = NULL, rate = NULL, copy_rate = NULL
    FROM pitr.logs AS log
    WHERE log.name = $1 AND lane.log_id = log.log_id AND lane.owner = $2 AND lane.lane = $3
    """

    async def leave(self, log: str, owner: str, lane: str) -> None:
        """Let another take a lane at once; one that is another's by now stays as it is.

        Unlike ``release`` it goes on holding the watermark back: its source goes on.
        """
        async with self._connection() as connection:
            await connection.execute(self._LEAVE, log, owner, lane)

    _MOVE = """
    UPDATE pitr.lanes SET position = $4, recorded_us = $5
    WHERE log_id = $1 AND lane = $2 AND position = $3 AND owner = $6
    """
    _GAP = """
    INSERT INTO pitr.gaps
        (log_id, lane, position_first, position_end, at_min_us, at_max_us, seq_end, reason,
         recorded_us, collection)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
    """

    async def record_gap(self, log: str, gap: Gap) -> None:
        """Record a known hole (invariant 7); the lane stays where it is."""
        async with self._transaction() as connection:
            state = await locked_log(connection, log)
            await connection.execute(self._GAP, state.log_id, *_gap_values(gap))

    _IS_OPEN = """
    SELECT EXISTS (SELECT FROM pitr.gaps WHERE log_id = $1 AND lane = $2 AND reason = $3
                   AND collection IS NOT DISTINCT FROM $4 AND healed_seq_end IS NULL)
    """

    async def open_gap(self, log: str, owner: str, gap: Gap) -> None:
        """Record a hole that will heal, unless it is recorded; its ``seq_end`` is the log's.

        Raises:
            LaneTaken: The lane is not this owner's: what it knows is of another time.
        """
        async with self._transaction() as connection:
            state = await locked_log(connection, log)
            await self._check_owner(connection, state.log_id, gap.lane, owner)
            known = (state.log_id, gap.lane, gap.reason, gap.collection)
            if not await connection.fetchval(self._IS_OPEN, *known):
                gap = replace(gap, seq_end=state.seq_next)
                await connection.execute(self._GAP, state.log_id, *_gap_values(gap))

    _HEAL = """
    UPDATE pitr.gaps SET healed_seq_end = $3, at_max_us = greatest($4, at_min_us)
    WHERE log_id = $1 AND lane = $2 AND healed_seq_end IS NULL AND at_max_us IS NULL
      AND CASE WHEN collection IS NULL THEN $6 AND cardinality($5::text[]) = 0
               ELSE NOT collection = ANY($5) END
    """

    async def heal_gaps(
        self, log: str, owner: str, lane: str, *, at_us: int, but: Sequence[str], all_known: bool
    ) -> int:
        """End the open gaps of a lane: the log holds everything of these collections again.

        Args:
            at_us: Log time from which on that is so.
            but: Collections whose rows are still being read.
            all_known: Whether there are no other collections to read, so that a gap of the whole
                source can end.

        Returns:
            How many gaps healed.

        Raises:
            LaneTaken: The lane is not this owner's: what it has read is of another time.
        """
        async with self._transaction() as connection:
            state = await locked_log(connection, log)
            await self._check_owner(connection, state.log_id, lane, owner)
            done = await connection.execute(
                self._HEAL, state.log_id, lane, state.seq_next, at_us, list(but), all_known
            )
        return int(done.split()[-1])

    _OWNER = "SELECT owner FROM pitr.lanes WHERE log_id = $1 AND lane = $2"

    async def _check_owner(self, connection: Any, log_id: int, lane: str, owner: str) -> None:
        found = await connection.fetchval(self._OWNER, log_id, lane)
        if found != owner:
            raise LaneTaken("the lane belongs to another worker", lane=lane, owner=found)

    async def skip(self, log: str, owner: str, gap: Gap) -> Gap:
        """Record what a lane's source has lost, and move the lane past it, at once.

        Args:
            gap: ``position_first`` is where the lane stands, ``position_end`` where it goes on;
                its ``seq_end`` is taken from the log.

        Raises:
            PositionConflict: The lane stands elsewhere, or is another's by now.
        """
        async with self._transaction() as connection:
            state = await locked_log(connection, log)
            gap = replace(gap, seq_end=state.seq_next)
            moved = await connection.execute(
                self._MOVE,
                *(state.log_id, gap.lane, gap.position_first, gap.position_end),
                *(gap.recorded_us, owner),
            )
            if moved != "UPDATE 1":
                raise PositionConflict(
                    "the lane does not stand where the gap begins, or is another worker's",
                    lane=gap.lane,
                    got=gap.position_first,
                )
            await connection.execute(self._GAP, state.log_id, *_gap_values(gap))
        return gap

    _REPLACE = """
    UPDATE pitr.lanes
    SET complete_us = NULL, owner = NULL, problem = NULL,
        state = state || jsonb_build_object('replaced_by', $3::text)
    WHERE log_id = $1 AND lane = $2 AND NOT state ? 'replaced_by' RETURNING position
    """

    async def replace_lane(self, log: str, lane: str, replaced_by: str, gap: Gap) -> bool:
        """End a lane whose source is another one by now: what follows comes in a new lane.

        Args:
            gap: What is unknown; its ``position_first`` and ``seq_end`` are taken from the log.

        Returns:
            Whether there was such a lane.
        """
        async with self._transaction() as connection:
            state = await locked_log(connection, log)
            stood = await connection.fetchval(self._REPLACE, state.log_id, lane, replaced_by)
            if stood is None:
                return False
            gap = replace(gap, position_first=stood, seq_end=state.seq_next)
            await connection.execute(self._GAP, state.log_id, *_gap_values(gap))
        return True

    _RELEASE = """
    UPDATE pitr.lanes AS lane SET complete_us = NULL, owner = NULL, problem = NULL
    FROM pitr.logs AS log WHERE log.name = $1 AND lane.log_id = log.log_id AND lane.lane = $2
    RETURNING lane.lane
    """

    async def release(self, log: str, lane: str) -> bool:
        """Let a lane that will get nothing more hold the watermark back no longer.

        Returns:
            Whether there is such a lane.
        """
        async with self._connection() as connection:
            return await connection.fetchval(self._RELEASE, log, lane) is not None


def _gap_values(gap: Gap) -> tuple[object, ...]:
    return (
        *(gap.lane, gap.position_first, gap.position_end, gap.at_min_us, gap.at_max_us),
        *(gap.seq_end, gap.reason, gap.recorded_us, gap.collection),
    )
