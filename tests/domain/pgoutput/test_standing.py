"""Whether a source can go on where the log stands, and what a lane remembers of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pitr.domain.pgoutput.copying import CopyState
from pitr.domain.pgoutput.model import Transaction
from pitr.domain.pgoutput.notes import Notes
from pitr.domain.pgoutput.ports import Cluster
from pitr.domain.pgoutput.source import SlotState
from pitr.domain.pgoutput.standing import slot_warning, standing_problem

SLOT = SlotState(
    name="s",
    plugin="pgoutput",
    database="app",
    temporary=False,
    two_phase=False,
    failover=False,
    active_pid=None,
    active_application=None,
    restart_lsn=900,
    confirmed_flush_lsn=1000,
    wal_status="reserved",
    safe_wal_bytes=None,
    invalidation_reason=None,
    current_lsn=2000,
)
CLUSTER = Cluster(system="1", timeline=3, lsn=2000, ancestors=((1, 500), (2, 1500)))
NOTES = Notes(lsn=1000, system="1", timeline=3)


def test_notes_come_back_from_a_lane() -> None:
    notes = Notes(
        lsn=2**40,
        open=Transaction(lsn=9, commit_us=8, xid=7, done=6, actor="a", reason="r", meta='{"m":1}'),
        copy=CopyState().begun("public.rows"),
        system="7",
        timeline=2,
        lost="why",
    )
    assert Notes.of_json(json.loads(json.dumps(notes.as_json()))) == notes
    assert notes.as_json()["open_tx"] == "7:0/9"
    assert Notes.of_json({}) == Notes()
    assert Notes().as_json()["open_tx"] is None


@pytest.mark.parametrize(
    ("notes", "cluster", "slot", "problem"),
    [
        (NOTES, CLUSTER, SLOT, None),
        (Notes(), CLUSTER, SLOT, None),
        (NOTES, CLUSTER, None, "slot is gone"),
        (NOTES, CLUSTER, replace(SLOT, wal_status="lost"), "gave the replication slot up"),
        (
            NOTES,
            CLUSTER,
            replace(SLOT, invalidation_reason="wal_removed"),
            "slot up: wal_removed",
        ),
        (NOTES, CLUSTER, replace(SLOT, confirmed_flush_lsn=1001), "moved on to 0/3E9"),
        (NOTES, replace(CLUSTER, lsn=999), SLOT, "restored from an older state"),
        (replace(NOTES, timeline=2), CLUSTER, SLOT, None),
        (replace(NOTES, timeline=2, lsn=1501), CLUSTER, SLOT, "went back to 0/5DC"),
        (replace(NOTES, timeline=1), CLUSTER, SLOT, "went back to 0/1F4"),
        (replace(NOTES, timeline=9), CLUSTER, SLOT, "went back to 0/0"),
        (replace(NOTES, lost="passed over"), CLUSTER, SLOT, "passed over"),
    ],
)
def test_what_cannot_go_on_is_named(
    notes: Notes, cluster: Cluster, slot: SlotState | None, problem: str | None
) -> None:
    found = standing_problem(notes, cluster, slot)
    assert (found is None) if problem is None else (problem in (found or ""))


@pytest.mark.parametrize(
    ("slot", "warned"),
    [
        (SLOT, False),
        (replace(SLOT, safe_wal_bytes=10_000), False),
        (replace(SLOT, safe_wal_bytes=300), True),
        (replace(SLOT, wal_status="unreserved", safe_wal_bytes=-5), True),
        (replace(SLOT, wal_status="lost"), True),
    ],
)
def test_a_slot_in_danger_is_warned_of(slot: SlotState, warned: bool) -> None:
    assert (slot_warning(slot) is not None) == warned
