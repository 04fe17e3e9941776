"""Live tables against the log, as text."""

from __future__ import annotations

from collections.abc import Iterator

from pitr.domain.pgoutput.model import lsn_text
from pitr.domain.reconcile import Compared, Reconciled, Repair
from pitr.domain.times import rfc3339
from pitr.faces.render.text import counted, printable, short, table

_HEADERS = ("COLLECTION", "VERDICT", "LIVE", "LOG", "MISSING", "EXTRA", "DIFFERENT")


def reconcile_text(result: Reconciled) -> str:
    """A line for each collection, then what differs, what is not known, and what was done."""
    shown = table(
        _HEADERS,
        [_cells(each) for each in result.collections],
        right=frozenset(_HEADERS[2:]),
    )
    place = result.place
    last = (
        f"{result.verdict}: {counted(len(result.collections), 'collection')} of {result.source} at"
        f" {lsn_text(place.lsn)}, before seq {place.seq_end}, {rfc3339(place.at_us)}"
    )
    lines = [shown, *(line for each in result.collections for line in _details(each))]
    if result.repair is not None:
        lines += _repaired(result.repair)
    return "\n".join([line for line in lines if line] + [printable(last)])


def _cells(compared: Compared) -> tuple[object, ...]:
    drift = compared.drift
    counts = (None,) * 3 if drift is None else (drift.missing, drift.extra, drift.different)
    return (
        compared.collection,
        compared.verdict,
        compared.rows_live,
        compared.rows_log,
        *counts,
    )


def _details(compared: Compared) -> Iterator[str]:
    if compared.inconclusive is not None:
        yield printable(f"{compared.collection}: {compared.inconclusive}")
    if compared.drift is None:
        return
    for example in compared.drift.examples:
        columns = f": {', '.join(example.columns)}" if example.columns else ""
        text = f"{compared.collection}: {example.kind} {short(example.key)}{columns}"
        yield printable(text)
    columns = ", ".join(f"{name} ({count:,})" for name, count in compared.drift.columns.items())
    if columns:
        yield printable(f"{compared.collection}: columns that differ: {columns}")


def _repaired(repair: Repair) -> Iterator[str]:
    did = "would append" if repair.dry_run else "appended"
    for each in repair.collections:
        text = f"{did} {counted(each.reads, 'read')} and {counted(each.deletes, 'delete')}"
        if each.superseded:
            text += f"; {counted(each.superseded, 'row')} changed since"
        if each.left:
            text += f"; {counted(each.left, 'row')} left as they are"
        yield printable(f"{each.collection}: {text}")
