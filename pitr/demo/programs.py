"""Runs other programs to their end: pitr's commands, and those of PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from pitr.domain.errors import Unavailable

TIMEOUT_S = 300
STDERR_CHARS_MAX = 2000


def plain_environment() -> dict[str, str]:
    """The environment without what would tell pitr or PostgreSQL's programs something else."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(("PITR_", "PG"))
    }


async def output_of(
    program: str | Path, *arguments: str, env: Mapping[str, str], name: str | None = None
) -> str:
    """Run a program and return what it wrote to stdout; ``name`` is for errors.

    Raises:
        Unavailable: It failed; the facts say how.
    """
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Unavailable(
            f"{name or Path(program).name} failed",
            exit_code=process.returncode,
            stderr=stderr.decode(errors="replace")[-STDERR_CHARS_MAX:],
        )
    return stdout.decode()
