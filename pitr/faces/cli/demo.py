"""``pitr demo``: a shop, a mistake, a restore, and the proof that it is exact."""

from __future__ import annotations

from typing import Annotated

import typer

from pitr.faces.cli.command import Run, command
from pitr.faces.cli.console import EXIT_DATA_LOSS, EXIT_DONE


@command
async def demo(
    run: Run,
    changes: Annotated[
        int, typer.Option("--changes", min=1_000, max=100_000_000, help="Changes, at least.")
    ] = 50_000,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave everything running, and say where.")
    ] = False,
) -> int:
    """Run a shop on data it makes up, break it, restore the moment before, compare every row.

    It needs no configuration and touches nothing of yours. Exit code 6 if a row differs.
    """
    from pitr.demo import run as run_demo
    from pitr.faces import render

    result = await run_demo(changes=changes, keep=keep, report=run.console.say)
    run.console.result(result.document, lambda: render.demo_text(result.document()))
    return EXIT_DONE if result.identical else EXIT_DATA_LOSS
