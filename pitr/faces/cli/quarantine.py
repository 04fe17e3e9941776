"""``pitr quarantine``: input that could not be read, and the way back into the log."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from pitr.domain.errors import Conflict, InvalidRequest, NotFound
from pitr.faces.cli.command import Run, command
from pitr.faces.cli.ingest import InputFormat, key_columns

if TYPE_CHECKING:
    from pitr.app import App
    from pitr.domain.log import QuarantineItem

PAGE_ROWS = 100


class ListByDefault(TyperGroup):
    """``pitr quarantine`` alone lists."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put ``list`` where no command is named."""
        names_none = not args or (args[0].startswith("-") and args[0] not in ("-h", "--help"))
        return super().parse_args(ctx, ["list", *args] if names_none else args)


app = typer.Typer(cls=ListByDefault, help="List, replay and dismiss input that could not be read.")


class Status(StrEnum):
    """What became of an input."""

    WAITING = "waiting"
    REPLAYED = "replayed"
    DISMISSED = "dismissed"
    ALL = "all"


Id = Annotated[int, typer.Argument(metavar="ID", min=1, max=2**63 - 1)]
Columns = Annotated[
    str | None,
    typer.Option("--key-columns", envvar="PITR_KEY_COLUMNS", metavar="A,B", help="The key."),
]


@app.command("list")
@command
async def list_(
    run: Run,
    status: Annotated[Status, typer.Option("--status", help="Which.")] = Status.WAITING,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, max=100_000, help="How many at most.")
    ] = 100,
) -> None:
    """List inputs with the reason why each could not be read, oldest first."""
    from pitr.faces import render
    from pitr.faces.documents import quarantine_document

    wanted = None if status is Status.ALL else status.value
    async with run.app() as opened:
        await opened.catalog.log(run.log)
        items = await opened.catalog.quarantine(run.log, status=wanted, limit=limit)
        counts = await opened.catalog.quarantine_counts(run.log)
    run.console.result(
        lambda: {
            "log": run.log,
            "counts": counts,
            "items": [quarantine_document(item) for item in items],
        },
        lambda: render.quarantine_table(items),
    )
    total = sum(counts.values()) if wanted is None else counts[wanted]
    if total > len(items):
        run.console.say(f"{len(items):,} of {total:,}; --limit shows more")
    elif not items:
        run.console.say("nothing waits in quarantine" if wanted == "waiting" else "there is none")


@app.command("show")
@command
async def show(run: Run, item_id: Id) -> None:
    """Show one input with its bytes."""
    from pitr.faces import render
    from pitr.faces.documents import quarantine_document

    async with run.app() as opened:
        item = await opened.quarantine.item(run.log, item_id)
    run.console.result(lambda: quarantine_document(item), lambda: render.quarantine_text(item))


@app.command("replay")
@command
async def replay(
    run: Run,
    item_id: Id,
    body: Annotated[
        str | None,
        typer.Option("--body", metavar="FILE", help="Read this in its place; - is stdin."),
    ] = None,
    format: Annotated[
        InputFormat, typer.Option("--format", help="How it is written.")
    ] = InputFormat.AUTO,
    columns: Columns = None,
) -> None:
    """Read an input again, after a fix or with a corrected body, and store its changes; once."""
    from pitr.faces import render
    from pitr.faces.documents import appended_document

    replacement = _body(body) if body is not None else None
    names = key_columns(columns)
    async with run.app() as opened:
        await opened.catalog.log(run.log)
        appended = await opened.quarantine.replay(
            run.log,
            item_id,
            appender=await opened.appender(run.log),
            body=replacement,
            format=format.value,
            key_columns=names,
        )
    run.console.result(
        lambda: appended_document(run.log, appended) | {"id": item_id},
        lambda: render.appended_text(appended),
    )


def _body(path: str) -> bytes:
    from pitr.adapters.inputs import open_input

    if path == "-":
        return sys.stdin.buffer.read()
    reader = open_input(path)
    try:
        return reader.read(1 << 30)
    finally:
        reader.close()


@app.command("replay-all")
@command
async def replay_all(
    run: Run,
    code: Annotated[
        str | None, typer.Option("--code", help="Only inputs refused with this code.")
    ] = None,
    format: Annotated[
        InputFormat, typer.Option("--format", help="How they are written.")
    ] = InputFormat.AUTO,
    columns: Columns = None,
) -> None:
    """Read every waiting input again; what still cannot be read stays where it is."""
    from pitr.faces import render

    names = key_columns(columns)
    counts = {"replayed": 0, "stored": 0, "still_unreadable": 0}
    async with run.app() as opened:
        await opened.catalog.log(run.log)
        waiting = (await opened.catalog.quarantine_counts(run.log))["waiting"]
        with run.console.progress("replay", total=waiting, unit="inputs") as progress:
            id_first = 0
            while items := await opened.catalog.quarantine(
                run.log, id_first=id_first, limit=PAGE_ROWS
            ):
                for item in items:
                    if code in (None, item.code):
                        await _replay_one(run, opened, item, counts, format.value, names)
                    progress(1)
                id_first = items[-1].quarantine_id + 1
    run.console.result(
        lambda: {"log": run.log, **counts},
        lambda: (
            f"replayed {render.counted(counts['replayed'], 'input')},"
            f" stored {render.counted(counts['stored'], 'change')}"
        ),
    )
    if counts["still_unreadable"]:
        run.console.say(
            f"{render.counted(counts['still_unreadable'], 'input')} still cannot be read"
        )
        run.console.say("hint: pitr quarantine list shows them with their reasons")


async def _replay_one(
    run: Run,
    opened: App,
    item: QuarantineItem,
    counts: dict[str, int],
    format: str,
    names: tuple[str, ...] | None,
) -> None:
    try:
        appended = await opened.quarantine.replay(
            run.log,
            item.quarantine_id,
            appender=await opened.appender(run.log),
            format=format,  # type: ignore[arg-type]
            key_columns=names,
        )
    except InvalidRequest:
        counts["still_unreadable"] += 1
    except (Conflict, NotFound):  # somebody else was faster: it is resolved
        return
    else:
        counts["replayed"] += 1
        counts["stored"] += appended.count


@app.command("dismiss")
@command
async def dismiss(run: Run, item_id: Id) -> None:
    """Set an input aside for good; its bytes stay."""
    async with run.app() as opened:
        await opened.quarantine.item(run.log, item_id)
        await opened.catalog.dismiss(run.log, item_id, resolved_us=opened.clock.now_us())
    run.console.result(lambda: {"log": run.log, "id": item_id, "status": "dismissed"}, str)
    run.console.say(f"input {item_id} is dismissed; its bytes stay in quarantine")
