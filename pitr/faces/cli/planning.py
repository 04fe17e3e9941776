"""What commands that plan and apply share: waiting, showing, asking, writing the plan, applying."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pitr.domain.errors import Conflict, InvalidRequest, TargetBeyondWatermark, Unavailable
from pitr.faces.cli.command import Run
from pitr.faces.cli.console import EXIT_CODES, EXIT_DONE
from pitr.faces.cli.options import ApplyOptions

if TYPE_CHECKING:
    from pitr.app import App
    from pitr.domain.restore_plan import Into, Plan
    from pitr.services.plans import Opened, PlanRequest

POLL_S = 0.5
"""How often a waiting restore asks for the watermark."""

EXIT_REFUSED = next(code for family, code in EXIT_CODES if family is Conflict)


async def reached(run: Run, app: App, request: PlanRequest, *, patience_us: int) -> PlanRequest:
    """Wait until the log reaches the target, as long as ``patience_us`` allows."""
    from pitr.domain.target import parse_target
    from pitr.domain.times import rfc3339

    if not patience_us:
        return request
    started_us = app.clock.now_us()
    target = parse_target(request.target, now_us=started_us)
    if target.kind == "time":
        # Else "now" would go on while it is waited for.
        request = replace(request, target=str(rfc3339(target.at_us)))
    told = False
    while True:
        try:
            await app.resolver.resolve(await app.archive.view(request.log), request.target)
            return request
        except TargetBeyondWatermark as error:
            if app.clock.now_us() - started_us >= patience_us:
                raise
            if not told:
                run.console.say(f"waiting: {error}")
                told = True
        await asyncio.sleep(POLL_S)


def check_can_ask(run: Run, into: Into, how: ApplyOptions) -> None:
    """Refuse what nobody can say yes to, before anything is done.

    Raises:
        InvalidRequest: It would change what exists, and nobody is there to be asked.
    """
    changes = into.mode == "rewind" or into.changes_something
    if changes and not how.yes and not run.console.can_ask:
        raise InvalidRequest(
            "what exists would be changed, and there is no terminal to ask on",
            hint="pitr plan shows what would be done; --yes does it without asking",
        )


def check_stdout(run: Run, into: Into) -> None:
    """Refuse rows and a report on one stream.

    Raises:
        InvalidRequest: Both go to stdout.
    """
    if into.kind == "stdout" and run.console.json:
        raise InvalidRequest(
            "stdout cannot take the rows and the report", hint="leave out --json, or name a file"
        )


def show(run: Run, plan: Plan, file: Path | None = None) -> None:
    """Print a plan as the result."""
    from pitr.faces import render

    named = str(file) if file is not None else None
    run.console.result(plan.document, lambda: render.plan_text(plan, file=named))


def write(path: Path, plan: Plan) -> None:
    """Write a plan to a file, over an earlier one.

    Raises:
        Unavailable: It cannot be written.
    """
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_bytes(plan.body() + b"\n")
        beside.replace(path)
    except OSError as error:
        raise Unavailable("the plan cannot be written", file=path, reason=error.strerror) from error


def planned(run: Run, opened: Opened, output: Path | None) -> int:
    """Show a plan and write it; return the exit code: a plan that would be refused says so."""
    from pitr.domain.restore_plan import refusals

    if output is not None:
        write(output, opened.plan)
    show(run, opened.plan, output)
    refused = refusals(opened.plan)
    if refused:
        more = f", and for {len(refused) - 1} reasons more" if len(refused) > 1 else ""
        run.console.say(f"it would be refused as things are: {refused[0]}{more}")
    return EXIT_REFUSED if refused else EXIT_DONE


def _check_open(plan: Plan, how: ApplyOptions) -> None:
    """Ask nobody about what would be refused anyway.

    Raises:
        Conflict: It would be, as things are.
    """
    from pitr.domain.restore_plan import refusals

    refused = refusals(plan, on_conflict=how.on_conflict.value)
    if refused:
        raise Conflict(
            "it would be refused as things are",
            hint="the plan above says why, and what helps",
            problems="; ".join(refused),
        )


async def applied(run: Run, opened: Opened, how: ApplyOptions) -> int:
    """Show, ask, apply, report. A no changes nothing, and is no error."""
    from pitr.domain.restore_plan import kind_of
    from pitr.faces import render
    from pitr.faces.documents import applied_document

    if opened.asks and not how.yes:
        run.console.say(render.plan_text(opened.plan, file=None))
        _check_open(opened.plan, how)
        if not await run.console.ask("apply this plan?"):
            run.console.say("nothing was changed")
            return EXIT_DONE
    else:
        run.console.say(render.plan_line(opened.plan))
    with run.console.progress(kind_of(opened.plan), unit="rows") as progress:
        report = await opened.apply(on_conflict=how.on_conflict.value, progress=progress)
    if opened.into.kind == "stdout":
        run.console.say(render.applied_text(report))
    else:
        run.console.result(
            lambda: applied_document(opened.plan, report), lambda: render.applied_text(report)
        )
    return EXIT_DONE
