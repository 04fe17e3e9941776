"""Restores: recorded, all or nothing, only what was asked for, never past a gap unasked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import orjson
import pytest

from pitr.adapters.sinks import sink_for
from pitr.domain.errors import Conflict, DataLoss, NotFound, SinkNotEmpty
from pitr.domain.log import Gap
from pitr.services.restore import Restorer, RestoreReport, RestoreRequest
from tests.changes import batch, draft
from tests.conftest import START_US
from tests.services.world import World


class Restoring:
    """A world with a restorer."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        ids: Iterator[str] = iter(uuid4().hex for _ in range(100))
        self.restorer = Restorer(
            *(world.catalog, world.archive, world.resolver, world.clock),
            leases=world.leases,
            new_id=lambda: next(ids),
        )

    async def restore(self, target: str = "latest", **rest: object) -> RestoreReport:
        request = RestoreRequest(log=self.world.log, target=target, **rest)  # type: ignore[arg-type]
        plan = await self.restorer.plan(request)
        return await self.restorer.restore(plan, sink_for(str(self.folder / "out.ndjson")))

    def rows(self) -> dict[tuple[str, int], object]:
        lines = (self.folder / "out.ndjson").read_bytes().splitlines()
        found = [orjson.loads(line) for line in lines]
        return {(row["collection"], row["key"]["id"]): row["after"] for row in found}


@pytest.fixture
async def restoring(world: World, tmp_path: Path) -> Restoring:
    rows = [draft(n, f'{{"n":{n}}}', collection=c) for n in range(3) for c in ("a", "b")]
    await world.append(batch([*rows, draft(2, collection="b", op="delete")]))
    return Restoring(world, tmp_path)


async def test_a_restore_writes_the_state_and_is_recorded(restoring: Restoring) -> None:
    report = await restoring.restore("seq:4", actor="ana", reason="drill")
    assert report.row_count == 4
    assert set(restoring.rows()) == {("a", 0), ("b", 0), ("a", 1), ("b", 1)}
    (operation,) = await restoring.world.catalog.operations(restoring.world.log)
    assert (operation["actor"], operation["reason"]) == ("ana", "drill")
    assert (operation["kind"], operation["outcome"]) == ("restore", "done")
    assert operation["detail"]["target"] == "seq:4"
    assert operation["detail"]["rows"] == {"a": 2, "b": 2}


async def test_collections_and_keys_can_be_chosen(restoring: Restoring) -> None:
    report = await restoring.restore(collections=frozenset({"b"}))
    assert report.sink.rows == {"b": 2}
    (restoring.folder / "out.ndjson").unlink()
    report = await restoring.restore(keys=frozenset({("a", '{"id":1}'), ("b", '{"id":2}')}))
    assert set(restoring.rows()) == {("a", 1)}


async def test_an_unknown_collection_is_named(restoring: Restoring) -> None:
    with pytest.raises(NotFound, match="collection=c"):
        await restoring.restore(collections=frozenset({"c"}))


async def test_a_gap_is_refused_unless_accepted(restoring: Restoring) -> None:
    """Invariant 7."""
    gap = Gap(
        lane="a",
        position_first=None,
        position_end=None,
        at_min_us=None,
        at_max_us=None,
        seq_end=4,
        reason="lost",
        recorded_us=START_US,
    )
    await restoring.world.catalog.record_gap(restoring.world.log, gap)
    with pytest.raises(Conflict, match="gap"):
        await restoring.restore()
    assert (await restoring.restore(accept_gaps=True)).plan.resolution.gaps == (gap,)


async def test_what_is_there_is_not_overwritten(restoring: Restoring) -> None:
    await restoring.restore("seq:1")
    restoring.world.clock.advance(1)
    with pytest.raises(SinkNotEmpty):
        await restoring.restore()
    assert set(restoring.rows()) == {("a", 0)}
    failed, _ = await restoring.world.catalog.operations(restoring.world.log)
    assert failed["outcome"] == "failed"


async def test_a_restore_that_fails_leaves_nothing(restoring: Restoring) -> None:
    """Invariant 12."""
    world = restoring.world
    request = RestoreRequest(log=world.log, target="latest")
    plan = await restoring.restorer.plan(request)
    (segment,) = (await world.archive.view(world.log)).segments
    path = await world.store.verified(segment)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataLoss):
        await restoring.restorer.restore(plan, sink_for(str(restoring.folder / "out.ndjson")))
    (failed,) = await world.catalog.operations(world.log)
    assert (failed["outcome"], failed["detail"]["error"]) == ("failed", "data_loss")
    left = [path for path in restoring.folder.rglob("*") if path.is_file()]
    assert [path for path in left if "store" not in path.parts] == []
    with pytest.raises(DataLoss):
        await restoring.restorer.plan(request)


async def test_collections_without_rows_are_still_known(restoring: Restoring) -> None:
    world = restoring.world
    await world.append(batch([draft(op="truncate", collection="b")], position_first=7))
    for _ in range(2):
        report = await restoring.restore()
        assert report.sink.rows == {"a": 3, "b": 0}
        (restoring.folder / "out.ndjson").unlink()
        await world.sealer.seal(world.log, force=True)
        await world.snapshotter.snapshot(world.log)
