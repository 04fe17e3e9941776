"""``pitr verify``, ``pitr snapshot`` and ``pitr compact``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pitr.faces.cli.command import Run, command
from pitr.faces.cli.console import EXIT_DATA_LOSS, EXIT_DONE, EXIT_INCONCLUSIVE

if TYPE_CHECKING:
    from pitr.app import App

EXIT_OF_VERDICT = {
    "pass": EXIT_DONE,
    "fail": EXIT_DATA_LOSS,
    "inconclusive": EXIT_INCONCLUSIVE,
}


@command
async def verify(run: Run) -> int:
    """Hash every object anew, check the chain and the order; say what is lost.

    Exit code 0 when all is well, 6 when something is damaged or missing, 7 when something could
    not be checked or a gap is known.
    """
    from pitr.faces import render
    from pitr.faces.documents import verify_document

    async with run.app() as app:
        size_bytes = sum(
            ref.size_bytes for ref in (await app.archive.view(run.log, tail=False)).objects
        )
        with run.console.progress("verify", total=size_bytes) as progress:
            report = await app.verifier.verify(run.log, progress=progress)
    run.console.result(lambda: verify_document(report), lambda: render.verify_text(report))
    if report.verdict == "fail":
        run.console.say("hint: stop writing to the store and bring its objects back from a copy")
    return EXIT_OF_VERDICT[report.verdict]


@command
async def snapshot(
    run: Run,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what is read.")] = False,
) -> None:
    """Make a snapshot of all rows now, so that restores have less to replay."""
    from pitr.faces import render
    from pitr.faces.documents import object_document, reads_document, snapshot_document

    async with run.app() as app:
        if dry_run:
            from pitr.domain.target import Cut

            view = await app.archive.view(run.log)
            reads = app.archive.reads(view, Cut(seq_end=view.state.seq_next))
            run.console.result(
                lambda: {"log": run.log, "dry_run": True, "reads": reads_document(reads)},
                lambda: render.objects_table(reads.objects),
            )
            return
        with run.console.progress("snapshot", unit="objects"):
            parts = await app.snapshotter.snapshot(run.log)
            await app.publisher.publish(run.log)
    run.console.result(
        lambda: {
            "log": run.log,
            "snapshot": snapshot_document(parts),
            "objects": [object_document(ref) for ref in parts],
        },
        lambda: render.objects_table(parts),
    )
    if not parts:
        run.console.say("nothing to do: nothing changed since the newest snapshot, or no row lives")


@command
async def compact(
    run: Run,
    everything: Annotated[
        bool, typer.Option("--all", help="Merge any neighbours that fit, not only small ones.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be merged.")
    ] = False,
) -> None:
    """Seal the tail and merge small segments; no time and no change is lost."""
    async with run.app() as app:
        if dry_run:
            await _would_compact(run, app, everything=everything)
        else:
            await _compact(run, app, everything=everything)


async def _compact(run: Run, app: App, *, everything: bool) -> None:
    from pitr.faces import render
    from pitr.faces.documents import object_document

    with run.console.progress("compact", unit="objects"):
        sealed = await app.sealer.seal(run.log, force=True)
        merges = await app.compactor.compact(run.log, everything=everything)
        await app.publisher.publish(run.log)
    pairs = [(merge.sources, merge.merged) for merge in merges]
    run.console.result(
        lambda: {
            "log": run.log,
            "sealed": [object_document(ref) for ref in sealed],
            "merges": [
                {
                    "sources": [object_document(ref) for ref in sources],
                    "merged": object_document(merged),
                }
                for sources, merged in pairs
            ],
        },
        lambda: render.compact_text(sealed, pairs),
    )
    if not sealed and not merges:
        run.console.say("nothing to do: the tail is empty and no neighbours are worth merging")


async def _would_compact(run: Run, app: App, *, everything: bool) -> None:
    from pitr.domain.compaction import segments_to_merge
    from pitr.faces import render
    from pitr.faces.documents import object_document

    view = await app.archive.view(run.log, tail=False)
    tail = await app.catalog.tail_stats(run.log)
    chosen = segments_to_merge(view.segments, app.limits, everything=everything)
    run.console.result(
        lambda: {
            "log": run.log,
            "dry_run": True,
            "seal": {"change_count": tail.row_count, "size_bytes": tail.size_bytes},
            "merge": [object_document(ref) for ref in chosen],
        },
        lambda: render.objects_table(chosen),
    )
    run.console.say(
        f"would seal {render.counted(tail.row_count, 'change')} of the tail;"
        f" would merge {render.counted(len(chosen), 'segment')} first"
    )
