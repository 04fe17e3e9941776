"""Append, seal, snapshot, compact, expire, crash and restart in any order agree with the oracle."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pitr.adapters.catalog import PostgresCatalog
from pitr.adapters.migrations_folder import migrations_folder
from pitr.adapters.objects import DirectoryStore
from pitr.domain import admission
from pitr.domain.batch import Batch
from pitr.domain.columnar.segment import encode_segment
from pitr.domain.compaction import latest_snapshot
from pitr.domain.errors import PitrError
from pitr.domain.log import LogView
from pitr.domain.manifest import GENESIS_HASH, ObjectRef
from pitr.domain.target import Cut
from pitr.services.seal import Sealer
from tests.changes import batch, draft
from tests.conftest import ManualClock
from tests.services.crashes import Crash, Fuse, Fused
from tests.services.naive import NaiveLog
from tests.services.world import LIMITS, World

PARTS = 9
"""So that the processes of a test run share them evenly."""
EXAMPLES = 225 if os.environ.get("HYPOTHESIS_PROFILE") == "ci" else 9
"""For each of the four machines, which workers share; together 2,000 in CI."""

PATCH_UNCHANGED = '["w"]'

AFTER = st.sampled_from(['{"v":1}', '{"v":2,"w":1.10}', '{"w":null}', '{"w":{"x":[1]},"v":3}'])
OPS = st.sampled_from(
    ["create", "update", "update", "patch", "patch", "delete", "read", "truncate"]
)


LANE = st.sampled_from(["x", "y"])


@st.composite
def rows(draw: st.DrawFn, *, count_max: int = 4) -> list[dict[str, Any]]:
    """Three keys, two collections and waits of a few µs: collisions and equal times everywhere."""
    return draw(st.lists(row(), min_size=1, max_size=count_max))


@st.composite
def row(draw: st.DrawFn) -> dict[str, Any]:
    op = draw(OPS)
    return draft(
        draw(st.integers(1, 3)),
        draw(AFTER),
        collection=draw(st.sampled_from(["a", "b"])),
        op=op,
        commit_us=draw(st.none() | st.integers(-3, 4)),
        tx=draw(st.none() | st.sampled_from(["t1", "t2", "t3"])),
        unchanged=draw(st.sampled_from([None, PATCH_UNCHANGED])) if op == "patch" else None,
    )


CRASH = st.none() | st.tuples(st.integers(0, 7), st.booleans())
"""Before or after which call of the operation the process dies, if it does."""


class _Shared:
    """One event loop and one pool for all examples of a worker."""

    runner: asyncio.Runner | None = None
    catalog: PostgresCatalog | None = None

    @classmethod
    def run(cls, work: Any) -> Any:
        assert cls.runner is not None
        return cls.runner.run(work)


@pytest.fixture(scope="module", autouse=True)
def _shared(catalog_url: str) -> Any:
    _Shared.runner = asyncio.Runner()
    _Shared.catalog = _Shared.run(PostgresCatalog.open(catalog_url, migrations=migrations_folder()))
    yield
    _Shared.run(_Shared.catalog.close())
    _Shared.runner.close()


class Machine(RuleBasedStateMachine):
    """A log under every operation there is, next to the oracle."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="pitr-machine-"))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.clock = ManualClock(1_000)
        self.log = f"m-{uuid4().hex[:12]}"
        self.fuse = Fuse()
        self.naive = NaiveLog(LIMITS.skew_us)
        self.sent: list[Batch] = []
        self.restores = 0

    @initialize()
    def begin(self) -> None:
        assert _Shared.catalog is not None
        facts = {"uid": self.log, "created_us": 0, "manifest_hash": GENESIS_HASH}
        _Shared.run(_Shared.catalog.create_log(self.log, **facts))
        self.restart()

    def restart(self) -> None:
        """A new process: nothing is left but the catalog and the store."""
        store = DirectoryStore(self.folder / "store")
        _Shared.run(store.clean())
        self.world = World(
            Fused(_Shared.catalog, self.fuse),  # type: ignore[arg-type]
            Fused(store, self.fuse),  # type: ignore[arg-type]
            self.clock,
            self.log,
            self.folder / "scratch",
        )

    def survive(self, work: Any, crash: tuple[int, bool] | None = None) -> bool:
        """Run until it is done or the process dies; then start anew."""
        if crash is not None:
            self.fuse.light(crash[0], after_effect=crash[1])
        try:
            _Shared.run(work)
        except Crash:
            self.fuse.out()
            self.restart()
            return False
        finally:
            self.fuse.out()
        return True

    @rule(wait_us=st.integers(1, 2))
    def wait(self, wait_us: int) -> None:
        self.clock.advance(wait_us)

    @rule(lane=LANE, rows=rows(), crash=CRASH)
    def append(self, lane: str, rows: list[dict[str, Any]], crash: Any) -> None:
        self.send(self.batch_of(lane, rows), crash)

    @rule(lane=LANE, rows=rows(count_max=3), crash=CRASH)
    def append_large(self, lane: str, rows: list[dict[str, Any]], crash: Any) -> None:
        self.send(self.batch_of(lane, (rows * 6)[: LIMITS.segment_rows_min + 1]), crash)

    def batch_of(self, lane: str, rows: list[dict[str, Any]]) -> Batch:
        now = self.clock.now_us()
        dated = [
            row if row["commit_us"] is None else row | {"commit_us": now + row["commit_us"]}
            for row in rows
        ]
        stands = self.naive.positions.get(lane, 0)
        return batch(dated, lane=lane, position_first=stands, resume=True)

    def send(self, one: Batch, crash: Any) -> None:
        """Send until it is acknowledged, as a client does whose answer was lost."""
        while not self.survive(self.world.append(one), crash):
            crash = None
        self.naive.append(one, recorded_us=self.clock.now_us())
        self.sent.append(one)

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), crash=CRASH)
    def send_again(self, data: st.DataObject, crash: Any) -> None:
        one = data.draw(st.sampled_from(self.sent))
        self.survive(self.world.append(replace(one, resume=True)), crash)

    @rule(lane=LANE, rows=rows(count_max=2), crash=CRASH)
    def seal(self, lane: str, rows: list[dict[str, Any]], crash: Any) -> None:
        self.send(self.batch_of(lane, rows), None)
        self.survive(self.world.sealer.seal(self.log, force=True), crash)

    @rule(crash=CRASH)
    def snapshot(self, crash: Any) -> None:
        self.survive(self.world.snapshotter.snapshot(self.log), crash)

    @rule(everything=st.booleans(), crash=CRASH)
    def compact(self, everything: bool, crash: Any) -> None:
        self.survive(self.world.compactor.compact(self.log, everything=everything), crash)

    @rule(crash=CRASH)
    def expire(self, crash: Any) -> None:
        self.clock.advance(LIMITS.retired_kept_us + 1)
        self.survive(self.world.compactor.expire(self.log), crash)

    @rule(crash=CRASH)
    def publish(self, crash: Any) -> None:
        self.survive(self.world.publisher.publish(self.log), crash)

    @precondition(lambda self: self.naive.changes)
    @rule(data=st.data(), use_snapshots=st.booleans())
    def restore(self, data: st.DataObject, use_snapshots: bool) -> None:
        self.fuse.out()
        changes = self.naive.changes
        change = data.draw(st.sampled_from(changes))
        kind = data.draw(st.sampled_from(["time", "time", "seq", "before-tx", "latest"]))
        match kind:
            case "time":
                at_us = change.at_us + data.draw(st.integers(-1, 1))
                self.clock.us = max(self.clock.us, at_us)
                target, cut = time_target(at_us), self.naive.cut(at_us=at_us)
            case "seq":
                target, cut = f"seq:{change.seq}", self.naive.cut(seq_end=change.seq + 1)
            case "before-tx":
                if change.tx is None:
                    return
                first = min(other.seq for other in changes if other.tx == change.tx)
                target, cut = f"before-tx:{change.tx}", self.naive.cut(seq_end=first)
            case _:
                target, cut = "latest", self.naive.cut()
        found = _Shared.run(self.world.state(target, use_snapshots=use_snapshots))
        assert found == self.naive.state(cut), target

    @invariant()
    def seq_has_no_holes(self) -> None:
        if not hasattr(self, "world"):
            return
        assert _Shared.catalog is not None
        state = _Shared.run(_Shared.catalog.log(self.log))
        assert state.seq_next == len(self.naive.changes) + 1

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.fuse.out()
            assert _Shared.run(self.world.changes()) == self.naive.changes
            self.restore_somewhere()
            _Shared.run(self.world.publisher.publish(self.log))
            report = _Shared.run(self.world.verifier.verify(self.log))
            assert report.verdict == "pass", report.checks
        shutil.rmtree(self.folder, ignore_errors=True)

    def restore_somewhere(self) -> None:
        """At the end of every example: a time or a seq, wherever its operations led."""
        changes = self.naive.changes
        if not changes:
            return
        chosen = changes[len(self.sent) * 7 % len(changes)]
        self.clock.us = max(self.clock.us, chosen.at_us)
        if chosen.seq % 2:
            target, cut = time_target(chosen.at_us), self.naive.cut(at_us=chosen.at_us)
        else:
            target, cut = f"seq:{chosen.seq}", self.naive.cut(seq_end=chosen.seq + 1)
        assert _Shared.run(self.world.state(target)) == self.naive.state(cut), target


def time_target(at_us: int) -> str:
    from pitr.domain.times import rfc3339

    return str(rfc3339(at_us))


COMMON = settings(
    max_examples=EXAMPLES,
    stateful_step_count=10,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


@pytest.mark.timeout(1_500)
@pytest.mark.parametrize("number", range(PARTS))
def test_any_order_of_operations_agrees_with_the_oracle(number: int) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Machine, settings=COMMON)


def _exclusive(**facts: Any) -> Cut:
    """``<`` for ``<=`` at a time."""
    at_us = facts.get("at_us")
    return Cut(**(facts | {"at_us": at_us - 1 if at_us is not None else None}))


def _any_base(view: LogView, cut: Cut, torn: Any) -> tuple[ObjectRef, ...]:
    """A snapshot as base whatever lies beyond the cut in it."""
    return latest_snapshot(ref for ref in view.snapshots if ref.seq_end <= cut.seq_end)


def _all_again(batch: Batch, stands: int) -> admission.Admitted:
    """A batch that overlaps what its lane holds, stored whole."""
    return replace(admission._whole(batch), position_end=max(batch.position_end, stands))


async def _listed_first(self: Sealer, log: str, seq_end: int) -> ObjectRef | None:
    """A segment listed before it is durable."""
    run = await self._catalog.oldest_run(log, rows_max=7, bytes_max=1 << 20)
    if not run.num_rows:
        return None
    encoded = encode_segment(run)
    segment = encoded.ref(log)
    await self._catalog.seal(log, segment, recorded_us=0)
    await self._store.put_new(segment.name, encoded.body, sha256=segment.sha256)
    return segment


def _nothing_torn(near: Any, seq_end: int) -> dict[str, int]:
    """Transactions torn by a seq."""
    return {}


FAULTS = {
    "time is exclusive": ("pitr.services.resolve.Cut", _exclusive),
    "any snapshot is a base": ("pitr.domain.plan._base", _any_base),
    "overlaps are stored twice": ("pitr.domain.admission._rest", _all_again),
    "listed before durable": ("pitr.services.seal.Sealer._seal_run", _listed_first),
    "transactions are torn": ("pitr.services.resolve.torn_by_seq", _nothing_torn),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    monkeypatch.setattr(*FAULTS[name])
    quick = settings(
        COMMON,
        max_examples=600,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
    )
    with pytest.raises((AssertionError, PitrError)):
        run_state_machine_as_test(Machine, settings=quick)
