"""Targets against a log are named; ahead of it they are refused (invariants 5, 6, 7)."""

from __future__ import annotations

import pytest

from pitr.domain.errors import InvalidRequest, NotFound, TargetBeyondWatermark
from pitr.domain.log import Gap
from pitr.domain.target import Resolution
from pitr.domain.times import rfc3339
from tests.changes import batch, draft
from tests.conftest import START_US
from tests.services.world import World

T1, T2, T3 = START_US - 300, START_US - 200, START_US - 100


def at(us: int) -> str:
    return str(rfc3339(us))


async def resolve(world: World, target: str) -> Resolution:
    view = await world.archive.view(world.log)
    found = await world.resolver.resolve(view, target)
    if target == "latest":
        newest = await world.resolver.newest(view)
        assert (newest.cut, newest.torn, newest.gaps) == (found.cut, found.torn, found.gaps)
    return found


@pytest.fixture(params=["tail", "sealed", "both"])
async def filled(world: World, request: pytest.FixtureRequest) -> World:
    rows = [draft(1, commit_us=T1), draft(2, commit_us=T2, tx="t"), draft(1, commit_us=T3, tx="t2")]
    if request.param == "both":
        await world.append(batch(rows[:2]))
        await world.sealer.seal(world.log, force=True)
        await world.append(batch(rows[2:], position_first=2))
        return world
    await world.append(batch(rows))
    if request.param == "sealed":
        await world.sealer.seal(world.log, force=True)
    return world


@pytest.mark.parametrize(
    ("target", "position", "previous", "following"),
    [
        (at(T1 - 1), "past", None, 1),
        (at(T1), "exact", 1, 2),
        (at(T1 + 1), "between", 1, 2),
        (at(T3 - 1), "between", 2, 3),
        (at(T3), "exact", 3, None),
        (at(T3 + 1), "between", 3, None),
        ("now", "between", 3, None),
        ("latest", "exact", 3, None),
        ("seq:0", "past", None, 1),
        ("seq:2", "exact", 2, 3),
        ("before-seq:3", "exact", 2, 3),
        ("before-tx:t", "exact", 1, 2),
    ],
)
async def test_a_target_is_named_with_both_neighbours(
    filled: World, target: str, position: str, previous: int | None, following: int | None
) -> None:
    found = await resolve(filled, target)
    assert found.position == position
    assert (found.previous.seq if found.previous else None) == previous
    assert (found.next.seq if found.next else None) == following


@pytest.mark.parametrize("target", [at(START_US + 1), "seq:4", "before-seq:9"])
async def test_a_target_ahead_of_the_log_is_refused(filled: World, target: str) -> None:
    with pytest.raises(TargetBeyondWatermark) as error:
        await resolve(filled, target)
    assert error.value.hint


@pytest.mark.parametrize(
    ("target", "seq_end"), [(at(START_US + 1), 4), ("seq:4", 4), ("before-seq:9", 4)]
)
async def test_what_is_ahead_of_the_log_can_be_looked_at(
    filled: World, target: str, seq_end: int
) -> None:
    found = await filled.resolver.resolve(await filled.archive.view(filled.log), target, ahead=True)
    assert (found.position, found.cut.seq_end, found.next) == ("future", seq_end, None)
    assert found.previous is not None
    assert found.previous.seq == 3
    plain = await filled.resolver.resolve(
        await filled.archive.view(filled.log), "latest", ahead=True
    )
    assert plain.position == "exact"


@pytest.mark.parametrize("target", ["mark:none", "before-tx:none"])
async def test_what_does_not_exist_is_not_found(filled: World, target: str) -> None:
    with pytest.raises(NotFound):
        await resolve(filled, target)


@pytest.mark.parametrize("target", ["2026-03-01T09:30:00", "42", "yesterday", "seq:x", "now-10"])
async def test_what_cannot_be_read_is_refused_with_a_hint(filled: World, target: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        await resolve(filled, target)
    assert error.value.hint


async def test_a_mark_stands_for_its_moment_for_ever(filled: World) -> None:
    facts = {"created_us": 0, "actor": None, "reason": None}
    await filled.catalog.put_mark(filled.log, "seq", seq_end=3, at_us=None, **facts)
    await filled.catalog.put_mark(filled.log, "time", seq_end=None, at_us=T2, **facts)
    await filled.append(batch([draft()], lane="late"))
    assert (await resolve(filled, "mark:seq")).cut.seq_end == 3
    assert (await resolve(filled, "mark:time")).cut.at_us == T2


async def test_a_torn_transaction_is_left_out_whole(world: World) -> None:
    await world.append(
        batch([draft(1, commit_us=T1, tx="t"), draft(2, commit_us=T1)]),
        batch([draft(3, commit_us=T2, tx="t")], position_first=2),
    )
    assert (await resolve(world, at(T1))).cut.without_tx == {"t"}
    assert (await resolve(world, at(T2))).cut.without_tx == frozenset()
    assert (await resolve(world, "seq:2")).cut.without_tx == {"t"}
    assert set(await world.state(at(T1))) == {("shop.orders", '{"id":2}')}


async def test_equal_and_late_times(world: World) -> None:
    """Invariant 4: the state at T is what has log time up to T, in seq order."""
    await world.append(
        batch([draft(1, '{"v":1}', commit_us=T2)], lane="a"),
        batch([draft(1, '{"v":2}', commit_us=T1)], lane="b"),
        batch([draft(1, '{"v":3}', commit_us=T2)], lane="b", position_first=1),
    )
    row = ("shop.orders", '{"id":1}')
    assert (await world.state(at(T1)))[row] == (b'{"v":2}', 2)
    assert (await world.state(at(T2)))[row] == (b'{"v":3}', 3)


async def test_a_gap_is_named_by_what_it_touches(world: World) -> None:
    await world.append(batch([draft(1, commit_us=T1)]))
    state = await world.catalog.log(world.log)
    gap = Gap(
        lane="a",
        position_first=1,
        position_end=5,
        at_min_us=T2 - 10,
        at_max_us=T2 + 10,
        seq_end=state.seq_next,
        reason="retention overtook the lane",
        recorded_us=START_US,
    )
    await world.catalog.record_gap(world.log, gap)
    # What there is now lacks what was lost, the state after the change before it does not.
    assert (await resolve(world, "latest")).gaps == (gap,)
    assert (await resolve(world, "seq:1")).gaps == ()
    await world.append(batch([draft(1, commit_us=T3, tx="later")], position_first=1))
    assert (await resolve(world, "seq:1")).gaps == (await resolve(world, "before-seq:2")).gaps == ()
    assert (await resolve(world, "seq:2")).gaps == (gap,)
    assert (await resolve(world, "before-tx:later")).gaps == (gap,)
    assert (await resolve(world, at(T1))).gaps == ()
    inside = await resolve(world, at(T2))
    assert (inside.position, inside.gaps) == ("gap", (gap,))
    assert (await resolve(world, at(T3))).gaps == (gap,)


async def test_transactions_that_come_by_two_lanes_stay_whole(world: World) -> None:
    """More of them than the catalog remembers, and their parts further apart than a window."""
    count = 1_500
    for lane in ("kafka:orders:0", "kafka:lines:0"):
        rows = [
            draft(number, collection=lane, commit_us=T1 + number % 3 * 100, tx=f"{number}")
            for number in range(count)
        ]
        rows.sort(key=lambda row: row["commit_us"])
        await world.append(batch(rows, lane=lane))
        await world.sealer.seal(world.log, force=True)
    assert await world.state(f"seq:{count}") == {}
    assert len(await world.state(f"seq:{count + 10}")) == 20
    assert len(await world.state("latest")) == 2 * count
    late = [draft(7, collection="c", commit_us=T3 + 50, tx="0")]
    await world.append(batch(late, lane="kafka:lines:1"))
    found = await resolve(world, at(T3))
    assert found.cut.without_tx == {"0"}
    assert found.torn == {"0": 1}
    assert len(await world.state(at(T3))) == 2 * count - 2
