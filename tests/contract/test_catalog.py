"""The contract of the catalog: what every implementation of ``pitr.domain.catalog`` keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from pitr.adapters.catalog import PostgresCatalog
from pitr.adapters.migrations_folder import migrations_folder
from pitr.domain.admission import AT_US_MIN, admit
from pitr.domain.batch import Batch, Idempotency
from pitr.domain.change import Quarantined
from pitr.domain.columnar.segment import encode_segment
from pitr.domain.columnar.stamp import Stamped, stamp
from pitr.domain.errors import (
    Conflict,
    IdempotencyConflict,
    LaneTaken,
    NotFound,
    PositionConflict,
    SequenceMoved,
    Unavailable,
)
from pitr.domain.log import Appended, Gap, LaneReport, LaneState, Source
from pitr.domain.manifest import GENESIS_HASH, ObjectRef, replay_entries
from pitr.domain.plan import check_coverage
from tests.changes import batch, draft
from tests.conftest import START_US

SKEW_US = 1_000_000


async def append(catalog: PostgresCatalog, log: str, *batches: Batch) -> list[object]:
    return list(await catalog.append(log, batches, recorded_us=START_US, skew_us=SKEW_US))


async def stored(catalog: PostgresCatalog, log: str, one: Batch) -> Appended:
    (answer,) = await append(catalog, log, one)
    assert isinstance(answer, Appended), answer
    return answer


async def stored_as_segment(catalog: PostgresCatalog, log: str, one: Batch) -> Appended:
    state, lane = await catalog.head(log, one.lane)
    segment, stamped = segment_of(one, log, seq_first=state.seq_next)
    stands = None if lane is None else lane.position
    return await catalog.append_segment(
        log, one, segment=segment, stamped=stamped, lane_position=stands, recorded_us=START_US
    )


async def sealed(catalog: PostgresCatalog, log: str) -> ObjectRef:
    run = await catalog.oldest_run(log, rows_max=1_000, bytes_max=1 << 30)
    ref = encode_segment(run).ref(log)
    await catalog.seal(log, ref, recorded_us=START_US)
    return ref


def segment_of(one: Batch, log: str, *, seq_first: int) -> tuple[ObjectRef, Stamped]:
    stamped = stamp(
        admit(one, None).changes,
        seq_first=seq_first,
        lane=one.lane,
        position_first=None,
        lane_at_us=AT_US_MIN,
        recorded_us=START_US,
        skew_us=SKEW_US,
    )
    return encode_segment(stamped.table).ref(log), stamped


async def test_seq_starts_at_one_and_has_no_holes(catalog: PostgresCatalog, log: str) -> None:
    first = await stored(catalog, log, batch([draft(), draft()]))
    second = await stored(catalog, log, batch([draft()], position_first=2))
    assert (first.seq_first, first.seq_end, second.seq_first, second.seq_end) == (1, 3, 3, 4)
    view = await catalog.view(log)
    assert view.tail.column("seq").to_pylist() == [1, 2, 3]
    check_coverage(view)


async def test_concurrent_appends_leave_no_hole_and_no_double(
    catalog: PostgresCatalog, log: str
) -> None:
    async def lane(name: str) -> None:
        for position in range(20):
            await stored(catalog, log, batch([draft()], lane=name, position_first=position))

    await asyncio.gather(*(lane(f"lane-{number}") for number in range(6)))
    view = await catalog.view(log)
    assert view.tail.column("seq").to_pylist() == list(range(1, 121))


async def test_no_reader_sees_a_seq_before_the_one_below_it(
    catalog: PostgresCatalog, log: str
) -> None:
    """Invariant 1: readers meanwhile see a prefix, whatever order the writers commit in."""
    done = asyncio.Event()

    async def write(name: str) -> None:
        for position in range(25):
            await stored(catalog, log, batch([draft()] * 3, lane=name, position_first=position * 3))

    async def read() -> None:
        while not done.is_set():
            view = await catalog.view(log)
            seqs = view.tail.column("seq").to_pylist()
            assert seqs == list(range(1, view.state.seq_next))

    reader = asyncio.ensure_future(read())
    await asyncio.gather(write("a"), write("b"), write("c"))
    done.set()
    await reader


async def test_a_lane_moves_by_compare_and_set(catalog: PostgresCatalog, log: str) -> None:
    """Invariant 2: a zombie that starts where the lane no longer stands stores nothing."""
    one = batch([draft()])
    answers = await asyncio.gather(*(append(catalog, log, one) for _ in range(5)))
    outcomes = [answer[0] for answer in answers]
    assert sum(isinstance(outcome, Appended) for outcome in outcomes) == 1
    conflicts = [o for o in outcomes if isinstance(o, PositionConflict)]
    assert [conflict.facts["expected"] for conflict in conflicts] == [1] * 4
    assert (await catalog.log(log)).seq_next == 2


async def test_a_batch_ahead_of_its_lane_is_refused(catalog: PostgresCatalog, log: str) -> None:
    await stored(catalog, log, batch([draft()]))
    (answer,) = await append(catalog, log, batch([draft()], position_first=7, resume=True))
    assert isinstance(answer, PositionConflict)


async def test_resume_stores_only_the_rest(catalog: PostgresCatalog, log: str) -> None:
    await stored(catalog, log, batch([draft(1), draft(2)]))
    again = await stored(catalog, log, batch([draft(1), draft(2), draft(3)], resume=True))
    assert (again.count, again.position_end, again.duplicate) == (1, 3, False)
    whole = await stored(catalog, log, batch([draft(1), draft(2)], resume=True))
    assert (whole.count, whole.position_end, whole.duplicate) == (0, 3, True)
    view = await catalog.view(log)
    assert view.tail.column("key").to_pylist() == ['{"id":1}', '{"id":2}', '{"id":3}']


async def test_one_refused_batch_does_not_keep_out_the_others(
    catalog: PostgresCatalog, log: str
) -> None:
    await stored(catalog, log, batch([draft()], lane="a"))
    bad = batch([draft()], lane="a")
    results = await append(
        catalog, log, batch([draft()], lane="b"), bad, batch([draft()], lane="c")
    )
    assert [type(result) for result in results] == [Appended, PositionConflict, Appended]
    assert (await catalog.log(log)).seq_next == 4


async def test_positions_are_taken_from_the_lane_when_the_input_has_none(
    catalog: PostgresCatalog, log: str
) -> None:
    await stored(catalog, log, batch([draft(), draft()], position_first=None))
    later = await stored(catalog, log, batch([draft()], position_first=None))
    assert later.position_end == 3
    view = await catalog.view(log)
    assert view.tail.column("position").to_pylist() == [0, 1, 2]


async def test_an_idempotent_request_is_answered_again_not_stored_again(
    catalog: PostgresCatalog, log: str
) -> None:
    one = batch([draft()], position_first=None, idempotency=Idempotency(key="k", body_sha256="x"))
    first = await stored(catalog, log, one)
    assert await stored(catalog, log, one) == replace(first, duplicate=True)
    both = await append(catalog, log, one, one)
    assert both == [replace(first, duplicate=True)] * 2
    other = replace(one, idempotency=Idempotency(key="k", body_sha256="y"))
    (answer,) = await append(catalog, log, other)
    assert isinstance(answer, IdempotencyConflict)
    assert (await catalog.log(log)).seq_next == 2


async def test_an_idempotent_request_twice_in_one_commit_is_stored_once(
    catalog: PostgresCatalog, log: str
) -> None:
    one = batch([draft()], position_first=None, idempotency=Idempotency(key="k", body_sha256="x"))
    first, second = await append(catalog, log, one, one)
    assert isinstance(first, Appended)
    assert isinstance(second, Appended)
    assert (first.duplicate, second.duplicate) == (False, True)
    assert (await catalog.log(log)).seq_next == 2


async def test_answers_are_forgotten_only_when_they_are_old(
    catalog: PostgresCatalog, log: str
) -> None:
    one = batch([draft()], position_first=None, idempotency=Idempotency(key="k", body_sha256="x"))
    await stored(catalog, log, one)
    await catalog.forget_answers(before_us=START_US)
    assert (await stored(catalog, log, one)).duplicate
    assert await catalog.forget_answers(before_us=START_US + 1) >= 1
    assert not (await stored(catalog, log, one)).duplicate


async def test_log_time_never_decreases_within_a_lane(catalog: PostgresCatalog, log: str) -> None:
    """Invariant 4, across appends and across lanes."""
    times = [START_US - 5, START_US - 9, START_US - 7]
    await stored(catalog, log, batch([draft(commit_us=us) for us in times]))
    await stored(catalog, log, batch([draft(commit_us=START_US - 8)], position_first=3))
    await stored(catalog, log, batch([draft(commit_us=START_US - 8)], lane="b"))
    at = (await catalog.view(log)).tail.column("at_us").to_pylist()
    assert at == [START_US - 5] * 4 + [START_US - 8]


async def test_a_change_dated_ahead_is_clamped_and_counted(
    catalog: PostgresCatalog, log: str
) -> None:
    answer = await stored(catalog, log, batch([draft(commit_us=START_US + SKEW_US + 1)]))
    assert answer.clamped_count == 1
    view = await catalog.view(log)
    assert view.tail.column("at_us").to_pylist() == [START_US + SKEW_US]
    assert view.tail.column("commit_us").to_pylist() == [START_US + SKEW_US + 1]
    assert view.state.clamped_count == 1


async def test_the_log_refuses_update_delete_and_truncate(
    catalog: PostgresCatalog, log: str, catalog_url: str
) -> None:
    await stored(catalog, log, batch([draft()]))
    connection = await asyncpg.connect(catalog_url)
    try:
        for table in ("tail", "manifest"):
            for statement in (f"DELETE FROM pitr.{table}", f"TRUNCATE pitr.{table}"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("UPDATE pitr.tail SET after = null")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("UPDATE pitr.manifest SET hash = ''")
        await connection.execute("SELECT set_config('pitr.sealer', 'on', false)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("UPDATE pitr.tail SET after = null")
    finally:
        await connection.close()
    assert (await catalog.view(log)).tail.num_rows == 1


async def test_sealing_moves_changes_from_tail_to_segment(
    catalog: PostgresCatalog, log: str
) -> None:
    await stored(catalog, log, batch([draft(), draft()]))
    ref = await sealed(catalog, log)
    view = await catalog.view(log)
    assert view.tail.num_rows == 0
    assert view.segments == (ref,)
    check_coverage(view)


async def test_only_one_of_two_sealers_wins(catalog: PostgresCatalog, log: str) -> None:
    await stored(catalog, log, batch([draft(), draft()]))
    run = await catalog.oldest_run(log, rows_max=1_000, bytes_max=1 << 30)
    ref = encode_segment(run).ref(log)
    results = await asyncio.gather(
        *(catalog.seal(log, ref, recorded_us=START_US) for _ in range(3)), return_exceptions=True
    )
    assert sum(isinstance(result, Conflict) for result in results) == 2
    assert (await catalog.log(log)).manifest_version == 1


async def test_the_oldest_run_ends_where_a_segment_begins(
    catalog: PostgresCatalog, log: str
) -> None:
    await stored(catalog, log, batch([draft(), draft()]))
    large = batch([draft()] * 3, lane="big")
    segment, stamped = segment_of(large, log, seq_first=3)
    await catalog.append_segment(
        log, large, segment=segment, stamped=stamped, lane_position=None, recorded_us=START_US
    )
    await stored(catalog, log, batch([draft()], position_first=2))
    runs = []
    while (run := await catalog.oldest_run(log, rows_max=10, bytes_max=1 << 30)).num_rows:
        runs.append(run.column("seq").to_pylist())
        await catalog.seal(log, encode_segment(run).ref(log), recorded_us=START_US)
    assert runs == [[1, 2], [6]]
    check_coverage(await catalog.view(log))


async def test_the_oldest_run_keeps_both_limits(catalog: PostgresCatalog, log: str) -> None:
    await stored(catalog, log, batch([draft(after='{"v":"%s"}' % ("x" * 1_000))] * 5))
    run = await catalog.oldest_run(log, rows_max=2, bytes_max=1 << 30)
    assert run.num_rows == 2
    run = await catalog.oldest_run(log, rows_max=100, bytes_max=2_500)
    assert run.num_rows == 2
    run = await catalog.oldest_run(log, rows_max=100, bytes_max=1)
    assert run.num_rows == 1


async def test_a_segment_is_listed_only_for_the_seq_it_was_made_for(
    catalog: PostgresCatalog, log: str
) -> None:
    large = batch([draft()] * 3, lane="big")
    segment, stamped = segment_of(large, log, seq_first=1)
    await stored(catalog, log, batch([draft()]))
    with pytest.raises(SequenceMoved):
        await catalog.append_segment(
            log, large, segment=segment, stamped=stamped, lane_position=None, recorded_us=START_US
        )
    state = await catalog.log(log)
    assert (state.seq_next, state.manifest_version) == (2, 0)
    assert await catalog.lanes(log, prefix="big") == []


async def test_a_segment_is_listed_only_for_the_lane_position_it_was_made_for(
    catalog: PostgresCatalog, log: str
) -> None:
    """Invariant 2 holds for large batches too."""
    large = batch([draft()] * 3, lane="big")
    segment, stamped = segment_of(large, log, seq_first=1)
    await catalog.append_segment(
        log, large, segment=segment, stamped=stamped, lane_position=None, recorded_us=START_US
    )
    second, stamped = segment_of(large, log, seq_first=4)
    with pytest.raises(SequenceMoved):
        await catalog.append_segment(
            log, large, segment=second, stamped=stamped, lane_position=None, recorded_us=START_US
        )
    assert (await catalog.log(log)).seq_next == 4


async def test_manifest_entries_are_a_chain(catalog: PostgresCatalog, log: str) -> None:
    for position in range(3):
        await stored(catalog, log, batch([draft()], position_first=position))
        await sealed(catalog, log)
    entries = await catalog.entries(log, version_first=1)
    manifest = replay_entries([(body, digest) for _, body, digest in entries])
    view = await catalog.view(log)
    assert manifest.version == view.state.manifest_version == 3
    assert manifest.hash == view.state.manifest_hash
    assert dict(manifest.objects) == {ref.name: ref for ref in view.objects}


async def test_objects_are_replaced_in_one_step_or_not_at_all(
    catalog: PostgresCatalog, log: str
) -> None:
    await stored(catalog, log, batch([draft()]))
    old = await sealed(catalog, log)
    new = replace(old, name=old.name + ".merged")
    names = (old.name,)
    await catalog.replace_objects(
        log, kind="compact", add=(new,), retire=names, recorded_us=START_US
    )
    with pytest.raises(Conflict):
        await catalog.replace_objects(
            log,
            kind="compact",
            add=(replace(new, name="x"),),
            retire=names,
            recorded_us=START_US,
        )
    assert (await catalog.view(log)).segments == (new,)
    assert await catalog.expirable_objects(log, before_us=START_US) == []
    assert await catalog.expirable_objects(log, before_us=START_US + 1) == [old]
    await catalog.replace_objects(log, kind="expire", expire=names, recorded_us=START_US)
    assert await catalog.expirable_objects(log, before_us=START_US + 1) == []
    assert (await catalog.log(log)).manifest_version == 3


async def test_publishing_never_goes_back(catalog: PostgresCatalog, log: str) -> None:
    for position in range(3):
        await stored(catalog, log, batch([draft()], position_first=position))
        await sealed(catalog, log)
    await catalog.published(log, 3)
    await catalog.published(log, 1)
    assert (await catalog.log(log)).published_version == 3


async def test_a_view_of_one_row_brings_its_changes_and_truncates_only(
    catalog: PostgresCatalog, log: str
) -> None:
    rows = [draft(1), draft(2), draft(op="truncate"), draft(1, collection="shop.other"), draft(1)]
    await stored(catalog, log, batch(rows))
    view = await catalog.row_view(log, "shop.orders", '{"id":1}')
    assert view.tail.column("seq").to_pylist() == [1, 3, 5]


async def test_transactions_that_come_in_parts_are_known(
    catalog: PostgresCatalog, log: str
) -> None:
    early, late = START_US - 100, START_US - 50
    await stored(catalog, log, batch([draft(commit_us=early, tx="t1"), draft(commit_us=early)]))
    await stored(
        catalog, log, batch([draft(commit_us=late, tx="t1"), draft(tx="t2")], position_first=2)
    )
    state = await catalog.log(log)
    assert await catalog.torn(state, seq_end=state.seq_next, at_us=early) == {"t1": 1}
    assert await catalog.torn(state, seq_end=state.seq_next, at_us=late) == {}
    assert await catalog.torn(state, seq_end=state.seq_next, at_us=early - 1) == {}
    assert await catalog.torn(state, seq_end=3, at_us=None) == {"t1": 1}
    assert await catalog.torn(state, seq_end=4, at_us=None) == {}


@pytest.mark.parametrize("store", [stored, stored_as_segment])
async def test_only_transactions_that_may_have_more_parts_are_remembered(
    catalog: PostgresCatalog, log: str, store: Callable[..., Awaitable[Appended]]
) -> None:
    """A source that says which they are saves the catalog a row for each small transaction."""
    rows = [draft(tx="whole"), draft(tx="open")]
    for number in range(2):
        one = replace(batch(rows, position_first=2 * number), parted=frozenset({"open"}))
        await store(catalog, log, one)
    state = await catalog.log(log)
    assert await catalog.torn(state, seq_end=3, at_us=None) == {"open": 2}
    none = replace(batch([draft(tx="open")], position_first=4), parted=frozenset())
    await store(catalog, log, none)
    state = await catalog.log(log)
    assert await catalog.torn(state, seq_end=5, at_us=None) == {}


async def test_quarantine_is_stored_with_its_batch_and_resolved_once(
    catalog: PostgresCatalog, log: str
) -> None:
    """Invariant 13, with invariant 2: the same position is not quarantined twice."""
    bad = Quarantined(position=1, body=b"\xff{", code="not_utf8", reason="line", format="native")
    one = replace(batch([draft()]), position_end=2, quarantined=(bad,), resume=True)
    await stored(catalog, log, one)
    await stored(catalog, log, one)
    (item,) = await catalog.quarantine(log)
    assert (item.body, item.code, item.position, item.lane) == (b"\xff{", "not_utf8", 1, "a")
    fix = batch([draft()], lane="quarantine", position_first=None, resolves=item.quarantine_id)
    await stored(catalog, log, fix)
    (again,) = await append(catalog, log, fix)
    assert isinstance(again, Conflict)
    assert await catalog.quarantine_counts(log) == {"waiting": 0, "replayed": 1, "dismissed": 0}
    with pytest.raises(NotFound):
        await catalog.dismiss(log, item.quarantine_id, resolved_us=START_US)


async def test_marks(catalog: PostgresCatalog, log: str) -> None:
    await stored(catalog, log, batch([draft()] * 3))
    facts = {"created_us": START_US, "actor": "me", "reason": None}
    mark = await catalog.put_mark(log, "now", seq_end=None, at_us=None, **facts)
    assert mark.seq_end == 4
    with pytest.raises(Conflict):
        await catalog.put_mark(log, "now", seq_end=1, at_us=None, **facts)
    assert await catalog.marks(log) == [mark]
    await catalog.delete_mark(log, "now")
    for missing in (catalog.mark(log, "now"), catalog.delete_mark(log, "now")):
        with pytest.raises(NotFound):
            await missing


async def test_operations_tell_who_why_and_how_it_ended(catalog: PostgresCatalog, log: str) -> None:
    state = await catalog.log(log)
    operation_id = uuid4().hex
    await catalog.begin_operation(
        state,
        operation_id=operation_id,
        kind="restore",
        actor="ana",
        reason="drill",
        started_us=1,
        detail={"to": "x"},
    )
    await catalog.end_operation(operation_id, outcome="done", ended_us=5, detail={"rows": 3})
    (operation,) = await catalog.operations(log)
    assert operation["detail"] == {"to": "x", "rows": 3}
    assert (operation["actor"], operation["outcome"], operation["ended_us"]) == ("ana", "done", 5)


async def test_gaps_are_in_every_view(catalog: PostgresCatalog, log: str) -> None:
    gap = Gap(
        lane="a",
        position_first=3,
        position_end=9,
        at_min_us=None,
        at_max_us=None,
        seq_end=1,
        reason="retention",
        recorded_us=START_US,
    )
    await catalog.record_gap(log, gap)
    assert (await catalog.view(log)).gaps == (gap,)


# Lanes of a pulled source -----------------------------------------------------------------------


async def claimed(
    catalog: PostgresCatalog, log: str, owner: str = "w1", start: int = 0, lane: str = "k"
) -> LaneState:
    found = await catalog.claim(log, owner, {lane: start}, recorded_us=START_US)
    return found[lane]


async def lane_of(catalog: PostgresCatalog, log: str, lane: str = "k") -> LaneState:
    return next(one for one in await catalog.lanes(log) if one.lane == lane)


def missing(lane: str = "k", first: int | None = 3, end: int | None = 9) -> Gap:
    return Gap(
        lane=lane,
        position_first=first,
        position_end=end,
        at_min_us=1,
        at_max_us=None,
        seq_end=1,
        reason="retention",
        recorded_us=START_US,
    )


async def test_a_claim_makes_a_lane_or_finds_it_where_it_stands(
    catalog: PostgresCatalog, log: str
) -> None:
    new = await catalog.claim(log, "w1", {"k:0": 7, "k:1": 0}, recorded_us=START_US)
    assert {name: (lane.position, lane.owner) for name, lane in new.items()} == {
        "k:0": (7, "w1"),
        "k:1": (0, "w1"),
    }
    assert {lane.complete_us for lane in new.values()} == {AT_US_MIN}  # pulled, nothing is known
    assert {lane.seen_us for lane in new.values()} == {START_US}
    notes = {"last": {"position": 7, "digest": "d"}}
    one = batch([draft()], lane="k:0", position_first=7, owner="w1", lane_state=notes)
    await stored(catalog, log, one)
    later = await catalog.claim(log, "w3", {"k:0": 0}, recorded_us=START_US + 5)
    assert later["k:0"].seen_us == START_US + 5
    again = await claimed(catalog, log, "w2", 0, "k:0")
    assert (again.position, again.owner, again.state) == (8, "w2", notes)
    assert again.change_count == 1
    with pytest.raises(NotFound):
        await catalog.claim("no", "w1", {"k": 0}, recorded_us=START_US)


async def test_only_the_last_owner_may_append(catalog: PostgresCatalog, log: str) -> None:
    """Invariant 2: a worker that was declared dead stores nothing more."""
    await claimed(catalog, log, "w1")
    await stored(catalog, log, batch([draft()], lane="k", owner="w1"))
    await claimed(catalog, log, "w2")
    for owner in ("w1", None, ""):
        (answer,) = await append(
            catalog, log, batch([draft()], lane="k", position_first=1, owner=owner)
        )
        assert isinstance(answer, LaneTaken)
        assert answer.facts["owner"] == "w2"
    late = batch([draft()], lane="k", position_first=1, owner="w1")
    mine = batch([draft()], lane="k", position_first=1, owner="w2")
    answers = await append(catalog, log, late, mine, batch([draft()], lane="other"))
    assert [type(answer) for answer in answers] == [LaneTaken, Appended, Appended]
    (unclaimed,) = await append(
        catalog, log, batch([draft()], lane="other", position_first=1, owner="w1")
    )
    assert isinstance(unclaimed, LaneTaken)
    assert (await catalog.log(log)).seq_next == 4


async def test_a_segment_is_listed_for_the_last_owner_only(
    catalog: PostgresCatalog, log: str
) -> None:
    await claimed(catalog, log, "w1")
    one = batch([draft()] * 3, lane="k", owner="w1")
    segment, stamped = segment_of(one, log, seq_first=1)
    await claimed(catalog, log, "w2")
    facts = {"segment": segment, "stamped": stamped, "lane_position": 0, "recorded_us": START_US}
    with pytest.raises(LaneTaken):
        await catalog.append_segment(log, one, **facts)
    view = await catalog.view(log)
    assert (view.objects, view.state.seq_next, view.lanes[0].position) == ((), 1, 0)
    await catalog.append_segment(log, replace(one, owner="w2"), **facts)
    view = await catalog.view(log)
    assert (view.segments, view.state.seq_next) == ((segment,), 4)
    assert (view.lanes[0].position, view.lanes[0].owner) == (3, "w2")


async def test_claims_and_appends_that_race_leave_one_owner(
    catalog: PostgresCatalog, log: str
) -> None:
    async def work(owner: str) -> int:
        count = 0
        for _ in range(10):
            lane = await claimed(catalog, log, owner)
            one = batch([draft()], lane="k", position_first=lane.position, owner=owner)
            (answer,) = await append(catalog, log, one)
            count += isinstance(answer, Appended)
            assert isinstance(answer, Appended | LaneTaken | PositionConflict)
        return count

    counts = await asyncio.gather(*(work(f"w{number}") for number in range(4)))
    assert (await lane_of(catalog, log)).position == sum(counts) >= 1
    positions = (await catalog.view(log)).tail.column("position").to_pylist()
    assert positions == list(range(sum(counts)))


async def test_a_report_is_noted_for_the_owner_only(catalog: PostgresCatalog, log: str) -> None:
    await claimed(catalog, log)
    whole = LaneReport(
        lane="k",
        position=0,
        source_first=2,
        source_end=40,
        seen_us=START_US,
        rate=1.5,
        problem="slow",
        complete_us=START_US,
    )
    await catalog.report(log, "w2", [whole])
    before = await lane_of(catalog, log)
    assert (before.source_end, before.problem) == (None, None)
    await catalog.report(log, "w1", [whole, replace(whole, lane="unknown")])
    lane = await lane_of(catalog, log)
    assert (lane.source_first, lane.source_end, lane.seen_us) == (2, 40, START_US)
    assert (lane.rate, lane.problem, lane.complete_us) == (1.5, "slow", START_US)
    assert lane.lag == 40
    # What is not known now stays; a problem that is gone goes.
    await catalog.report(log, "w1", [LaneReport(lane="k", position=0)])
    lane = await lane_of(catalog, log)
    assert (lane.source_first, lane.source_end, lane.seen_us) == (2, 40, START_US)
    assert (lane.rate, lane.problem, lane.complete_us) == (None, None, START_US)


async def test_completeness_never_goes_back_and_counts_only_where_it_was_seen(
    catalog: PostgresCatalog, log: str
) -> None:
    """Invariant 6."""
    await claimed(catalog, log)
    idle = LaneReport(lane="k", position=0, complete_us=START_US)
    await catalog.report(log, "w1", [idle])
    await catalog.report(log, "w1", [replace(idle, complete_us=START_US - 5)])
    assert (await lane_of(catalog, log)).complete_us == START_US
    early = draft(commit_us=START_US - 10)
    await stored(catalog, log, batch([early], lane="k", owner="w1"))
    await catalog.report(log, "w1", [replace(idle, complete_us=START_US + 9)])  # from before it
    assert (await lane_of(catalog, log)).complete_us == START_US
    await catalog.report(log, "w1", [LaneReport(lane="k", position=1, complete_us=START_US + 9)])
    assert (await lane_of(catalog, log)).complete_us == START_US + 9
    assert (await claimed(catalog, log, "w2")).complete_us == START_US + 9
    assert (await catalog.view(log)).watermark_us(START_US + 100) == START_US + 9


async def test_a_lane_skips_what_its_source_lost(catalog: PostgresCatalog, log: str) -> None:
    """Invariant 7: the gap and the move are one."""
    await claimed(catalog, log, start=3)
    await stored(catalog, log, batch([draft()] * 2, lane="other"))
    for owner, gap in (("w2", missing()), ("w1", missing(first=2)), ("w1", missing("no"))):
        with pytest.raises(PositionConflict):
            await catalog.skip(log, owner, gap)
    assert (await catalog.view(log)).gaps == ()
    noted = await catalog.skip(log, "w1", missing())
    assert noted == replace(missing(), seq_end=3)
    view = await catalog.view(log)
    assert view.gaps == (noted,)
    assert (await lane_of(catalog, log)).position == 9
    with pytest.raises(PositionConflict):  # once
        await catalog.skip(log, "w1", missing())
    await stored(catalog, log, batch([draft()], lane="k", position_first=9, owner="w1"))


async def test_a_released_lane_holds_nothing_back_until_it_is_claimed(
    catalog: PostgresCatalog, log: str
) -> None:
    await claimed(catalog, log)
    assert (await catalog.view(log)).watermark_us(START_US) == AT_US_MIN
    await catalog.report(log, "w1", [LaneReport(lane="k", position=0, problem="gone")])
    assert await catalog.release(log, "k")
    lane = await lane_of(catalog, log)
    assert (lane.owner, lane.complete_us, lane.problem) == (None, None, None)
    assert (await catalog.view(log)).watermark_us(START_US) == START_US
    (answer,) = await append(catalog, log, batch([draft()], lane="k", owner="w1"))
    assert isinstance(answer, LaneTaken)
    assert answer.facts["owner"] is None
    await claimed(catalog, log)
    assert (await catalog.view(log)).watermark_us(START_US) == AT_US_MIN
    await stored(catalog, log, batch([draft()], lane="k", owner="w1"))
    assert not await catalog.release(log, "no")
    assert not await catalog.release("no", "k")


async def test_a_lane_that_its_owner_leaves_is_free_and_goes_on(
    catalog: PostgresCatalog, log: str
) -> None:
    await claimed(catalog, log)
    await stored(catalog, log, batch([draft()], lane="k", owner="w1"))
    said = LaneReport(lane="k", position=1, complete_us=START_US, rate=2.5, copy_rate=7.5)
    await catalog.report(log, "w1", [said])
    before = await lane_of(catalog, log)
    assert (before.rate, before.copy_rate) == (2.5, 7.5)
    await catalog.leave(log, "w2", "k")
    await catalog.leave(log, "w1", "another")
    assert await lane_of(catalog, log) == before
    await catalog.leave(log, "w1", "k")
    after = await lane_of(catalog, log)
    assert after == replace(before, owner=None, rate=None, copy_rate=None)
    assert (await catalog.view(log)).watermark_us(START_US + 100) == START_US
    (answer,) = await append(catalog, log, batch([draft()], lane="k", position_first=1, owner="w1"))
    assert isinstance(answer, LaneTaken)
    assert (await claimed(catalog, log, "w2")).owner == "w2"


async def test_a_replaced_lane_is_over(catalog: PostgresCatalog, log: str) -> None:
    await claimed(catalog, log, start=3)
    notes = {"last": {"position": 3, "digest": "d"}}
    await stored(
        catalog, log, batch([draft()], lane="k", position_first=3, owner="w1", lane_state=notes)
    )
    gap = missing(first=None, end=None)
    assert await catalog.replace_lane(log, "k", "k~2", gap)
    assert (await catalog.view(log)).gaps == (replace(gap, position_first=4, seq_end=2),)
    assert not await catalog.replace_lane(log, "k", "k~2", gap)
    assert not await catalog.replace_lane(log, "no", "no~2", gap)
    assert len((await catalog.view(log)).gaps) == 1
    (answer,) = await append(catalog, log, batch([draft()], lane="k", position_first=4, owner="w1"))
    assert isinstance(answer, LaneTaken)
    # Whoever claims it reads what follows, and does not make it hold the watermark back again.
    over = await claimed(catalog, log, "w2")
    assert over.state == notes | {"replaced_by": "k~2"}
    assert (over.owner, over.complete_us, over.position) == (None, None, 4)
    assert (await catalog.view(log)).watermark_us(START_US) == START_US
    await claimed(catalog, log, "w2", lane="k~2")
    await stored(catalog, log, batch([draft()], lane="k~2", owner="w2"))


async def test_an_unknown_log_is_named(catalog: PostgresCatalog) -> None:
    for call in (catalog.log("no"), catalog.view("no"), append(catalog, "no", batch([draft()]))):
        with pytest.raises(NotFound, match="log=no"):
            await call


async def test_a_catalog_that_is_away_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await PostgresCatalog.open("postgresql://x@127.0.0.1:1/x", migrations=migrations_folder())


async def test_migrations_run_once_even_when_many_start_together(
    postgres: object, catalog_url: str
) -> None:
    url = await postgres.ensure_database(f"m{uuid4().hex[:8]}")  # type: ignore[attr-defined]
    opened = await asyncio.gather(
        *(PostgresCatalog.open(url, migrations=migrations_folder()) for _ in range(4))
    )
    assert all([await one.logs() == [] for one in opened])
    for one in opened:
        await one.close()


async def test_an_altered_or_unknown_migration_is_refused(
    postgres: object, tmp_path: object
) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    (folder / "0001_a.sql").write_text("SELECT 1")
    url = await postgres.ensure_database(f"m{uuid4().hex[:8]}")  # type: ignore[attr-defined]
    await (await PostgresCatalog.open(url, migrations=folder)).close()
    (folder / "0001_a.sql").write_text("SELECT 2")
    with pytest.raises(Conflict, match="changed"):
        await PostgresCatalog.open(url, migrations=folder)
    (folder / "0001_a.sql").unlink()
    with pytest.raises(Conflict, match="newer"):
        await PostgresCatalog.open(url, migrations=folder)


async def test_hot_queries_use_their_indexes(
    catalog: PostgresCatalog, log: str, catalog_url: str
) -> None:
    await stored(catalog, log, batch([draft(number) for number in range(3_000)]))
    connection = await asyncpg.connect(catalog_url)
    try:
        await connection.execute("ANALYZE pitr.tail")
        rows = await connection.fetch(
            "EXPLAIN " + PostgresCatalog.ROW_VIEW, log, "shop.orders", '{"id":7}'
        )
    finally:
        await connection.close()
    assert "tail_row" in "\n".join(row[0] for row in rows)


def test_genesis_is_a_hash() -> None:
    assert len(GENESIS_HASH) == 64


# Gaps that heal, transactions under way, attached databases --------------------------------------


def reading(collection: str | None) -> Gap:
    return replace(
        missing(first=None, end=None), collection=collection, at_min_us=5, reason="is read anew"
    )


async def test_a_gap_heals_once_its_rows_are_read(catalog: PostgresCatalog, log: str) -> None:
    await catalog.claim(log, "w", {"k": 0}, recorded_us=START_US)
    for _ in range(2):  # the second is known
        for collection in ("a", "b", None):
            await catalog.open_gap(log, "w", reading(collection))
    assert [gap.collection for gap in (await catalog.view(log)).gaps] == ["a", "b", None]
    one = batch([draft()], lane="k", owner="w")
    await catalog.append(log, [one], recorded_us=START_US, skew_us=0)
    assert await catalog.heal_gaps(log, "w", "k", at_us=9, but=["b"], all_known=True) == 1
    gaps = (await catalog.view(log)).gaps
    assert [(gap.at_max_us, gap.healed_seq_end) for gap in gaps] == [
        (9, 2),
        (None,) * 2,
        (None,) * 2,
    ]
    assert await catalog.heal_gaps(log, "w", "k", at_us=3, but=[], all_known=False) == 1
    gaps = (await catalog.view(log)).gaps
    assert [gap.at_max_us for gap in gaps] == [9, 5, None]
    assert await catalog.heal_gaps(log, "w", "k", at_us=3, but=[], all_known=True) == 1
    gaps = (await catalog.view(log)).gaps
    assert [gap.at_max_us for gap in gaps] == [9, 5, 5]
    await catalog.open_gap(log, "w", reading("a"))
    assert len((await catalog.view(log)).gaps) == 4


async def test_only_the_owner_of_a_lane_says_where_its_gaps_begin_and_end(
    catalog: PostgresCatalog, log: str
) -> None:
    """A process that was frozen meanwhile knows of another time."""
    await catalog.claim(log, "w1", {"k": 0}, recorded_us=START_US)
    await catalog.open_gap(log, "w1", reading("a"))
    await catalog.claim(log, "w2", {"k": 0}, recorded_us=START_US)
    with pytest.raises(LaneTaken):
        await catalog.open_gap(log, "w1", reading("b"))
    with pytest.raises(LaneTaken):
        await catalog.heal_gaps(log, "w1", "k", at_us=9, but=[], all_known=True)
    (gap,) = (await catalog.view(log)).gaps
    assert (gap.collection, gap.healed_seq_end) == ("a", None)


async def test_a_transaction_whose_end_has_not_come_is_torn_by_every_cut(
    catalog: PostgresCatalog, log: str
) -> None:
    first = batch([draft(1, tx="t1"), draft(2, tx="t2")], lane="k")
    await append(catalog, log, replace(first, lane_state={"open_tx": "t2"}))
    state = await catalog.log(log)
    assert await catalog.torn(state, seq_end=state.seq_next, at_us=None) == {"t2": 2}
    assert await catalog.torn(state, seq_end=2, at_us=None) == {}
    rest = batch([draft(3, tx="t2")], lane="k", position_first=2)
    await append(catalog, log, replace(rest, lane_state={"open_tx": None}))
    state = await catalog.log(log)
    assert await catalog.torn(state, seq_end=state.seq_next, at_us=None) == {}
    assert await catalog.torn(state, seq_end=3, at_us=None) == {"t2": 2}


async def test_databases_are_attached_under_a_name(catalog: PostgresCatalog, log: str) -> None:
    source = Source(
        name="app",
        url="postgresql://app@db/app",
        slot="pitr_app",
        publication="pitr_app",
        created_us=START_US,
        options={"schemas": ["public"]},
    )
    await catalog.add_source(log, source)
    with pytest.raises(Conflict, match="attached under that name"):
        await catalog.add_source(log, source)
    assert await catalog.sources(log) == [source]
    assert source.lane == "postgres:app"
    changed = Source(
        name="app",
        url="postgresql://app@other/app",
        slot="pitr_other",
        publication="pitr_other",
        created_us=START_US + 1,
        options={"detaching": True},
    )
    another = replace(source, name="another")
    await catalog.add_source(log, another)
    assert await catalog.change_source(log, changed)
    assert await catalog.sources(log) == [another, changed]
    assert not await catalog.change_source(log, replace(changed, name="unknown"))
    assert not await catalog.change_source("no", changed)
    assert await catalog.sources(log) == [another, changed]
    assert await catalog.remove_source(log, "another")
    assert await catalog.remove_source(log, "app")
    assert not await catalog.remove_source(log, "app")
    assert await catalog.sources(log) == []
