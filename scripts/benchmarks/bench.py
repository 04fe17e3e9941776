"""What every benchmark needs: a fresh pitr with its own PostgreSQL, and psql beside it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pitr.adapters.embedded import EmbeddedPostgres
from pitr.adapters.inputs import open_input
from pitr.app import App, open_app
from pitr.settings import load_settings
from scripts.benchmarks.data import Sample

LOG = "main"
PARTS = 10


def say(text: str) -> None:
    """Tell on stderr how far it is."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


@dataclass
class Stopwatch:
    """Seconds by step."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a step under its name."""
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)
        say(f"{name}: {self.seconds[name]:.2f} s")


@dataclass
class Bench:
    """One run: a folder, an open pitr, a PostgreSQL for the yardstick."""

    folder: Path
    app: App
    server: EmbeddedPostgres
    watch: Stopwatch = field(default_factory=Stopwatch)

    async def database(self, name: str) -> str:
        """A database of the yardstick's server."""
        return await self.server.ensure_database(name)

    def psql(self, url: str, *commands: str) -> str:
        """Run commands with the psql of the wheel."""
        program = [str(self.server.bin_folder / "psql"), url, "-qAtX", "-v", "ON_ERROR_STOP=1"]
        for command in commands:
            program += ["-c", command]
        return subprocess.run(program, check=True, capture_output=True, text=True).stdout

    async def ingest(self, path: Path) -> int:
        """Take a file into the log through the same service as ``pitr ingest``."""
        appender = await self.app.appender(LOG)
        report = await self.app.file_ingest.ingest(
            open_input(str(path)), log=LOG, appender=appender, format="native"
        )
        assert report.quarantined == 0, report.reasons
        return report.stored

    async def log_of(self, sample: Sample) -> Path:
        """Make the sample's file and take it in, in ten parts with the upkeep after each.

        So the log is as it stands when changes have come in over a time: some large segments,
        some that are not merged yet.
        """
        path = self.folder / "changes.ndjson"
        with self.watch.step("make the input"):
            sample.write(path)
        with self.watch.step("ingest and compact"), path.open("rb") as lines:
            for number in range(PARTS):
                part = self.folder / f"part-{number}.ndjson"
                count = sample.count // PARTS + (number < sample.count % PARTS)
                with part.open("wb") as file:
                    file.writelines(islice(lines, count))
                await self.ingest(part)
                part.unlink()
                await self.app.sealer.seal(LOG, force=True)
                await self.app.compactor.compact(LOG)
        return path


@asynccontextmanager
async def open_bench(**settings: Any) -> AsyncIterator[Bench]:
    """A fresh bench, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="pitr-bench-") as name:
        folder = Path(name)
        server = await EmbeddedPostgres.start(folder / "pg")
        try:
            async with open_app(load_settings(data=folder / "data", **settings)) as app:
                yield Bench(folder, app, server)
        finally:
            await server.stop()


def rate(count: int, seconds: float) -> int:
    """Whole units per second."""
    return round(count / seconds)


Runner = Callable[[int], Any]
