"""``pitr reconcile``: live tables of an attached database against the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pitr.domain.errors import InvalidRequest
from pitr.faces.cli.command import Run, command
from pitr.faces.cli.upkeep import EXIT_OF_VERDICT

if TYPE_CHECKING:
    from pitr.domain.reconcile import Reconciled


@command
async def reconcile(
    run: Run,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="As pitr sources shows it.")
    ] = None,
    collection: Annotated[
        list[str] | None, typer.Option("--collection", "-c", help="Only this one; repeatable.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Append to the log what it lacks, and delete the rest.")
    ] = False,
    allow_deletes: Annotated[
        bool, typer.Option("--allow-deletes", help="Also if the repair deletes many rows.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what a repair would append.")
    ] = False,
    examples: Annotated[
        int, typer.Option("--examples", min=0, max=10_000, help="How many rows of a kind to name.")
    ] = 10,
    wait_timeout: Annotated[
        str,
        typer.Option("--wait-timeout", envvar="PITR_WAIT_TIMEOUT", help="How long, like 10m."),
    ] = "1m",
    actor: Annotated[
        str | None, typer.Option("--actor", help="Who repairs. (PITR_ACTOR, else your login)")
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", envvar="PITR_REASON", help="Why.")
    ] = None,
) -> int:
    """Compare the live tables of an attached database with the log, at one exact position.

    Exit code 0 if they are the same, 6 if rows differ, 7 if something cannot be compared. Somebody
    has to capture meanwhile. Nothing is changed without --repair, and never in the database.
    """
    from pitr.domain.times import duration_us
    from pitr.faces import render
    from pitr.faces.documents import reconcile_document
    from pitr.services.reconcile import ReconcileRequest

    if (dry_run or allow_deletes) and not repair:
        raise InvalidRequest(
            "without --repair nothing is changed", hint="say --repair too, or leave the rest out"
        )
    request = ReconcileRequest(
        log=run.log,
        name=name,
        collections=frozenset(collection) if collection else None,
        examples_max=examples,
        wait_us=duration_us(wait_timeout),
        repair=repair,
        dry_run=dry_run,
        allow_deletes=allow_deletes,
        actor=run.actor(actor),
        reason=reason,
    )
    async with run.app() as app:
        with run.console.progress("reconcile", unit="rows") as progress:
            result = await app.reconciler.reconcile(request, progress=progress)
    run.console.result(lambda: reconcile_document(result), lambda: render.reconcile_text(result))
    _say_more(run, result)
    return EXIT_OF_VERDICT[result.verdict]


def _say_more(run: Run, result: Reconciled) -> None:
    say, repair = run.console.say, result.repair
    verdicts = {each.verdict for each in result.collections}
    if "inconclusive" in verdicts:
        say("hint: what is being read, or was altered just now, can be compared a little later")
    if repair is None and "fail" in verdicts:
        say("hint: pitr reconcile --repair --dry-run shows what would put the log right")
    elif repair is not None and repair.refused:
        say(f"would be refused without --allow-deletes: {', '.join(repair.refused)}")
    elif repair is not None and any(each.left for each in repair.collections):
        say("hint: rows changed meanwhile; the same command again repairs what is left")
