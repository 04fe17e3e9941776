"""The replication stream on real servers of each version that can be had."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import struct
import subprocess
import time
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import uvloop

from pitr.adapters.postgres import replication
from pitr.adapters.postgres.replication import ReplicationStream, SlotLost, StreamPoll
from pitr.adapters.postgres.replication_session import Session
from pitr.domain.errors import Conflict, InvalidRequest, PitrError, Unavailable
from pitr.domain.pgoutput.model import lsn_of, lsn_text
from tests.postgres import servers
from tests.postgres.servers import Source, execute, fetch

MIB = 1024 * 1024
TABLE = "CREATE TABLE t (id int PRIMARY KEY, name text)"
PUBLICATION = "CREATE PUBLICATION p FOR TABLE t"


def slot_of(url: str) -> str:
    """A slot's name is one in the whole server."""
    return "s_" + url.rpartition("/")[2].partition("?")[0]


@contextlib.asynccontextmanager
async def opened(url: str, *, lsn: int = 0, publication: str = "p") -> AsyncIterator[Any]:
    stream = await ReplicationStream.open(url, slot=slot_of(url), publication=publication, lsn=lsn)
    async with stream:
        yield stream


@contextlib.asynccontextmanager
async def streaming(url: str, *, publication: str = "p") -> AsyncIterator[Any]:
    """A stream of a new slot."""
    async with opened(url, publication=publication) as stream:
        await stream.create_slot(slot_of(url))
        await stream.start()
        yield stream


async def taken(
    stream: ReplicationStream, commits: int, *, timeout_s: float = 20.0
) -> tuple[list[bytes], StreamPoll]:
    """Everything up to so many commits, and the last poll."""
    messages: list[bytes] = []
    async with asyncio.timeout(timeout_s):
        while True:
            polled = await stream.poll(bytes_max=MIB, timeout_s=5)
            messages += polled.messages
            if sum(message[:1] == b"C" for message in messages) >= commits:
                return messages, polled


def row(message: bytes) -> list[str | None]:
    """The values of an insert."""
    count = struct.unpack_from(">H", message, 6)[0]
    at, values = 8, []
    for _ in range(count):
        if message[at : at + 1] == b"n":
            values.append(None)
            at += 1
        else:
            size = struct.unpack_from(">I", message, at + 1)[0]
            values.append(message[at + 5 : at + 5 + size].decode())
            at += 5 + size
    return values


def rows(messages: list[bytes]) -> list[list[str | None]]:
    return [row(message) for message in messages if message[:1] == b"I"]


def confirmed(url: str) -> int:
    query = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = %s"
    return lsn_of(fetch(url, query, [slot_of(url)])[0][0])


def readers() -> int:
    """The file descriptors that the event loop watches."""
    return len(asyncio.get_running_loop()._selector.get_map())


async def until(condition: Any, *, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.02)


# What comes -------------------------------------------------------------------------------------

HOSTILE = {
    "datestyle": "SQL, DMY",
    "timezone": "Asia/Kathmandu",
    "intervalstyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-5",
    "lc_monetary": "C",
    "xmloption": "document",
    "client_encoding": "LATIN1",
    "default_transaction_read_only": "on",
    "statement_timeout": "900ms",
    "lock_timeout": "900ms",
    "idle_in_transaction_session_timeout": "900ms",
}


def has_xml(url: str) -> bool:
    try:
        execute(url, "SELECT '<a/>'::xml")
    except psycopg.errors.FeatureNotSupported:
        return False
    return True


VALUES = {
    "date": ("2026-03-01", "2026-03-01"),
    "timestamptz": ("2026-03-01 09:30:00.25+00", "2026-03-01 09:30:00.25+00"),
    "interval": ("1 year 2 days 03:04:05.5", "1 year 2 days 03:04:05.5"),
    "bytea": (r"\x00ff", r"\x00ff"),
    "float8": ("0.1", "0.1"),
    "float4": ("3.4028235e+38", "3.4028235e+38"),
    "numeric": ("123456789012345678901234567890.10", "123456789012345678901234567890.10"),
    "money": ("-1234.5", "-1234.50"),
    "xml": ("a fragment <b/>", "a fragment <b/>"),
    "text": ("žluťoučký 🐎", "žluťoučký 🐎"),
}


async def test_values_are_the_same_however_the_database_is_set(
    every_source: Source, every_source_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, name = every_source_db, every_source_db.rpartition("/")[2]
    values = dict(VALUES)
    if not has_xml(url):
        print(f"NOT TESTED ON POSTGRESQL {every_source.name}: xml, which it was built without")
        del values["xml"]
    columns = ", ".join(f"c_{kind} {kind}" for kind in values)
    execute(url, f"CREATE TABLE t ({columns})", PUBLICATION)
    hostile = dict(HOSTILE)
    if every_source.major >= 17:
        hostile["transaction_timeout"] = "900ms"
    if every_source.major >= 14:
        hostile["idle_session_timeout"] = "900ms"
    for setting, value in hostile.items():
        execute(every_source.url(), f"ALTER DATABASE {name} SET {setting} = '{value}'")
    monkeypatch.setenv("PGTZ", "America/St_Johns")
    monkeypatch.setenv("PGDATESTYLE", "German")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN2")
    monkeypatch.setenv("PGOPTIONS", "-c bytea_output=escape")
    async with streaming(url) as stream:
        for variable in ("PGTZ", "PGDATESTYLE", "PGCLIENTENCODING", "PGOPTIONS"):
            monkeypatch.delenv(variable)
        for setting in hostile:
            execute(every_source.url(), f"ALTER DATABASE {name} RESET {setting}")
        await asyncio.sleep(1)  # longer than idle_session_timeout was
        literals = ", ".join(f"'{given}'" for given, _ in values.values())
        execute(url, "SET extra_float_digits = 3", f"INSERT INTO t VALUES ({literals})")
        messages, _ = await taken(stream, 1)
    got = dict(zip(values, rows(messages)[0], strict=True))
    got["money"] = re.sub("[$,]", "", got["money"] or "")
    assert got == {kind: wanted for kind, (_, wanted) in values.items()}


async def test_messages_come_whole_and_in_order(every_source_db: str) -> None:
    url = every_source_db
    execute(url, TABLE, PUBLICATION)
    async with streaming(url) as stream:
        execute(
            url,
            "INSERT INTO t SELECT g, 'x' FROM generate_series(1, 3) g",
            "SELECT pg_logical_emit_message(true, 'pitr', 'who')",
            "TRUNCATE t",
        )
        messages, polled = await taken(stream, 3)
    kinds = b"".join(message[:1] for message in messages)
    assert kinds == b"BRIIICBMCBTC" or kinds == b"BRIIICBMCBRTC"
    assert rows(messages) == [["1", "x"], ["2", "x"], ["3", "x"]]
    assert polled.size_bytes > sum(map(len, polled.messages)) > 0


@pytest.mark.parametrize("name", ['we "ird', "a, b", "it's", "Üñí", "back\\slash"])
async def test_names_are_quoted(source_db: str, name: str) -> None:
    quoted = name.replace('"', '""')
    execute(source_db, TABLE, f'CREATE PUBLICATION "{quoted}" FOR TABLE t')
    async with streaming(source_db, publication=name) as stream:
        execute(source_db, "INSERT INTO t VALUES (1, 'x')")
        messages, _ = await taken(stream, 1)
    assert rows(messages) == [["1", "x"]]


async def test_socket_in_the_file_system(every_source: Source, every_source_db: str) -> None:
    if not every_source.ours:
        pytest.skip("NOT TESTED ON EXTERNAL: its socket is its own")
    execute(every_source_db, TABLE, PUBLICATION)
    url = every_source.url(every_source_db.rpartition("/")[2], unix=True)
    async with streaming(url) as stream:
        execute(url, "INSERT INTO t VALUES (1, 'x')")
        messages, _ = await taken(stream, 1)
    assert rows(messages) == [["1", "x"]]


async def test_restart_gives_exactly_what_follows(every_source_db: str) -> None:
    url = every_source_db
    execute(url, TABLE, PUBLICATION)
    async with streaming(url) as stream:
        for number in range(4):
            execute(url, f"INSERT INTO t VALUES ({number}, 'x')")
        ends = []
        while len(ends) < 4:
            polled = await stream.poll(bytes_max=1, timeout_s=5)  # one message at a time
            assert len(polled.messages) <= 1
            if polled.messages and polled.messages[0][:1] == b"C":
                ends.append(polled.server_lsn)
                # The commit's message names the end of its transaction, too.
                assert struct.unpack_from(">Q", polled.messages[0], 10)[0] == ends[-1]
        stream.confirm(ends[0])
    assert confirmed(url) == ends[0]
    # Asked for later than was confirmed, and (it says so itself) never earlier than that.
    for lsn, left in ((ends[2], ["3"]), (ends[1], ["2", "3"]), (0, ["1", "2", "3"])):
        async with opened(url, lsn=lsn) as stream:
            await stream.start()
            messages, _ = await taken(stream, len(left))
            assert [values[0] for values in rows(messages)] == left
            assert not (await stream.poll(bytes_max=MIB, timeout_s=0.3)).messages
    assert confirmed(url) == ends[0]


async def test_confirm_moves_the_slot(every_source_db: str) -> None:
    url = every_source_db
    execute(url, TABLE, PUBLICATION)
    async with streaming(url) as stream:
        at_first = confirmed(url)
        execute(url, "INSERT INTO t VALUES (1, 'x')")
        _, polled = await taken(stream, 1)
        assert polled.server_lsn > at_first
        assert confirmed(url) == at_first
        with pytest.raises(ValueError, match="past all"):
            stream.confirm(polled.server_lsn + 1)
        stream.confirm(polled.server_lsn)
        await until(lambda: confirmed(url) == polled.server_lsn, timeout_s=1)
        stream.confirm(at_first)  # never back
        # Many at once leave as one or two, the last of them for certain.
        ends = []
        for number in range(2, 12):
            execute(url, f"INSERT INTO t VALUES ({number}, 'x')")
            ends.append((await taken(stream, 1))[1].server_lsn)
        for end in ends:
            stream.confirm(end)
        await until(lambda: confirmed(url) == ends[-1], timeout_s=1)
        told = "SELECT reply_time - clock_timestamp() < '1 min' FROM pg_stat_replication"
        assert all(near for (near,) in fetch(url, told))


async def test_idle_moves_on_while_others_are_written(every_source_db: str) -> None:
    url = every_source_db
    execute(url, TABLE, PUBLICATION, "CREATE TABLE other (id int)")
    async with streaming(url) as stream:
        for _ in range(3):
            wrote_us = int(time.time() * 1_000_000)
            execute(url, "INSERT INTO other VALUES (1)")
            flushed = lsn_of(fetch(url, "SELECT pg_current_wal_flush_lsn()")[0][0])
            async with asyncio.timeout(3):
                polled = await stream.poll(bytes_max=MIB, timeout_s=0.2)
                while (polled.idle_lsn or 0) < flushed:
                    assert not [one for one in polled.messages if one[:1] not in b"BC"]
                    polled = await stream.poll(bytes_max=MIB, timeout_s=0.2)
            assert polled.idle_us is not None and polled.idle_us >= wrote_us
            assert polled.server_lsn == polled.idle_lsn
            stream.confirm(polled.idle_lsn)
            await until(lambda lsn=polled.idle_lsn: confirmed(url) == lsn, timeout_s=1)
        # With nothing written at all it goes on saying so, by the clock.
        heard = []
        async with asyncio.timeout(10):
            while len(heard) < 3:
                polled = await stream.poll(bytes_max=MIB, timeout_s=0.3)
                if polled.idle_us is not None:
                    heard.append(polled.idle_us)
        assert heard == sorted(set(heard))
        assert heard[-1] - heard[0] < 3_500_000
        # What came after it takes the word back.
        execute(url, "INSERT INTO other VALUES (1)")
        await asyncio.sleep(0.2)
        execute(url, "INSERT INTO t VALUES (1, 'x')")
        await asyncio.sleep(0.2)
        polled = await stream.poll(bytes_max=1, timeout_s=5)
        assert [one[:1] for one in polled.messages] == [b"B"]
        assert polled.idle_lsn is None


async def test_what_the_server_reads_again_is_nothing_new(
    every_source_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replication, "ASK_EVERY_S", 0.01)
    url = every_source_db
    execute(url, TABLE, PUBLICATION, "CREATE TABLE other (id int)")
    async with streaming(url) as stream:
        with psycopg.connect(url) as writer:
            writer.execute("INSERT INTO t VALUES (1, 'x')")  # it is read again until it ends
            execute(url, "INSERT INTO other SELECT generate_series(1, 500000)")
            execute(url, "INSERT INTO t VALUES (2, 'x')")
            end = (await taken(stream, 1))[1].server_lsn
            stream.confirm(end)
            await stream.close()
            for lsn in (end, 0):
                async with opened(url, lsn=lsn) as again:
                    await again.start()
                    silent = 0
                    for _ in range(40):
                        polled = await again.poll(bytes_max=MIB, timeout_s=0.02)
                        assert not polled.messages
                        assert polled.server_lsn >= end
                        assert polled.idle_lsn is None or polled.idle_lsn >= end
                        silent += polled.idle_lsn is None
                    assert silent > 1  # while it read; each poll asked
                    assert polled.idle_lsn is not None


async def test_positions_of_transactions_that_overlap(every_source_db: str) -> None:
    url = every_source_db
    execute(url, TABLE, PUBLICATION)
    async with opened(url) as stream:
        await stream.create_slot(slot_of(url))
        with psycopg.connect(url) as writer:
            writer.execute("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 1000) g")
            execute(url, "INSERT INTO t VALUES (0, 'x')")
            writer.commit()
        await stream.start()  # it finds all of it, and says nothing in between
        messages: list[bytes] = []
        while len(messages) < 200:
            await asyncio.sleep(0.2)
            polled = await stream.poll(bytes_max=10_000, timeout_s=5)
            messages += polled.messages
        # The rows at the end were written before the commit in the middle.
        assert messages[-1][:1] == b"I"
        [commit] = [message for message in messages if message[:1] == b"C"]
        assert polled.server_lsn >= struct.unpack_from(">Q", commit, 10)[0]
        stream.confirm(struct.unpack_from(">Q", commit, 10)[0])


async def test_no_keepalive_flood_of_a_busy_server(
    source: Source, source_db: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(source_db, TABLE, PUBLICATION, "CREATE TABLE other (id int)")
    script = source.server.data.parent / "other.sql" if source.server else Path("/nowhere")
    script.write_text("INSERT INTO other VALUES (1);\n")
    command = [servers.installed()["18"] / "pgbench", "-n", "-c", "2", "-T", "2", "-f", script]
    async with streaming(source_db) as stream:
        writing = subprocess.Popen([*command, source_db], stdout=subprocess.DEVNULL)
        polls = waits = 0
        ready = Session.ready

        async def counted(self: Session, timeout_s: float | None = None, **how: bool) -> None:
            nonlocal waits
            waits += 1
            await ready(self, timeout_s, **how)

        monkeypatch.setattr(Session, "ready", counted)
        while writing.poll() is None:
            polled = await stream.poll(bytes_max=MIB, timeout_s=0.2)
            polls += 1
            if polled.idle_lsn is not None:
                stream.confirm(polled.idle_lsn)
        assert writing.returncode == 0
        assert polls < 20
        assert waits < polls * 60  # not one for each of thousands of commits
        # A change is no later for all that.
        execute(source_db, "INSERT INTO t VALUES (1, 'x')")
        await taken(stream, 1, timeout_s=2)


# Bounds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pending", [0, 200_000])
async def test_a_caller_that_polls_nothing_is_not_thrown_out(
    every_source: Source, every_source_db: str, pending: int
) -> None:
    url = every_source_db
    name = url.rpartition("/")[2]
    execute(url, TABLE, PUBLICATION, f"ALTER DATABASE {name} SET wal_sender_timeout = '4s'")
    async with streaming(url) as stream:
        execute(url, f"INSERT INTO t SELECT g, 'x' FROM generate_series(1, {pending + 1}) g")
        await asyncio.sleep(6)
        waits = fetch(
            every_source.url(),
            "SELECT wait_event FROM pg_stat_activity a JOIN pg_replication_slots s "
            "ON a.pid = s.active_pid WHERE s.slot_name = %s",
            [slot_of(url)],
        )
        if pending:  # what was not asked for stays with the server
            assert [wait for (wait,) in waits if wait and wait.startswith("WalSenderWrite")]
        messages, _ = await taken(stream, 1)
        assert len(rows(messages)) == pending + 1
        execute(url, "INSERT INTO t VALUES (0, 'x')")
        await taken(stream, 1)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_huge_transaction_takes_little_memory(every_source_db: str, loop: str) -> None:
    url, count = every_source_db, 300_000
    execute(url, TABLE, PUBLICATION)

    async def scenario() -> None:
        async with streaming(url) as stream:
            execute(url, f"INSERT INTO t SELECT g, 'x' FROM generate_series(1, {count}) g")
            await stream.poll(bytes_max=1, timeout_s=5)
            seen, rss = 0, psutil.Process().memory_info().rss
            tracemalloc.start()
            while seen < count + 2:  # with Relation and Commit, but Begin came before
                polled = await stream.poll(bytes_max=MIB, timeout_s=5)
                assert polled.messages
                assert polled.size_bytes <= MIB + 100
                seen += len(polled.messages)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert seen == count + 2
            assert polled.messages[-1][:1] == b"C"
            # A message is 31 bytes as `bytes`' head, and 8 in the list, beside what it says.
            assert peak < 4 * MIB
            assert psutil.Process().memory_info().rss - rss < 64 * MIB

    if loop == "asyncio":
        asyncio.run(scenario())
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(scenario())


async def test_a_message_larger_than_the_bound_comes_alone(source_db: str) -> None:
    execute(source_db, TABLE, PUBLICATION)
    async with streaming(source_db) as stream:
        execute(
            source_db,
            "INSERT INTO t SELECT g, repeat(md5(g::text), 100000) FROM generate_series(1, 3) g",
        )
        sizes = []
        while True:
            polled = await stream.poll(bytes_max=1000, timeout_s=5)
            sizes.append([len(message) for message in polled.messages if message[:1] == b"I"])
            if polled.messages[-1][:1] == b"C":
                break
    assert [size for size in sizes if size] == [[3_200_000 + 8 + 5 + 1 + 5]] * 3


@pytest.fixture(scope="module")
def tls_source() -> Iterator[Source]:
    """A server that speaks TLS, which the wheel's does not."""
    if shutil.which("openssl") is None:
        pytest.skip("NOT TESTED OVER TLS: no openssl to make a certificate with")
    if reason := servers.absent(servers.OLD):
        pytest.skip(f"NOT TESTED OVER TLS: {reason}")
    with servers.running(servers.OLD) as source:
        assert source.server is not None
        data = source.server.data
        make = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=localhost",
        ]
        files = ["-keyout", data / "server.key", "-out", data / "server.crt", "-days", "2"]
        subprocess.run([*make, *files], check=True, capture_output=True)
        for file in ("server.key", "server.crt"):
            (data / file).chmod(0o600)
            shutil.chown(data / file, data.stat().st_uid, data.stat().st_gid)
        source.restart(ssl="on")
        yield source


async def test_nothing_stays_behind_in_a_tls_record(tls_source: Source) -> None:
    url = tls_source.make_database("tls") + "?sslmode=require"
    execute(url, TABLE, PUBLICATION)
    async with streaming(url) as stream:
        for number in range(200):
            size = 7 * number * number + 8_000 if number % 2 else number
            execute(url, f"INSERT INTO t VALUES ({number}, repeat('x', {size}))")
            messages, _ = await taken(stream, 1, timeout_s=0.9)  # sooner than it asks by itself
            assert len(rows(messages)) == 1
    with pytest.raises(InvalidRequest, match="TLS"):
        async with opened(url.replace("sslmode=require", "sslmode=verify-full")):
            pass


# Tasks ------------------------------------------------------------------------------------------


async def test_a_cancelled_poll_loses_nothing(every_source_db: str) -> None:
    url, count = every_source_db, 100_000
    execute(url, TABLE, PUBLICATION)
    watched = readers()
    async with streaming(url) as stream:
        await stream.poll(bytes_max=MIB, timeout_s=0)
        for _ in range(3):
            polling = asyncio.create_task(stream.poll(bytes_max=MIB, timeout_s=60))
            await asyncio.sleep(0.02)
            assert readers() == watched + 1
            polling.cancel()
            await asyncio.wait([polling])
            assert polling.cancelled()
            assert readers() == watched
        execute(url, f"INSERT INTO t SELECT g, 'x' FROM generate_series(1, {count}) g")
        await asyncio.sleep(0.5)
        messages: list[bytes] = []
        cancelled = 0
        while not messages or messages[-1][:1] != b"C":
            polling = asyncio.create_task(stream.poll(bytes_max=64 * MIB, timeout_s=10))
            for _ in range(cancelled % 4 + 2):  # somewhere in the middle of taking
                await asyncio.sleep(0)
            polling.cancel()
            await asyncio.wait([polling])
            if polling.cancelled():
                cancelled += 1
                polled = await stream.poll(bytes_max=1, timeout_s=10)  # what was taken, all of it
            else:
                polled = polling.result()
            messages += polled.messages
        assert cancelled > 3
        assert [values[0] for values in rows(messages)] == [str(n) for n in range(1, count + 1)]
    assert readers() == watched


async def test_close_ends_a_poll(source_db: str) -> None:
    execute(source_db, TABLE, PUBLICATION)
    watched = readers()
    async with streaming(source_db) as stream:
        await stream.poll(bytes_max=MIB, timeout_s=0.1)
        polling = asyncio.create_task(stream.poll(bytes_max=MIB, timeout_s=60))
        await asyncio.sleep(0.05)
        await stream.close()
        with pytest.raises(Unavailable, match="closed"):
            await polling
        with pytest.raises(Unavailable, match="closed"):
            await stream.poll(bytes_max=MIB, timeout_s=1)
        stream.confirm(1)
        await stream.close()
    assert readers() == watched


async def test_close_lets_go_of_the_slot(every_source_db: str) -> None:
    url = every_source_db
    execute(url, TABLE, PUBLICATION)
    async with streaming(url) as stream:
        execute(url, "INSERT INTO t VALUES (1, 'x')")
        _, polled = await taken(stream, 1)
        stream.confirm(polled.server_lsn)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 1
    for _ in range(5):  # at once
        async with opened(url, lsn=polled.server_lsn) as stream:
            await stream.start()
    assert confirmed(url) == polled.server_lsn


async def test_close_does_not_wait_for_a_server_in_full_flow(source_db: str) -> None:
    execute(source_db, TABLE, PUBLICATION)
    async with streaming(source_db) as stream:
        execute(source_db, "INSERT INTO t SELECT g, 'x' FROM generate_series(1, 500000) g")
        await stream.poll(bytes_max=1, timeout_s=5)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 2


# Refusals ---------------------------------------------------------------------------------------


async def test_a_second_consumer_is_refused(every_source: Source, every_source_db: str) -> None:
    url = every_source_db
    execute(url, TABLE, PUBLICATION)
    async with streaming(url) as stream:
        with pytest.raises(Unavailable, match="another consumer") as caught:
            async with opened(url) as second:
                await second.start()
        pids = fetch(url, "SELECT active_pid FROM pg_replication_slots WHERE active")
        assert (caught.value.facts["pid"],) in pids
        assert f"pg_terminate_backend({caught.value.facts['pid']})" in (caught.value.hint or "")
        execute(url, "INSERT INTO t VALUES (1, 'x')")
        await taken(stream, 1)  # the first does not notice
        # Done as the hint says, it is noticed, and the slot is free.
        fetch(every_source.url(), "SELECT pg_terminate_backend(%s)", [caught.value.facts["pid"]])
        with pytest.raises(Unavailable, match="terminating connection"):
            await taken(stream, 1)
        with pytest.raises(Unavailable):
            await stream.poll(bytes_max=MIB, timeout_s=1)
    async with opened(url) as stream:
        await stream.start()


async def test_a_dropped_slot_is_lost(every_source_db: str) -> None:
    url = every_source_db
    execute(url, TABLE, PUBLICATION)
    async with streaming(url):
        pass
    fetch(url, "SELECT pg_drop_replication_slot(%s)", [slot_of(url)])
    with pytest.raises(SlotLost, match="does not exist") as caught:
        async with opened(url) as stream:
            await stream.start()
    assert isinstance(caught.value, SlotLost)
    assert caught.value.facts["slot"] == slot_of(url)


async def test_a_slot_that_the_server_gave_up_is_lost(every_source: Source) -> None:
    if not every_source.ours:
        pytest.skip("NOT TESTED ON EXTERNAL: its settings are not ours to change")
    with servers.running(every_source.name, max_slot_wal_keep_size="1MB") as source:
        url = source.url()
        execute(url, TABLE, PUBLICATION)
        async with streaming(url):
            pass
        for _ in range(4):
            execute(url, "INSERT INTO t VALUES (1, 'x') ON CONFLICT DO NOTHING")
            execute(url, "SELECT pg_switch_wal()", "CHECKPOINT")
        status = fetch(url, "SELECT wal_status FROM pg_replication_slots")
        assert status == [("lost",)]
        with pytest.raises(SlotLost, match="given up") as caught:
            async with opened(url) as stream:
                await stream.start()
        assert slot_of(url) in str(caught.value.facts["reason"])
        assert "invalidated" in str(caught.value.facts["detail"])


async def test_a_server_that_went_back_has_lost_the_slot(source_db: str) -> None:
    execute(source_db, TABLE, PUBLICATION)
    async with streaming(source_db) as stream:
        end = (await stream.poll(bytes_max=MIB, timeout_s=0)).server_lsn
    async with opened(source_db, lsn=end + (1 << 40)) as stream:
        with pytest.raises(SlotLost, match="ends before"):
            await stream.start()


async def test_a_slot_for_something_else_is_refused(every_source: Source, tmp_path: Path) -> None:
    url, other = every_source.url(), every_source.make_database("elsewhere")
    try:
        for place in (url, other):
            execute(place, "CREATE PUBLICATION p FOR ALL TABLES")
        async with opened(other) as stream:
            await stream.create_slot(slot_of(url))
        with pytest.raises(InvalidRequest, match="not created in this database"):
            async with opened(url) as stream:
                await stream.start()
    finally:
        execute(url, "DROP PUBLICATION p")
        every_source.drop_database("elsewhere")


async def test_a_publication_must_be_there(every_source: Source, every_source_db: str) -> None:
    url = every_source_db
    execute(url, TABLE)
    with pytest.raises(InvalidRequest, match="no such publication") as caught:
        async with streaming(url):
            pass
    assert 'CREATE PUBLICATION "p"' in (caught.value.hint or "")
    # Dropped in the middle, it stops an old server, and makes a new one pass things over.
    execute(url, PUBLICATION)
    async with opened(url) as stream:
        await stream.start()
        execute(url, "DROP PUBLICATION p", "INSERT INTO t VALUES (1, 'x')")
        if every_source.major < 18:
            with pytest.raises(InvalidRequest, match='"p" does not exist'):
                await taken(stream, 1)
        else:
            warned: list[str] = []
            async with asyncio.timeout(10):
                while not warned:
                    warned += (await stream.poll(bytes_max=MIB, timeout_s=0.2)).notices
            assert 'skipped loading publication "p"' in warned[0]


REFUSED = {
    "database": ("no such database", {"database": "nowhere"}),
    "role": ("this user", {"user": "nobody_we_know"}),
    "password": ("this user", {"user": f"{servers.LOCKED_OUT}:wrong"}),
    "no password": ("this user", {"user": servers.LOCKED_OUT}),
    "right": ("may not replicate", {"user": "plain"}),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_refused_connections(every_source: Source, every_source_db: str, case: str) -> None:
    if not every_source.ours:
        pytest.skip("NOT TESTED ON EXTERNAL: who may come in is not ours to say")
    message, given = REFUSED[case]
    user = given.get("user")
    url = every_source.url(given.get("database", every_source_db.rpartition("/")[2]))
    if user is not None:
        url = url.replace("//postgres@", f"//{user}@")
    roles = f"CREATE ROLE {servers.LOCKED_OUT} LOGIN PASSWORD 'x'", "CREATE ROLE plain LOGIN"
    execute(every_source.url(), *roles)
    try:
        with pytest.raises(InvalidRequest, match=message) as caught:
            async with opened(url):
                pass
        assert caught.value.hint
        assert "wrong" not in str(caught.value)
    finally:
        execute(every_source.url(), f"DROP ROLE {servers.LOCKED_OUT}", "DROP ROLE plain")


@pytest.mark.parametrize(
    "url", ["postgresql://u:secret@h:port/d", "postgresql//u:secret@h/d", "postgresql://u:se%zz@h"]
)
async def test_a_bad_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        async with opened(url):
            pass
    assert "secret" not in str(caught.value) + str(caught.value.__cause__)


async def test_nobody_there() -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        async with opened(f"postgresql://u@127.0.0.1:{servers.free_port()}/d"):
            pass
    with pytest.raises(Unavailable, match="does not answer"):
        async with opened("postgresql://u@no-such-host.invalid/d"):
            pass


async def test_server_without_logical_wal(every_source: Source) -> None:
    if not every_source.ours:
        pytest.skip("NOT TESTED ON EXTERNAL: its settings are not ours to change")
    with servers.running(every_source.name, wal_level="replica", max_wal_senders="1") as source:
        async with opened(source.url()) as stream:
            with pytest.raises(InvalidRequest, match="WAL") as caught:
                await stream.create_slot("s")
            assert "wal_level" in (caught.value.hint or "")
            assert caught.value.facts["wal_level"] == "replica"
            with pytest.raises(Unavailable, match="no room") as full:
                async with opened(source.url()):
                    pass
            assert "max_wal_senders" in (full.value.hint or "")


# Slots ------------------------------------------------------------------------------------------


async def test_slots(every_source: Source, every_source_db: str) -> None:
    url = every_source_db
    slot = slot_of(url)
    execute(url, TABLE, PUBLICATION, "INSERT INTO t VALUES (1, 'before')")
    async with opened(url) as stream:
        lsn, snapshot = await stream.create_slot(slot, snapshot="export")
        assert snapshot is not None
        execute(url, "INSERT INTO t VALUES (2, 'after')")
        with psycopg.connect(url) as reading:
            reading.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            reading.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
            assert reading.execute("SELECT id FROM t").fetchall() == [(1,)]
        with pytest.raises(Conflict, match="already exists"):
            await stream.create_slot(slot)
        await stream.start()
        messages, polled = await taken(stream, 1)
        assert rows(messages) == [["2", "after"]]
        assert polled.server_lsn > lsn == confirmed(url)
    async with opened(url) as stream:
        assert (await stream.create_slot(f"{slot}_t", temporary=True))[1] is None
        kinds = "SELECT slot_name, temporary FROM pg_replication_slots WHERE database = %s"
        database = url.rpartition("/")[2]
        assert sorted(fetch(url, kinds, [database])) == [(slot, False), (f"{slot}_t", True)]
        if every_source.major < 17:
            with pytest.raises(InvalidRequest, match="too old"):
                await stream.create_slot(f"{slot}_f", failover=True)
        else:
            await stream.create_slot(f"{slot}_f", failover=True)
            surviving = "SELECT slot_name FROM pg_replication_slots WHERE failover"
            assert (f"{slot}_f",) in fetch(url, surviving)


async def test_a_slot_in_the_making_goes_with_its_maker(every_source_db: str) -> None:
    url = every_source_db
    slot = slot_of(url)
    execute(url, TABLE, PUBLICATION)
    slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s"
    watched = readers()
    with psycopg.connect(url) as writer:
        writer.execute("INSERT INTO t VALUES (1, 'x')")  # a new slot waits for its end
        async with opened(url) as stream:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await stream.create_slot(slot)
            assert fetch(url, slots, [slot]) == [(1,)]
        assert readers() == watched
        await until(lambda: fetch(url, slots, [slot]) == [(0,)], timeout_s=2)


async def test_identify(every_source: Source, every_source_db: str) -> None:
    async with opened(every_source_db) as stream:
        system = await stream.identify()
        now = lsn_of(fetch(every_source_db, "SELECT pg_current_wal_flush_lsn()")[0][0])
        control = fetch(every_source_db, "SELECT system_identifier FROM pg_control_system()")
        assert (system.identifier,) == (str(control[0][0]),)
        assert 0 < system.lsn <= now
        assert system.database == every_source_db.rpartition("/")[2]


async def test_timelines(every_source: Source) -> None:
    if not every_source.ours:
        pytest.skip("NOT TESTED ON EXTERNAL: its timeline is not ours to change")
    with servers.running(every_source.name, fresh=True) as source:
        assert source.server is not None
        async with opened(source.url()) as stream:
            before = await stream.identify()
            assert (before.timeline, await stream.timeline_history(1)) == (1, [])
        source.stop()
        signal = source.server.data / "recovery.signal"
        signal.touch()
        shutil.chown(signal, source.server.data.stat().st_uid)
        source.start(restore_command="false")  # it recovers to the end, and begins a timeline
        recovering = "SELECT pg_is_in_recovery()"
        await until(lambda: fetch(source.url(), recovering) == [(False,)])
        async with opened(source.url()) as stream:
            after = await stream.identify()
            assert after.identifier == before.identifier
            assert after.timeline == 2
            [(timeline, lsn)] = await stream.timeline_history(2)
            assert timeline == 1
            assert before.lsn <= lsn <= after.lsn, lsn_text(lsn)
            with pytest.raises(PitrError):
                await stream.timeline_history(7)
            await stream.identify()  # an error ends nothing


# Servers that go away ---------------------------------------------------------------------------


async def test_a_killed_server_is_unavailable(every_source: Source, every_source_db: str) -> None:
    if not every_source.ours:
        pytest.skip("NOT TESTED ON EXTERNAL: it is not ours to kill")
    url = every_source_db
    execute(url, TABLE, PUBLICATION)
    watched = readers()
    async with streaming(url) as stream:
        execute(url, "INSERT INTO t VALUES (1, 'x')")
        _, polled = await taken(stream, 1)
        stream.confirm(polled.server_lsn)
        await until(lambda: confirmed(url) == polled.server_lsn)
        execute(url, "INSERT INTO t VALUES (2, 'x')")
        await asyncio.sleep(0.1)
        polling = asyncio.create_task(taken(stream, 2))
        await asyncio.sleep(0.1)
        every_source.kill()
        with pytest.raises(Unavailable, match="does not answer"):
            await polling
        with pytest.raises(Unavailable):
            await stream.poll(bytes_max=MIB, timeout_s=1)
        stream.confirm(polled.server_lsn)
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 1
    assert readers() == watched
    with pytest.raises(Unavailable):
        async with opened(url):
            pass
    every_source.start()
    async with opened(url, lsn=polled.server_lsn) as stream:
        await stream.start()
        messages, _ = await taken(stream, 1)
        assert rows(messages) == [["2", "x"]]


async def test_what_came_before_the_end_is_not_lost(source: Source, source_db: str) -> None:
    execute(source_db, TABLE, PUBLICATION)
    async with streaming(source_db) as stream:
        execute(source_db, "INSERT INTO t VALUES (1, 'x')")
        await asyncio.sleep(0.3)  # it has left the server
        source.kill()
        messages, _ = await taken(stream, 1)
        assert rows(messages) == [["1", "x"]]
        with pytest.raises(Unavailable):
            await stream.poll(bytes_max=MIB, timeout_s=1)


async def test_a_server_that_is_stopped_waits_for_us(
    every_source: Source, every_source_db: str
) -> None:
    if not every_source.ours:
        pytest.skip("NOT TESTED ON EXTERNAL: it is not ours to stop")
    url = every_source_db
    execute(url, TABLE, PUBLICATION)
    async with streaming(url) as stream:
        execute(url, "INSERT INTO t VALUES (1, 'x')")
        stopping = asyncio.create_task(asyncio.to_thread(every_source.stop))
        began_s = time.monotonic()
        messages: list[bytes] = []
        with pytest.raises(Unavailable, match=r"ended the stream|does not answer"):
            while True:
                polled = await stream.poll(bytes_max=MIB, timeout_s=0.1)
                messages += polled.messages
                stream.confirm(polled.server_lsn)
        await stopping
        assert time.monotonic() - began_s < 10
        assert rows(messages) == [["1", "x"]]


async def test_misuse_is_a_bug(source_db: str) -> None:
    execute(source_db, TABLE, PUBLICATION)
    async with opened(source_db) as stream:
        with pytest.raises(RuntimeError, match="not started"):
            await stream.poll(bytes_max=MIB, timeout_s=0)
        await stream.create_slot(slot_of(source_db))
        await stream.start()
        with pytest.raises(RuntimeError, match="no commands"):
            await stream.identify()
        polling = asyncio.create_task(stream.poll(bytes_max=MIB, timeout_s=1))
        await asyncio.sleep(0.05)
        with pytest.raises(RuntimeError, match="another task"):
            await stream.poll(bytes_max=MIB, timeout_s=1)
        await polling
    assert replication.STATUS_EVERY_S == 5
