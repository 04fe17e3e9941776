"""Tables copied while they are written to: the log is the table, whoever waits for whom."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import asyncpg
import pyarrow as pa
import pytest

from pitr.adapters.postgres.chunks import emit, new_xid, read_chunk
from pitr.domain.change import Change, Op
from pitr.domain.fold import State, apply
from pitr.domain.pgoutput.copying import Chunk, CopyState
from pitr.domain.pgoutput.copytext import changes_of, entered
from pitr.domain.pgoutput.decode import decode_part
from pitr.domain.pgoutput.messages import begin_of, message_of
from pitr.domain.pgoutput.model import Part, Relation, Transaction
from pitr.domain.pgoutput.window import Window
from tests.postgres.chunked import connected, described

KEYS = 60
NEXT = (
    "SELECT data FROM pg_logical_slot_get_binary_changes(current_database(), NULL, $1,"
    " 'proto_version', '1', 'publication_names', 'p', 'messages', 'true')"
)


@dataclass
class Copier:
    """Follows the slot of a database into a state, and copies one table into it."""

    reading: Any
    following: Any
    relation: Relation
    random: Random
    window: Window = field(default_factory=lambda: Window(watched=frozenset()))
    log: State = field(default_factory=dict)
    copy: CopyState = field(default_factory=CopyState)
    in_hand: list[tuple[str, Chunk, pa.Table]] = field(default_factory=list)
    marks: int = 0
    seq: int = 0
    dropped: int = 0
    completed: int = 0
    again: int = 0
    ended: set[str] = field(default_factory=set)

    async def begin(self) -> None:
        """Begin a session, and the copy anew."""
        self.log.clear()
        self.copy = CopyState().begun(self.relation.collection)
        await self.restart()

    async def restart(self) -> None:
        """Forget all but what is stored."""
        watched = frozenset({self.relation.collection})
        self.window = Window(watched=watched, since=await new_xid(self.reading))
        self.in_hand = []

    async def read(self, *between: str) -> None:
        """Read a chunk and mark its place, if there is one to read; do something in between."""
        table = self.copy.tables[0]
        after, done = table.last, table.done
        if self.in_hand:
            after, done = self.in_hand[-1][1].last, self.in_hand[-1][1].done
        if done or len(self.in_hand) == 2:
            return
        size = self.random.choice([1, 3, 10])
        chunk = await read_chunk(self.reading, self.relation, after=after, rows_max=size)
        self.window.took(chunk.snapshot)
        if self.window.unknown(chunk.snapshot):
            self.give_up()
            return
        for statement in between:
            await self.reading.execute(statement)
        mark = await self.mark()
        self.in_hand.append((mark, chunk, changes_of(chunk.data, self.relation)))

    async def mark(self) -> str:
        self.marks += 1
        await emit(self.reading, "copy", str(self.marks).encode())
        return str(self.marks)

    def give_up(self) -> None:
        self.again += 1
        self.window.give_up()
        self.in_hand = []

    async def follow(self, messages_max: int | None = None) -> None:
        """Take in what the stream has."""
        rows = await self.following.fetch(NEXT, messages_max)
        messages: list[bytes] = []
        for (data,) in rows:
            if data[:1] == b"B":
                begin = begin_of(data)
            if data[:1] == b"M":
                content = message_of(data).content.decode()
                del messages[-1]  # its transaction has nothing else
                self._store_part(messages)
                messages = []
                self._at_place(content, begin)
            elif data[:1] in (b"B", b"I", b"U", b"D", b"T") or (data[:1] == b"C" and messages):
                messages.append(data)
        self._store_part(messages)

    def _store_part(self, messages: list[bytes]) -> None:
        rows = sum(message[:1] in (b"I", b"U", b"D", b"T") for message in messages)
        if rows:
            part = Part(messages=messages, relations={self.relation.relid: self.relation})
            decoded = decode_part(part, position_first=0)
            assert not decoded.quarantined
            self.window.add(decoded.changes)
            self._store(decoded.changes)

    def _at_place(self, mark: str, transaction: Transaction) -> None:
        self.ended.add(mark)
        if not self.in_hand or self.in_hand[0][0] != mark:
            return
        _, chunk, rows = self.in_hand.pop(0)
        verdict = self.window.decide(chunk.collection, rows, chunk.snapshot)
        if verdict.rows is None:
            self.give_up()
            return
        self.dropped += verdict.dropped
        self.completed += verdict.completed
        self._store(entered(verdict.rows, transaction, position=self.seq))
        self.copy = CopyState.of_json(json.loads(json.dumps(self.copy.advanced(chunk).as_json())))

    def _store(self, changes: pa.Table) -> None:
        for row in changes.to_pylist():
            self.seq += 1
            change = Change(
                seq=self.seq,
                collection=row["collection"],
                key=row["key"],
                op=Op(row["op"]),
                after=row["after"] and row["after"].encode(),
                unchanged=row["unchanged"] and row["unchanged"].encode(),
                at_us=0,
                commit_us=row["commit_us"],
                recorded_us=0,
                lane="postgres:x",
                position=self.seq,
                tx=row["tx"],
            )
            apply(self.log, change)

    async def catch_up(self) -> None:
        mark = await self.mark()
        while mark not in self.ended:
            await self.follow()

    async def table(self) -> dict[str, str]:
        """The table as it is now."""
        chunk = await read_chunk(self.reading, self.relation, after=None, rows_max=10**6)
        found = changes_of(chunk.data, self.relation)
        return dict(zip(found["key"].to_pylist(), found["after"].to_pylist(), strict=True))

    def logged(self) -> dict[str, str]:
        return {key: (row.after or b"").decode() for (_, key), row in self.log.items()}


@contextlib.asynccontextmanager
async def copier(
    url: str, *statements: str, table: str = "t", seed: int = 0
) -> AsyncIterator[Copier]:
    async with connected(url) as reading, connected(url) as following:
        for statement in statements:
            await reading.execute(statement)
        await reading.execute("CREATE PUBLICATION p FOR ALL TABLES")
        await reading.execute("ALTER PUBLICATION p SET (publish_via_partition_root = true)")
        await following.fetch(
            "SELECT pg_create_logical_replication_slot(current_database(), 'pgoutput')"
        )
        relation = await described(reading, table, "id")
        yield Copier(reading, following, relation, Random(seed))


TABLE = (
    "CREATE TABLE t (id int PRIMARY KEY, v int, big text)",
    "ALTER TABLE t ALTER big SET STORAGE EXTERNAL",
)
FILLED = (
    "INSERT INTO t SELECT i, 0, repeat(chr(97 + i % 26), 3000)"
    f" FROM generate_series(1, {KEYS}, 2) i"
)


async def write(connection: Any, random: Random, *, truncates: bool) -> None:
    """One transaction of somebody's, of which some are undone."""
    key, other = random.randrange(KEYS), random.randrange(KEYS)
    number, letter = random.randrange(10**6), random.choice("abcdefgh")
    statements = random.choices(
        [
            f"INSERT INTO t VALUES ({key}, {number}, repeat('{letter}', 3000))"
            " ON CONFLICT (id) DO NOTHING",
            f"UPDATE t SET v = {number} WHERE id = {key}",
            f"UPDATE t SET v = {number} WHERE id BETWEEN {key} AND {key + 5}",
            f"UPDATE t SET big = repeat('{letter}', 3000), v = {number} WHERE id = {key}",
            f"DELETE FROM t WHERE id = {key}",
            # As 'big' is not sent where it stays, it has to be set along with the key.
            f"UPDATE t SET id = {other}, big = repeat('{letter}', 3001) WHERE id = {key}"
            f" AND NOT EXISTS (SELECT FROM t WHERE id = {other})",
            "SAVEPOINT s; UPDATE t SET v = -1; ROLLBACK TO SAVEPOINT s",
            f"SAVEPOINT s; DELETE FROM t WHERE id = {other}; RELEASE SAVEPOINT s",
            "TRUNCATE t" if truncates else "SELECT 1",
        ],
        weights=[4, 6, 2, 2, 2, 2, 1, 1, 0.3],
        k=random.choice([1, 1, 1, 2, 4]),
    )
    end = "ROLLBACK" if random.random() < 0.1 else "COMMIT"
    with contextlib.suppress(
        asyncpg.UniqueViolationError, asyncpg.DeadlockDetectedError, asyncpg.LockNotAvailableError
    ):
        try:
            await connection.execute("; ".join(["BEGIN", *statements]))
            if random.random() < 0.3:
                await asyncio.sleep(random.random() * 0.02)
        finally:
            await connection.execute(end)


async def keep_writing(
    url: str, seed: int, stop: asyncio.Event, *, truncates: bool, settings: dict[str, str]
) -> int:
    random, count = Random(seed), 0
    async with connected(url, deadlock_timeout="20ms", **settings) as connection:
        while not stop.is_set():
            await write(connection, random, truncates=truncates)
            count += 1
            await asyncio.sleep(random.random() * 0.002)
    return count


async def delay_commits(url: str, stop: asyncio.Event) -> None:
    """Let commits wait, most of the time, for a standby that is not there."""
    async with connected(url, synchronous_commit="local") as connection:
        try:
            while not stop.is_set():
                for names, pause_s in (("nobody", 0.03), ("", 0.02)):
                    await connection.execute(
                        f"ALTER SYSTEM SET synchronous_standby_names = '{names}'"
                    )
                    await connection.execute("SELECT pg_reload_conf()")
                    await asyncio.sleep(pause_s)
        finally:
            await connection.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await connection.execute("SELECT pg_reload_conf()")


def missed(copied: Copier) -> list[str]:
    """What has to come between a chunk and its place, as long as nothing did that matters so."""
    if not copied.completed:
        return ["UPDATE t SET v = v + 1"]
    return [] if copied.dropped else ["UPDATE t SET big = repeat('z', 3000)"]


async def written_to(
    url: str, copied: Copier, *, rounds: int, truncates: bool, commit: str, seed: int = 0
) -> int:
    """Copy again and again while others write; compare when they have stopped."""
    written = 0
    for number in range(rounds):
        stop = asyncio.Event()
        settings = {"synchronous_commit": "on" if commit == "waits" else commit}
        async with asyncio.TaskGroup() as group:
            writers = [
                group.create_task(
                    keep_writing(
                        url,
                        100 * seed + 10 * number + i,
                        stop,
                        truncates=truncates,
                        settings=settings,
                    )
                )
                for i in range(3)
            ]
            if commit == "waits":
                group.create_task(delay_commits(url, stop))
            await asyncio.sleep(0.05)
            await copied.begin()
            steps = 0
            while copied.copy.to_do:
                steps += 1
                # Others may be too slow to come between a chunk and its place.
                await copied.read(*() if commit == "waits" else missed(copied))
                await copied.follow(copied.random.choice([None, 1, 20]))
                if copied.random.random() < 0.01:
                    await copied.restart()
                assert steps < 5_000
            stop.set()
        written += sum(writer.result() for writer in writers)
        await copied.catch_up()
        assert copied.logged() == await copied.table()
    return written


@pytest.mark.parametrize("commit", ["on", "off", "waits"])
@pytest.mark.parametrize("truncates", [False, True], ids=["", "truncated"])
async def test_the_log_is_the_table_when_it_is_copied_while_others_write(
    source_db: str, commit: str, truncates: bool
) -> None:
    async with copier(source_db, *TABLE, FILLED) as copied:
        written = await written_to(source_db, copied, rounds=8, truncates=truncates, commit=commit)

        assert written > 100
        if not truncates and commit != "waits":
            assert copied.dropped and copied.completed


# What the random writers meet, one at a time ----------------------------------------------------


@contextlib.asynccontextmanager
async def commit_that_waits(url: str, *statements: str) -> AsyncIterator[None]:
    """A transaction that is in the WAL and in the stream, and that nobody else sees yet."""
    async with (
        connected(url, synchronous_commit="local") as operator,
        connected(url) as writer,
        asyncio.TaskGroup() as group,
    ):
        try:
            await operator.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            await operator.execute("SELECT pg_reload_conf()")
            while not await commits_wait(url):
                pass
            pid = writer.get_server_pid()
            group.create_task(writer.execute(";".join(["BEGIN", *statements, "COMMIT"])))
            waits = "SELECT wait_event FROM pg_stat_activity WHERE pid = $1"
            while await operator.fetchval(waits, pid) != "SyncRep":
                await asyncio.sleep(0.01)
            yield
        finally:
            await operator.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await operator.execute("SELECT pg_reload_conf()")


async def commits_wait(url: str) -> bool:
    """Tell whether the server has taken notice of its settings, by trying."""
    async with connected(url) as connection:
        try:
            async with asyncio.timeout(0.1):
                await connection.execute("SELECT pg_logical_emit_message(true, 'probe', '')")
        except TimeoutError:
            return True
        return False


async def copy_all(copied: Copier) -> None:
    while copied.copy.to_do:
        await copied.read()
        await copied.follow()


@pytest.mark.parametrize(
    "between",
    [
        ["UPDATE t SET v = v + 1"],
        ["UPDATE t SET v = v + 1", "UPDATE t SET v = v + 1, big = 'x' WHERE id < 9"],
        ["DELETE FROM t WHERE id < 9"],
        ["UPDATE t SET id = id + 1, big = 'moved'"],
        ["DELETE FROM t WHERE id = 1", "INSERT INTO t VALUES (1, 1, 'again')"],
        ["TRUNCATE t"],
        ["BEGIN", "TRUNCATE t", "INSERT INTO t VALUES (3, 3, 'new')", "COMMIT"],
        ["INSERT INTO t VALUES (2, 2, 'new')", "BEGIN", "DELETE FROM t", "ROLLBACK"],
    ],
    ids=lambda between: between[0],
)
async def test_what_happens_between_the_reading_and_its_place_is_newer(
    source_db: str, between: list[str]
) -> None:
    async with copier(source_db, *TABLE, FILLED) as copied:
        await copied.begin()
        while copied.copy.to_do:
            await copied.read(*between)
            await copied.follow()
            between = []
        # Nothing was written after this.
        assert copied.logged() == await copied.table()


async def test_what_the_stream_brought_before_the_chunk_was_read_stays(source_db: str) -> None:
    async with copier(source_db, *TABLE, FILLED) as copied:
        await copied.begin()
        # The number that a session begins with ends what came before it.
        await copied.read()
        await copied.follow()
        statements = (
            "UPDATE t SET v = 7 WHERE id IN (41, 43)",
            "UPDATE t SET v = 8, big = 'x' WHERE id = 45",
            "DELETE FROM t WHERE id = 47",
            "INSERT INTO t VALUES (48, 9, 'y')",
        )
        async with commit_that_waits(source_db, *statements):
            await copied.follow()
            assert '{"id":48}' in copied.logged()
            await copy_all(copied)
            # The table does not show it yet; the log has it.
            assert '{"id":48}' not in await copied.table()
            assert copied.logged()['{"id":48}'] == '{"id":48,"v":9,"big":"y"}'
            assert '{"id":47}' not in copied.logged()
        assert copied.logged() == await copied.table()
        assert (copied.dropped, copied.completed) == (2, 2)


async def test_what_an_earlier_session_stored_is_waited_for(source_db: str) -> None:
    async with copier(source_db, *TABLE, FILLED) as copied:
        await copied.begin()
        async with commit_that_waits(source_db, "UPDATE t SET v = 7, big = 'x' WHERE id = 41"):
            await copied.follow()
            assert copied.logged()['{"id":41}'] == '{"id":41,"v":7,"big":"x"}'
            await copied.restart()
            for _ in range(3):
                await copied.read()
                await copied.follow()
            assert copied.again == 3 and copied.copy.tables[0].rows == 0
        await copy_all(copied)

        assert copied.logged() == await copied.table()


async def test_partitions_are_copied_as_their_root(source_db: str) -> None:
    statements = (
        "CREATE TABLE t (id int PRIMARY KEY, v int, big text) PARTITION BY RANGE (id)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (20)",
        "CREATE TABLE t2 PARTITION OF t DEFAULT",
        "ALTER TABLE t1 ALTER big SET STORAGE EXTERNAL",
        "ALTER TABLE t2 ALTER big SET STORAGE EXTERNAL",
    )
    async with copier(source_db, *statements, FILLED, seed=5) as copied:
        await written_to(source_db, copied, rounds=2, truncates=False, commit="on", seed=5)
