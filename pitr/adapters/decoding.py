"""Decodes in other processes: Python's decoding of one block would else hold up all others."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Self

from pitr.domain.batch import Decoded
from pitr.domain.errors import Unavailable
from pitr.domain.formats import Format, decode_lines
from pitr.domain.records import Reading, Records, decode_records

PROCESS_BYTES_MIN = 4 * 1024 * 1024
"""Shorter blocks are decoded in a thread: a process costs half a second to start."""

PARENT_CHECK_S = 1.0


class ProcessDecoder:
    """A pool of processes that starts with the first long block; a context manager."""

    def __init__(self, *, processes: int) -> None:
        self._processes = processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    async def decode_lines(
        self,
        body: bytes,
        *,
        format: Format,
        position_first: int,
        key_columns: tuple[str, ...] | None = None,
    ) -> Decoded:
        """Decode NDJSON; see ``formats.decode_lines``.

        Raises:
            Unavailable: A process of the pool was killed.
        """
        work = partial(
            decode_lines,
            body,
            format=format,
            position_first=position_first,
            key_columns=key_columns,
        )
        return await self._run(work, len(body))

    async def decode_records(self, records: Records, reading: Reading) -> Decoded:
        """Decode records of a pulled source; see ``records.decode_records``.

        Raises:
            Unavailable: A process of the pool was killed.
        """
        return await self._run(partial(decode_records, records, reading), records.size_bytes)

    async def _run(self, work: Callable[[], Decoded], size_bytes: int) -> Decoded:
        if size_bytes < PROCESS_BYTES_MIN:
            return await asyncio.to_thread(work)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._started(), work)
        except BrokenProcessPool as error:
            self._pool = None
            raise Unavailable("a decoding process was killed", hint="run it again") from error

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self._processes,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_follow_parent,
                initargs=(os.getpid(),),
            )
        return self._pool


def _follow_parent(parent: int) -> None:
    """Leave Ctrl-C to the parent, and end when it is gone, however it went."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
