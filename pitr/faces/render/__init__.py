"""Results as text for people: pure, from dataclasses to lines without a line feed at the end."""

from pitr.faces.render.applied import applied_text
from pitr.faces.render.attach import (
    attached_text,
    detached_text,
    findings_text,
    left_text,
    sources_table,
)
from pitr.faces.render.changes import changes_table, history_text, resolution_line, resolution_text
from pitr.faces.render.copies import progress_text
from pitr.faces.render.find import description_text, matches_table
from pitr.faces.render.logs import gaps_table, lanes_table, logs_table, status_text
from pitr.faces.render.objects import (
    compact_text,
    demo_text,
    objects_table,
    verify_text,
)
from pitr.faces.render.plans import plan_line, plan_text
from pitr.faces.render.reconcile import reconcile_text
from pitr.faces.render.records import (
    appended_text,
    ingest_text,
    marks_table,
    operation_text,
    operations_table,
    quarantine_table,
    quarantine_text,
    quarantine_warning,
)
from pitr.faces.render.swapped import Swapped, swapped_table
from pitr.faces.render.text import counted, printable, seconds, short, size, table

__all__ = [
    "Swapped",
    "appended_text",
    "applied_text",
    "attached_text",
    "changes_table",
    "compact_text",
    "counted",
    "demo_text",
    "description_text",
    "detached_text",
    "findings_text",
    "gaps_table",
    "history_text",
    "ingest_text",
    "lanes_table",
    "left_text",
    "logs_table",
    "marks_table",
    "matches_table",
    "objects_table",
    "operation_text",
    "operations_table",
    "plan_line",
    "plan_text",
    "printable",
    "progress_text",
    "quarantine_table",
    "quarantine_text",
    "quarantine_warning",
    "reconcile_text",
    "resolution_line",
    "resolution_text",
    "seconds",
    "short",
    "size",
    "sources_table",
    "status_text",
    "swapped_table",
    "table",
    "verify_text",
]
