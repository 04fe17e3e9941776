"""A state several times the budget passes within the budget of the whole process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pitr.domain.columnar.engine import MEMORY_BYTES_MIN
from pitr.domain.columnar.schema import CHANGE_SCHEMA
from pitr.domain.columnar.segment import encode_segment

STATE_BYTES = 4 * MEMORY_BYTES_MIN
FILES = 8

REPLAY = """
import json, sys
from pathlib import Path
from pitr.domain.columnar.replay import Replay, ReplayInput
from pitr.domain.target import Cut

folder, memory_bytes = Path(sys.argv[1]), int(sys.argv[2])
given = ReplayInput(segments=tuple(sorted(folder.glob("*.parquet"))), cut=Cut(seq_end=1 << 50))
rows = size = 0
with Replay(given, memory_bytes=memory_bytes, spill_folder=folder, threads=2) as state:
    for batch in state.rows("c"):
        rows += batch.num_rows
        size += batch.nbytes
    assert state.counts == {"c": rows}
# Not ru_maxrss: that one also counts the process that started this one.
status = Path("/proc/self/status").read_text()
peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024
print(json.dumps({"rows": rows, "state_bytes": size, "peak_bytes": peak}))
"""


def table(*, seq_first: int, count: int, document_bytes: int) -> pa.Table:
    """Documents that compress well: a big state out of small files."""
    seq = pa.array(range(seq_first, seq_first + count), pa.int64())
    text = seq.cast(pa.string())
    words = pa.repeat("lorem ipsum " * (document_bytes // 12), count)
    given = {
        "collection": pa.repeat("c", count),
        "key": pc.binary_join_element_wise('{"id":', text, "}", ""),
        "op": pa.repeat("create", count),
        "after": pc.binary_join_element_wise('{"id":', text, ',"d":"', words, '"}', ""),
        "lane": pa.repeat("l", count),
    }
    columns = [
        given.get(field.name, seq if field.type == pa.int64() else pa.nulls(count, field.type))
        for field in CHANGE_SCHEMA
    ]
    return pa.table(columns, schema=CHANGE_SCHEMA)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("document_bytes", [2_000, 10_000_000])
def test_state_four_times_the_budget(tmp_path: Path, document_bytes: int) -> None:
    count = STATE_BYTES // document_bytes // FILES + 1
    for number in range(FILES):
        part = table(seq_first=number * count + 1, count=count, document_bytes=document_bytes)
        (tmp_path / f"{number}.parquet").write_bytes(encode_segment(part).body)
    command = [sys.executable, "-c", REPLAY, str(tmp_path), str(MEMORY_BYTES_MIN)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["rows"] == count * FILES
    assert measured["state_bytes"] >= STATE_BYTES
    assert measured["peak_bytes"] <= MEMORY_BYTES_MIN
