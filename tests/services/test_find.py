"""Searches of a log: as a plain filter finds it, from no more than can hold it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from pitr.domain.change import Op
from pitr.domain.errors import Busy, DataLoss, InvalidRequest, NotFound, TargetBeyondWatermark
from pitr.domain.log import Gap
from pitr.domain.manifest import ObjectRef
from pitr.domain.search import Query, gaps_sought
from pitr.domain.times import rfc3339
from pitr.domain.where import parse_conditions
from pitr.services import find as find_module
from pitr.services.find import Description, Finder, FindReport
from tests.changes import batch, draft
from tests.conftest import START_US
from tests.domain.columnar.test_search import naive
from tests.services.world import World

T1, T2, T3 = START_US - 300, START_US - 200, START_US - 100


def finder(world: World) -> Finder:
    return Finder(world.catalog, world.archive, world.resolver, world.clock)


async def find(world: World, **query: Any) -> FindReport:
    return await finder(world).find(world.log, Query(**query))


async def describe(world: World, target: str) -> Description:
    return await finder(world).describe(world.log, target)


async def sealed(world: World, *rows: dict[str, Any], lane: str = "a", first: int = 0) -> ObjectRef:
    """Append and seal; return the newest segment."""
    await world.append(batch(list(rows), lane=lane, position_first=first))
    await world.sealer.seal(world.log, force=True)
    view = await world.archive.view(world.log)
    return max(view.segments, key=lambda ref: ref.seq_first)


async def damage(world: World, ref: ObjectRef) -> None:
    path = await world.store.verified(ref)
    path.chmod(0o644)
    path.write_bytes(b"no longer it")


async def test_a_search_finds_what_a_plain_filter_finds(world: World) -> None:
    draws = random.Random(7)
    for turn in range(6):
        rows = [
            draft(
                draws.randrange(3),
                f'{{"v":{draws.randrange(3)}.10}}',
                collection=draws.choice(["shop.orders", "shop.lines", "pitr.schemas"]),
                op=draws.choice(["update", "delete"]),
                commit_us=T1 + draws.randrange(4),
                tx=draws.choice([None, "t1", f"t{turn}"]),
                actor=draws.choice([None, "user:1", "user:2"]),
            )
            for _ in range(5)
        ]
        await world.append(batch(rows, lane=f"lane{turn}"))
        if turn in (1, 3):
            await world.sealer.seal(world.log, force=True)
    changes = await world.changes()
    queries = (
        Query(),
        Query(collections=("shop.*",), ops=frozenset({Op.DELETE})),
        Query(actor="user:1", count_min=2, oldest_first=True),
        Query(since_us=T1 + 1, until_us=T1 + 2, lane="lane*"),
        Query(collections=("pitr.*", "*"), where=parse_conditions(["v > 1"]), limit=3),
    )
    for query in queries:
        report = await finder(world).find(world.log, query)
        assert report.found == naive(changes, query, without_tx=frozenset())
        assert report.found.matches
        for match in report.found.matches:
            cut = (await describe(world, match.target)).resolution.cut
            assert cut.seq_end <= match.seq_first


async def test_segments_that_cannot_hold_a_match_are_not_read(world: World) -> None:
    early = await sealed(world, draft(1, commit_us=T1, collection="a"))
    late = await sealed(world, draft(2, commit_us=T3, collection="b", op="delete"), first=1)
    await damage(world, early)
    for query in (
        {"collections": ("b",)},
        {"since_us": T2},
        {"ops": frozenset({Op.DELETE, Op.TRUNCATE})},
        {"collections": ("*",), "ops": frozenset({Op.DELETE}), "since_us": T3},
    ):
        (match,) = (await find(world, **query)).found.matches
        assert match.seq_first == late.seq_first
    for query in ({}, {"until_us": T3}, {"collections": ("a",)}, {"collections": ("*",)}):
        with pytest.raises(DataLoss):
            await find(world, **query)


async def test_what_is_not_whole_yet_is_left_out_and_named(world: World) -> None:
    whole = [draft(1, tx="t1"), draft(2, tx="t1")]
    part = [draft(3, tx="t2"), draft(4, tx="t2")]
    await world.append(replace(batch(whole + part, lane="k"), lane_state={"open_tx": "t2"}))
    report = await find(world)
    assert [match.tx for match in report.found.matches] == ["t1"]
    assert (report.found.change_count, report.without_tx) == (2, {"t2"})
    rest = batch([draft(5, tx="t2")], lane="k", position_first=4)
    await world.append(replace(rest, lane_state={"open_tx": None}))
    report = await find(world)
    assert [(match.tx, match.change_count) for match in report.found.matches] == [
        ("t2", 3),
        ("t1", 2),
    ]
    assert report.without_tx == frozenset()


async def test_gaps_that_may_have_held_a_match_are_named(world: World) -> None:
    await world.append(batch([draft(1, commit_us=T1), draft(2, commit_us=T3)]))
    gap = Gap(
        lane="a",
        position_first=1,
        position_end=5,
        at_min_us=T2 - 10,
        at_max_us=T2 + 10,
        seq_end=2,
        reason="retention overtook the lane",
        recorded_us=START_US,
        collection="shop.orders",
    )
    await world.catalog.record_gap(world.log, gap)
    assert (await find(world)).gaps == (gap,)
    assert (await find(world, since_us=T2 + 10)).gaps == (gap,)
    assert (await find(world, since_us=T2 + 11)).gaps == ()
    assert (await find(world, until_us=T2 - 10)).gaps == (gap,)
    assert (await find(world, until_us=T2 - 11)).gaps == ()
    # Rows that are read anew bring the state back, not what was done to them.
    healed = replace(gap, healed_seq_end=3)
    assert gaps_sought([healed], Query(), frozenset({"shop.orders"})) == (healed,)
    assert gaps_sought([healed], Query(), frozenset({"shop.lines"})) == ()


async def test_a_search_that_makes_no_sense_is_refused(world: World) -> None:
    await world.append(batch([draft(1), draft(1, collection="pitr.schemas")]))
    with pytest.raises(NotFound) as unknown:
        await find(world, collections=("shop.order",))
    assert "shop.orders" in str(unknown.value.hint)
    assert "pitr" not in str(unknown.value.hint)
    for query in ({"since_us": 2, "until_us": 1}, {"count_min": 0}, {"limit": 1_001}):
        with pytest.raises(InvalidRequest):
            await find(world, **query)
    with pytest.raises(NotFound):
        await finder(world).find("nowhere", Query())


async def test_an_empty_log_holds_nothing(world: World) -> None:
    found = (await find(world)).found
    assert (found.matches, found.match_count, found.change_count) == ((), 0, 0)
    nothing = await describe(world, "latest")
    assert (nothing.resolution.position, nothing.previous, nothing.next) == ("past", None, None)


async def test_only_so_many_searches_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find_module, "WAITING_MAX", 0)
    with pytest.raises(Busy):
        await find(world)


# Targets, with the transactions on both sides


async def test_the_transactions_on_both_sides_are_told_whole(world: World) -> None:
    await sealed(
        world,
        draft(1, tx="made", actor="user:7", reason="POST /cart", commit_us=T1),
        draft(1, tx="made", collection="shop.lines", commit_us=T1),
        draft(2, tx="made", collection="pitr.schemas", commit_us=T1),
    )
    gone = [draft(n, op="delete", tx="gone", actor="ops:jo", commit_us=T3) for n in range(4)]
    await world.append(batch(gone, position_first=3))
    found = await describe(world, "before-tx:gone")
    assert found.resolution.position == "exact"
    assert found.previous is not None
    assert found.next is not None
    assert (found.previous.tx, found.previous.actor, found.previous.reason) == (
        *("made", "user:7", "POST /cart"),
    )
    told = [(tally.collection, tally.op, tally.count) for tally in found.previous.tallies]
    assert told == [
        ("pitr.schemas", Op.UPDATE, 1),
        ("shop.lines", Op.UPDATE, 1),
        ("shop.orders", Op.UPDATE, 1),
    ]
    assert (found.next.tx, found.next.actor, found.next.change_count) == ("gone", "ops:jo", 4)
    ahead = await describe(world, str(rfc3339(START_US + 1)))
    assert (ahead.resolution.position, ahead.next) == ("future", None)
    assert ahead.previous == found.next
    with pytest.raises(TargetBeyondWatermark):
        await world.resolver.resolve(await world.archive.view(world.log), "seq:99")


async def test_a_transaction_is_followed_as_far_as_it_goes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_module, "TRANSACTION_WINDOW", 2)
    long = [draft(n, tx="long" if n % 2 == 0 else f"t{n}", commit_us=T1) for n in range(60)]
    for first in range(0, 60, 6):
        await sealed(world, *long[first : first + 6], first=first)
    await sealed(world, *[draft(n, commit_us=T2) for n in range(6)], first=60)
    inside = await describe(world, "seq:31")
    assert inside.previous is not None
    assert (inside.previous.tx, inside.previous.change_count) == ("long", 30)
    assert inside.next is not None
    assert (inside.next.tx, inside.next.change_count) == ("t31", 1)


async def test_only_what_is_near_a_target_is_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_module, "TRANSACTION_WINDOW", 2)
    monkeypatch.setattr("pitr.services.resolve.TRANSACTION_WINDOW", 2)
    far = await sealed(world, *[draft(n, commit_us=T1) for n in range(6)])
    near = [draft(n, tx="near", commit_us=T2) for n in range(3)]
    await sealed(world, *[draft(n, commit_us=T2) for n in range(6)], *near, first=6)
    await damage(world, far)
    found = await describe(world, "latest")
    assert found.previous is not None
    assert found.previous.change_count == 3


async def test_a_transaction_that_came_by_two_lanes_is_told_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_module, "TRANSACTION_WINDOW", 1)
    filler = [draft(n, commit_us=T1) for n in range(8)]
    await sealed(world, draft(1, tx="t", commit_us=T1), lane="kafka:orders:0")
    await sealed(world, *filler, lane="kafka:orders:0", first=1)
    await world.append(batch([draft(2, tx="t", commit_us=T2)], lane="kafka:lines:0"))
    found = await describe(world, "latest")
    assert found.previous is not None
    assert (found.previous.seq_first, found.previous.change_count) == (1, 2)
