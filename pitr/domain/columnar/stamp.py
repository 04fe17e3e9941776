"""Gives changes their seq and times (invariants 4 and 5); it knows no clock and no catalog."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pitr.domain.columnar.schema import CHANGE_SCHEMA


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamped:
    """Changes ready for the log; ``at_us_last`` is where log time stands in their lane now.

    ``clamped_count`` counts the changes dated further ahead than the allowed skew.
    """

    table: pa.Table
    at_us_last: int
    clamped_count: int


def stamp(
    changes: pa.Table,
    *,
    seq_first: int,
    lane: str,
    position_first: int | None,
    lane_at_us: int,
    recorded_us: int,
    skew_us: int,
) -> Stamped:
    """Turn drafts of one lane into changes of the log.

    Args:
        changes: ``DRAFT_SCHEMA``, in input order.
        seq_first: The seq of the first of them.
        lane: Where they come from.
        position_first: Added to positions that are relative to the batch; None if they are not.
        lane_at_us: Log time of the lane's last change; no change gets an earlier one.
        recorded_us: The present, and the commit time of changes that have none.
        skew_us: How far ahead of ``recorded_us`` log time may be.
    """
    count = changes.num_rows
    commit = pc.fill_null(_flat(changes["commit_us"]), recorded_us)
    limit_us = recorded_us + skew_us
    at = _log_times(_flat(changes["tx"]), commit, lane_at_us=lane_at_us, limit_us=limit_us)
    given = {
        "seq": pa.array(range(seq_first, seq_first + count), pa.int64()),
        "at_us": at,
        "commit_us": commit,
        "recorded_us": _constant(recorded_us, count, pa.int64()),
        "lane": _constant(lane, count, pa.string()),
        "position": pc.add(_flat(changes["position"]), position_first or 0),
    }
    columns = [given[name] if name in given else changes[name] for name in CHANGE_SCHEMA.names]
    return Stamped(
        table=pa.table(columns, schema=CHANGE_SCHEMA),
        at_us_last=at[-1].as_py() if count else lane_at_us,
        clamped_count=pc.sum(pc.greater(commit, limit_us)).as_py() or 0,
    )


def _log_times(tx: pa.Array, commit: pa.Array, *, lane_at_us: int, limit_us: int) -> pa.Array:
    """Return at_us: the running maximum, equal within every transaction.

    Log time never decreases, so a transaction whose changes all have the same time gives that time
    to everything between its first and its last change. Spans that overlap therefore share
    one time, the running maximum at the end of the last of them: the least solution there is.
    """
    running = pc.cumulative_max(
        pc.max_element_wise(pc.min_element_wise(commit, limit_us), lane_at_us)
    )
    if len(tx) == tx.null_count:
        return running
    place = pa.array(range(len(tx)), pa.int64())
    reach = pc.cumulative_max(pc.coalesce(_last_place_of_tx(tx, place), place))
    at_span_end = pc.if_else(pc.equal(reach, place), running, pa.scalar(None, pa.int64()))
    return pc.fill_null_backward(at_span_end)


def _last_place_of_tx(tx: pa.Array, place: pa.Array) -> pa.Array:
    codes = tx.dictionary_encode().indices
    last = pa.table({"code": codes, "place": place}).group_by("code").aggregate([("place", "max")])
    last = last.filter(pc.is_valid(last["code"])).sort_by("code")
    return _flat(last["place_max"]).take(codes)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _constant(value: object, count: int, type_: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(value, type_), count)
