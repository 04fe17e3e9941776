"""``pitr find``: which transactions did it, when, by whom, and the moment just before each."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pitr.domain.change import Op
from pitr.faces.cli.command import Run, command
from pitr.faces.keys import key_of

if TYPE_CHECKING:
    from pitr.services.find import FindReport


class Order(StrEnum):
    """Which matches come first."""

    NEWEST = "newest"
    OLDEST = "oldest"


@command
async def find(
    run: Run,
    collection: Annotated[
        list[str] | None,
        typer.Option(
            "--collection", "-c", metavar="C", help="Only this one, or shop.*; repeatable."
        ),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="KEY", help="Only the row with this key: 42.")
    ] = None,
    op: Annotated[
        list[Op] | None, typer.Option("--op", help="Only this operation; repeatable.")
    ] = None,
    actor: Annotated[
        str | None,
        typer.Option("--actor", metavar="WHO", help="Only what they did; * stands for any text."),
    ] = None,
    reason: Annotated[
        str | None,
        typer.Option("--reason", metavar="TEXT", help="Only what says this in its reason."),
    ] = None,
    tx: Annotated[
        str | None, typer.Option("--tx", metavar="ID", help="Only this transaction.")
    ] = None,
    lane: Annotated[
        str | None,
        typer.Option("--lane", metavar="LANE", help="Only what came by it; * stands for any text."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="From then on: 2026-03-01T09:30:00Z, now-2h."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Up to then, inclusive.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="CONDITION",
            help="Only rows like 'total > 100', before or after: = != < <= > >= ~ (holds the text),"
            " 'is null'; before.C or after.C means one of them; repeatable, all must hold.",
        ),
    ] = None,
    min_: Annotated[
        int,
        typer.Option("--min", metavar="N", min=1, help="Only transactions with N such changes."),
    ] = 1,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1_000, help="Transactions at most.")
    ] = 20,
    order: Annotated[Order, typer.Option("--order", help="Which come first.")] = Order.NEWEST,
) -> None:
    """Find the moment: which transactions did this, when, by whom; and the target just before each.

    Changes that are in no transaction are listed one by one.
    """
    from pitr.domain.search import Query
    from pitr.domain.target import parse_moment
    from pitr.domain.where import parse_conditions

    conditions = parse_conditions(where or [])
    row = key_of(key) if key is not None else None
    async with run.app() as app:
        now_us = app.clock.now_us()
        query = Query(
            collections=tuple(collection or ()),
            key=row,
            ops=frozenset(op or ()),
            actor=actor,
            reason=reason,
            txs=frozenset() if tx is None else frozenset({tx}),
            lane=lane,
            since_us=None if since is None else parse_moment(since, now_us=now_us, name="since"),
            until_us=None if until is None else parse_moment(until, now_us=now_us, name="until"),
            where=conditions,
            count_min=min_,
            limit=limit,
            oldest_first=order is Order.OLDEST,
        )
        report = await app.finder.find(run.log, query)
    _print(run, report)


def _print(run: Run, report: FindReport) -> None:
    from pitr.faces import render
    from pitr.faces.documents import describe_command, find_document

    matches, found = report.found.matches, report.found
    run.console.result(lambda: find_document(report), lambda: render.matches_table(matches))
    if report.gaps:
        run.console.say("WARNING: changes are missing there; pitr status shows the gaps")
    if report.without_tx:
        some = render.printable(", ".join(sorted(report.without_tx)))
        run.console.say(f"left out, as the source has not sent all of them yet: {some}")
    if not matches:
        run.console.say("nothing matches")
        return
    if found.match_count > len(matches):
        run.console.say(f"{len(matches):,} of {found.match_count:,} matches; --limit shows more")
    shown = render.printable(describe_command(matches[0]))
    run.console.say(f"next: {shown} shows what lies on both sides of that moment")
