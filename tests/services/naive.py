"""The oracle: keeps every change, replays from the start, every time. Dumber than the code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pitr.domain.batch import Batch
from pitr.domain.change import Change, Op
from pitr.domain.fold import fold
from pitr.domain.target import Cut


class NaiveLog:
    """What a log must be, after the appends it is told of."""

    def __init__(self, skew_us: int) -> None:
        self.changes: list[Change] = []
        self.positions: dict[str, int] = {}
        self._skew_us = skew_us

    def append(self, batch: Batch, *, recorded_us: int) -> None:
        """Take a batch, all of it or what its lane does not have."""
        stands = self.positions.get(batch.lane, batch.position_first or 0)
        rows = [row for row in batch.changes.to_pylist() if row["position"] >= stands]
        lane_at = [change.at_us for change in self.changes if change.lane == batch.lane]
        floor = max(lane_at, default=-(2**63))
        fresh = [self._change(row, batch.lane, recorded_us) for row in rows]
        self.changes += self._timed(fresh, floor, recorded_us)
        self.positions[batch.lane] = max(batch.position_end, stands)

    def _change(self, row: dict[str, Any], lane: str, recorded_us: int) -> Change:
        commit_us = row.pop("commit_us")
        for name in ("after", "before", "unchanged", "meta"):
            row[name] = row[name].encode() if row[name] is not None else None
        row["op"] = Op(row["op"])
        return Change(
            **row,
            seq=0,
            at_us=0,
            lane=lane,
            commit_us=recorded_us if commit_us is None else commit_us,
            recorded_us=recorded_us,
        )

    def _timed(self, fresh: list[Change], floor: int, recorded_us: int) -> list[Change]:
        times = [min(change.commit_us, recorded_us + self._skew_us) for change in fresh]
        while True:
            before = list(times)
            for place in range(len(times)):
                times[place] = max([floor, *times[: place + 1]])
            for place, change in enumerate(fresh):
                if change.tx is not None:
                    pairs = zip(times, fresh, strict=True)
                    times[place] = max(time for time, other in pairs if other.tx == change.tx)
            if times == before:
                break
        seq = len(self.changes) + 1
        return [
            replace(change, seq=seq + place, at_us=times[place])
            for place, change in enumerate(fresh)
        ]

    def cut(self, *, at_us: int | None = None, seq_end: int | None = None) -> Cut:
        """Every change up to a time or seq, without transactions that are partly beyond it."""
        plain = Cut(seq_end=seq_end or len(self.changes) + 1, at_us=at_us)
        inside = {c.tx for c in self.changes if plain.holds(seq=c.seq, at_us=c.at_us, tx=None)}
        beyond = {c.tx for c in self.changes if not plain.holds(seq=c.seq, at_us=c.at_us, tx=None)}
        return replace(plain, without_tx=frozenset((inside & beyond) - {None}))

    def state(self, cut: Cut) -> dict[Any, Any]:
        """(after, seq) by (collection, key)."""
        return {row: (c.after, c.seq) for row, c in fold(self.changes, cut).items()}
