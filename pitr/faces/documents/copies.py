"""How far the rows are read that a database had before it was attached."""

from __future__ import annotations

from pitr.domain.pgoutput.progress import CopyProgress
from pitr.faces.documents.base import Document


def copy_document(progress: CopyProgress) -> Document:
    """Tables and rows, of how many; ``rows_expected`` is an estimate while tables are left."""
    return {
        "complete": progress.complete,
        "tables_done": progress.tables_done,
        "tables_count": progress.tables_count,
        "rows_read": progress.rows_read,
        "rows_expected": progress.rows_expected,
        "rate": progress.rate,
        "seconds_left": progress.seconds_left,
    }
