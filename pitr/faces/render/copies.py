"""How far the rows are read that a database had before it was attached."""

from __future__ import annotations

from pitr.domain.pgoutput.progress import CopyProgress
from pitr.faces.render.text import counted


def progress_text(progress: CopyProgress) -> str:
    """``3 of 12 tables read, 1,000 of about 5,000 rows, 450 rows/s, about 9 s left``."""
    if not (progress.begun or progress.tables_count):
        return "not read yet"
    parts = [f"{progress.tables_done:,} of {counted(progress.tables_count, 'table')} read"]
    if progress.complete:
        return f"{parts[0]}, {counted(progress.rows_read, 'row')}"
    if progress.rows_expected is None:
        parts.append(counted(progress.rows_read, "row"))
    else:
        parts.append(f"{progress.rows_read:,} of about {counted(progress.rows_expected, 'row')}")
    if progress.rate is not None:
        parts.append(f"{progress.rate:,.0f} rows/s")
    if progress.seconds_left is not None:
        parts.append(f"about {_duration(progress.seconds_left)} left")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {rest} s"
