"""``pitr status`` and ``pitr operations``: how logs stand, and what was done to them."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr.faces.cli.command import Run, command


@command
async def status(
    run: Run,
    name: Annotated[
        str | None, typer.Argument(metavar="[LOG]", help="One log; without it all.")
    ] = None,
) -> None:
    """Tell how far logs reach, what they hold, and what needs a look."""
    from pitr.faces import render
    from pitr.faces.documents import status_document

    log = name or run.given.log
    async with run.app() as app:
        found = [await app.status.status(log)] if log else await app.status.logs()
    if log:
        run.console.result(lambda: status_document(found[0]), lambda: render.status_text(found[0]))
        return
    run.console.result(
        lambda: {"logs": [status_document(each) for each in found]},
        lambda: render.status_text(found[0]) if len(found) == 1 else render.logs_table(found),
    )
    if not found:
        run.console.say("there is no log yet; pitr ingest and pitr serve start one")


@command
async def operations(
    run: Run,
    operation: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="One, whole; without it the newest.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many at most.")
    ] = 20,
) -> None:
    """List plans, restores, rewinds and other operations, newest first: who, when, why, the end."""
    from pitr.faces import render
    from pitr.faces.documents import operation_document

    async with run.app() as app:
        await app.catalog.log(run.log)
        if operation is not None:
            one = await app.plans.operation(run.log, operation)
            run.console.result(lambda: operation_document(one), lambda: render.operation_text(one))
            return
        found = await app.leases.operations(run.log, limit=limit)
    run.console.result(
        lambda: {"log": run.log, "operations": [operation_document(each) for each in found]},
        lambda: render.operations_table(found),
    )
    if not found:
        run.console.say(f"nothing was done to log {run.log} yet")
