"""What was found in a log, as a table."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.domain.search import Match
from pitr.domain.times import rfc3339
from pitr.faces.render.changes import resolution_text
from pitr.faces.render.text import printable, short, table
from pitr.services.find import Description

_TALLIES_SHOWN = 4

_HEADERS = ("AT", "SEQ", "CHANGES", "WHAT", "ROWS", "ACTOR", "REASON")
_NUMBERS = frozenset({"CHANGES"})


def matches_table(matches: Sequence[Match]) -> str:
    """One line for each transaction or change, with the moment just before it."""
    rows = [(*_cells(match), match.target) for match in matches]
    return table((*_HEADERS, "JUST BEFORE IT"), rows, right=_NUMBERS)


def description_text(description: Description) -> str:
    """What a target means, with changes and transactions on both sides."""
    sides = [("previous", description.previous), ("next", description.next)]
    rows = [(side, match.tx, *_cells(match)) for side, match in sides if match is not None]
    transactions = table(("TRANSACTION", "TX", *_HEADERS), rows, right=_NUMBERS)
    parts = [resolution_text(description.resolution), transactions]
    return "\n\n".join(part for part in parts if part)


def _cells(match: Match) -> tuple[object, ...]:
    return (
        rfc3339(match.at_min_us),
        _seqs(match),
        match.change_count,
        _what(match),
        _rows(match),
        _said(match.actor, match.actor_count),
        _said(match.reason, match.reason_count),
    )


def _seqs(match: Match) -> str:
    last = match.seq_end - 1
    return f"{match.seq_first}" if last == match.seq_first else f"{match.seq_first}-{last}"


def _what(match: Match) -> str:
    """``shop.orders 4,000 delete, shop.lines 12 update``; the largest numbers first."""
    shown = [f"{each.collection} {each.count:,} {each.op}" for each in match.tallies]
    more = len(shown) - _TALLIES_SHOWN
    return ", ".join(shown[:_TALLIES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _rows(match: Match) -> str:
    keys = [short(row.key, 30) for row in match.examples if row.key]
    return " ".join([*keys, "…"] if match.change_count > len(match.examples) else keys)


def _said(text: str | None, count: int) -> str | None:
    """The first that was said, and how many others there are."""
    if text is None:
        return None
    return printable(short(text)) + (f" (+{count - 1:,})" if count > 1 else "")
