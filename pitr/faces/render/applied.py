"""What was done: restores, rewinds and their undoing."""

from __future__ import annotations

from collections.abc import Iterator

from pitr.domain.restore_plan import kind_of
from pitr.faces.render.text import counted, printable, seconds, table
from pitr.services.plans import Report
from pitr.services.restore import RestoreReport
from pitr.services.rewind.rewinder import RewindReport

_WORDS = {"rewind": "rewound", "undo": "undid", "revert": "reverted"}


def applied_text(report: Report) -> str:
    """What was written, and how it is called."""
    return _restored(report) if isinstance(report, RestoreReport) else _rewound(report)


def _restored(report: RestoreReport) -> str:
    rows = [(name, count) for name, count in sorted(report.sink.rows.items())]
    lines = [table(("COLLECTION", "ROWS"), rows, right=frozenset({"ROWS"}))]
    where = "stdout" if report.sink.where == "-" else printable(report.sink.where)
    lines.append(
        f"restored {counted(report.row_count, 'row')} into {where} in {seconds(report.elapsed_us)};"
        f" operation {report.operation_id}"
    )
    lines += [f"note: {printable(note)}" for note in report.sink.notes]
    return "\n".join(lines)


def _rewound(report: RewindReport) -> str:
    return "\n".join(line for line in _rewound_lines(report) if line)


def _rewound_lines(report: RewindReport) -> Iterator[str]:
    rows = [
        (name, each.inserted, each.updated, each.deleted)
        for name, each in sorted(report.rewound.written.items())
    ]
    headers = ("COLLECTION", "INSERTED", "UPDATED", "DELETED")
    yield table(headers, rows, right=frozenset(headers[1:]))
    if report.rewound.conflicts:
        yield f"{counted(len(report.rewound.conflicts), 'row')} that somebody else had changed"
    settled = sum(report.rewound.settled.values())
    if settled:
        yield f"{counted(settled, 'row')} were as they were to be already"
    yield (
        f"{_WORDS[kind_of(report.plan)]} {counted(report.row_count, 'row')} in"
        f" {seconds(report.elapsed_us)}; operation {report.operation_id}"
    )
    for note in report.notes:
        yield f"note: {printable(note)}"
    yield f"next: pitr undo {report.operation_id} takes it back"
