"""``pitr plan`` and ``pitr apply``: what a restore would do, and doing exactly that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pitr.faces.cli.command import Run, command
from pitr.faces.cli.options import (
    ApplyOptions,
    DatabaseOption,
    MomentOptions,
    PlaceOptions,
    RewindOptions,
    RowOptions,
    RuleOptions,
    WaitOptions,
    WhoOptions,
    bytes_of,
)

OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write the plan, for pitr apply."),
]


@command
async def plan(
    run: Run,
    moment: MomentOptions,
    place: PlaceOptions,
    rows: RowOptions,
    rewind: RewindOptions,
    rules: RuleOptions,
    waiting: WaitOptions,
    who: WhoOptions,
    output: OutputOption = None,
) -> int:
    """Show what a restore would read, find and do; change nothing.

    Exit code 4 if it would be refused as things are now; the plan is shown and written all the
    same.
    """
    from pitr.faces.cli.planning import planned, reached
    from pitr.faces.cli.restore import request_of

    request = request_of(
        run, moment, rows, rewind, rules, usage="pitr plan --to TARGET --into DEST"
    )
    into, patience_us = place.place(), waiting.patience_us
    async with run.app() as app:
        request = await reached(run, app, request, patience_us=patience_us)
        async with app.plans.planned(request, into, who.who(run)) as opened:
            return planned(run, opened, output)


@command
async def apply(
    run: Run,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="As pitr plan -o wrote it.")],
    place: DatabaseOption,
    how: ApplyOptions,
    who: WhoOptions,
) -> int:
    """Do exactly what a plan says, or refuse: then say what changed since.

    Passwords are not in plans: say --into, or use PGPASSWORD or ~/.pgpass.
    """
    from pitr.domain.restore_plan import place_of, read_plan
    from pitr.faces.cli.planning import applied, check_can_ask, check_stdout

    given = read_plan(bytes_of(file))
    into = place_of(given, place.into)
    check_can_ask(run, into, how)
    check_stdout(run, into)
    async with (
        run.app() as app,
        app.plans.again(given, into, who.who(run)) as opened,
    ):
        return await applied(run, opened, how)
