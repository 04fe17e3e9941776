"""The JSON documents of every face: plain dicts made of the domain's dataclasses; no I/O.

A document may hold ``orjson.Fragment``: JSON that came in is put out byte for byte and is never
read as numbers (invariant 10). Only ``dumps`` writes documents. Times are RFC 3339, UTC, to the
microsecond; sizes are bytes; ranges are half-open.
"""

from pitr.faces.documents.attach import (
    attach_plan_document,
    attached_document,
    detach_document,
    findings_document,
    source_document,
)
from pitr.faces.documents.base import (
    Document,
    dumps,
    error_document,
    facts_document,
    json_fragment,
    plain_text,
)
from pitr.faces.documents.changes import (
    change_document,
    change_reference,
    field_document,
    history_document,
    key_document,
    row_change_document,
)
from pitr.faces.documents.find import (
    describe_command,
    description_document,
    find_document,
    match_document,
)
from pitr.faces.documents.logs import (
    gap_document,
    lane_document,
    object_document,
    snapshot_document,
    status_document,
)
from pitr.faces.documents.plans import (
    applied_document,
    check_document,
    reads_document,
    resolution_document,
    swapped_document,
    verify_document,
)
from pitr.faces.documents.reconcile import reconcile_document
from pitr.faces.documents.records import (
    appended_document,
    ingest_document,
    mark_document,
    operation_document,
    quarantine_document,
)

__all__ = [
    "Document",
    "appended_document",
    "applied_document",
    "attach_plan_document",
    "attached_document",
    "change_document",
    "change_reference",
    "check_document",
    "describe_command",
    "description_document",
    "detach_document",
    "dumps",
    "error_document",
    "facts_document",
    "field_document",
    "find_document",
    "findings_document",
    "gap_document",
    "history_document",
    "ingest_document",
    "json_fragment",
    "key_document",
    "lane_document",
    "mark_document",
    "match_document",
    "object_document",
    "operation_document",
    "plain_text",
    "quarantine_document",
    "reads_document",
    "reconcile_document",
    "resolution_document",
    "row_change_document",
    "snapshot_document",
    "source_document",
    "status_document",
    "swapped_document",
    "verify_document",
]
