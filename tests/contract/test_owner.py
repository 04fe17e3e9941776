"""The name of an owner tells whether its process still lives; in doubt it does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pitr.adapters.owner import is_gone, new_owner

MADE = "from pitr.adapters.owner import new_owner; print(new_owner('0123456789'), flush=True)"

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/ns/pid").exists(), reason="NOT TESTED: the system has no /proc"
)


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    """A process that has named itself, and waits."""
    command = [sys.executable, "-c", f"{MADE}; input()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_a_process_that_was_killed_is_gone_before_it_is_buried(
    other: subprocess.Popen[str],
) -> None:
    assert other.stdout is not None
    owner = other.stdout.readline().strip()
    assert owner.split("/")[1] == str(other.pid)
    assert owner.endswith("-01234567")
    assert not is_gone(owner)
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert is_gone(owner)
    other.wait()
    assert is_gone(owner)


def test_a_later_process_with_the_pid_is_another() -> None:
    host, pid, made = new_owner("0123456789").split("/")
    place, started, uid = made.split("-")
    assert not is_gone(f"{host}/{pid}/{place}-{started}-{uid}")
    assert is_gone(f"{host}/{pid}/{place}-{int(started) - 1}-{uid}")


def test_of_a_process_somewhere_else_nothing_is_known() -> None:
    """A container has pids of its own, whatever its host is called; so has another boot."""
    host, _, made = new_owner("0123456789").split("/")
    _, started, uid = made.split("-")
    free = 2**22 + 1  # more than pids can be
    place = made.split("-")[0]
    assert is_gone(f"{host}/{free}/{place}-{started}-{uid}")
    for owner in (
        f"{host}/{free}/{'0' * 12}-{started}-{uid}",
        f"{host}/{free}/0-0-{uid}",
        f"{host}/{free}/{place}-0-{uid}",
        f"{host}/0/{place}-{started}-{uid}",
        f"{host}/-1/{place}-{started}-{uid}",
        f"{host}/{free}/{uid}",
        "test",
        "",
    ):
        assert not is_gone(owner), owner
