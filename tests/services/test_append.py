"""Appending: shared commits, large batches as segments, once whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from pitr.adapters.catalog import PostgresCatalog
from pitr.adapters.clock import new_uid
from pitr.adapters.objects import DirectoryStore
from pitr.domain.errors import Busy, PositionConflict, SequenceMoved, Unavailable
from pitr.domain.limits import Limits
from pitr.domain.plan import check_coverage
from pitr.services.append import Appender
from tests.changes import batch, draft
from tests.conftest import ManualClock

LIMITS = Limits(segment_rows_min=10)


class Counting:
    """A catalog that counts calls and can fail them; everything else is the real one."""

    def __init__(self, real: PostgresCatalog) -> None:
        self._real = real
        self.calls: list[str] = []
        self.fail: dict[str, list[Exception]] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._real, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append(name)
            if self.fail.get(name):
                raise self.fail[name].pop(0)
            return await method(*args, **kwargs)

        return call


@pytest.fixture
def counting(catalog: PostgresCatalog) -> Counting:
    return Counting(catalog)


@pytest.fixture
async def appender(
    counting: Counting, store: DirectoryStore, clock: ManualClock, log: str
) -> AsyncIterator[Appender]:
    async with Appender(counting, store, clock, log=log, limits=LIMITS, new_id=new_uid) as opened:
        yield opened


async def test_waiting_batches_share_commits(
    appender: Appender, counting: Counting, catalog: PostgresCatalog, log: str
) -> None:
    batches = [batch([draft(n)], lane=f"lane-{n}") for n in range(50)]
    answers = await asyncio.gather(*(appender.append(one) for one in batches))
    assert sorted(answer.seq_first for answer in answers) == list(range(1, 51))
    assert counting.calls.count("append") < 10
    check_coverage(await catalog.view(log))


async def test_batches_are_stored_in_the_order_of_the_calls(appender: Appender) -> None:
    sizes = [1, 30, 2, 1, 15, 1]
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    batches = [
        batch([draft()] * size, position_first=start)
        for size, start in zip(sizes, starts, strict=True)
    ]
    answers = await asyncio.gather(*(appender.append(one) for one in batches))
    assert [answer.seq_first - 1 for answer in answers] == starts


async def test_a_large_batch_is_a_segment_and_never_in_the_tail(
    appender: Appender, catalog: PostgresCatalog, store: DirectoryStore, log: str
) -> None:
    await appender.append(batch([draft()]))
    answer = await appender.append(batch([draft(n) for n in range(25)], position_first=1))
    assert (answer.seq_first, answer.seq_end) == (2, 27)
    view = await catalog.view(log)
    assert view.tail.num_rows == 1
    (segment,) = view.segments
    assert await store.verified(segment)
    check_coverage(view)


async def test_a_few_long_documents_are_a_segment_too(
    appender: Appender, catalog: PostgresCatalog, log: str
) -> None:
    long = '{"v":"%s"}' % ("x" * 5_000_000)
    await appender.append(batch([draft(1, long), draft(2, long)]))
    view = await catalog.view(log)
    assert (view.tail.num_rows, len(view.segments)) == (0, 1)


async def test_a_segment_is_made_again_when_the_log_grew(
    appender: Appender,
    counting: Counting,
    catalog: PostgresCatalog,
    store: DirectoryStore,
    log: str,
) -> None:
    counting.fail["append_segment"] = [SequenceMoved("raced")]
    answer = await appender.append(batch([draft()] * 12))
    assert answer.count == 12
    view = await catalog.view(log)
    objects = await store.list(f"{log}/segments")
    assert [name for name, _ in objects] == [ref.name for ref in view.segments]


async def test_two_that_append_the_same_at_once_do_not_delete_each_others_segment(
    catalog: PostgresCatalog, store: DirectoryStore, clock: ManualClock, log: str
) -> None:
    """The clock stands still: both make the same changes, and one loses."""
    both_have_put = asyncio.Barrier(2)

    class Together(Counting):
        async def append_segment(self, *args: Any, **kwargs: Any) -> Any:
            await both_have_put.wait()
            return await catalog.append_segment(*args, **kwargs)

    one = batch([draft(n) for n in range(20)], lane="lane")
    async with (
        Appender(Together(catalog), store, clock, log=log, limits=LIMITS, new_id=new_uid) as first,
        Appender(Together(catalog), store, clock, log=log, limits=LIMITS, new_id=new_uid) as second,
    ):
        answers = await asyncio.gather(
            first.append(one), second.append(one), return_exceptions=True
        )
    view = await catalog.view(log)
    assert sum(isinstance(answer, Exception) or not answer.count for answer in answers) == 1
    [segment] = view.segments
    await store.verified(segment)


async def test_a_large_batch_takes_the_tail_when_it_always_loses(
    appender: Appender,
    counting: Counting,
    catalog: PostgresCatalog,
    store: DirectoryStore,
    log: str,
) -> None:
    counting.fail["append_segment"] = [SequenceMoved("raced") for _ in range(9)]
    assert (await appender.append(batch([draft()] * 12))).count == 12
    view = await catalog.view(log)
    assert (view.tail.num_rows, view.segments) == (12, ())
    assert await store.list(log) == []


async def test_an_error_is_the_callers_who_sent_the_bad_batch(appender: Appender) -> None:
    good = [batch([draft(n)], lane=f"lane-{n}") for n in range(3)]
    torn = draft(after="\x00")  # PostgreSQL's text takes no NUL: a commit with it fails whole
    bad = batch([torn], lane="bad")
    results = await asyncio.gather(
        *(appender.append(one) for one in [good[0], bad, *good[1:]]), return_exceptions=True
    )
    assert [isinstance(result, Exception) for result in results] == [False, True, False, False]


async def test_an_unknown_outcome_is_told_to_all_and_resending_is_safe(
    appender: Appender, counting: Counting, catalog: PostgresCatalog, log: str
) -> None:
    counting.fail["append"] = [Unavailable("away")]
    batches = [replace(batch([draft()], lane=f"l{n}"), resume=True) for n in range(3)]
    results = await asyncio.gather(
        *(appender.append(one) for one in batches), return_exceptions=True
    )
    assert any(isinstance(result, Unavailable) for result in results)
    await asyncio.gather(*(appender.append(one) for one in batches))
    assert (await catalog.log(log)).seq_next == 4


async def test_a_full_queue_is_busy_and_stores_nothing(
    counting: Counting, store: DirectoryStore, clock: ManualClock, log: str
) -> None:
    limits = replace(LIMITS, append_queue_bytes_max=1_000)
    async with Appender(counting, store, clock, log=log, limits=limits, new_id=new_uid) as appender:
        big = [batch([draft()], lane=f"l{n}", size_bytes=600) for n in range(3)]
        results = await asyncio.gather(
            *(appender.append(one) for one in big), return_exceptions=True
        )
        busy = [result for result in results if isinstance(result, Busy)]
        assert busy
        assert all(error.facts["retry_after_s"] for error in busy)
        await appender.append(big[-1])


async def test_one_batch_larger_than_the_queue_is_still_taken(
    counting: Counting, store: DirectoryStore, clock: ManualClock, log: str
) -> None:
    limits = replace(LIMITS, append_queue_bytes_max=10)
    async with Appender(counting, store, clock, log=log, limits=limits, new_id=new_uid) as appender:
        assert (await appender.append(batch([draft()], size_bytes=600))).count == 1


async def test_leaving_stores_what_waits(
    catalog: PostgresCatalog, store: DirectoryStore, clock: ManualClock, log: str
) -> None:
    async with Appender(catalog, store, clock, log=log, limits=LIMITS, new_id=new_uid) as appender:
        waiting = [
            asyncio.ensure_future(appender.append(batch([draft()], lane=f"l{n}"))) for n in range(5)
        ]
        await asyncio.sleep(0)
    assert [(await one).count for one in waiting] == [1] * 5
    with pytest.raises(Unavailable):
        await appender.append(batch([draft()]))


async def test_a_caller_that_goes_away_stops_nothing(
    appender: Appender, catalog: PostgresCatalog, log: str
) -> None:
    leaving = asyncio.ensure_future(appender.append(batch([draft()])))
    await asyncio.sleep(0)
    leaving.cancel()
    await appender.append(batch([draft()], lane="b"))
    assert (await catalog.log(log)).seq_next == 3


async def test_a_large_batch_that_was_stored_is_known(appender: Appender) -> None:
    one = replace(batch([draft()] * 12), resume=True)
    first = await appender.append(one)
    again = await appender.append(one)
    assert (again.duplicate, again.count, again.position_end) == (True, 0, first.position_end)
    with pytest.raises(PositionConflict):
        await appender.append(batch([draft()] * 12))
