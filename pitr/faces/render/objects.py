"""Objects: what was merged, what could be verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pitr.domain.manifest import ObjectRef
from pitr.domain.times import rfc3339
from pitr.faces.render.text import counted, printable, size, table
from pitr.services.verify import VerifyReport

_READ_HEADERS = ("READ", "SEQ_FIRST", "SEQ_END", "UP TO", "SIZE")
_READ_NUMBERS = frozenset({"SEQ_FIRST", "SEQ_END", "SIZE"})


def _object_cells(ref: ObjectRef) -> tuple[object, ...]:
    kind = ref.kind if ref.collection is None else f"{ref.kind} of {ref.collection}"
    up_to = rfc3339(ref.at_max_us)
    return (kind, str(ref.seq_first), str(ref.seq_end), up_to, size(ref.size_bytes))


def objects_table(refs: Sequence[ObjectRef]) -> str:
    """One line for each object."""
    return table(_READ_HEADERS, [_object_cells(ref) for ref in refs], right=_READ_NUMBERS)


def verify_text(report: VerifyReport) -> str:
    """What failed or could not be checked, and the verdict."""
    bad = [check for check in report.checks if check.verdict != "pass"]
    lines = []
    if bad:
        rows = [(check.verdict, check.name, check.lost, check.detail) for check in bad]
        lines.append(table(("VERDICT", "CHECK", "LOST", "DETAIL"), rows))
    lines.append(
        f"{report.verdict}: {counted(len(report.checks), 'check')},"
        f" {counted(report.objects, 'object')},"
        f" {size(report.size_bytes)} hashed"
    )
    return "\n".join(lines)


def compact_text(
    sealed: Sequence[ObjectRef], merges: Sequence[tuple[Sequence[ObjectRef], ObjectRef]]
) -> str:
    """What was sealed and merged."""
    rows = [("sealed", "-", *_object_cells(ref)[1:]) for ref in sealed]
    rows += [
        ("merged", str(len(sources)), *_object_cells(merged)[1:]) for sources, merged in merges
    ]
    headers = ("STEP", "SOURCES", *_READ_HEADERS[1:])
    return table(headers, rows, right=_READ_NUMBERS | {"SOURCES"}) if rows else ""


def demo_text(document: Mapping[str, Any]) -> str:
    """The proof of the demo."""
    verdict = "identical" if document["identical"] else "DIFFERENT"
    lines = [
        f"{verdict}: {document['rows']:,} rows compared after {document['changes']:,} changes,"
        f" in {document['seconds']:,.1f} s"
    ]
    lines += [f"differs: {printable(str(each))}" for each in document["differences"]]
    return "\n".join(lines)
