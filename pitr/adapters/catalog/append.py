"""Appends: the transactions that add to a log, under its row lock (invariants 1, 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from pitr.adapters.catalog import rows
from pitr.adapters.catalog.connection import Connected
from pitr.adapters.catalog.entries import add_entry, locked_log
from pitr.domain.admission import AT_US_MIN, Admitted, admit
from pitr.domain.batch import Batch
from pitr.domain.columnar.stamp import Stamped, stamp
from pitr.domain.errors import Conflict, IdempotencyConflict, PitrError, SequenceMoved
from pitr.domain.log import Appended, LaneState, LogState
from pitr.domain.manifest import ObjectRef

TRANSACTIONS_PER_APPEND_MAX = 1_000
"""Newest transactions of one append that are remembered, to know them again in the next."""


@dataclass(slots=True)
class _Group:
    """One append of several batches, as it fills up."""

    log: LogState
    seq_next: int
    lanes: dict[str, LaneState]
    answers: dict[str, dict[str, Any]]
    tables: list[pa.Table]
    parted: list[pa.Table]
    clamped: int = 0


class Appends(Connected):
    """The part of the catalog that adds changes."""

    async def append(
        self, log: str, batches: Sequence[Batch], *, recorded_us: int, skew_us: int
    ) -> list[Appended | PitrError]:
        """Add the batches to the tail in one transaction; durable on return.

        Each batch is judged alone: the answer at its index is what it stored, or the error that
        kept it out while the others went in.

        Raises:
            NotFound: There is no such log.
            Unavailable: The catalog did not answer; it is unknown whether the append happened.
        """
        async with self._transaction() as connection:
            state = await locked_log(connection, log)
            group = await self._group(connection, state, batches)
            results: list[Appended | PitrError] = []
            for batch in batches:
                try:
                    results.append(await _add(connection, group, batch, recorded_us, skew_us))
                except PitrError as error:
                    results.append(error)
            await _store_group(connection, group)
        return results

    _LANES = f"SELECT {rows.LANE_COLUMNS} FROM pitr.lanes WHERE log_id = $1 AND lane = ANY($2)"
    _ANSWERS = (
        "SELECT key, body_sha256, answer FROM pitr.idempotency WHERE log_id = $1 AND key = ANY($2)"
    )

    async def _group(self, connection: Any, state: LogState, batches: Sequence[Batch]) -> _Group:
        lanes = await connection.fetch(
            self._LANES, state.log_id, list({batch.lane for batch in batches})
        )
        keys = [batch.idempotency.key for batch in batches if batch.idempotency]
        answers = await connection.fetch(self._ANSWERS, state.log_id, keys) if keys else []
        return _Group(
            log=state,
            seq_next=state.seq_next,
            lanes={row["lane"]: rows.lane_state(row) for row in lanes},
            answers={row["key"]: dict(row) for row in answers},
            tables=[],
            parted=[],
        )

    async def append_segment(
        self,
        log: str,
        batch: Batch,
        *,
        segment: ObjectRef,
        stamped: Stamped,
        lane_position: int | None,
        recorded_us: int,
    ) -> Appended:
        """List a segment that holds ``batch`` as the log's newest changes.

        Args:
            segment: The object, durable already, made for the seq it names.
            stamped: The changes in it.
            lane_position: Where the lane stood when it was made, None for a lane that is new.

        Raises:
            SequenceMoved: The log or the lane grew meanwhile: make the segment again.
            Conflict: The quarantined input it was made from is resolved already.
        """
        async with self._transaction() as connection:
            state = await locked_log(connection, log)
            group = await self._group(connection, state, [batch])
            lane = group.lanes.get(batch.lane)
            known = _known_answer(group, batch)
            if known is not None:
                return known
            stands = None if lane is None else lane.position
            if state.seq_next != segment.seq_first or stands != lane_position:
                raise SequenceMoved(
                    "the log grew", seq_next=state.seq_next, seq_first=segment.seq_first
                )
            admitted = admit(batch, lane)
            appended = await _record(connection, group, batch, admitted, stamped, recorded_us)
            parted = rows.parted(stamped.table, batch.parted)
            await _store_transactions(connection, state.log_id, parted)
            await add_entry(
                connection,
                replace(state, seq_next=group.seq_next),
                kind="append",
                add=(segment,),
                recorded_us=recorded_us,
            )
            await _advance(connection, group)
        return appended


async def _add(
    connection: Any, group: _Group, batch: Batch, recorded_us: int, skew_us: int
) -> Appended:
    known = _known_answer(group, batch)
    if known is not None:
        return known
    lane = group.lanes.get(batch.lane)
    admitted = admit(batch, lane)
    if admitted.duplicate:
        return _nothing_new(group, batch, admitted)
    stamped = stamp(
        admitted.changes,
        seq_first=group.seq_next,
        lane=batch.lane,
        position_first=None,
        lane_at_us=lane.at_us if lane is not None else AT_US_MIN,
        recorded_us=recorded_us,
        skew_us=skew_us,
    )
    appended = await _record(connection, group, batch, admitted, stamped, recorded_us)
    group.tables.append(stamped.table)
    group.parted.append(rows.parted(stamped.table, batch.parted))
    return appended


def _known_answer(group: _Group, batch: Batch) -> Appended | None:
    if batch.idempotency is None or batch.idempotency.key not in group.answers:
        return None
    known = group.answers[batch.idempotency.key]
    if known["body_sha256"] != batch.idempotency.body_sha256:
        raise IdempotencyConflict(
            "the idempotency key was used with another body",
            hint="use a new Idempotency-Key for a new body",
            key=batch.idempotency.key,
        )
    return Appended(**(known["answer"] | {"duplicate": True}))


def _nothing_new(group: _Group, batch: Batch, admitted: Admitted) -> Appended:
    return Appended(
        lane=batch.lane,
        seq_first=group.seq_next,
        seq_end=group.seq_next,
        position_end=admitted.position_end,
        duplicate=True,
    )


async def _record(
    connection: Any,
    group: _Group,
    batch: Batch,
    admitted: Admitted,
    stamped: Stamped,
    recorded_us: int,
) -> Appended:
    """Store what goes with the changes, and move lane and seq on in ``group``."""
    if batch.resolves is not None:
        await _resolve(connection, group.log.log_id, batch.resolves, recorded_us)
    await _store_quarantine(connection, group.log.log_id, batch.lane, admitted, recorded_us)
    appended = Appended(
        lane=batch.lane,
        seq_first=group.seq_next,
        seq_end=group.seq_next + stamped.table.num_rows,
        position_end=admitted.position_end,
        quarantined_count=len(admitted.quarantined),
        clamped_count=stamped.clamped_count,
    )
    if batch.idempotency is not None:
        await _store_answer(connection, group, batch, appended, recorded_us)
    group.lanes[batch.lane] = _moved(group, batch, admitted, stamped, recorded_us)
    await _store_lane(connection, group.log.log_id, group.lanes[batch.lane])
    group.seq_next = appended.seq_end
    group.clamped += stamped.clamped_count
    return appended


def _moved(
    group: _Group, batch: Batch, admitted: Admitted, stamped: Stamped, recorded_us: int
) -> LaneState:
    before = group.lanes.get(batch.lane)
    state = before.state if before is not None else {}
    return LaneState(
        lane=batch.lane,
        position=admitted.position_end,
        at_us=max(stamped.at_us_last, before.at_us if before is not None else AT_US_MIN),
        change_count=(before.change_count if before is not None else 0) + stamped.table.num_rows,
        recorded_us=recorded_us,
        complete_us=_complete_us(before, stamped),
        state=batch.lane_state if batch.lane_state is not None else state,
    )


def _complete_us(before: LaneState | None, stamped: Stamped) -> int | None:
    """A pulled lane is complete up to its last change, but others of the same time may follow."""
    if before is None or before.complete_us is None:
        return None
    return (
        max(before.complete_us, stamped.at_us_last - 1)
        if stamped.table.num_rows
        else before.complete_us
    )


_STORE_LANE = """
INSERT INTO pitr.lanes
    (log_id, lane, position, at_us, change_count, recorded_us, state, complete_us)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (log_id, lane) DO UPDATE
SET position = excluded.position, at_us = excluded.at_us, change_count = excluded.change_count,
    recorded_us = excluded.recorded_us, state = excluded.state,
    complete_us = greatest(lanes.complete_us, excluded.complete_us)
"""


async def _store_lane(connection: Any, log_id: int, lane: LaneState) -> None:
    await connection.execute(
        _STORE_LANE,
        log_id,
        lane.lane,
        lane.position,
        lane.at_us,
        lane.change_count,
        lane.recorded_us,
        dict(lane.state),
        lane.complete_us,
    )


async def _store_group(connection: Any, group: _Group) -> None:
    if group.tables:
        table = pa.concat_tables(group.tables)
        await connection.copy_records_to_table(
            "tail",
            schema_name="pitr",
            columns=("log_id", *rows.CHANGE_COLUMNS),
            records=rows.change_records(table, group.log.log_id),
        )
        await _store_transactions(connection, group.log.log_id, pa.concat_tables(group.parted))
    await _advance(connection, group)


_ADVANCE = """
UPDATE pitr.logs SET seq_next = $2, clamped_count = clamped_count + $3 WHERE log_id = $1
"""


async def _advance(connection: Any, group: _Group) -> None:
    if group.seq_next != group.log.seq_next:
        await connection.execute(_ADVANCE, group.log.log_id, group.seq_next, group.clamped)


_STORE_TRANSACTIONS = """
INSERT INTO pitr.transactions AS known (log_id, tx, seq_first, seq_last, at_min_us, at_max_us)
SELECT $1, * FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[])
ON CONFLICT (log_id, md5(tx)) DO UPDATE
SET seq_last = excluded.seq_last, parts = known.parts + 1,
    at_min_us = least(known.at_min_us, excluded.at_min_us),
    at_max_us = greatest(known.at_max_us, excluded.at_max_us)
"""


async def _store_transactions(connection: Any, log_id: int, table: pa.Table) -> None:
    spans = rows.transaction_spans(table, count_max=TRANSACTIONS_PER_APPEND_MAX)
    if spans:
        columns = [list(values) for values in zip(*spans, strict=True)]
        await connection.execute(_STORE_TRANSACTIONS, log_id, *columns)


_STORE_ANSWER = """
INSERT INTO pitr.idempotency (log_id, key, body_sha256, answer, recorded_us)
VALUES ($1, $2, $3, $4, $5)
"""


async def _store_answer(
    connection: Any, group: _Group, batch: Batch, appended: Appended, recorded_us: int
) -> None:
    assert batch.idempotency is not None
    key, digest = batch.idempotency.key, batch.idempotency.body_sha256
    answer = asdict(appended)
    await connection.execute(_STORE_ANSWER, group.log.log_id, key, digest, answer, recorded_us)
    group.answers[key] = {"body_sha256": digest, "answer": answer}


async def _store_quarantine(
    connection: Any, log_id: int, lane: str, admitted: Admitted, recorded_us: int
) -> None:
    if not admitted.quarantined:
        return
    await connection.copy_records_to_table(
        "quarantine",
        schema_name="pitr",
        columns=(
            *("log_id", "lane", "position", "body", "format", "code", "reason", "recorded_us"),
            "meta",
        ),
        records=[
            (
                *(log_id, lane, q.position, q.body, q.format, q.code, q.reason, recorded_us),
                q.meta.decode() if q.meta is not None else None,
            )
            for q in admitted.quarantined
        ],
    )


_RESOLVE = """
UPDATE pitr.quarantine SET status = 'replayed', resolved_us = $3
WHERE log_id = $1 AND quarantine_id = $2 AND status = 'waiting'
"""


async def _resolve(connection: Any, log_id: int, quarantine_id: int, resolved_us: int) -> None:
    done = await connection.execute(_RESOLVE, log_id, quarantine_id, resolved_us)
    if done != "UPDATE 1":
        raise Conflict("the quarantined input is resolved already", quarantine_id=quarantine_id)
