"""Runs the real command line, in this process or in one of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from pitr.faces.cli import app

ROOT = Path(__file__).resolve().parents[2]
NO_PITR_VARIABLES = {name: None for name in os.environ if name.startswith("PITR_")}


class BufferedRunner(CliRunner):
    """A runner whose stdin is buffered, as a real one is."""

    @contextmanager
    def isolation(self, input: Any = None, **options: Any) -> Iterator[Any]:  # noqa: A002
        with super().isolation(input, **options) as streams:
            sys.stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(input or b"")))
            yield streams


def pitr(*args: str, body: bytes | None = None, env: Mapping[str, str] | None = None) -> Result:
    """Run a command in this process; ``body`` is its stdin."""
    runner = BufferedRunner(env={**NO_PITR_VARIABLES, "PITR_ACTOR": "tester"})
    return runner.invoke(app, list(args), input=body, env={**runner.env, **(env or {})})


def start(*args: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start a command in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PITR_")}
    environment |= {"PYTHONPATH": str(ROOT), "PITR_ACTOR": "tester"}
    return subprocess.Popen(
        [sys.executable, "-m", "pitr", *args],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=options.pop("stderr", subprocess.PIPE),
        env=environment | options.pop("env", {}),
        **options,
    )


@dataclass(frozen=True)
class Place:
    """A data folder and a log in it."""

    data: Path
    log: str

    @property
    def options(self) -> list[str]:
        return ["--data", str(self.data), "--log", self.log]

    def run(self, *args: str, **options: Any) -> Result:
        """Run a command on the log."""
        return pitr(*args, *self.options, **options)

    def done(self, *args: str, **options: Any) -> str:
        """Run a command that must succeed; return its stdout."""
        result = self.run(*args, **options)
        assert result.exit_code == 0, (args, result.stdout, result.stderr, result.exception)
        return result.stdout

    def document(self, *args: str, **options: Any) -> Any:
        """Run a command that must succeed with ``--json``; return its one object."""
        return one_object(self.done(*args, "--json", **options))

    def ingest(self, changes: Iterable[Mapping[str, Any]]) -> Any:
        """Store changes; return the report."""
        return self.document("ingest", "-", body=lines(changes))


def one_object(stdout: str) -> Any:
    """Read the one JSON object that stdout must be."""
    assert stdout.endswith("\n"), stdout
    document = json.loads(stdout)
    assert isinstance(document, dict)
    return document


def lines(changes: Iterable[Mapping[str, Any]]) -> bytes:
    """Write changes as JSON lines."""
    return b"".join(json.dumps(change).encode() + b"\n" for change in changes)


def order(
    number: int, at: str | None = None, *, collection: str = "shop.orders", **more: Any
) -> dict[str, Any]:
    """A change of one order; ``at`` is the time of 2026-03-01."""
    change = {"collection": collection, "key": {"id": number}, **more}
    if more.get("op") not in ("delete", "truncate"):
        change.setdefault("after", {"id": number, "status": "new"})
    if at is not None:
        change["at"] = f"2026-03-01T{at}Z"
    return change
