"""Targets, as people write them, and cuts: which changes belong to the state of a moment."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from pitr.domain.change import Change
from pitr.domain.errors import InvalidRequest
from pitr.domain.log import Gap, LogView
from pitr.domain.manifest import ObjectRef
from pitr.domain.times import duration_us, time_us

PULLED_PREFIXES = ("kafka:", "postgres:")
"""Of lanes that belong to one source, which spreads a transaction over them."""

TRANSACTION_WINDOW = 100_000
"""Changes around a seq target that are searched for transactions it would tear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The resolved form of every target: exactly the changes that are in the state.

    A change is inside when ``seq < seq_end``, and ``at_us <= self.at_us`` unless that is None,
    and its ``tx`` is not one of ``without_tx`` (transactions that the target would tear in two
    stay out whole: invariant 5).
    """

    seq_end: int
    at_us: int | None = None
    without_tx: frozenset[str] = field(default_factory=frozenset)

    def holds(self, *, seq: int, at_us: int, tx: str | None) -> bool:
        """Tell whether the change is in the state."""
        in_time = self.at_us is None or at_us <= self.at_us
        return seq < self.seq_end and in_time and (tx is None or tx not in self.without_tx)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What was asked for; ``text`` is as it was written. A target with ``at_us`` means a time."""

    text: str
    kind: Literal["latest", "time", "seq", "mark", "before_tx"]
    at_us: int | None = None
    seq: int | None = None
    name: str | None = None


def parse_target(text: str, *, now_us: int) -> Target:
    """Read a target.

    ``latest``, an RFC 3339 time with an offset, ``now-10m`` (counted back from ``now_us``),
    ``seq:N`` (after change N), ``before-seq:N``, ``before-tx:ID``, ``mark:NAME``.

    Raises:
        InvalidRequest: It is none of these.
    """
    head, colon, rest = text.partition(":")
    if text == "latest":
        return Target(text=text, kind="latest")
    if text == "now" or text.startswith("now-"):
        back = duration_us(text[4:]) if text != "now" else 0
        return Target(text=text, kind="time", at_us=now_us - back)
    if colon and head in ("seq", "before-seq"):
        seq = _seq(rest, text)
        if head == "before-seq" and seq == 0:
            raise InvalidRequest("there is no change 0", hint="the first is seq 1", target=text)
        return Target(text=text, kind="seq", seq=seq - 1 if head == "before-seq" else seq)
    if colon and head in ("mark", "before-tx") and rest:
        kind: Literal["mark", "before_tx"] = "mark" if head == "mark" else "before_tx"
        return Target(text=text, kind=kind, name=rest)
    if re.fullmatch(r"[0-9]+", text):
        raise InvalidRequest(
            "a bare number is not a target", hint=f"say seq:{text}, or a time", target=text
        )
    return Target(text=text, kind="time", at_us=time_us(text))


def parse_moment(text: str, *, now_us: int, name: str) -> int:
    """Read a time as targets write it, µs; ``name`` is what it is called where it stands.

    Raises:
        InvalidRequest: It is no time.
    """
    hint = "write it like 2026-03-01T09:30:00Z or now-10m"
    try:
        target = parse_target(text, now_us=now_us)
    except InvalidRequest as error:
        raise InvalidRequest(error.message, hint=error.hint or hint, **{name: text}) from error
    if target.at_us is None:
        raise InvalidRequest("this is not a time", hint=hint, **{name: text})
    return target.at_us


def _seq(digits: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", digits) or int(digits) >= 2**63 - 1:
        raise InvalidRequest("the seq is not a number", hint="write seq:42", target=text)
    return int(digits)


Position = Literal["exact", "between", "past", "future", "gap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """A target against the log: which changes are in, and what lies on both sides.

    ``position`` is ``exact`` on a change, ``between`` two (or after the newest one), in the
    ``past`` of the first, inside a ``gap``, or in the ``future``: ahead of the watermark. What is
    ahead can only be looked at; then ``cut`` is what there is of it so far.
    """

    target: Target
    position: Position
    cut: Cut
    previous: Change | None
    next: Change | None
    watermark_us: int
    gaps: tuple[Gap, ...] = ()
    torn: dict[str, int] = field(default_factory=dict)


def position_of(target: Target, previous: Change | None) -> Position:
    """Name where a target lies, by the last change that it takes in."""
    if previous is None:
        return "past"
    if target.at_us is not None and previous.at_us != target.at_us:
        return "between"
    return "exact"


def gaps_touched(gaps: Iterable[Gap], cut: Cut, *, after_change: bool = False) -> tuple[Gap, ...]:
    """The known holes in what ``cut`` takes in.

    Args:
        after_change: The state is that right after its last change, so a hole that begins there
            is not in it. Any other target may mean a moment after the hole: the latest one does.
    """
    return tuple(
        gap
        for gap in gaps
        if gap.seq_end <= cut.seq_end - after_change
        and (cut.at_us is None or gap.at_min_us is None or gap.at_min_us <= cut.at_us)
        and not _healed(gap, cut)
    )


def _healed(gap: Gap, cut: Cut) -> bool:
    """Tell whether ``cut`` takes in what ended the gap."""
    if gap.healed_seq_end is None or cut.seq_end < gap.healed_seq_end:
        return False
    return cut.at_us is None or gap.at_max_us is None or cut.at_us > gap.at_max_us


def inside_gap(gaps: Iterable[Gap], at_us: int) -> bool:
    """Tell whether a time lies in a hole whose times are known."""
    return any(
        gap.at_min_us is not None
        and gap.at_max_us is not None
        and gap.at_min_us <= at_us <= gap.at_max_us
        for gap in gaps
    )


def neighbour_objects(view: LogView, at_us: int) -> tuple[ObjectRef, ...]:
    """The segments that can hold the last change at or before ``at_us``, or the first after it."""
    before = [ref.at_max_us for ref in view.segments if ref.at_max_us <= at_us]
    after = [ref.at_min_us for ref in view.segments if ref.at_min_us > at_us]
    return tuple(
        ref
        for ref in view.segments
        if ref.at_min_us <= at_us < ref.at_max_us
        or (ref.at_max_us <= at_us and ref.at_max_us == max(before))
        or (ref.at_min_us > at_us and ref.at_min_us == min(after))
    )


def may_straddle(view: LogView) -> bool:
    """Tell whether transactions may come in parts through several lanes of a pulled source."""
    pulled = [lane for lane in view.lanes if lane.lane.startswith(PULLED_PREFIXES)]
    return len(pulled) > 1


def torn_by_seq(near: Iterable[tuple[int, str | None]], seq_end: int) -> dict[str, int]:
    """Find the transactions on both sides of a seq among the (seq, tx) around it.

    Returns:
        Their first seq, by transaction.
    """
    first: dict[str, int] = {}
    torn: dict[str, int] = {}
    for seq, tx in near:
        if tx is None:
            continue
        if seq < seq_end:
            first.setdefault(tx, seq)
        elif tx in first:
            torn[tx] = first[tx]
    return torn
