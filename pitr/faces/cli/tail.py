"""``pitr tail``: the newest changes, and those that come while one watches."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from pitr.faces.cli.command import Run, command

if TYPE_CHECKING:
    from pitr.app import App
    from pitr.domain.change import Change
    from pitr.services.changes import ChangesReader

POLL_S = 0.5
BATCH_ROWS = 1_000


@command
async def tail(
    run: Run,
    count: Annotated[
        int, typer.Option("--count", "-n", min=0, max=10_000, help="How many at first.")
    ] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Only this one.")
    ] = None,
) -> None:
    """Show the newest changes in the order of the log.

    With --follow and --json each change is an object on a line of its own.
    """
    from pitr.services.changes import ChangesReader

    async with run.app() as app:
        reader = ChangesReader(app.archive)
        seq = (await app.catalog.log(run.log)).seq_next - 1
        changes = await reader.newest(run.log, count, collection) if count else []
        _print(run, changes, follow=follow)
        if follow:
            seq = max([seq, *(each.seq for each in changes)])
            await _follow(run, app, reader, seq, collection)


def _print(run: Run, changes: list[Change], *, follow: bool, header: bool = True) -> None:
    from pitr.faces import render
    from pitr.faces.cli.console import flush_stdout
    from pitr.faces.documents import change_document, dumps

    if not follow:
        run.console.result(
            lambda: {"log": run.log, "changes": [change_document(each) for each in changes]},
            lambda: render.changes_table(changes),
        )
        return
    if run.console.json:
        for each in changes:
            # Raw line breaks stand between the tokens of embedded JSON only.
            run.console.line(dumps(change_document(each)).translate(_BREAKS_TO_SPACES))
    elif changes:
        run.console.text(render.changes_table(changes, header=header))
    flush_stdout()


_BREAKS_TO_SPACES = bytes.maketrans(b"\r\n", b"  ")


async def _follow(
    run: Run, app: App, reader: ChangesReader, seq: int, collection: str | None
) -> None:
    while True:
        if (await app.catalog.log(run.log)).seq_next - 1 > seq:
            changes = await reader.after(run.log, seq, BATCH_ROWS)
            seq = changes[-1].seq
            chosen = [each for each in changes if collection in (None, each.collection)]
            _print(run, chosen, follow=True, header=False)
        else:
            await asyncio.sleep(POLL_S)
