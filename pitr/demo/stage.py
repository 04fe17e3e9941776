"""Sets the demo's stage and clears it away: the folder, the shop's server, pitr."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from pitr.adapters.embedded import EmbeddedPostgres
from pitr.demo.result import DemoResult
from pitr.demo.service import Service, serving
from pitr.demo.story import Fault, Steps, Story
from pitr.domain.errors import InvalidRequest

CHANGES_MIN = 1_000


async def run(
    *,
    changes: int = 50_000,
    keep: bool = False,
    folder: Path | None = None,
    report: Callable[[str], None],
    fault: Fault | None = None,
) -> DemoResult:
    """Run the demo: trade, make a mistake, restore the moment before, compare every row.

    Args:
        changes: Changes before the mistake, at least.
        keep: Leave the servers running and the folder in place, and say how to stop them.
        folder: Where to work, empty or not there yet; without it a temporary folder.
        report: Told each step, in lines for people.
        fault: Given the URL of the restored database before it is compared; a demo of a demo
            that fails.

    Raises:
        InvalidRequest: The folder is in use, or there are too few changes for a story.
        Unavailable: A server did not come up, or a command failed.
    """
    if changes < CHANGES_MIN:
        raise InvalidRequest("too few changes", hint=f"--changes {CHANGES_MIN} or more")
    steps = Steps(report)
    with _workplace(folder, keep=keep) as place:
        async with _servers(place, steps, keep=keep) as (server, service):
            story = Story(
                server=server, service=service, folder=place, steps=steps, changes=changes
            )
            result = await story.tell(fault=fault)
    if keep:
        result = _kept(result, place, server, service, story)
        for line in ("everything is still running; try", *result.commands):
            report(line)
    return result


@asynccontextmanager
async def _servers(
    place: Path, steps: Steps, *, keep: bool
) -> AsyncIterator[tuple[EmbeddedPostgres, Service]]:
    """Start the shop's PostgreSQL and pitr; stop both, unless all is well and they are kept.

    pitr goes first, as it follows the other.
    """
    server, done = None, False
    try:
        async with serving(place / "pitr", keep=keep) as service:
            with steps.step("start") as said:
                server = await EmbeddedPostgres.start(place / "shop")
                said.append("the shop's PostgreSQL is up")
            yield server, service
            done = True
    finally:
        if server is not None and not (keep and done):
            await server.stop()


@contextlib.contextmanager
def _workplace(folder: Path | None, *, keep: bool) -> Iterator[Path]:
    """Make the folder, and remove it unless all is well and it is kept."""
    if folder is not None and folder.exists() and any(folder.iterdir()):
        raise InvalidRequest("the folder of the demo is not empty", folder=folder)
    place = Path(tempfile.mkdtemp(prefix="pitr-demo-")) if folder is None else folder
    place.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        place.chmod(0o711)  # root's PostgreSQL runs as somebody else
    done = False
    try:
        yield place.resolve()
        done = True
    finally:
        if not (keep and done):
            shutil.rmtree(place, ignore_errors=True)


STOP_SCRIPT = """\
#!/bin/sh
# Stops pitr and the shop's PostgreSQL of a demo that was kept, and removes its folder.
cd {folder} || exit 1
shop=shop/data/postmaster.pid catalog=pitr/data/postgres/data/postmaster.pid
tries=0
gone() {{
    while [ -e "$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -gt 600 ] && exit 1
        sleep 0.1
    done
}}
kill {pid}
gone "$catalog"
kill -INT "$(head -n 1 "$shop")"
gone "$shop"
cd / && rm -rf {folder}
"""


ENVIRONMENT = """\
# For a shell: pitr and psql are found, pitr knows the shop's log, and $SHOP is its database.
export PATH={programs}:"$PATH"
export PITR_DATA={data}
export SHOP={shop}
export DEMO={folder}
"""


def _kept(
    result: DemoResult, place: Path, server: EmbeddedPostgres, service: Service, story: Story
) -> DemoResult:
    folder = shlex.quote(str(place))
    (place / "stop").write_text(STOP_SCRIPT.format(pid=service.pid, folder=folder))
    programs = f"{Path(sys.executable).parent}:{server.bin_folder}"
    environment = ENVIRONMENT.format(
        programs=shlex.quote(programs),
        data=shlex.quote(str(service.data)),
        shop=shlex.quote(story.urls["shop"]),
        folder=folder,
    )
    (place / "env").write_text(environment)
    return replace(
        result,
        folder=str(place),
        urls={"pitr": service.url, **story.urls},
        commands=(
            f"source {folder}/env",
            "pitr status",
            "pitr sources",
            f"pitr describe {result.target}",
            "pitr history shop.orders 100001",
            'psql "$SHOP"',
            f"sh {folder}/stop  # stops both servers and removes the folder",
        ),
    )
