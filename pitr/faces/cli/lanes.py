"""``pitr lanes``: where each input of a log stands, and what to do about one that is stuck."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr.faces.cli.command import Run, command
from pitr.faces.cli.quarantine import ListByDefault

app = typer.Typer(cls=ListByDefault, help="Show where inputs stand; release or restart one.")

LaneArgument = Annotated[str, typer.Argument(metavar="LANE", help="As pitr lanes shows it.")]


@app.command("list")
@command
async def list_(run: Run) -> None:
    """List the lanes of the log."""
    from pitr.faces import render
    from pitr.faces.documents import lane_document

    async with run.app() as app:
        status = await app.status.status(run.log)
    run.console.result(
        lambda: {"log": run.log, "lanes": [lane_document(lane) for lane in status.lanes]},
        lambda: render.lanes_table(status),
    )


@app.command("release")
@command
async def release(run: Run, lane: LaneArgument) -> None:
    """Let a lane that gets nothing more hold the watermark back no longer."""
    async with run.app() as app:
        await app.lanes.release(run.log, lane)
    run.console.result(lambda: {"lane": lane, "released": True}, lambda: f"released {lane}")


@app.command("restart")
@command
async def restart(
    run: Run,
    lane: LaneArgument,
    reason: Annotated[
        str | None, typer.Option("--reason", envvar="PITR_REASON", help="Why.")
    ] = None,
) -> None:
    """End a lane whose topic was made again; the new topic comes in as a new lane."""
    async with run.app() as app:
        following = await app.lanes.restart(run.log, lane, reason=reason)
    run.console.result(
        lambda: {"lane": lane, "replaced_by": following},
        lambda: f"{lane} has ended with a gap; {following} takes over",
    )
