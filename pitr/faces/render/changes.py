"""Changes, histories of rows, and targets."""

from __future__ import annotations

from collections.abc import Sequence

from pitr.domain.change import Change
from pitr.domain.history import RowChange
from pitr.domain.target import Resolution
from pitr.domain.times import rfc3339
from pitr.faces.render.logs import gaps_table
from pitr.faces.render.text import facts_table, printable, short, table

_CHANGE_HEADERS = ("SEQ", "AT", "COLLECTION", "KEY", "OP", "TX", "ACTOR", "REASON")


def _change_cells(change: Change) -> tuple[object, ...]:
    return (
        str(change.seq),
        rfc3339(change.at_us),
        change.collection,
        short(change.key),
        change.op,
        change.tx,
        change.actor,
        change.reason,
    )


def changes_table(changes: Sequence[Change], *, header: bool = True) -> str:
    """One line for each change."""
    rows = [_change_cells(change) for change in changes]
    return table(_CHANGE_HEADERS, rows, right=frozenset({"SEQ"}), header=header)


def history_text(changes: Sequence[RowChange]) -> str:
    """Each change of a row with the fields it changed."""
    return "\n\n".join(_row_change(change) for change in changes)


def _row_change(row: RowChange) -> str:
    change = row.change
    said = [("by", change.actor), ("for", change.reason), ("in", change.tx)]
    head = [f"seq {change.seq}", rfc3339(change.at_us), str(change.op)]
    head += [f"{word} {printable(text)}" for word, text in said if text]
    lines = ["  ".join(str(part) for part in head)]
    for field in row.fields:
        before, after = _value(field.before), _value(field.after)
        lines.append(f"    {printable(field.name)}: {before} → {after}")
    if not row.fields:
        lines.append("    no field changed")
    return "\n".join(lines)


def _value(text: bytes | None) -> str:
    return "absent" if text is None else printable(short(text.decode()))


def resolution_text(resolution: Resolution) -> str:
    """What a target means, with the commits on both sides."""
    cut = resolution.cut
    facts: list[tuple[str, object]] = [
        ("target", resolution.target.text),
        ("position", _position(resolution)),
        ("time", rfc3339(resolution.target.at_us)),
        ("takes in", _taken_in(resolution)),
        ("watermark", rfc3339(resolution.watermark_us)),
    ]
    if cut.without_tx:
        facts.append(("left out", _left_out(resolution)))
    sides = [("previous", resolution.previous), ("next", resolution.next)]
    rows = [(name, *_change_cells(change)) for name, change in sides if change is not None]
    parts = [facts_table(facts)]
    if rows:
        parts.append(table(("", *_CHANGE_HEADERS), rows, right=frozenset({"SEQ"})))
    if resolution.gaps:
        parts.append(gaps_table(resolution.gaps))
    return "\n\n".join(parts)


def _position(resolution: Resolution) -> str:
    if resolution.position == "between" and resolution.next is None:
        return "after the newest change: nothing has come since"
    return {
        "exact": "exactly on a change",
        "between": "between two changes",
        "past": "in the past: before the first change",
        "future": "in the future: ahead of what is captured",
        "gap": "inside a known gap: changes are missing here",
    }[resolution.position]


def _taken_in(resolution: Resolution) -> str:
    cut, so_far = resolution.cut, "so far " if resolution.position == "future" else ""
    if cut.at_us is None:
        return f"{so_far}every change below seq {cut.seq_end}"
    return f"{so_far}every change up to {rfc3339(cut.at_us)}, below seq {cut.seq_end}"


def _left_out(resolution: Resolution) -> str:
    names = ", ".join(sorted(resolution.cut.without_tx))
    return f"whole transactions that the target would tear: {names}"


def resolution_line(resolution: Resolution) -> str:
    """The same in one line, for before a restore."""
    line = f"{resolution.target.text} is {_position(resolution)}"
    sides = [("after", resolution.previous), ("before", resolution.next)]
    known = [
        f"{word} seq {change.seq} ({rfc3339(change.at_us)})" for word, change in sides if change
    ]
    if known and resolution.position != "exact":
        line += f": {', '.join(known)}"
    if resolution.cut.without_tx:
        line += f"; leaves out {_left_out(resolution)}"
    return printable(line)
