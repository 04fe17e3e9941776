"""The contract of leases: who may write to a place, and what retention leaves alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from pitr.adapters.catalog import PostgresCatalog
from pitr.domain.errors import Conflict
from pitr.domain.lease import Lease, sink_text
from pitr.domain.log import LogState
from pitr.domain.manifest import GENESIS_HASH
from tests.changes import batch, draft
from tests.conftest import START_US
from tests.contract.test_catalog import sealed, stored

MINUTE_US = 60_000_000
LATER_US = START_US + 1


async def take(catalog: PostgresCatalog, state: LogState, id_: str, **rest: Any) -> Lease:
    asked: dict[str, Any] = {"kind": "restore", "actor": "ana", "holder": "me", "sink": None}
    asked |= {"length_us": MINUTE_US} | rest
    return await catalog.take_lease(state, operation_id=id_, **asked)


async def retire(catalog: PostgresCatalog, log: str) -> str:
    """Put another object in place of the only one; return the name of the old one."""
    (old,) = (await catalog.view(log)).objects
    new = replace(old, name=f"{old.name}+")
    await catalog.replace_objects(
        log, kind="compact", add=(new,), retire=(old.name,), recorded_us=START_US
    )
    return old.name


async def expirable(catalog: PostgresCatalog, log: str) -> list[str]:
    return [ref.name for ref in await catalog.expirable_objects(log, before_us=LATER_US)]


@pytest.fixture
async def state(catalog: PostgresCatalog, log: str) -> LogState:
    """A log with one object."""
    await stored(catalog, log, batch([draft()]))
    await sealed(catalog, log)
    return await catalog.log(log)


async def test_a_place_has_one_lease(catalog: PostgresCatalog, state: LogState) -> None:
    place = uuid4().hex
    answers = await asyncio.gather(
        *(take(catalog, state, f"{place}-{n}", sink=place, holder=f"h{n}") for n in range(6))
    )
    (winner,) = {each.operation_id for each in answers}
    assert [each.operation_id for each in await catalog.leases(state.name)] == [winner]
    assert (answers[0].kind, answers[0].actor, answers[0].log) == ("restore", "ana", state.name)
    assert answers[0].until_us - answers[0].taken_us == MINUTE_US
    await catalog.release_lease(winner, "somebody else")
    assert (await take(catalog, state, "late", sink=place)).operation_id == winner
    await catalog.release_lease(winner, answers[0].holder)
    assert (await take(catalog, state, "late", sink=place)).operation_id == "late"
    await catalog.release_lease("late", "me")


async def test_a_place_has_one_lease_whatever_the_log(
    catalog: PostgresCatalog, state: LogState
) -> None:
    other = await catalog.create_log(
        uuid4().hex, uid=uuid4().hex, created_us=START_US, manifest_hash=GENESIS_HASH
    )
    place = "/" + "long" * 1_000
    mine, theirs = await asyncio.gather(
        take(catalog, state, uuid4().hex, sink=place), take(catalog, other, uuid4().hex, sink=place)
    )
    assert mine == theirs
    await catalog.release_lease(mine.operation_id, "me")


async def test_leases_without_a_place_are_as_many_as_are_wanted(
    catalog: PostgresCatalog, state: LogState
) -> None:
    ids = [uuid4().hex for _ in range(3)]
    taken = [(await take(catalog, state, each)).operation_id for each in ids]
    assert taken == ids
    assert [each.operation_id for each in await catalog.leases(state.name)] == ids


async def test_a_lease_that_ran_out_gives_way(catalog: PostgresCatalog, state: LogState) -> None:
    place, old, new = (uuid4().hex for _ in range(3))
    await take(catalog, state, old, sink=place, length_us=0)
    assert await catalog.leases(state.name) == []
    assert (await take(catalog, state, new, sink=place)).operation_id == new
    assert (await take(catalog, state, old, sink=place)).operation_id == new
    await catalog.release_lease(new, "me")


async def test_a_lease_that_ran_out_is_renewed_if_nothing_came_of_it(
    catalog: PostgresCatalog, state: LogState
) -> None:
    place, mine = uuid4().hex, uuid4().hex
    first = await take(catalog, state, mine, sink=place, length_us=0)
    again = await take(catalog, state, mine, sink=place)
    assert again.taken_us == first.taken_us
    assert again.until_us > first.until_us
    assert await catalog.leases(state.name) == [again]
    await catalog.release_lease(mine, "me")


async def test_what_a_lease_reads_does_not_expire(
    catalog: PostgresCatalog, state: LogState, log: str
) -> None:
    reader, later = uuid4().hex, uuid4().hex
    await take(catalog, state, reader)
    old = await retire(catalog, log)
    await take(catalog, await catalog.log(log), later)
    assert await expirable(catalog, log) == []
    await catalog.release_lease(reader, "me")
    assert await expirable(catalog, log) == [old]  # the other one's view does not hold it


async def test_a_lease_that_ran_out_keeps_nothing_and_is_not_renewed(
    catalog: PostgresCatalog, state: LogState, log: str
) -> None:
    reader = uuid4().hex
    await take(catalog, state, reader, length_us=0)
    await retire(catalog, log)
    assert len(await expirable(catalog, log)) == 1
    with pytest.raises(Conflict, match="expired"):
        await take(catalog, state, reader)


async def test_no_lease_is_given_for_what_is_being_expired(
    catalog: PostgresCatalog, state: LogState, log: str
) -> None:
    """Its bytes may be gone, although it is listed until the expiry is recorded."""
    await retire(catalog, log)
    await take(catalog, state, reader := uuid4().hex)
    await catalog.release_lease(reader, "me")
    (old,) = await expirable(catalog, log)
    for _ in range(2):
        with pytest.raises(Conflict, match="expired"):
            await take(catalog, state, uuid4().hex)
        await take(catalog, await catalog.log(log), uuid4().hex)
        if await expirable(catalog, log):
            await catalog.replace_objects(log, kind="expire", expire=(old,), recorded_us=START_US)


async def test_a_lease_and_an_expiry_at_once_do_not_miss_each_other(
    catalog: PostgresCatalog, log: str
) -> None:
    """Whoever is first, either the object stays or the reader is refused."""
    await stored(catalog, log, batch([draft()]))
    await sealed(catalog, log)
    outcomes = set()
    for late_ms in (*range(-6, 7), *range(-2, 3), -50, 50):
        view, reader = await catalog.log(log), uuid4().hex
        old = await retire(catalog, log)
        reading = read_after(catalog, view, reader, max(late_ms, 0) / 2_000)
        taken, chosen = await asyncio.gather(
            reading, expirable_after(catalog, log, max(-late_ms, 0) / 2_000)
        )
        assert taken != (old in chosen)
        outcomes.add(taken)
        await catalog.release_lease(reader, "me")
        await catalog.expirable_objects(log, before_us=LATER_US)
        await catalog.replace_objects(log, kind="expire", expire=(old,), recorded_us=START_US)
    assert outcomes == {True, False}


async def read_after(catalog: PostgresCatalog, view: LogState, reader: str, pause_s: float) -> bool:
    """Take a lease after a while; return whether it was given."""
    await asyncio.sleep(pause_s)
    try:
        await take(catalog, view, reader)
    except Conflict:
        return False
    return True


async def expirable_after(catalog: PostgresCatalog, log: str, pause_s: float) -> list[str]:
    await asyncio.sleep(pause_s)
    return await expirable(catalog, log)


async def test_an_object_retired_by_an_earlier_pitr_waits_for_every_lease(
    catalog: PostgresCatalog, state: LogState, log: str
) -> None:
    old = await retire(catalog, log)
    async with catalog._transaction() as connection:
        await connection.execute(
            "UPDATE pitr.objects SET retired_version = NULL WHERE name = $1", old
        )
    await take(catalog, await catalog.log(log), reader := uuid4().hex)
    assert await expirable(catalog, log) == []
    await catalog.release_lease(reader, "me")
    assert await expirable(catalog, log) == [old]
    with pytest.raises(Conflict, match="expired"):
        await take(catalog, state, uuid4().hex)


async def test_an_operation_without_a_lease_is_lost(
    catalog: PostgresCatalog, state: LogState, log: str
) -> None:
    operation_id = uuid4().hex
    await take(catalog, state, operation_id)
    facts: dict[str, Any] = {"actor": None, "reason": None, "started_us": 1, "detail": {"a": 1}}
    await catalog.begin_operation(state, operation_id=operation_id, kind="restore", **facts)
    await catalog.note_operation(operation_id, {"xid": "7"})
    (running,) = await catalog.operations(log)
    assert (running["outcome"], running["holder"]) == ("running", "me")
    assert running["detail"] == {"a": 1, "xid": "7"}
    await take(catalog, state, operation_id, length_us=0)
    (lost,) = await catalog.operations(log)
    assert (lost["outcome"], lost["holder"]) == ("lost", None)
    await catalog.end_operation(operation_id, outcome="done", ended_us=5, detail={})
    (done,) = await catalog.operations(log)
    assert done["outcome"] == "done"


def test_a_place_has_one_name() -> None:
    rewind = {"system": "7", "database": "shop", "database_oid": 5}
    restore = {"kind": "postgres", "where": "x", "system": "7", "database": "shop", "oid": 5}
    assert sink_text(rewind) == sink_text(restore) == "postgresql:7/5"
    assert sink_text(restore | {"oid": 6}) != sink_text(restore)
    csv = {"kind": "files", "where": "a", "path": "/a", "format": "csv"}
    assert sink_text(csv) == sink_text(csv | {"format": "ndjson"})
    assert sink_text({"kind": "stdout", "where": "-"}) is None
    assert sink_text({}) is None
    assert sink_text(restore | {"system": None}) is None
    assert sink_text({"topic": "a", "brokers": "b:1"}) != sink_text({"topic": "a", "brokers": "c"})


def test_no_part_of_the_catalog_hides_what_another_one_has() -> None:
    """They are mixed into one class: two statements of one name would be one."""
    seen: dict[str, type] = {}
    for part in PostgresCatalog.__mro__[1:-1]:
        for name in vars(part):
            if not name.startswith("__"):
                assert name not in seen, (name, part, seen[name])
                seen[name] = part
