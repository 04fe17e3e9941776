"""Damaged, missing and swapped objects are noticed on every path and named (invariants 8, 9)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pitr.adapters.objects import DirectoryStore
from pitr.domain.errors import DataLoss
from pitr.services.history import HistoryReader
from pitr.services.publish import entry_name
from tests.changes import batch, draft
from tests.conftest import START_US
from tests.services.world import World


def flip(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(bytes(body))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


HARM: list[Callable[[Path], None]] = [flip, cut, empty, Path.unlink]


@pytest.fixture
async def stored(world: World) -> World:
    """Two segments, one snapshot between them, everything published."""
    await world.append(batch([draft(n, commit_us=START_US - 10) for n in range(3)]))
    await world.sealer.seal(world.log, force=True)
    await world.snapshotter.snapshot(world.log)
    await world.append(batch([draft(n) for n in range(2, 5)], position_first=3))
    await world.sealer.seal(world.log, force=True)
    await world.publisher.publish(world.log)
    return world


async def path_of(world: World, kind: str, number: int = 0) -> Path:
    view = await world.archive.view(world.log)
    refs = [ref for ref in view.objects if ref.kind == kind]
    return await world.store.verified(refs[number])


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("kind", ["segment", "snapshot"])
async def test_a_restore_refuses_a_damaged_object_and_names_it(
    stored: World, kind: str, harm: Callable[[Path], None]
) -> None:
    path = await path_of(stored, kind, -1)
    harm(path)
    with pytest.raises(DataLoss) as error:
        await stored.state("latest")
    assert path.name in str(error.value)
    assert "seq_end" in str(error.value)


@pytest.mark.parametrize("harm", HARM)
async def test_history_seal_and_compaction_refuse_it_too(
    stored: World, harm: Callable[[Path], None]
) -> None:
    harm(await path_of(stored, "segment"))
    with pytest.raises(DataLoss):
        await HistoryReader(stored.archive).history(stored.log, "shop.orders", '{"id":1}')
    with pytest.raises(DataLoss):
        await stored.compactor.compact(stored.log, everything=True)
    with pytest.raises(DataLoss):
        await stored.state("before-seq:2")


async def test_an_object_in_the_place_of_another_is_noticed(stored: World) -> None:
    first, second = await path_of(stored, "segment", 0), await path_of(stored, "segment", 1)
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    with pytest.raises(DataLoss):
        await stored.state("latest", use_snapshots=False)


async def test_damage_after_a_first_good_read_is_noticed(stored: World) -> None:
    path = await path_of(stored, "segment", -1)
    await stored.state("latest")
    flip(path)
    with pytest.raises(DataLoss):
        await stored.state("latest")


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("kind", ["segment", "snapshot"])
async def test_verify_fails_and_says_what_is_lost(
    stored: World, kind: str, harm: Callable[[Path], None]
) -> None:
    harm(await path_of(stored, kind))
    report = await stored.verifier.verify(stored.log)
    assert report.verdict == "fail"
    (failed,) = [check for check in report.checks if check.verdict == "fail"]
    assert failed.lost is not None
    assert "seq 1 to 3" in failed.lost


@pytest.mark.parametrize("harm", [empty, Path.unlink])
async def test_verify_checks_the_published_manifest(
    stored: World, store: DirectoryStore, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    harm(tmp_path / "store" / entry_name(stored.log, 2))
    report = await stored.verifier.verify(stored.log)
    assert report.verdict == "fail"
    assert any("manifest entry" in check.detail for check in report.checks)


async def test_verify_passes_what_is_whole(stored: World) -> None:
    report = await stored.verifier.verify(stored.log)
    assert report.verdict == "pass"
    assert report.objects == 3


async def test_a_segment_that_is_not_listed_any_more_is_a_hole(
    stored: World, catalog_url: str
) -> None:
    import asyncpg

    connection = await asyncpg.connect(catalog_url)
    await connection.execute(
        "DELETE FROM pitr.objects WHERE name LIKE $1 AND seq_first = 4", f"{stored.log}/%"
    )
    await connection.close()
    stored.catalog._objects.clear()  # type: ignore[attr-defined]
    with pytest.raises(DataLoss, match="seq_first=4"):
        await stored.state("latest")
    assert (await stored.verifier.verify(stored.log)).verdict == "fail"
