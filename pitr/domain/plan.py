"""What a replay reads: the cheapest base and the segments after it; decisions only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pitr.domain.errors import DataLoss
from pitr.domain.log import LogView
from pitr.domain.manifest import ObjectRef
from pitr.domain.target import Cut

OWN_PREFIX: Final = "pitr."
"""Of collections that are the log's own, like the schemas of captured tables: no app's rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """The objects that the state at ``cut`` is made from, and whether the tail is needed.

    ``base`` are the parts of one snapshot, ``base_seq_end`` its end (1 without one): rows of
    segments below it are skipped. ``collections`` are those that exist below it, with rows or
    without.
    """

    cut: Cut
    base: tuple[ObjectRef, ...]
    base_seq_end: int
    segments: tuple[ObjectRef, ...]
    tail: bool
    collections: frozenset[str]

    @property
    def objects(self) -> tuple[ObjectRef, ...]:
        """All objects, base first."""
        return self.base + self.segments

    @property
    def size_bytes(self) -> int:
        """Bytes to read."""
        return sum(ref.size_bytes for ref in self.objects)

    @property
    def has_patches(self) -> bool:
        """Whether any segment holds a patch."""
        return any("patch" in ops for ref in self.segments for ops in ref.ops.values())

    @property
    def has_truncates(self) -> bool:
        """Whether any segment holds a truncate."""
        return any("truncate" in ops for ref in self.segments for ops in ref.ops.values())


def is_own(collection: str) -> bool:
    """Tell whether a collection is the log's own: it is restored only if it is asked for."""
    return collection.startswith(OWN_PREFIX)


def chosen(known: Iterable[str], asked: frozenset[str] | None) -> frozenset[str] | None:
    """Say which collections are restored if these were asked for; None is all, in both places."""
    if asked is not None:
        return asked
    names = frozenset(known)
    apps = frozenset(name for name in names if not is_own(name))
    return None if apps == names else apps


def plan_reads(
    view: LogView,
    cut: Cut,
    *,
    torn: Mapping[str, int] | None = None,
    collections: frozenset[str] | None = None,
    use_snapshots: bool = True,
) -> Reads:
    """Choose what to read for the state at ``cut``.

    Args:
        torn: First seq of each transaction in ``cut.without_tx``.
        collections: Only these are wanted; objects without them are left out.
        use_snapshots: False replays from the first change on, for tests of invariant 11.

    Raises:
        DataLoss: A change that is needed is in no object and not in the tail.
    """
    base = _base(view, cut, torn or {}) if use_snapshots else ()
    base_seq_end = base[0].seq_end if base else 1
    check_coverage(view)
    segments = tuple(
        ref
        for ref in view.segments
        if ref.seq_end > base_seq_end
        and ref.seq_first < cut.seq_end
        and (cut.at_us is None or ref.at_min_us <= cut.at_us)
        and (collections is None or not collections.isdisjoint(ref.ops))
    )
    existing = {name for ref in view.segments if ref.seq_first < base_seq_end for name in ref.ops}
    existing |= {ref.collection for ref in base if ref.collection is not None}
    if collections is not None:
        base = tuple(ref for ref in base if ref.collection in collections)
        existing &= collections
    return Reads(
        cut=cut,
        base=base,
        base_seq_end=base_seq_end,
        segments=segments,
        tail=view.tail.num_rows > 0,
        collections=frozenset(existing),
    )


def _base(view: LogView, cut: Cut, torn: Mapping[str, int]) -> tuple[ObjectRef, ...]:
    """The newest snapshot without a change that ``cut`` leaves out (invariant 11)."""
    seq_end_max = min([cut.seq_end, *torn.values()])
    usable = [
        ref
        for ref in view.snapshots
        if ref.seq_end <= seq_end_max and (cut.at_us is None or ref.at_max_us <= cut.at_us)
    ]
    seq_end = max((ref.seq_end for ref in usable), default=0)
    return tuple(ref for ref in usable if ref.seq_end == seq_end)


def check_coverage(view: LogView) -> None:
    """Check that segments and tail hold every seq below ``seq_next`` exactly once.

    Raises:
        DataLoss: A range is missing or there twice; facts name it.
    """
    reached = 1
    ranges = [(ref.seq_first, ref.seq_end) for ref in view.segments]
    for first, end in sorted(ranges + _runs(view.tail.column("seq").to_pylist())):
        if first != reached:
            raise DataLoss(
                "changes are missing from the log"
                if first > reached
                else "changes are listed twice",
                seq_first=min(first, reached),
                seq_end=max(first, reached),
            )
        reached = end
    if reached != view.state.seq_next:
        raise DataLoss(
            "changes are missing from the log", seq_first=reached, seq_end=view.state.seq_next
        )


def _runs(seqs: list[int]) -> list[tuple[int, int]]:
    """Ranges without a hole in ascending seqs."""
    runs: list[tuple[int, int]] = []
    for place, seq in enumerate(seqs):
        if place == 0 or seq != seqs[place - 1] + 1:
            runs.append((seq, seq + 1))
        else:
            runs[-1] = (runs[-1][0], seq + 1)
    return runs
