"""The contract of ``ObjectStore``, on every implementation, and what only a directory can show."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pitr.adapters.objects import DirectoryStore
from pitr.domain.errors import Conflict, DataLoss, InvalidRequest, NotFound, Unavailable
from pitr.domain.manifest import ObjectRef
from pitr.domain.ports import ObjectStore
from tests.fakes import MemoryStore


@pytest.fixture(params=["directory", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    folder = tmp_path / "store"
    if request.param == "directory":
        return DirectoryStore(folder)
    folder.mkdir()
    return MemoryStore(folder)


@pytest.fixture
def directory(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "store")


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def ref(name: str, body: bytes, *, collection: str | None = None) -> ObjectRef:
    return ObjectRef(
        kind="segment",
        name=name,
        seq_first=7,
        seq_end=9,
        at_min_us=1,
        at_max_us=2,
        row_count=2,
        size_bytes=len(body),
        sha256=digest(body),
        collection=collection,
    )


async def put(store: ObjectStore, name: str, body: bytes) -> ObjectRef:
    await store.put_new(name, body, sha256=digest(body))
    return ref(name, body)


async def test_what_is_put_is_read_listed_and_verified(store: ObjectStore) -> None:
    stored = await put(store, "main/segments/1-2.parquet", b"abc")
    assert await store.read("main/segments/1-2.parquet") == b"abc"
    assert await store.list("main") == [("main/segments/1-2.parquet", 3)]
    assert (await store.verified(stored)).read_bytes() == b"abc"


async def test_a_file_is_put_as_bytes_are(store: ObjectStore, tmp_path: Path) -> None:
    body = os.urandom(12 * 1024 * 1024)
    (tmp_path / "source").write_bytes(body)
    await store.put_new("main/big", tmp_path / "source", sha256=digest(body))
    assert (await store.verified(ref("main/big", body))).read_bytes() == body
    (tmp_path / "source").write_bytes(b"the source belongs to its maker")
    assert (await store.verified(ref("main/big", body))).read_bytes() == body


async def test_the_same_bytes_again_are_no_error_and_others_are_a_conflict(
    store: ObjectStore,
) -> None:
    await put(store, "main/a", b"one")
    await put(store, "main/a", b"one")
    with pytest.raises(Conflict):
        await put(store, "main/a", b"two")
    assert await store.read("main/a") == b"one"
    assert await store.list("") == [("main/a", 3)]


async def test_bytes_with_another_digest_are_refused_before_they_are_listed(
    store: ObjectStore,
) -> None:
    with pytest.raises(DataLoss):
        await store.put_new("main/a", b"one", sha256=digest(b"two"))
    assert await store.list("") == []


async def test_only_one_of_two_writers_of_a_name_wins(store: ObjectStore) -> None:
    bodies = [b"writer %d" % number for number in range(8)]
    results = await asyncio.gather(
        *(put(store, "main/a", body) for body in bodies), return_exceptions=True
    )
    winners = [
        body for body, result in zip(bodies, results, strict=True) if isinstance(result, ObjectRef)
    ]
    assert [await store.read("main/a")] == winners
    assert sum(isinstance(result, Conflict) for result in results) == 7


async def test_a_list_holds_the_folder_only_sorted_by_name(store: ObjectStore) -> None:
    for name in ("a/b/2", "a/b/10", "a/bc/1", "a/b/c/1", "z"):
        await put(store, name, b"x")
    assert [name for name, _ in await store.list("a/b")] == ["a/b/10", "a/b/2", "a/b/c/1"]
    assert [name for name, _ in await store.list("a/b/")] == ["a/b/10", "a/b/2", "a/b/c/1"]
    assert await store.list("nothing/here") == []
    assert len(await store.list("")) == 5


async def test_names_hold_percent_signs_spaces_and_letters_of_any_script(
    store: ObjectStore,
) -> None:
    for name in ("main/public.orders%2Fü-0-ab.parquet", "main/a b", "main/注文"):
        stored = await put(store, name, b"x")
        assert (await store.verified(stored)).read_bytes() == b"x"
        assert (name, 1) in await store.list("main")


@pytest.mark.parametrize(
    "name", ["", "/abs", "a/../b", "..", "a//b", "a/", "./a", ".tmp/x", "a\\b"]
)
async def test_names_that_leave_the_store_are_refused(store: ObjectStore, name: str) -> None:
    with pytest.raises(InvalidRequest):
        await put(store, name, b"x")
    with pytest.raises(InvalidRequest):
        await store.verified(ref(name, b"x"))
    with pytest.raises(InvalidRequest):
        await store.read(name)
    with pytest.raises(InvalidRequest):
        await store.delete(name)


async def test_a_missing_object_is_not_found_or_a_loss(store: ObjectStore) -> None:
    with pytest.raises(NotFound):
        await store.read("main/a")
    with pytest.raises(DataLoss) as caught:
        await store.verified(ref("main/a", b"x", collection="orders"))
    facts = caught.value.facts
    assert (facts["object"], facts["seq_first"], facts["seq_end"]) == ("main/a", 7, 9)
    assert facts["collection"] == "orders"


async def test_an_object_with_another_digest_is_a_loss(store: ObjectStore) -> None:
    await put(store, "main/a", b"one")
    with pytest.raises(DataLoss):
        await store.verified(ref("main/a", b"two"))
    with pytest.raises(DataLoss):
        await store.verified(ref("main/a", b"longer"))


async def test_a_deleted_object_is_gone_and_its_name_free(store: ObjectStore) -> None:
    stored = await put(store, "main/a", b"one")
    await store.verified(stored)
    await store.delete("main/a")
    await store.delete("main/a")
    with pytest.raises(DataLoss):
        await store.verified(stored)
    assert await store.list("") == []
    await put(store, "main/a", b"two")


async def test_damage_is_found_also_after_a_first_check(directory: DirectoryStore) -> None:
    stored = await put(directory, "main/a", b"one")
    path = await directory.verified(stored)
    path.write_bytes(b"0ne")
    with pytest.raises(DataLoss):
        await directory.verified(stored)
    path.unlink()
    with pytest.raises(DataLoss):
        await directory.verified(stored)


async def test_two_swapped_objects_are_found(directory: DirectoryStore) -> None:
    one, two = await put(directory, "main/a", b"one"), await put(directory, "main/b", b"two")
    path_one, path_two = await directory.verified(one), await directory.verified(two)
    path_one.rename(path_one.with_suffix(".x"))
    path_two.rename(path_one)
    path_one.with_suffix(".x").rename(path_two)
    for stored in (one, two):
        with pytest.raises(DataLoss):
            await directory.verified(stored)


async def test_an_unchanged_file_is_read_once_unless_asked_again(
    directory: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, reads = await put(directory, "main/a", b"one"), []
    file_digest = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda *args: (reads.append(args), file_digest(*args))[1]
    )
    for _ in range(3):
        await directory.verified(stored)
    assert len(reads) == 1
    await directory.verified(stored, again=True)
    assert len(reads) == 2


async def test_files_and_folders_are_synced_before_a_put_returns(
    directory: DirectoryStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    synced, fsync = [], os.fsync

    def recorded(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    await put(directory, "main/deep/folder/a", b"one")
    root = tmp_path / "store"
    assert synced[0].parent == root / ".tmp"
    assert synced[1:] == [root / "main/deep/folder", root / "main/deep", root / "main", root]
    synced.clear()
    await put(directory, "main/deep/folder/a", b"one")
    assert root / "main/deep/folder/a" in synced, "a retry makes durable what a crash may not have"
    assert root / "main/deep/folder" in synced


async def test_staged_files_are_not_listed_and_cleaned_only_when_their_process_is_gone(
    directory: DirectoryStore, tmp_path: Path
) -> None:
    living = DirectoryStore(tmp_path / "store")
    await put(living, "main/a", b"one")
    staging = tmp_path / "store" / ".tmp"
    lock = next(staging.glob("*.lock"))
    (staging / f"{lock.stem}.77").write_bytes(b"half")
    (staging / "gone.1").write_bytes(b"half")
    (staging / "gone.1#1").write_bytes(b"half")
    assert [name for name, _ in await directory.list("")] == ["main/a"]
    assert await directory.clean() == 2
    assert (staging / f"{lock.stem}.77").exists()
    del living


async def test_a_directory_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable):
        DirectoryStore(tmp_path / "file" / "store")
    store = DirectoryStore(tmp_path / "store")
    (tmp_path / "store" / "main").write_bytes(b"a file where a folder should be")
    with pytest.raises(Unavailable):
        await put(store, "main/a", b"one")
    assert list((tmp_path / "store" / ".tmp").glob("*[0-9]")) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
async def test_a_full_disk_is_unavailable_and_leaves_nothing(
    directory: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        with Path("/dev/full").open("wb") as file:
            file.write(b"x")

    monkeypatch.setattr("pitr.adapters.objects.obstore.put", full)
    with pytest.raises(Unavailable) as caught:
        await put(directory, "main/a", b"one")
    assert "No space left" in str(caught.value)
    assert await directory.list("") == []


_PUTS_FOREVER = """
import asyncio, hashlib, os, sys
from pathlib import Path
from pitr.adapters.objects import DirectoryStore

async def main():
    store = DirectoryStore(Path(sys.argv[1]))
    number = int(sys.argv[2]) * 1_000_000
    while True:
        body = b"%d" % number * 50_000
        name = f"main/{number % 7}/{number}"
        await store.put_new(name, body, sha256=hashlib.sha256(body).hexdigest())
        print(name, flush=True)
        number += 1

asyncio.run(main())
"""


def test_a_killed_put_leaves_whole_objects_or_none(tmp_path: Path) -> None:
    """kill -9 in a loop of puts: what was acknowledged is there, what is listed is whole."""
    root = tmp_path / "store"
    for attempt in range(6):
        command = [sys.executable, "-c", _PUTS_FOREVER, str(root), str(attempt)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            acknowledged = [process.stdout.readline().strip()]
            time.sleep(0.013 * attempt)
            process.send_signal(signal.SIGKILL)
            acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]
        asyncio.run(_check_killed(root, acknowledged))
        assert list((root / ".tmp").iterdir()) == []


async def _check_killed(root: Path, acknowledged: list[str]) -> None:
    store = DirectoryStore(root)
    listed = dict(await store.list("main"))
    assert set(acknowledged) <= set(listed)
    for name, size in listed.items():
        number = name.rpartition("/")[2].encode()
        assert (size, await store.read(name)) == (len(number) * 50_000, number * 50_000)
    await store.clean()
