"""Invariant 14: a state larger than the memory limit restores within the limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_BYTES = 512 * 2**20
ROWS = 320_000
FILLER = 6_000

# VmHWM and not ru_maxrss: a child's ru_maxrss begins with the peak of the process that forked it.
SCRIPT = """
import asyncio, json, sys
from pathlib import Path
from pitr.app import open_app
from pitr.services.restore import RestoreRequest
from pitr.settings import load_settings

async def main():
    async with open_app(load_settings()) as app:
        plan = await app.restorer.plan(RestoreRequest(log="main", target="latest"))
        report = await app.restorer.restore(plan, app.sink(sys.argv[1]))
    [kib] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")]
    print(json.dumps({"rows": report.row_count, "peak": int(kib) * 1024}))

asyncio.run(main())
"""


def lines(path: Path) -> int:
    """Rows whose documents are long but alike: a large state in small files."""
    filler = "lorem ipsum " * (FILLER // 12)
    with path.open("w", buffering=1 << 20) as file:
        for number in range(ROWS):
            document = f'{{"id":{number},"text":"{number} {filler}"}}'
            file.write(f'{{"collection":"big","key":{number},"op":"create","after":{document}}}\n')
    return path.stat().st_size


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read in /proc")
def test_a_state_four_times_the_limit_restores_within_it(
    tmp_path: Path, short_folder: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if "PITR_" not in name}
    environment |= {
        "PITR_DATA": str(short_folder / "memory"),
        "PITR_MEMORY_BYTES": str(LIMIT_BYTES),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    source, target = tmp_path / "in.ndjson", tmp_path / "out.parquet"
    size = lines(source)
    assert size > 3.5 * LIMIT_BYTES

    def python(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        return done.stdout

    python("-m", "pitr", "ingest", str(source), "--format", "native")
    source.unlink()
    found = json.loads(python("-c", SCRIPT, str(target)))
    assert found["rows"] == ROWS
    assert found["peak"] < LIMIT_BYTES, f"peak={found['peak'] / 2**20:.0f} MiB"
