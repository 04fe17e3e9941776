"""``pitr undo`` and ``pitr revert-tx``: take back an operation, or one transaction of the app."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pitr.faces.cli.command import Run, command
from pitr.faces.cli.options import ApplyOptions, DatabaseOption, RuleOptions, WhoOptions
from pitr.faces.cli.plan import OutputOption

if TYPE_CHECKING:
    from pitr.services.plans import Opened

PlanOnlyOption = Annotated[bool, typer.Option("--plan-only", help="Only show the plan.")]


@command
async def undo(
    run: Run,
    operation: Annotated[
        str, typer.Argument(metavar="OPERATION", help="As pitr operations shows it.")
    ],
    place: DatabaseOption,
    rules: RuleOptions,
    how: ApplyOptions,
    who: WhoOptions,
    plan_only: PlanOnlyOption = False,
    output: OutputOption = None,
) -> int:
    """Undo a rewind: its rows, and no others, as they were before it. This can be undone, too.

    Rows that changed after it are conflicts.
    """
    from pitr.domain.restore_plan import Into
    from pitr.faces.cli.planning import check_can_ask

    if not (plan_only or output):
        check_can_ask(run, Into(place=place.into or "", mode="rewind"), how)
    at_once = how.yes and not (plan_only or output)
    async with run.app() as app:
        made = app.plans.undoing(
            run.log, operation, place.into, rules.rules(), who.who(run), at_once=at_once
        )
        return await _done(run, made, how, output, plan_only=plan_only)


@command
async def revert_tx(
    run: Run,
    tx: Annotated[str, typer.Argument(metavar="ID", help="As pitr find shows it.")],
    place: DatabaseOption,
    rules: RuleOptions,
    how: ApplyOptions,
    who: WhoOptions,
    accept_gaps: Annotated[
        bool, typer.Option("--accept-gaps", help="Go by what there is despite known gaps.")
    ] = False,
    plan_only: PlanOnlyOption = False,
    output: OutputOption = None,
) -> int:
    """Undo one transaction of the app, and nothing that came after it.

    Rows that changed since are conflicts. Say the database with --into.
    """
    from pitr.domain.errors import InvalidRequest
    from pitr.domain.restore_plan import Into
    from pitr.faces.cli.planning import check_can_ask

    if place.into is None:
        raise InvalidRequest("say in which database", hint="pitr revert-tx ID --into URL")
    into = Into(place=place.into, mode="rewind")
    if not (plan_only or output):
        check_can_ask(run, into, how)
    async with run.app() as app:
        made = app.plans.reverting(
            run.log,
            tx,
            into,
            rules.rules(),
            who.who(run),
            accept_gaps=accept_gaps,
            at_once=how.yes and not (plan_only or output),
        )
        return await _done(run, made, how, output, plan_only=plan_only)


async def _done(
    run: Run,
    made: AbstractAsyncContextManager[Opened],
    how: ApplyOptions,
    output: Path | None,
    *,
    plan_only: bool,
) -> int:
    from pitr.faces.cli.planning import applied, planned

    async with made as opened:
        if plan_only or output is not None:
            return planned(run, opened, output)
        return await applied(run, opened, how)
