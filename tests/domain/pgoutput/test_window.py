"""Chunks between the changes of a stream: rule by rule, and against a model of PostgreSQL."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pitr.domain.change import Change, Op
from pitr.domain.columnar.schema import DRAFT_SCHEMA
from pitr.domain.fold import State, apply
from pitr.domain.pgoutput.copying import Chunk, CopyState, Snapshot
from pitr.domain.pgoutput.window import Window

EPOCH = 1 << 32
LARGE = ("big", "wide")
"""Columns whose values the stream leaves out where they stay as they are."""

# What a window keeps ----------------------------------------------------------------------------


def changes(*rows: tuple[int, str, str, str | None] | tuple[int, str, str]) -> pa.Table:
    """Changes of (xid, op, key, after); a patch leaves unchanged what it lacks of ``LARGE``."""
    given = [dict(zip(("xid", "op", "key", "after"), row, strict=False)) for row in rows]
    columns: dict[str, list[Any]] = {name: [None] * len(given) for name in DRAFT_SCHEMA.names}
    columns["collection"] = ["public.t"] * len(given)
    columns["position"] = list(range(len(given)))
    for name in ("op", "key"):
        columns[name] = [row[name] for row in given]
    columns["after"] = [row.get("after") for row in given]
    columns["unchanged"] = [
        json.dumps([name for name in LARGE if name not in json.loads(row["after"])])
        if row["op"] == "patch"
        else None
        for row in given
    ]
    columns["tx"] = [f"{row['xid']}:0/1" for row in given]
    return pa.table(columns, schema=DRAFT_SCHEMA)


def reads(**documents: str) -> pa.Table:
    return changes(*[(0, "read", key, document) for key, document in documents.items()])


def decided(window: Window, snapshot: Snapshot, **documents: str) -> dict[str, str] | None:
    verdict = window.decide("public.t", reads(**documents), snapshot)
    if verdict.rows is None:
        return None
    verdict.rows.validate(full=True)
    assert verdict.rows.schema == DRAFT_SCHEMA
    assert len(verdict.rows) + verdict.dropped == len(documents)
    return dict(
        zip(verdict.rows["key"].to_pylist(), verdict.rows["after"].to_pylist(), strict=True)
    )


def watching(**options: Any) -> Window:
    return Window(watched=frozenset({"public.t"}), **options)


def seen_to(xmax: int, *running: int) -> Snapshot:
    return Snapshot(xmin=min((*running, xmax)), xmax=xmax, running=running)


def test_rows_that_the_chunk_did_not_see_changed_are_dropped() -> None:
    window, snapshot = watching(), seen_to(20, 15)
    # Before the chunk was read: one that it sees, and one whose commit waits for a standby.
    window.add(changes((14, "update", "a", "{}"), (15, "update", "b", "{}")))
    window.took(snapshot)
    window.add(changes((16, "delete", "c"), (20, "delete", "d"), (21, "create", "e", "{}")))

    assert decided(window, snapshot, a="1", b="2", c="3", d="4", f="5") == {
        "a": "1",
        "c": "3",
        "f": "5",
    }


def test_a_truncate_that_the_chunk_did_not_see_drops_all_of_it() -> None:
    window, snapshot = watching(), seen_to(20)
    window.add(changes((19, "truncate", "")))
    window.took(snapshot)
    assert decided(window, snapshot, a="1") == {"a": "1"}

    window.took(snapshot)
    window.add(changes((22, "create", "a", "{}"), (21, "truncate", "")))
    assert decided(window, snapshot, a="1", b="2") == {}


def test_other_collections_do_not_matter() -> None:
    window, snapshot = Window(watched=frozenset({"public.t", "public.u"})), seen_to(20)
    window.took(snapshot)
    table = changes((20, "update", "a", "{}"), (21, "truncate", ""))
    other = pa.array(["public.u"] * 2)
    window.add(table.set_column(0, DRAFT_SCHEMA.field(0), other))
    assert window.size_bytes > 0

    assert decided(window, snapshot, a="1") == {"a": "1"}
    window.unwatch("public.u")
    assert window.size_bytes == 0


def test_values_that_no_change_ever_had_are_taken_from_the_chunk() -> None:
    window, snapshot = watching(), seen_to(20)
    window.took(snapshot)
    window.add(
        changes(
            (20, "patch", "a", '{"id":1,"v":2,"wide":"w"}'),
            (21, "patch", "a", '{"id":1,"v":3}'),
            # The log has all of this row, and of that.
            (20, "update", "b", '{"id":2,"v":2,"big":"y","wide":"y"}'),
            (21, "patch", "b", '{"id":2,"v":3}'),
            (22, "patch", "elsewhere", '{"id":9,"v":3}'),
        )
    )
    rows = reads(
        a='{"id":1,"big":"x","v":1,"wide":"x"}', b='{"id":2,"big":"z","v":1,"wide":"z"}', c="{}"
    )
    verdict = window.decide("public.t", rows, snapshot)

    assert verdict.rows is not None
    assert verdict.rows["after"].to_pylist() == ['{"id":1,"big":"x","v":3,"wide":"w"}', "{}"]
    assert (verdict.dropped, verdict.completed) == (1, 1)


def test_what_every_chunk_sees_is_not_kept() -> None:
    window = watching()
    window.add(changes((14, "update", "a", "{}"), (15, "update", "b", "{}")))
    window.took(seen_to(20, 15))
    one = window.size_bytes
    window.add(changes((17, "update", "c", "{}")))
    assert window.size_bytes == one > 0
    # An older chunk is still in hand, which does not see what a newer one sees.
    window.took(seen_to(21))
    assert window.size_bytes == one
    assert decided(window, seen_to(20, 15), a="1", b="2") == {"a": "1"}
    assert window.size_bytes == 0
    window.add(changes((30, "update", "b", "{}")))
    window.give_up()
    assert window.size_bytes > 0
    window.took(seen_to(31))
    assert window.size_bytes == 0


def test_too_many_changes_are_known_by_their_transactions_only() -> None:
    window = watching(bytes_max=2_000)
    window.took(seen_to(20))
    window.add(changes(*[(20 + place % 3, "update", f"k{place}", "{}") for place in range(200)]))
    assert window.size_bytes == 0

    assert decided(window, seen_to(20), a="1") is None
    # The same one would be refused before it is announced.
    assert window.unknown(seen_to(21)) == (21, 22)
    window.took(seen_to(23, 21))
    assert window.decide("public.t", reads(a="1"), seen_to(23, 21)).unknown == (21,)
    window.took(seen_to(23))
    assert decided(window, seen_to(23), a="1") == {"a": "1"}


def test_too_many_transactions_are_known_by_the_newest_only() -> None:
    window = watching(bytes_max=2_000, unseen_max=10)
    numbers = [(EPOCH - 50 + place) % EPOCH for place in range(100)]
    window.add(changes(*[(number, "update", "k", "{}") for number in numbers]))
    newest = EPOCH + 49

    assert window.unknown(seen_to(newest + 1, EPOCH - 90)) == (EPOCH - 90,)
    assert window.unknown(seen_to(EPOCH - 80)) != ()
    assert window.unknown(seen_to(newest + 9, newest + 3)) == ()
    window.took(seen_to(newest + 9, newest + 3))
    assert window.unknown(seen_to(newest + 9, newest + 3)) == ()
    assert window.since is None


def test_what_an_earlier_session_stored_is_unknown_until_it_is_seen() -> None:
    window = watching(since=30)

    assert window.unknown(seen_to(31, 12, 30)) == (12,)
    assert window.unknown(seen_to(29)) == (29,)
    window.took(seen_to(31, 12))
    assert decided(window, seen_to(31, 12), a="1") is None
    window.took(seen_to(40, 33))
    assert decided(window, seen_to(40, 33), a="1") == {"a": "1"}
    assert window.since is None


def test_a_collection_that_is_watched_later_was_not_told_of_before() -> None:
    window = Window(watched=frozenset())
    window.add(changes((14, "update", "a", "{}")))
    assert window.size_bytes == 0
    window.watch("public.t", since=20)
    window.watch("public.u", since=25)

    assert window.unknown(seen_to(30, 14)) == (14,)
    assert window.unknown(seen_to(30, 22)) == (22,)
    assert window.unknown(seen_to(30, 26)) == ()


# The log is exact at every place ----------------------------------------------------------------

Row = dict[str, int]
Table = dict[int, Row]


@dataclass(frozen=True)
class Done:
    """What one change of a row was; ``sent`` are the columns that a patch has in the stream."""

    op: str
    key: int
    row: Row | None = None
    sent: frozenset[str] = frozenset()


@dataclass
class Transaction:
    xid: int
    done: list[Done] = field(default_factory=list)
    rows: Table = field(default_factory=dict)
    """What it sees: the committed rows, with its own changes."""


@dataclass(frozen=True)
class Sent:
    """What the stream brings: a transaction, or the place of a chunk."""

    xid: int
    done: tuple[Done, ...] = ()
    chunk: int | None = None


@dataclass
class Database:
    """One table as PostgreSQL keeps it: commits are in the WAL first and visible some time later.

    Who changes a row holds it until the change is visible, and a truncate holds the table.
    """

    next_xid: int
    rows: Table = field(default_factory=dict)
    """What is visible."""
    running: dict[int, Transaction] = field(default_factory=dict)
    committed: dict[int, Transaction] = field(default_factory=dict)
    """In the WAL, and not visible yet."""
    latest: int = 0
    held: dict[int, int] = field(default_factory=dict)
    truncating: int | None = None
    wal: list[Sent] = field(default_factory=list)

    def give_xid(self) -> int:
        self.next_xid += 1
        return self.next_xid - 1

    def begin(self) -> None:
        xid = self.give_xid()
        self.running[xid] = Transaction(xid)

    def change(self, xid: int, key: int, random: Random) -> None:
        if self.truncating not in (None, xid) or self.held.get(key, xid) != xid:
            return
        mine = self.running[xid]
        self.held[key] = xid
        first = self.truncating != xid and not any(each.key == key for each in mine.done)
        if first and key in self.rows:
            mine.rows[key] = self.rows[key]
        row = mine.rows.pop(key, None)
        value = random.randrange(1_000)
        if row is None:
            row = {"id": key, "v": value, "big": value, "wide": value}
            mine.done.append(Done("create", key, row))
        elif random.random() < 0.2:
            mine.done.append(Done("delete", key))
            return
        else:
            changed = [name for name in LARGE if random.random() < 0.3]
            row = {**row, "v": value, **dict.fromkeys(changed, value)}
            sent = frozenset(row) - frozenset(LARGE).difference(changed)
            mine.done.append(Done("patch" if len(sent) < len(row) else "update", key, row, sent))
        mine.rows[key] = row

    def truncate(self, xid: int) -> None:
        if self.truncating is None and set(self.held.values()) <= {xid}:
            self.truncating = xid
            self.running[xid].done.append(Done("truncate", 0))
            self.running[xid].rows.clear()

    def commit(self, xid: int) -> None:
        transaction = self.running.pop(xid)
        self.committed[xid] = transaction
        self.wal.append(Sent(xid, tuple(transaction.done)))

    def show(self, xid: int) -> None:
        replayed(self.rows, self.committed.pop(xid).done)
        self.latest = max(self.latest, xid)
        self.held = {key: holder for key, holder in self.held.items() if holder != xid}
        if self.truncating == xid:
            self.truncating = None

    def snapshot(self) -> Snapshot:
        xmax = self.latest + 1
        running = sorted(xid for xid in (*self.running, *self.committed) if xid < xmax)
        return Snapshot(xmin=running[0] if running else xmax, xmax=xmax, running=tuple(running))

    def mark(self, chunk: int) -> None:
        xid = self.give_xid()
        self.wal.append(Sent(xid, chunk=chunk))
        self.latest = max(self.latest, xid)


def replayed(rows: Table, done: list[Done] | tuple[Done, ...]) -> None:
    for each in done:
        if each.op == "truncate":
            rows.clear()
        elif each.row is None:
            del rows[each.key]
        else:
            rows[each.key] = each.row


def key_text(key: int) -> str:
    return json.dumps({"id": key}, separators=(",", ":"))


def document(row: Row) -> str:
    return json.dumps(row, separators=(",", ":"))


def streamed(sent: Sent) -> pa.Table:
    rows: list[tuple[int, str, str, str | None]] = []
    for each in sent.done:
        row = each.row
        if each.op == "patch" and row is not None:
            row = {name: value for name, value in row.items() if name in each.sent}
        key = "" if each.op == "truncate" else key_text(each.key)
        rows.append((sent.xid % EPOCH, each.op, key, None if row is None else document(row)))
    return changes(*rows)


@dataclass
class Capture:
    """What follows the stream, and copies the table; it may begin again at any time."""

    database: Database
    random: Random
    log: State = field(default_factory=dict)
    truth: Table = field(default_factory=dict)
    """The rows as of the same place of the stream."""
    place: int = 0
    seq: int = 0
    state: dict[str, Any] = field(default_factory=lambda: CopyState().begun("public.t").as_json())
    window: Window = field(default_factory=watching)
    in_hand: list[tuple[int, Chunk, pa.Table]] = field(default_factory=list)
    marks: int = 0
    again: int = 0

    @property
    def copy(self) -> CopyState:
        return CopyState.of_json(self.state)

    def restart(self) -> None:
        xid = self.database.give_xid()
        self.database.latest = max(self.database.latest, xid)
        self.window = watching(since=xid % EPOCH, bytes_max=self.window.bytes_max)
        self.in_hand = []

    def read(self) -> None:
        """Read a chunk, of the table that may be locked; several may be in hand."""
        last: Any = self.copy.tables[0].last
        if self.in_hand:
            chunk = self.in_hand[-1][1]
            last = chunk.last
            if chunk.done:
                return
        if self.copy.tables[0].done or self.database.truncating is not None:
            return
        limit = self.random.randint(1, 4)
        after = -1 if last is None else last["key"]
        keys = sorted(key for key in self.database.rows if key > after)[:limit]
        chunk = Chunk(
            collection="public.t",
            snapshot=self.database.snapshot(),
            data=b"",
            rows=len(keys),
            last={"key": keys[-1]} if keys else last,
            done=len(keys) < limit,
            rows_max=limit,
        )
        rows = {key_text(key): document(self.database.rows[key]) for key in keys}
        self.marks += 1
        self.window.took(chunk.snapshot)
        self.in_hand.append((self.marks, chunk, reads(**rows)))

    def mark(self) -> None:
        """Mark the places of the chunks in hand."""
        marked = {sent.chunk for sent in self.database.wal}
        for mark, _, _ in self.in_hand:
            if mark not in marked:
                self.database.mark(mark)

    def follow(self) -> None:
        """Take in one transaction of the stream."""
        if self.place == len(self.database.wal):
            return
        sent = self.database.wal[self.place]
        self.place += 1
        if sent.chunk is None:
            table = streamed(sent)
            self.window.add(table)
            self.store(table)
            replayed(self.truth, sent.done)
        elif self.in_hand and self.in_hand[0][0] == sent.chunk:
            _, chunk, rows = self.in_hand.pop(0)
            verdict = self.window.decide("public.t", rows, chunk.snapshot)
            if verdict.rows is None:
                # What follows it does not follow what is stored.
                self.again += 1
                self.window.give_up()
                self.in_hand = []
            else:
                self.store(verdict.rows)
                self.state = json.loads(json.dumps(self.copy.advanced(chunk).as_json()))
        self.check()

    def store(self, table: pa.Table) -> None:
        for row in table.to_pylist():
            self.seq += 1
            texts = {name: row[name] for name in ("after", "unchanged")}
            encoded = {name: text and text.encode() for name, text in texts.items()}
            change = Change(
                seq=self.seq,
                collection="public.t",
                key=row["key"],
                op=Op(row["op"]),
                at_us=0,
                commit_us=0,
                recorded_us=0,
                lane="postgres:x",
                position=self.seq,
                **encoded,
            )
            apply(self.log, change)

    def check(self) -> None:
        """What was copied is in the log as it was at this place of the stream."""
        table = self.copy.tables[0]
        last: Any = table.last
        copied = 10**6 if table.done else -1 if last is None else last["key"]
        logged = {
            json.loads(key)["id"]: json.loads(change.after or b"")
            for (_, key), change in self.log.items()
        }
        assert {key: row for key, row in logged.items() if key <= copied} == {
            key: row for key, row in self.truth.items() if key <= copied
        }


def write(database: Database, random: Random) -> None:
    """One step of the transactions that change the table."""
    running, committed = list(database.running), list(database.committed)
    match random.choice(["begin", *["change"] * 5, "commit", "show"]):
        case "begin" if len(running) < 4:
            database.begin()
        case "change" if running and random.random() < 0.03:
            database.truncate(random.choice(running))
        case "change" if running:
            database.change(random.choice(running), random.randrange(12), random)
        case "commit" if running:
            database.commit(random.choice(running))
        case "show" if committed:
            database.show(random.choice(committed))


def capture_on(capture: Capture, random: Random) -> None:
    """One step of whoever follows them."""
    match random.choice(["follow", "follow", "read", "mark", "restart"]):
        case "follow":
            capture.follow()
        case "read" if len(capture.in_hand) < 3:
            capture.read()
        case "mark":
            capture.mark()
        case "restart" if random.random() < 0.1:
            capture.restart()


@settings(max_examples=2 * settings.default.max_examples)
@given(
    seed=st.integers(0, 2**64),
    first_xid=st.sampled_from([3, EPOCH - 20, 5 * EPOCH - 30]),
    bytes_max=st.sampled_from([300, 1_000, 1 << 20]),
)
def test_the_log_is_the_table_at_every_place_of_the_stream(
    seed: int, first_xid: int, bytes_max: int
) -> None:
    random = Random(seed)
    database = Database(next_xid=first_xid, latest=first_xid - 1)
    for key in range(0, 12, 2):
        database.rows[key] = {"id": key, "v": -1, "big": -1, "wide": -1}
    capture = Capture(database, random, truth=dict(database.rows))
    capture.window.bytes_max = bytes_max

    for _ in range(200):
        write(database, random)
        capture_on(capture, random)
    for xid in list(database.running):
        database.commit(xid)
    for xid in list(database.committed):
        database.show(xid)
    for _ in range(20):
        capture.read()
        capture.mark()
        while capture.place < len(database.wal):
            capture.follow()

    assert capture.copy.to_do == ()
    assert capture.truth == database.rows
