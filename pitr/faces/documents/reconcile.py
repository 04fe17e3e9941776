"""Live tables against the log."""

from __future__ import annotations

from pitr.domain.pgoutput.model import lsn_text
from pitr.domain.reconcile import Compared, Drift, Reconciled, Repair
from pitr.domain.times import rfc3339
from pitr.faces.documents.base import Document
from pitr.faces.documents.changes import key_document


def reconcile_document(result: Reconciled) -> Document:
    """What was compared where, what differs, and what was done about it."""
    return {
        "log": result.log,
        "source": result.source,
        "lane": result.lane,
        "verdict": result.verdict,
        "lsn": lsn_text(result.place.lsn),
        "seq_end": result.place.seq_end,
        "at": rfc3339(result.place.at_us),
        "collections": [_compared(each) for each in result.collections],
        "repair": None if result.repair is None else _repair(result.repair),
    }


def _compared(compared: Compared) -> Document:
    drift = compared.drift
    return {
        "collection": compared.collection,
        "verdict": compared.verdict,
        "inconclusive": compared.inconclusive,
        "rows_live": compared.rows_live,
        "rows_log": compared.rows_log,
        "drift": None if drift is None else _drift(drift),
    }


def _drift(drift: Drift) -> Document:
    return {
        "missing": drift.missing,
        "extra": drift.extra,
        "different": drift.different,
        "columns": [
            {"name": name, "row_count": row_count} for name, row_count in drift.columns.items()
        ],
        "examples": [
            {"kind": each.kind, "key": key_document(each.key), "columns": list(each.columns)}
            for each in drift.examples
        ],
    }


def _repair(repair: Repair) -> Document:
    return {
        "dry_run": repair.dry_run,
        "operation_id": repair.operation_id,
        "tx": repair.tx,
        "refused": list(repair.refused),
        "collections": [
            {
                "collection": each.collection,
                "reads": each.reads,
                "deletes": each.deletes,
                "superseded": each.superseded,
                "left": each.left,
            }
            for each in repair.collections
        ],
    }
