"""``pitr restore``: the state of a moment, into a database, a topic, files or stdout."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pitr.domain.errors import InvalidRequest, TargetBeyondWatermark
from pitr.faces.cli.command import Run, command
from pitr.faces.cli.targets import (
    TARGET_HELP,
    BeforeSeqOption,
    BeforeTxOption,
    LatestOption,
    moment,
    needed,
)
from pitr.faces.keys import row_of

if TYPE_CHECKING:
    from pitr.app import App
    from pitr.services.restore import RestorePlan, RestoreRequest

POLL_S = 0.5
"""How often a waiting restore asks for the watermark."""


class OutputFormat(StrEnum):
    """What files may be written in."""

    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Into:
    """Where to restore to, and how."""

    place: str | None
    format: OutputFormat | None
    rows_only: bool
    force: bool
    drop_unknown: bool


@command
async def restore(
    run: Run,
    to: Annotated[
        str | None, typer.Option("--to", metavar="TARGET", help=f"The moment: {TARGET_HELP}")
    ] = None,
    before_tx: BeforeTxOption = None,
    before_seq: BeforeSeqOption = None,
    latest: LatestOption = False,
    into: Annotated[
        str | None,
        typer.Option(
            "--into",
            envvar="PITR_INTO",
            metavar="DEST",
            help="postgresql://…, kafka://host/topic, a folder, a .ndjson, .csv or .parquet file,"
            " or - for stdout.",
        ),
    ] = None,
    collection: Annotated[
        list[str] | None, typer.Option("--collection", "-c", help="Only this one; repeatable.")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="C=KEY", help="Only this row, shop.orders=42; repeatable."),
    ] = None,
    format: Annotated[
        OutputFormat | None,
        typer.Option("--format", envvar="PITR_RESTORE_FORMAT", help="How files are written."),
    ] = None,
    rows_only: Annotated[
        bool, typer.Option("--rows-only", help="NDJSON of the documents alone.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace what is there.")] = False,
    drop_unknown: Annotated[
        bool, typer.Option("--drop-unknown", help="Leave out members that no column takes.")
    ] = False,
    accept_gaps: Annotated[
        bool, typer.Option("--accept-gaps", help="Restore what there is despite known gaps.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what is read.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the log reaches the target.")
    ] = False,
    wait_timeout: Annotated[
        str,
        typer.Option("--wait-timeout", envvar="PITR_WAIT_TIMEOUT", help="How long, like 10m."),
    ] = "10m",
    actor: Annotated[
        str | None, typer.Option("--actor", help="Who restores. (PITR_ACTOR, else your login)")
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", envvar="PITR_REASON", help="Why.")
    ] = None,
) -> None:
    """Bring back the state of a moment: completely, or not at all.

    Nothing that exists is overwritten without --force. What was read is verified first.
    """
    from pitr.domain.times import duration_us
    from pitr.services.restore import RestoreRequest

    said = moment(to, "--to", before_tx=before_tx, before_seq=before_seq, latest=latest)
    target = needed(said, "pitr restore --to TARGET --into DEST")
    place = Into(
        place=into, format=format, rows_only=rows_only, force=force, drop_unknown=drop_unknown
    )
    _check(run, place, dry_run=dry_run)
    patience_us = duration_us(wait_timeout) if wait else 0
    request = RestoreRequest(
        log=run.log,
        target=target,
        collections=frozenset(collection) if collection else None,
        keys=_keys(key, collection),
        accept_gaps=accept_gaps,
        actor=run.actor(actor),
        reason=reason,
    )
    async with run.app() as app:
        if dry_run:
            _show_plan(run, await _planned(run, app, request, patience_us=patience_us))
        else:
            await _restore(run, app, request, place, patience_us=patience_us)


def _check(run: Run, into: Into, *, dry_run: bool) -> None:
    if into.place is None and not dry_run:
        raise InvalidRequest("say where to restore into", hint="--into FOLDER, or --dry-run")
    if into.place == "-" and run.console.json and not dry_run:
        raise InvalidRequest(
            "stdout cannot take the rows and the report", hint="leave out --json, or name a file"
        )


def _keys(
    given: list[str] | None, collections: list[str] | None
) -> frozenset[tuple[str, str]] | None:
    if not given:
        return None
    if collections:
        raise InvalidRequest("name collections or rows", hint="leave out --collection or --key")
    return frozenset(row_of(text) for text in given)


async def _planned(run: Run, app: App, request: RestoreRequest, *, patience_us: int) -> RestorePlan:
    """Plan; wait until the log reaches the target, as long as ``patience_us`` allows."""
    from dataclasses import replace

    from pitr.domain.target import parse_target
    from pitr.domain.times import rfc3339

    started_us = app.clock.now_us()
    target = parse_target(request.target, now_us=started_us)
    if patience_us and target.kind == "time":
        # Else "now" would go on while it is waited for.
        request = replace(request, target=str(rfc3339(target.at_us)))
    told = False
    while True:
        try:
            return await app.restorer.plan(request)
        except TargetBeyondWatermark as error:
            if app.clock.now_us() - started_us >= patience_us:
                raise
            if not told:
                run.console.say(f"waiting: {error}")
                told = True
        await asyncio.sleep(POLL_S)


def _show_plan(run: Run, plan: RestorePlan) -> None:
    from pitr.faces import render
    from pitr.faces.documents import plan_document

    run.console.say(render.resolution_line(plan.resolution))
    run.console.result(lambda: plan_document(plan), lambda: render.reads_table(plan))
    run.console.say(render.reads_line(plan))


async def _restore(
    run: Run, app: App, request: RestoreRequest, into: Into, *, patience_us: int
) -> None:
    from pitr.faces import render
    from pitr.faces.documents import restore_document

    assert into.place is not None, "checked before"
    sink = app.sink(
        into.place,
        force=into.force,
        format=into.format.value if into.format is not None else None,
        rows_only=into.rows_only,
        drop_unknown=into.drop_unknown,
        stream=sys.stdout.buffer,
    )
    plan = await _planned(run, app, request, patience_us=patience_us)
    run.console.say(render.resolution_line(plan.resolution))
    with run.console.progress("restore", unit="rows") as progress:
        report = await app.restorer.restore(plan, sink, progress=progress)
    if into.place == "-":
        run.console.say(render.restore_text(report))
    else:
        run.console.result(lambda: restore_document(report), lambda: render.restore_text(report))
