"""The embedded PostgreSQL: real servers, real processes, real kills."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import psutil
import pytest

from pitr.adapters.embedded import EmbeddedPostgres, running
from pitr.adapters.embedded_files import SOCKET_PATH_BYTES_MAX
from pitr.adapters.file_lock import FileLock
from pitr.domain.errors import Conflict, InvalidRequest, Unavailable

ROOT = Path(__file__).resolve().parents[2]
AS_ROOT = os.geteuid() == 0

# A process that takes a share, says so, and gives it back when its stdin ends.
USER = """
import asyncio, sys
from pathlib import Path
from pitr.adapters.embedded import EmbeddedPostgres

async def main():
    server = await EmbeddedPostgres.start(Path(sys.argv[1]))
    print(server.url(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()

asyncio.run(main())
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A short folder of its own; whatever server is left in it is killed at the end."""
    # pytest closes its own temporary folders to other accounts while tests run.
    base = Path(tempfile.mkdtemp(prefix="pitr-test-"))
    yield base
    for process in servers_below(base):
        process.kill()
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def folder(place: Path) -> Path:
    return place / "pg"


def servers_below(folder: Path) -> list[psutil.Process]:
    """Every process of a server whose data is below ``folder``; not asking pitr."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and process.name().startswith("postgres"):
                found += [process] if Path(process.cwd()).is_relative_to(folder.resolve()) else []
    return found


def postmaster(folder: Path) -> psutil.Process:
    return psutil.Process(int((folder / "data" / "postmaster.pid").read_text().split()[0]))


async def value(url: str, query: str) -> object:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@dataclass
class User:
    """Another process with a share in the server."""

    process: asyncio.subprocess.Process
    url: str

    async def leave(self) -> None:
        _, errors = await asyncio.wait_for(self.process.communicate(b""), 60)
        assert self.process.returncode == 0, errors.decode()

    async def kill(self) -> None:
        self.process.kill()
        await self.process.wait()


@contextlib.asynccontextmanager
async def other_process(folder: Path) -> AsyncIterator[User]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", USER, str(folder)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        url = (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
        if not url:
            _, errors = await process.communicate()
            pytest.fail(errors.decode())
        yield User(process, url)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_data_is_there_after_a_restart(folder: Path) -> None:
    async with running(folder) as server:
        url = await server.ensure_database("app")
        await run(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    async with running(folder) as server:
        assert await value(await server.ensure_database("app"), "SELECT answer FROM kept") == 42


async def test_nothing_runs_after_stop(folder: Path) -> None:
    server = await EmbeddedPostgres.start(folder)
    assert servers_below(folder)
    await server.stop()
    assert servers_below(folder) == []
    assert not (folder / "data" / "postmaster.pid").exists()
    assert list(server.socket_folder.iterdir()) == []
    await server.stop()  # a second time does nothing
    with pytest.raises(Unavailable):
        await server.ensure_database("app")


async def test_a_session_that_is_open_does_not_hold_up_the_stop(folder: Path) -> None:
    async with running(folder) as server:
        connection = await asyncpg.connect(server.url())
        sleeping = asyncio.create_task(connection.fetchval("SELECT pg_sleep(300)"))
        await asyncio.sleep(0.1)
    assert servers_below(folder) == []
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await sleeping


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("data_checksums", "on"),
        ("wal_level", "logical"),
        ("max_connections", "100"),
        ("shared_buffers", "128MB"),
        ("listen_addresses", ""),
        ("server_encoding", "UTF8"),
        ("TimeZone", "UTC"),
    ],
)
async def test_settings(server: EmbeddedPostgres, setting: str, expected: str) -> None:
    assert await value(server.url(), f"SHOW {setting}") == expected


async def test_text_sorts_by_code_point_in_every_database(server: EmbeddedPostgres) -> None:
    url = await server.ensure_database("sorted")
    query = "SELECT string_agg(word, ' ' ORDER BY word) FROM unnest('{b,A,a,B,ä}'::text[]) AS word"
    assert await value(url, query) == "A B a b ä"
    assert await value(url, "SELECT upper('ä')") == "Ä"


async def test_own_settings_survive_in_local_conf(folder: Path) -> None:
    async with running(folder):
        pass
    (folder / "data" / "local.conf").write_text("work_mem = '7MB'\n")
    (folder / "data" / "local.conf").chmod(0o644)
    async with running(folder) as server:
        assert await value(server.url(), "SHOW work_mem") == "7MB"


async def test_ensure_database_takes_any_name_and_can_be_called_by_many_at_once(
    server: EmbeddedPostgres,
) -> None:
    name = 'a "b"; DROP DATABASE postgres; ü/%?'
    urls = await asyncio.gather(*(server.ensure_database(name) for _ in range(8)))
    assert len(set(urls)) == 1
    assert await value(urls[0], "SELECT current_database()") == name


async def test_the_programs_of_the_wheel_take_the_url(server: EmbeddedPostgres) -> None:
    command = [server.bin_folder / "psql", "-XAt", "-c", "SELECT 6 * 7", server.url()]
    assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "42"
    command = [server.bin_folder / "psql", "-XAt", "-h", server.socket_folder, "-U", "postgres"]
    told = subprocess.run([*command, "-c", "SELECT 1"], capture_output=True, text=True)
    assert told.stdout.strip() == "1"


async def test_two_shares_in_one_process(folder: Path) -> None:
    first, second = await asyncio.gather(
        EmbeddedPostgres.start(folder), EmbeddedPostgres.start(folder)
    )
    assert first.url() == second.url()
    await first.stop()
    assert await value(second.url(), "SELECT 1") == 1
    await second.stop()
    assert servers_below(folder) == []


@pytest.mark.parametrize("who_leaves_first", ["the one that started it", "the one that joined"])
async def test_the_last_process_to_leave_stops_the_server(
    folder: Path, who_leaves_first: str
) -> None:
    async with other_process(folder) as starter, other_process(folder) as joiner:
        assert starter.url == joiner.url
        pid = postmaster(folder).pid
        users = [starter, joiner]
        if who_leaves_first == "the one that joined":
            users.reverse()
        await users[0].leave()
        assert await value(starter.url, "SELECT 1") == 1
        assert postmaster(folder).pid == pid
        await users[1].leave()
        assert servers_below(folder) == []


async def test_many_processes_start_at_once_and_get_one_server(folder: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        users = await asyncio.gather(
            *(stack.enter_async_context(other_process(folder)) for _ in range(4))
        )
        assert len({user.url for user in users}) == 1
        assert len([p for p in servers_below(folder) if p.ppid() not in pids(folder)]) == 1
        await asyncio.gather(*(user.leave() for user in users))
        assert servers_below(folder) == []


def pids(folder: Path) -> set[int]:
    return {process.pid for process in servers_below(folder)}


async def test_a_killed_process_loses_its_share_and_the_next_joins(folder: Path) -> None:
    async with other_process(folder) as user:
        await run(user.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        pid = postmaster(folder).pid
        await user.kill()
    async with running(folder) as server:
        assert postmaster(folder).pid == pid
        assert await value(server.url(), "SELECT answer FROM kept") == 42
    assert servers_below(folder) == []


async def test_a_killed_process_does_not_keep_the_server_up(folder: Path) -> None:
    async with other_process(folder) as killed, running(folder):
        await killed.kill()
    assert servers_below(folder) == []


async def test_a_killed_server_recovers_what_was_committed(folder: Path) -> None:
    server = await EmbeddedPostgres.start(folder)
    await run(server.url(), "CREATE TABLE kept AS SELECT 42 AS answer")
    killed = postmaster(folder)
    killed.kill()
    async with running(folder) as again:
        assert postmaster(folder).pid != killed.pid
        assert await value(again.url(), "SELECT answer FROM kept") == 42
        assert await value(server.url(), "SELECT answer FROM kept") == 42
    assert await value(server.url(), "SELECT 1") == 1  # the first share still counts
    await server.stop()
    assert servers_below(folder) == []


async def test_a_new_server_waits_until_the_old_ones_last_process_is_gone(folder: Path) -> None:
    """Two servers in one data folder, even for a moment, would destroy it."""
    server = await EmbeddedPostgres.start(folder)
    frozen = next(p for p in servers_below(folder) if "walwriter" in " ".join(p.cmdline()))
    frozen.suspend()
    postmaster(folder).kill()
    starting = asyncio.create_task(EmbeddedPostgres.start(folder))
    done, _ = await asyncio.wait([starting], timeout=1.5)
    assert not done
    frozen.kill()
    again = await starting
    assert await value(again.url(), "SELECT 1") == 1
    await again.stop()
    await server.stop()


async def test_stop_after_the_server_was_killed(folder: Path) -> None:
    server = await EmbeddedPostgres.start(folder)
    postmaster(folder).kill()
    await server.stop()
    assert servers_below(folder) == []


async def test_everything_killed_while_writing_then_start(folder: Path) -> None:
    async with other_process(folder) as user:
        await run(user.url, "CREATE TABLE counted (n int)")
        connection = await asyncpg.connect(user.url)
        done = 0
        async with asyncio.timeout(30):
            for n in range(50):
                await connection.execute("INSERT INTO counted VALUES ($1)", n)
                done += 1
        await user.kill()
        for process in servers_below(folder):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        connection.terminate()
    async with running(folder) as server:
        assert await value(server.url(), "SELECT count(*) FROM counted") == done


@pytest.mark.parametrize("whose", ["nobody's", "another program's", "another server's"])
async def test_a_stale_pid_file_is_no_hindrance(folder: Path, place: Path, whose: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with running(folder) as server:
            owner = server.bin_folder.owner(), (folder / "data").stat()
            text = (folder / "data" / "postmaster.pid").read_text()
        if whose == "nobody's":
            with subprocess.Popen(["true"]) as gone:
                gone.wait()
            pid = gone.pid
        elif whose == "another program's":
            # As the server's own account: that is the case PostgreSQL itself cannot tell.
            user = owner[1].st_uid if AS_ROOT else None
            sleeper = stack.enter_context(subprocess.Popen(["sleep", "300"], user=user))
            stack.callback(sleeper.kill)
            pid = sleeper.pid
        else:
            await stack.enter_async_context(running(place / "other"))
            pid = postmaster(place / "other").pid
        stale = folder / "data" / "postmaster.pid"
        stale.write_text(text.replace(text.split()[0], str(pid), 1))
        os.chown(stale, owner[1].st_uid, owner[1].st_gid)
        stale.chmod(0o600)

        async with running(folder) as server:
            assert postmaster(folder).pid != pid
            assert await value(server.url(), "SELECT 1") == 1
        if whose != "nobody's":
            assert psutil.pid_exists(pid)
            assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_stop_spares_the_process_that_has_the_pid_today(folder: Path) -> None:
    server = await EmbeddedPostgres.start(folder)
    user = (folder / "data").stat().st_uid if AS_ROOT else None
    with subprocess.Popen(["sleep", "300"], user=user) as sleeper:
        try:
            postmaster(folder).kill()
            path = folder / "data" / "postmaster.pid"
            text = path.read_text()
            path.write_text(text.replace(text.split()[0], str(sleeper.pid), 1))
            await server.stop()
            assert sleeper.poll() is None
        finally:
            sleeper.kill()


async def test_initdb_that_was_cut_off_is_done_again(folder: Path) -> None:
    (folder / "data.new" / "base").mkdir(parents=True)
    (folder / "data.new" / "PG_VERSION").write_text("18\n")
    async with running(folder) as server:
        assert await value(server.url(), "SELECT 1") == 1
    assert not (folder / "data.new").exists()


async def test_another_major_version_is_refused_and_left_alone(folder: Path) -> None:
    async with running(folder):
        pass
    (folder / "data" / "PG_VERSION").write_text("17\n")
    with pytest.raises(InvalidRequest, match="another major version") as refused:
        await EmbeddedPostgres.start(folder)
    assert refused.value.facts["found"] == "17"
    assert servers_below(folder) == []
    assert (folder / "data" / "PG_VERSION").read_text() == "17\n"
    (folder / "data" / "PG_VERSION").write_text("18\n")
    async with running(folder) as server:  # the refused share is not held on to
        assert await value(server.url(), "SELECT 1") == 1
    assert servers_below(folder) == []


@pytest.mark.parametrize("found", ["letters.txt", "data/letters.txt", "PG_VERSION"])
async def test_a_folder_with_something_else_is_refused_and_left_alone(
    folder: Path, found: str
) -> None:
    file = folder / found
    file.parent.mkdir(parents=True)
    file.write_text("18\n")
    with pytest.raises(InvalidRequest, match="no data folder"):
        await EmbeddedPostgres.start(folder)
    assert [path for path in folder.rglob("*") if path.is_file()] == [file]


async def test_a_file_in_place_of_the_folder_is_refused(folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(InvalidRequest):
        await EmbeddedPostgres.start(folder)


async def test_a_server_started_by_hand_is_a_conflict(folder: Path) -> None:
    async with running(folder) as server:
        pg_ctl = server.bin_folder / "pg_ctl"
    owner = (folder / "data").stat()
    as_owner = {"user": owner.st_uid, "group": owner.st_gid} if AS_ROOT else {}
    by_hand = [pg_ctl, "-D", "data", "-s", "-w", "-l", "log/hand.log"]
    subprocess.run([*by_hand, "start"], cwd=folder, check=True, timeout=60, **as_owner)
    pid = postmaster(folder).pid
    with pytest.raises(Conflict) as refused:
        await EmbeddedPostgres.start(folder)
    assert refused.value.facts["pid"] == pid
    assert postmaster(folder).pid == pid
    subprocess.run([*by_hand, "stop"], cwd=folder, check=True, timeout=60, **as_owner)
    async with running(folder) as server:
        assert await value(server.url(), "SELECT 1") == 1


async def test_the_error_shows_what_the_server_said(folder: Path) -> None:
    async with running(folder):
        pass
    (folder / "data" / "local.conf").write_text("work_mem = 'plenty'\n")
    (folder / "data" / "local.conf").chmod(0o644)
    with pytest.raises(Unavailable, match="work_mem") as failed:
        await EmbeddedPostgres.start(folder)
    assert "\n" not in str(failed.value)
    (folder / "data" / "local.conf").unlink()
    async with running(folder) as server:
        assert await value(server.url(), "SELECT 1") == 1


@pytest.mark.parametrize(
    "name",
    ["with spaces", 'quote\'s "and" back\\slash', "$(touch injected) `x`", "ünï,cödé", "d" * 120],
)
async def test_any_name_of_a_folder(place: Path, name: str) -> None:
    folder = place / name / "pg"
    async with running(folder) as server, other_process(folder) as user:
        assert user.url == server.url()
        assert await value(await server.ensure_database("app"), "SELECT 1") == 1
        socket = next(p for p in server.socket_folder.iterdir() if p.is_socket())
        assert len(os.fsencode(socket)) <= SOCKET_PATH_BYTES_MAX
        assert stat.S_IMODE(server.socket_folder.stat().st_mode) == 0o700
        outside = not server.socket_folder.is_relative_to(place)
        await user.leave()
        assert socket.exists()
    assert servers_below(place) == []
    assert not outside or not server.socket_folder.exists()
    assert not list(place.rglob("injected"))


async def test_a_socket_folder_made_by_somebody_else_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not AS_ROOT:
        pytest.skip("only root can make a folder of somebody else")
    folder = place / ("d" * 120)
    async with running(folder) as server:
        squatted = server.socket_folder
    squatted.mkdir()
    os.chown(squatted, 12345, 12345)
    try:
        with pytest.raises(Conflict, match="somebody else"):
            await EmbeddedPostgres.start(folder)
    finally:
        squatted.rmdir()


async def test_other_accounts_cannot_get_in(folder: Path) -> None:
    """Neither by the closed folders nor, were they open, by the server's own question who asks."""
    if not AS_ROOT:
        pytest.skip("only root can ask as somebody else")
    async with running(folder) as server:
        asking = [server.bin_folder / "psql", "-XAtc", "SELECT 1", server.url()]

        def asked() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                asking, capture_output=True, text=True, user=12345, group=12345, cwd="/"
            )

        refused = asked()
        assert refused.returncode == 2
        assert "Permission denied" in refused.stderr
        for path in (folder, server.socket_folder):
            path.chmod(0o755)
        next(server.socket_folder.glob(".s.PGSQL.*[0-9]")).chmod(0o777)
        refused = asked()
        assert refused.returncode == 2
        assert "authentication failed" in refused.stderr


async def test_the_data_is_closed_to_others(folder: Path) -> None:
    async with running(folder) as server:
        private = [folder / "data", folder / "log", server.socket_folder]
        assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o700}
        if AS_ROOT:
            assert all(path.stat().st_uid != 0 for path in private)
            assert folder.stat().st_uid == 0


async def test_root_opens_the_way_only_for_passing_through(place: Path) -> None:
    if not AS_ROOT:
        pytest.skip("an ordinary user needs no way opened")
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    async with running(closed / "pg") as server:
        assert await value(server.url(), "SELECT 1") == 1
    assert stat.S_IMODE(closed.stat().st_mode) == 0o701


async def test_data_copied_by_root_is_given_back_to_the_server(folder: Path, place: Path) -> None:
    if not AS_ROOT:
        pytest.skip("an ordinary user's copies are its own")
    async with running(folder) as server:
        await run(server.url(), "CREATE TABLE kept AS SELECT 42 AS answer")
    shutil.copytree(folder, place / "copy")
    assert (place / "copy" / "data").stat().st_uid == 0
    async with running(place / "copy") as server:
        assert await value(server.url(), "SELECT answer FROM kept") == 42


async def test_a_read_only_place_is_a_clear_error(place: Path) -> None:
    if AS_ROOT:
        pytest.skip("nothing is read-only for root")
    place.chmod(0o500)
    with pytest.raises(InvalidRequest, match="cannot be used"):
        await EmbeddedPostgres.start(place / "pg")
    place.chmod(0o700)


async def test_ctrl_c_at_the_terminal_does_not_reach_the_server(folder: Path) -> None:
    program = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{USER}"
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,  # stands for the terminal: its own process group
    )
    assert process.stdout is not None
    url = (await asyncio.to_thread(process.stdout.readline)).strip()
    os.killpg(process.pid, signal.SIGINT)
    await asyncio.sleep(0.3)
    assert await value(url, "SELECT 1") == 1
    await asyncio.to_thread(process.communicate, "")
    assert process.returncode == 0
    assert servers_below(folder) == []


@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.1])
async def test_a_cancelled_start_leaves_nothing_behind(folder: Path, after_s: float) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(after_s):
            await EmbeddedPostgres.start(folder)
    assert servers_below(folder) == []
    async with running(folder) as server:
        assert await value(server.url(), "SELECT 1") == 1
    assert servers_below(folder) == []


async def test_the_server_has_nothing_of_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PITR_SECRET", "hunter2")
    monkeypatch.setenv("PGPORT", "6543")
    monkeypatch.setenv("PGDATA", "/nowhere")
    async with running(folder) as server:
        environment = postmaster(folder).environ()
        assert "PITR_SECRET" not in environment
        assert not environment.get("PGDATA", "").startswith("/nowhere")
        assert await value(server.url(), "SHOW port") == "5432"


def test_a_file_lock_is_shared_or_exclusive_and_freed_by_close(tmp_path: Path) -> None:
    path = tmp_path / "some.lock"
    with FileLock(path) as one, FileLock(path) as two, FileLock(path) as three:
        assert one.try_shared() and two.try_shared()
        assert not three.try_exclusive()
        assert not three.exclusive_within(0.05)
        one.close()
        assert not three.try_exclusive()
        assert two.try_exclusive()
        assert not three.try_shared()
        two.close()
        assert three.try_exclusive()


def test_a_file_lock_outlives_its_holder_in_a_child(tmp_path: Path) -> None:
    path = tmp_path / "some.lock"
    with FileLock(path) as holder, FileLock(path) as other:
        assert holder.try_exclusive()
        child = subprocess.Popen(["sleep", "300"], pass_fds=(holder.descriptor,))
        holder.close()
        assert not other.try_exclusive()
        child.kill()
        child.wait()
        assert other.exclusive_within(5)


@pytest.fixture(scope="module")
def shared_folder() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="pitr-test-"))
    yield base / "pg"
    for process in servers_below(base):
        process.kill()
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
async def server(shared_folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A server for tests that only look; its data is made once."""
    async with running(shared_folder) as server:
        yield server
