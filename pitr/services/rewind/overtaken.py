"""Puts rows right that the app changed after a rewind, and of which the log heard before it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

from pitr.domain.catalog import Catalog
from pitr.domain.columnar.overtaking import overtaking
from pitr.domain.limits import Limits
from pitr.services.archive import Archive
from pitr.services.resolve import segments_over
from pitr.services.rewind.log import RewindLog

ROWS_MAX: Final = 1_000
ROUNDS_MAX: Final = 20
"""How many rows are put right at a time, and how often: others may go on changing them."""


async def put_right(
    catalog: Catalog,
    archive: Archive,
    log_name: str,
    log: RewindLog,
    *,
    seq_first: int,
    limits: Limits,
) -> list[str]:
    """Say once more what rows are that another lane told newer things of; return notes.

    Args:
        catalog: Where the log stands.
        archive: Where it is read.
        log_name: The log.
        log: What the rewind tells it.
        seq_first: Where it ended when the rewind began.
        limits: Of memory and threads.

    Raises:
        DataLoss: An object is missing, damaged or another one.
        Unavailable: The catalog or the store is away.
    """
    for _ in range(ROUNDS_MAX):
        state = await catalog.log(log_name)
        if state.seq_next - seq_first == log.count:
            return []  # nobody else has said anything meanwhile
        view = await archive.view(log_name)
        paths = await archive.verified(segments_over(view, seq_first, view.state.seq_next))
        async with archive.scratch_folder() as folder:
            work = partial(
                overtaking,
                paths,
                view.tail,
                lane=log.lane,
                seq_first=seq_first,
                limit=ROWS_MAX,
                memory_bytes=limits.memory_bytes,
                spill_folder=folder,
                threads=limits.threads,
            )
            rows = await asyncio.to_thread(work)
        if not rows:
            return []
        await log.say_again(rows)
    return ["rows of the rewind are being changed all the time; reconcile them with the log"]
