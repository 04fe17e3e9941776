"""Rows on their way into a sink: cut small, read ahead, or kept aside for a second pass."""

from __future__ import annotations

import asyncio
import queue
import tempfile
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import pyarrow as pa

from pitr.domain.errors import Unavailable

SLICE_ROWS_MAX: Final = 1024
"""Rows that are turned at once; more fit the processor's caches worse and are slower."""

SLICE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of keys and documents that are turned at once, unless one row alone has more."""

_T = TypeVar("_T")
Check = Callable[[], None]
"""Called between steps; raises if the caller has given up."""


class Abandoned(Exception):
    """The task that waited for this thread was cancelled; nothing that it began is kept."""


def slices(
    batches: Iterable[pa.RecordBatch], *, rows_max: int = SLICE_ROWS_MAX
) -> Iterator[pa.RecordBatch]:
    """Cut batches to at most ``rows_max`` rows and about ``SLICE_BYTES_MAX`` bytes."""
    for batch in batches:
        first = 0
        while first < batch.num_rows:
            part = batch.slice(first, rows_max)
            while part.num_rows > 1 and _bytes(part) > SLICE_BYTES_MAX:
                part = part.slice(0, part.num_rows // 2)
            first += part.num_rows
            yield part


def _bytes(part: pa.RecordBatch) -> int:
    return int(part.column("key").nbytes + part.column("after").nbytes)


async def in_thread(work: Callable[[Check], _T]) -> _T:
    """Run ``work`` in a thread; after a cancellation its next check raises ``Abandoned``."""
    given_up = threading.Event()

    def check() -> None:
        if given_up.is_set():
            raise Abandoned

    try:
        return await asyncio.to_thread(work, check)
    except asyncio.CancelledError:
        given_up.set()
        raise


PREFETCHED = 8
"""Batches made ahead of who takes them."""

PUT_S = 0.1
"""How often a full queue looks whether anybody still takes."""

AHEAD = 8
"""Items that a thread makes ahead of their consumer."""


async def ahead(iterator: Iterator[_T]) -> AsyncGenerator[_T, None]:
    """Iterate in a thread of its own, a few items ahead of the consumer.

    Close it (``contextlib.aclosing``) to wait for the item under way: the iterator is then at rest.
    """
    loop, end = asyncio.get_running_loop(), object()
    executor = ThreadPoolExecutor(1, thread_name_prefix="sink")
    coming = deque(loop.run_in_executor(executor, next, iterator, end) for _ in range(AHEAD))
    try:
        while (item := await coming.popleft()) is not end:
            coming.append(loop.run_in_executor(executor, next, iterator, end))
            yield item  # type: ignore[misc]
    finally:
        for future in coming:
            future.cancel()
        await asyncio.to_thread(executor.shutdown, cancel_futures=True)
        if isinstance(iterator, Generator):
            await asyncio.to_thread(iterator.close)
        for future in coming:
            future.cancelled() or (future.done() and future.exception())


def prefetched(batches: Iterable[_T]) -> Iterator[_T]:
    """Iterate in a thread of its own: what makes the batches works beside who takes them.

    Close the generator, or let go of it, to stop the thread.
    """
    waiting: queue.Queue[_T | _End] = queue.Queue(maxsize=PREFETCHED)
    stopped = threading.Event()

    def put(item: _T | _End) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                waiting.put(item, timeout=PUT_S)
                return

    def make() -> None:
        error: BaseException | None = None
        try:
            for batch in batches:
                put(batch)
                if stopped.is_set():
                    return
        except BaseException as raised:
            error = raised
        put(_End(error))

    thread = threading.Thread(target=make, name="batches", daemon=True)
    thread.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        thread.join()


class _End:
    """The end of batches, and what ended them."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Spill:
    """Rows kept in a temporary file between two passes; memory holds one batch of them."""

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by close)
        self._writer: pa.ipc.RecordBatchFileWriter | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Keep key and document of each row.

        Raises:
            Unavailable: The folder for temporary files is full.
        """
        kept = batch.select(["key", "after"])
        with _disk_translated():
            if self._writer is None:
                options = pa.ipc.IpcWriteOptions(compression="zstd")
                self._writer = pa.ipc.new_stream(self._file, kept.schema, options=options)
            self._writer.write_batch(kept)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield what was kept, in order."""
        if self._writer is None:
            return
        with _disk_translated():
            self._writer.close()
        self._file.seek(0)
        yield from pa.ipc.open_stream(self._file)

    def close(self) -> None:
        """Free the space."""
        self._file.close()


@contextmanager
def _disk_translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable("rows cannot be kept aside", reason=error.strerror or error) from error
