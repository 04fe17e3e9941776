"""scripts/bench NAME [--changes N] [--json]: one benchmark, one JSON object."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import orjson
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pitr.faces.interpreter import set_interpreter
from scripts.benchmarks import (
    capture_kafka,
    capture_postgres,
    history,
    ingest,
    replay,
    restore_postgres,
    rewind,
    storage,
)

BENCHES = {
    "capture-kafka": (capture_kafka.run, 1_000_000),
    "capture-postgres": (capture_postgres.run, 500_000),
    "ingest": (ingest.run, 2_000_000),
    "replay": (replay.run, 10_000_000),
    "restore-postgres": (restore_postgres.run, 2_000_000),
    "rewind": (rewind.run, 1_000_000),
    "storage": (storage.run, 2_000_000),
    "history": (history.run, 10_000_000),
}


def main() -> int:
    """Run one benchmark; exit 1 if its ratio misses what it must reach."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHES))
    parser.add_argument("--changes", type=int, help="changes in the log")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--huge", action="store_true", help="capture-postgres: a transaction of 5,000,000 rows, too"
    )
    given = parser.parse_args()
    run, changes = BENCHES[given.name]
    set_interpreter()  # as every command does
    options = {"huge": True} if given.huge else {}
    figures = uvloop.run(run(given.changes or changes, **options))
    if given.json:
        print(orjson.dumps(figures).decode())
    else:
        for name, value in figures.items():
            print(f"{name:22} {value}")
    less = figures.get("less_is_better", False)
    met = figures["ratio"] <= figures["must"] if less else figures["ratio"] >= figures["must"]
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
