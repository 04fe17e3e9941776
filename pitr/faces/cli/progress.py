"""The progress bar on stderr; only imported where there is a terminal to draw on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


@contextmanager
def bar(label: str, *, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    """Draw a bar that is gone afterwards; yields what is told the progress, from any thread."""
    done: list[ProgressColumn] = (
        [DownloadColumn(binary_units=True), TransferSpeedColumn()]
        if unit == "bytes"
        else [TextColumn("{task.completed:,} " + unit)]
    )
    columns = [TextColumn("{task.description}"), BarColumn(), *done]
    columns += [TimeElapsedColumn(), *([TimeRemainingColumn()] if total is not None else [])]
    with Progress(*columns, console=RichConsole(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)
