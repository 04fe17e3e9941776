"""The progress bar on stderr; only imported where there is a terminal to draw on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from pitr.domain.pgoutput.progress import CopyProgress
from pitr.faces.render import progress_text


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


class ReadingBars:
    """A bar for each database of which tables are being read; none is drawn where none is."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[told]}"),
        )
        self._progress = Progress(*columns, console=RichConsole(stderr=True), transient=True)
        self._tasks: dict[str, TaskID] = {}

    def show(self, copies: Mapping[str, CopyProgress]) -> None:
        """Show how far the databases are, by name."""
        under_way = {name: copy for name, copy in copies.items() if copy.tables_left}
        for name in self._tasks.keys() - under_way.keys():
            self._progress.remove_task(self._tasks.pop(name))
        for name, copy in under_way.items():
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(name, total=None, told="")
            self._progress.update(
                self._tasks[name],
                completed=copy.rows_read,
                total=copy.rows_expected,
                told=progress_text(copy),
            )
        if self._tasks:
            self._progress.start()
        else:
            self._progress.stop()

    def close(self) -> None:
        """Take the bars away."""
        self._progress.stop()
