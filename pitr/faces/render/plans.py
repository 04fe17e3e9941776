"""Plans as a careful reader wants them: the moment, what is read, what becomes of each table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from pitr.domain.restore_plan import Plan, PlannedRestore, kind_of, refusals
from pitr.faces.render.text import counted, facts_table, printable, short, size, table

EXAMPLES_SHOWN: Final = 5
POSITIONS: Final[Mapping[str, str]] = {
    "exact": "exactly on a change",
    "between": "between two changes",
    "past": "before the first change",
    "future": "ahead of what is captured",
    "gap": "inside a known gap: changes are missing here",
}


def plan_text(plan: Plan, *, file: str | None) -> str:
    """The whole plan; ``file`` is where it was written."""
    body = _restore_parts(plan) if isinstance(plan, PlannedRestore) else _rewind_parts(plan)
    parts = [plan_line(plan), facts_table(_facts(plan)), *body]
    parts.append("\n".join(_warnings(plan)))
    parts.append("\n".join(_end(plan, file)))
    return "\n\n".join(part for part in parts if part)


def plan_line(plan: Plan) -> str:
    """What it is, in one line."""
    kind, where = kind_of(plan), plan.seen.get("where", plan.seen.get("into"))
    if isinstance(plan, PlannedRestore):
        line = f"{kind} of log {plan.does['log']} into {_place(where)}"
        line += f", {plan.does['mode']}" if plan.does["sink"]["kind"] == "postgres" else ""
        line += f": {counted(plan.row_count, 'row')} of {plan.asked.target}"
        return printable(line)
    scope = plan.scope
    of = {"undo": f" of operation {scope.operation}", "revert": f" of transaction {scope.tx}"}
    line = f"{kind}{of.get(kind, '')} in {_place(where)}: {counted(plan.row_count, 'row')} differ"
    return printable(line)


def _place(where: object) -> str:
    return "stdout" if where == "-" else str(where)


# The moment --------------------------------------------------------------------------------------


def _facts(plan: Plan) -> Iterator[tuple[str, object]]:
    seen, target = plan.seen, plan.seen.get("target") or {}
    if target:
        position = POSITIONS.get(target["position"], target["position"])
        if target["position"] == "between" and target["next"] is None:
            position = "after the newest change: nothing has come since"
        yield "moment", f"{target['asked']}, {position}"
        at = target["at"] or (target["previous"] or {}).get("at")
        if at is not None:
            yield "at", f"{at} UTC, {_local(at)} here"
        yield (
            "takes in",
            f"every change below seq {target['seq_end']}"
            + (f" up to {target['at']}" if target["at"] is not None else ""),
        )
        if target["without_tx"]:
            names = ", ".join(target["without_tx"])
            yield "left out", f"whole transactions that the moment would tear: {names}"
        for name, side in (("last in", target["previous"]), ("first out", target["next"])):
            if side is not None:
                yield name, side_text(side)
    if seen.get("transaction"):
        yield "undoes", _transaction(seen["transaction"])
    yield "reads", _reads(plan)
    yield from _chosen(plan)


def _local(at: str) -> str:
    moment = datetime.fromisoformat(at).astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f %z")


def side_text(side: Mapping[str, Any]) -> str:
    """A change on one side of a moment, in one line."""
    said = [("tx", side["tx"]), ("by", side["actor"]), ("for", side["reason"])]
    head = f"seq {side['seq']}, {side['at']}: {side['op']} {side['collection']} {side['key']}"
    return " ".join([head, *(f"{word} {short(text)}" for word, text in said if text)])


def _transaction(found: Mapping[str, Any]) -> str:
    line = f"{counted(found['changes'], 'change')} of {found['tx']}"
    said = [("at", found["at"]), ("by", found["actor"]), ("for", found["reason"])]
    return " ".join([line, *(f"{word} {text}" for word, text in said if text)])


def _reads(plan: Plan) -> str:
    reads = plan.seen.get("reads")
    if reads is None:
        return size(plan.seen.get("bytes", 0))
    objects = len(reads["base"]) + len(reads["segments"])
    line = f"{counted(objects, 'object')}, {size(reads['size_bytes'])}"
    if reads["base"]:
        line += f", from the snapshot of seq {reads['base_seq_end']} on"
    if reads["tail"]:
        line += f", and {counted(reads['tail'], 'change')} of the tail"
    return line


def _chosen(plan: Plan) -> Iterator[tuple[str, object]]:
    asked = plan.asked if isinstance(plan, PlannedRestore) else plan.scope
    if asked.keys is not None:
        named = [f"{collection} {key}" for collection, key in sorted(asked.keys)]
        more = f" and {len(named) - EXAMPLES_SHOWN:,} more" if len(named) > EXAMPLES_SHOWN else ""
        yield "only rows", ", ".join(named[:EXAMPLES_SHOWN]) + more
    elif asked.collections is not None:
        yield "only", ", ".join(sorted(asked.collections))
    for condition in asked.where:
        yield "only where", condition
    if not isinstance(plan, PlannedRestore) and asked.scan:  # type: ignore[union-attr]
        yield "scan", "whole tables are compared, not only what the log says changed"


# What becomes of the tables -----------------------------------------------------------------------


def _restore_parts(plan: PlannedRestore) -> Iterator[str]:
    rows = [
        (
            str(place),
            each["collection"],
            each["where"],
            each["action"] + (f" from {each['made_from']}" if each["made_from"] else ""),
            each["rows"],
            str(len(each["columns"])) if each["columns"] else None,
        )
        for place, each in enumerate(plan.does["tables"], start=1)
    ]
    headers = ("", "COLLECTION", "INTO", "ACTION", "ROWS", "COLUMNS")
    yield table(headers, rows, right=frozenset({"ROWS", "COLUMNS"}))
    yield "\n".join(
        printable(f"does not fit: {each['collection']}: {text}")
        for each in plan.does["tables"]
        for text in each["unfit"]
    )
    yield _some("sequence moved", [str(each) for each in plan.seen["sequences"]])


def _rewind_parts(plan: Any) -> Iterator[str]:
    does, seen = plan.does, plan.seen
    order = {name: place for place, name in enumerate(does["order"])}
    tables = sorted(does["collections"], key=lambda each: order.get(each["table"], 0))
    rows = [
        (
            str(place),
            each["collection"],
            each["table"],
            each["insert"],
            each["update"],
            each["delete"],
            ", ".join(each["columns"]),
        )
        for place, each in enumerate(tables, start=1)
    ]
    headers = ("", "COLLECTION", "TABLE", "INSERT", "UPDATE", "DELETE", "COLUMNS")
    yield table(headers, rows, right=frozenset({"INSERT", "UPDATE", "DELETE"}))
    if len(rows) > 1:
        yield "deletes go from the last table to the first, the rest from the first to the last"
    yield "\n".join(
        printable(
            f"on one side only: {each['collection']}.{column['column']} is in the"
            f" {column['side']}: {_RULES[column['side'], column['rule']]}"
        )
        for each in does["collections"]
        for column in each["columns_on_one_side"]
    )
    yield _some(
        "sequence moved", [f"{each['sequence']} to {each['to']}" for each in seen["sequences"]]
    )
    yield from _conflicts(seen)
    yield from _references(seen)


_RULES: Final[Mapping[tuple[str, str], str]] = {
    ("database", "keep"): "rows keep what they have in it, those put back get its default",
    ("database", "default"): "it gets its default",
    ("database", "refuse"): "refused",
    ("log", "drop"): "its values are left out",
    ("log", "refuse"): "refused",
}


def _conflicts(seen: Mapping[str, Any]) -> Iterator[str]:
    conflicts = seen.get("conflicts", {"counts": {}, "examples": []})
    counts = conflicts["counts"]
    if counts:
        lines = [
            f"CONFLICTS: {counted(count, 'row')} of {name} changed outside of what the log knows"
            for name, count in counts.items()
        ]
        for each in conflicts["examples"][: 2 * EXAMPLES_SHOWN]:
            columns = f": {', '.join(each['columns'])}" if each.get("columns") else ""
            line = f"  {each['collection']} {short(each['key'])} {each['kind']}{columns}"
            if (since := each.get("since")) is not None:
                line += f"; {_since(since)}"
            lines.append(printable(line))
        lines.append("  --on-conflict overwrite or skip decides; without it nothing is done")
        yield "\n".join(lines)
    yield "\n".join(
        printable(
            f"UNKNOWN: {counted(each['count'], 'row')} of {name} would be deleted, the log knows"
            f" nothing of them: {', '.join(short(key) for key in each['keys'][:EXAMPLES_SHOWN])}"
        )
        for name, each in seen.get("unknown_to_log", {}).items()
    )
    settled = {name: count for name, count in seen.get("settled", {}).items() if count}
    yield "\n".join(
        f"{counted(count, 'row')} of {name} are as they are to be already"
        for name, count in settled.items()
    )


def _since(since: Any) -> str:
    if not isinstance(since, Mapping):
        return str(since)
    said = [("tx", since.get("tx")), ("by", since.get("actor")), ("for", since.get("reason"))]
    words = " ".join(f"{word} {text}" for word, text in said if text)
    return f"seq {since.get('seq')} {since.get('op', '')} {words}".rstrip()


def _references(seen: Mapping[str, Any]) -> Iterator[str]:
    references = seen.get("references")
    if references is None:
        return
    missing, staying = references["missing"], references["staying"]
    lines = []
    if missing["count"]:
        lines.append(
            f"MISSING: {counted(missing['count'], 'reference')} to rows that would not be there;"
            " --with-references brings them along"
        )
        lines += [
            f"  {each['collection']} {short(each['key'])} needs {each['parent_table']}"
            f" ({', '.join(each['parent_columns'])}) = ({', '.join(each['values'])})"
            for each in missing["examples"][:EXAMPLES_SHOWN]
        ]
    if staying["count"]:
        lines.append(
            f"STAYING: {counted(staying['count'], 'row')} would be there no more, though others"
            " refer to them and stay"
        )
        lines += [
            f"  {each['collection']} {short(each['key'])} is referred to by {each['table']}"
            f" {short(each['row'])}"
            for each in staying["examples"][:EXAMPLES_SHOWN]
        ]
    for name, count in references.get("brought", {}).items():
        lines.append(f"brought along: {counted(count, 'row')} of {name}")
    yield "\n".join(printable(line) for line in lines)


# What else there is to know -----------------------------------------------------------------------


def _warnings(plan: Plan) -> Iterator[str]:
    seen = plan.seen
    for gap in seen.get("gaps", ()):
        where = f" of {gap['collection']}" if gap["collection"] else ""
        yield printable(
            f"GAP: changes{where} are missing in {gap['lane']} before seq {gap['seq_end']}:"
            f" {gap['reason']}"
        )
    torn = seen.get("torn", {"count": 0, "examples": ()})
    if torn["count"]:
        names = ", ".join(torn["examples"][:EXAMPLES_SHOWN])
        yield printable(
            f"TORN: {counted(torn['count'], 'transaction')} changed these rows and others, and only"
            f" a part of each is taken back: {names}"
        )
    for name in seen.get("emptied", ()):
        yield printable(f"note: {name} was emptied meanwhile, so all of its rows are compared")
    for note in seen.get("notes", ()):
        yield printable(f"note: {note}")
    for problem in seen.get("problems", ()):
        yield printable(f"PROBLEM: {problem}")


def _some(word: str, found: list[str]) -> str:
    shown = found[: 2 * EXAMPLES_SHOWN]
    lines = [printable(f"{word}: {each}") for each in shown]
    if len(found) > len(shown):
        lines.append(f"and {len(found) - len(shown):,} more; --json has them all")
    return "\n".join(lines)


def _end(plan: Plan, file: str | None) -> Iterable[str]:
    if (took := plan.seen.get("estimate")) is not None:
        yield (
            f"takes about {_seconds(took['seconds'])}: {_seconds(took['read_s'])} to read and"
            f" compare, {_seconds(took['write_s'])} to write"
        )
    yield f"plan {plan.hash}"
    if file is not None and not refusals(plan):
        yield printable(f"next: pitr apply {file}")


def _seconds(seconds: float) -> str:
    if seconds < 10:
        return f"{max(seconds, 0.1):.1f} s"
    return f"{seconds:,.0f} s" if seconds < 600 else f"{seconds / 60:,.0f} min"
