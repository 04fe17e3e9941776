"""``pitr restore``: the state of a moment, into a database, a topic, files or stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pitr.faces.cli.command import Run, command
from pitr.faces.cli.options import (
    ApplyOptions,
    MomentOptions,
    PlaceOptions,
    RewindOptions,
    RowOptions,
    RuleOptions,
    WaitOptions,
    WhoOptions,
)

if TYPE_CHECKING:
    from pitr.services.plans import PlanRequest


@command
async def restore(
    run: Run,
    moment: MomentOptions,
    place: PlaceOptions,
    rows: RowOptions,
    rewind: RewindOptions,
    rules: RuleOptions,
    waiting: WaitOptions,
    how: ApplyOptions,
    who: WhoOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the plan.")] = False,
) -> int:
    """Bring back the state of a moment: completely, or not at all.

    Shows the plan and asks, where something that exists would be changed. What was read is
    verified first.
    """
    from pitr.faces.cli.planning import applied, check_can_ask, check_stdout, planned, reached

    usage = "pitr restore --to TARGET --into DEST"
    request = request_of(run, moment, rows, rewind, rules, usage=usage)
    into, patience_us = place.place("-" if dry_run else None), waiting.patience_us
    if not dry_run:
        check_can_ask(run, into, how)
        check_stdout(run, into)
    async with run.app() as app:
        request = await reached(run, app, request, patience_us=patience_us)
        made = app.plans.planned(request, into, who.who(run), at_once=how.yes and not dry_run)
        async with made as opened:
            if dry_run:
                return planned(run, opened, None)
            return await applied(run, opened, how)


def request_of(
    run: Run,
    moment: MomentOptions,
    rows: RowOptions,
    rewind: RewindOptions,
    rules: RuleOptions,
    *,
    usage: str,
) -> PlanRequest:
    """Read what is to be planned.

    Raises:
        InvalidRequest: The moment was not said, or something cannot be read.
    """
    from pitr.services.plans import PlanRequest

    return PlanRequest(
        log=run.log,
        target=moment.target(usage),
        collections=rows.collections,
        keys=rows.keys(),
        where=tuple(rows.where or ()),
        accept_gaps=rows.accept_gaps,
        with_references=rewind.with_references,
        scan=rewind.scan,
        rules=rules.rules(),
    )
