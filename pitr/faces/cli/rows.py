"""``pitr show`` and ``pitr history``: rows at a moment, and how a row came to be."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from pitr.domain.errors import NotFound
from pitr.faces.cli.command import Run, command
from pitr.faces.cli.targets import (
    TARGET_HELP,
    BeforeSeqOption,
    BeforeTxOption,
    LatestOption,
    moment,
)
from pitr.faces.keys import key_of

if TYPE_CHECKING:
    from pitr.app import App
    from pitr.domain.change import Change
    from pitr.domain.target import Resolution
    from pitr.services.restore import RestorePlan

Collection = Annotated[str, typer.Argument(help="Like shop.orders.")]
KEY_HELP = 'Like 42 or \'{"tenant":"a","id":42}\'; a bare value is the column id.'


@command
async def show(
    run: Run,
    collection: Collection,
    key: Annotated[
        str | None, typer.Argument(help=f"{KEY_HELP} Without it the rows are listed.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="TARGET", help=f"{TARGET_HELP} Else latest.")
    ] = None,
    before_tx: BeforeTxOption = None,
    before_seq: BeforeSeqOption = None,
    latest: LatestOption = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=100_000, help="Rows to list at most.")
    ] = 100,
) -> None:
    """Print a row as it was at a moment, byte for byte; or list a collection's rows."""
    row = key_of(key) if key is not None else None
    said = moment(at, "--at", before_tx=before_tx, before_seq=before_seq, latest=latest)
    async with run.app() as app:
        if row is not None:
            await _show_row(run, app, collection, row, said or "latest")
        else:
            await _show_rows(run, app, collection, said or "latest", limit)


async def _show_row(run: Run, app: App, collection: str, key: str, at: str) -> None:
    from pitr.domain.fold import fold
    from pitr.faces.documents import change_reference, json_fragment, resolution_document

    resolution = await app.resolver.resolve(await app.archive.view(run.log), at)
    _warn_of_gaps(run, resolution)
    changes = await app.history.changes(run.log, collection, key)
    found = fold(reversed(changes), resolution.cut).get((collection, key))
    if found is None or found.after is None:
        raise await _no_row(run, app, collection, key, at=at, changes=changes)
    after = found.after
    if run.console.json:
        run.console.document(
            {
                "log": run.log,
                "resolution": resolution_document(run.log, resolution),
                "collection": collection,
                "key": json_fragment(key),
                "row": json_fragment(after),
                "changed_by": change_reference(found),
            }
        )
    else:
        run.console.line(after)


def _warn_of_gaps(run: Run, resolution: Resolution) -> None:
    if resolution.gaps:
        run.console.say(
            "WARNING: changes are missing before that moment; pitr status shows the gaps"
        )


async def _no_row(
    run: Run, app: App, collection: str, key: str, *, at: str, changes: list[Change]
) -> NotFound:
    facts = {"collection": collection, "key": key}
    if changes:
        hint = f"pitr history {collection} '{key}' shows when it was there"
        return NotFound("the row is not there at that moment", hint=hint, **facts, at=at)
    from pitr.services.changes import ChangesReader

    newest = await ChangesReader(app.archive).newest(run.log, 1, collection)
    if not newest:
        hint = "pitr tail shows what the log has"
        return NotFound("the log has no such collection", hint=hint, collection=collection)
    like = f"keys there look like {newest[0].key}" if newest[0].key else None
    return NotFound("the log has no such row", hint=like, **facts)


async def _show_rows(run: Run, app: App, collection: str, at: str, limit: int) -> None:
    from pitr.services.restore import RestoreRequest

    request = RestoreRequest(
        log=run.log, target=at, collections=frozenset({collection}), accept_gaps=True
    )
    plan = await app.restorer.plan(request)
    _warn_of_gaps(run, plan.resolution)
    rows, total = await _rows(app, plan, collection, limit)
    if run.console.json:
        run.console.document(_rows_document(run, plan.resolution, collection, rows, total))
    else:
        for _, document in rows:
            run.console.line(document.translate(bytes.maketrans(b"\r\n", b"  ")))
    if total > len(rows):
        run.console.say(f"{len(rows):,} of {total:,} rows; --limit shows more, restore shows all")


async def _rows(
    app: App, plan: RestorePlan, collection: str, limit: int
) -> tuple[list[tuple[str, bytes]], int]:
    """The first rows in key order, and how many there are."""
    found: list[tuple[str, bytes]] = []
    async with app.archive.state(
        plan.view, plan.reads, collections=frozenset({collection})
    ) as state:
        batches = state.rows(collection)
        while len(found) < limit:
            batch = await asyncio.to_thread(next, batches, None)
            if batch is None:
                break
            keys, documents = batch.column("key"), batch.column("after")
            found += [
                (keys[place].as_py(), documents[place].as_py().encode())
                for place in range(min(batch.num_rows, limit - len(found)))
            ]
        return found, state.counts.get(collection, 0)


def _rows_document(
    run: Run,
    resolution: Resolution,
    collection: str,
    rows: list[tuple[str, bytes]],
    total: int,
) -> dict[str, object]:
    from pitr.faces.documents import json_fragment, resolution_document

    return {
        "log": run.log,
        "resolution": resolution_document(run.log, resolution),
        "collection": collection,
        "row_count": total,
        "rows": [
            {"key": json_fragment(key), "row": json_fragment(document)} for key, document in rows
        ],
    }


@command
async def history(
    run: Run,
    collection: Collection,
    key: Annotated[str, typer.Argument(help=KEY_HELP)],
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=1_000_000, help="Changes at most.")
    ] = 50,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TARGET", help="Only what is in the state of this moment."),
    ] = None,
    before_tx: BeforeTxOption = None,
    before_seq: BeforeSeqOption = None,
    latest: LatestOption = False,
) -> None:
    """Tell how a row came to be, newest change first: when, who, why, from what to what."""
    from pitr.domain.history import row_changes
    from pitr.faces import render
    from pitr.faces.documents import history_document

    row = key_of(key)
    at = moment(at, "--at", before_tx=before_tx, before_seq=before_seq, latest=latest)
    async with run.app() as app:
        changes = await app.history.changes(run.log, collection, row)
        if not any(each.key for each in changes):
            raise await _no_row(run, app, collection, row, at=at or "latest", changes=[])
        if at is not None:
            view = await app.archive.view(run.log)
            cut = (await app.resolver.resolve(view, at)).cut
            changes = [c for c in changes if cut.holds(seq=c.seq, at_us=c.at_us, tx=c.tx)]
    found = await asyncio.to_thread(row_changes, changes)
    shown = found[:limit]
    run.console.result(
        lambda: history_document(run.log, collection, row, shown),
        lambda: render.history_text(shown),
    )
    if len(found) > len(shown):
        run.console.say(f"{len(shown):,} of {len(found):,} changes; --limit shows more")
    if not found:
        run.console.say("the row has no change at or before that moment")
