"""What was found in a log, and targets with what lies on both sides of them."""

from __future__ import annotations

import shlex

from pitr.domain.search import FoundRow, Match, Tally
from pitr.domain.times import rfc3339
from pitr.faces.documents.base import Document
from pitr.faces.documents.changes import key_document
from pitr.faces.documents.logs import gap_document
from pitr.faces.documents.plans import resolution_document
from pitr.services.find import Description, FindReport


def find_document(report: FindReport) -> Document:
    """The transactions and changes that match, each with the moment just before."""
    query, found = report.query, report.found
    return {
        "log": report.log,
        "since": rfc3339(query.since_us),
        "until": rfc3339(query.until_us),
        "match_count": found.match_count,
        "change_count": found.change_count,
        "matches": [match_document(match) for match in found.matches],
        "watermark": rfc3339(report.watermark_us),
        "without_tx": sorted(report.without_tx),
        "gaps": [gap_document(gap) for gap in report.gaps],
    }


def match_document(match: Match) -> Document:
    """The matching changes of a transaction, or one change that is in none."""
    return {
        "tx": match.tx,
        "at_min": rfc3339(match.at_min_us),
        "at_max": rfc3339(match.at_max_us),
        "seq_first": match.seq_first,
        "seq_end": match.seq_end,
        "actor": match.actor,
        "actor_count": match.actor_count,
        "reason": match.reason,
        "reason_count": match.reason_count,
        "change_count": match.change_count,
        "changes": [_tally(tally) for tally in match.tallies],
        "examples": [_example(row) for row in match.examples],
        "target": match.target,
        "command": describe_command(match),
    }


def describe_command(match: Match) -> str:
    """The command to try next, for a shell."""
    return f"pitr describe {shlex.quote(match.target)}"


def _tally(tally: Tally) -> Document:
    return {"collection": tally.collection, "op": str(tally.op), "count": tally.count}


def _example(row: FoundRow) -> Document:
    return {
        "seq": row.seq,
        "collection": row.collection,
        "key": key_document(row.key),
        "op": str(row.op),
    }


def description_document(log: str, description: Description) -> Document:
    """A target against the log, with the transactions on both sides."""
    return resolution_document(log, description.resolution) | {
        "previous_transaction": _match_or_none(description.previous),
        "next_transaction": _match_or_none(description.next),
    }


def _match_or_none(match: Match | None) -> Document | None:
    return match_document(match) if match is not None else None
