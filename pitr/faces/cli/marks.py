"""``pitr mark`` and ``pitr describe``: named moments, and what a moment means."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from pitr.domain.errors import InvalidRequest
from pitr.faces.cli.command import Run, command
from pitr.faces.cli.targets import (
    TARGET_HELP,
    BeforeSeqOption,
    BeforeTxOption,
    LatestOption,
    moment,
    needed,
)

if TYPE_CHECKING:
    from pitr.app import App

MARK_NAME_CHARS_MAX = 200


@command
async def mark(
    run: Run,
    name: Annotated[
        str | None, typer.Argument(help="The new mark; without it marks are listed.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TARGET", help=f"The moment: {TARGET_HELP} Else latest."),
    ] = None,
    before_tx: BeforeTxOption = None,
    before_seq: BeforeSeqOption = None,
    latest: LatestOption = False,
    actor: Annotated[
        str | None, typer.Option("--actor", help="Who sets it. (PITR_ACTOR, else your login)")
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", envvar="PITR_REASON", help="Why.")
    ] = None,
    delete: Annotated[
        str | None, typer.Option("--delete", metavar="NAME", help="Forget this mark.")
    ] = None,
) -> None:
    """Name a moment, to restore it or to look at it later; list marks; delete one."""
    if name is not None and delete is not None:
        raise InvalidRequest("name a mark or delete one", hint="run two commands")
    target = moment(at, "--at", before_tx=before_tx, before_seq=before_seq, latest=latest)
    if target is not None and name is None:
        raise InvalidRequest("the new mark has no name", hint="pitr mark NAME --at TARGET")
    async with run.app() as app:
        await app.catalog.log(run.log)
        if delete is not None:
            await _delete(run, app, delete)
        elif name is not None:
            await _put(run, app, name, at=target or "latest", actor=run.actor(actor), reason=reason)
        else:
            await _list(run, app)


async def _put(
    run: Run, app: App, name: str, *, at: str, actor: str | None, reason: str | None
) -> None:
    from pitr.faces import render
    from pitr.faces.documents import mark_document

    _check_name(name)
    view = await app.archive.view(run.log)
    resolution = await app.resolver.resolve(view, at)
    made = await app.catalog.put_mark(
        run.log,
        name,
        seq_end=resolution.cut.seq_end,
        at_us=resolution.cut.at_us,
        created_us=app.clock.now_us(),
        actor=actor,
        reason=reason,
    )
    run.console.result(lambda: mark_document(made), lambda: render.marks_table([made]))


def _check_name(name: str) -> None:
    if not name.strip() or name != name.strip() or not name.isprintable():
        raise InvalidRequest("this is no name for a mark", hint="try before-deploy-42", name=name)
    if len(name) > MARK_NAME_CHARS_MAX:
        raise InvalidRequest(
            "the name is too long", characters=len(name), characters_max=MARK_NAME_CHARS_MAX
        )


async def _delete(run: Run, app: App, name: str) -> None:
    await app.catalog.delete_mark(run.log, name)
    run.console.result(lambda: {"log": run.log, "deleted": name}, str)
    run.console.say(f"mark {name} is deleted; what it pointed at is as it was")


async def _list(run: Run, app: App) -> None:
    from pitr.faces import render
    from pitr.faces.documents import mark_document

    marks = await app.catalog.marks(run.log)
    run.console.result(
        lambda: {"log": run.log, "marks": [mark_document(each) for each in marks]},
        lambda: render.marks_table(marks),
    )
    if not marks:
        run.console.say(f"log {run.log} has no marks; pitr mark NAME sets one")


@command
async def describe(
    run: Run,
    target: Annotated[str | None, typer.Argument(help=TARGET_HELP)] = None,
    before_tx: BeforeTxOption = None,
    before_seq: BeforeSeqOption = None,
    latest: LatestOption = False,
) -> None:
    """Tell what a target means: what is in, and the changes and transactions on both sides."""
    from pitr.faces import render
    from pitr.faces.documents import description_document

    said = moment(target, "TARGET", before_tx=before_tx, before_seq=before_seq, latest=latest)
    wanted = needed(said, "pitr describe TARGET")
    async with run.app() as app:
        description = await app.finder.describe(run.log, wanted)
    run.console.result(
        lambda: description_document(run.log, description),
        lambda: render.description_text(description),
    )
    if description.resolution.position == "future":
        run.console.say("the log has not got there yet; pitr restore --wait waits until it has")
        return
    shown = render.printable(shlex.quote(wanted))
    run.console.say(
        f"next: pitr plan --to {shown} --into DEST shows what bringing it back would do"
    )
