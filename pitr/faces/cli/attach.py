"""``pitr attach``, ``pitr detach`` and ``pitr sources``: databases whose changes are captured."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pitr.domain.errors import InvalidRequest, PitrError, Unavailable
from pitr.faces.cli.command import Run, command
from pitr.faces.cli.console import exit_code

if TYPE_CHECKING:
    from pitr.app import App
    from pitr.domain.pgoutput.attach_request import AttachRequest
    from pitr.domain.pgoutput.selection import Selection
    from pitr.services.attach import Attaching, Prepared


class WithoutKey(StrEnum):
    """What becomes of a table whose rows cannot be told apart."""

    REFUSE = "refuse"
    SKIP = "skip"
    FULL = "full"
    INSERTS = "inserts"


TableNames = list[str] | None


@command
async def attach(
    run: Run,
    url: Annotated[
        str, typer.Argument(metavar="URL", help="postgresql://user@host:5432/database.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="What to call it; else as the database is called.")
    ] = None,
    schema: Annotated[
        TableNames, typer.Option("--schema", help="All tables of this schema; repeatable.")
    ] = None,
    table: Annotated[
        TableNames,
        typer.Option("--table", help="This table, schema.table, * for any text; repeatable."),
    ] = None,
    exclude: Annotated[
        TableNames, typer.Option("--exclude", help="Not this table; repeatable.")
    ] = None,
    column: Annotated[
        TableNames,
        typer.Option(
            "--column", metavar="TABLE=A,B", help="Of this table only these columns; repeatable."
        ),
    ] = None,
    without_key: Annotated[
        WithoutKey | None,
        typer.Option(
            "--without-key",
            help="A table without a primary key: refuse to attach (as is done if nothing is"
            " said), skip the table, give it REPLICA IDENTITY FULL, or capture only inserts.",
        ),
    ] = None,
    reasons: Annotated[
        bool | None,
        typer.Option(
            "--reasons/--no-reasons", help="The function pitr.because; made where possible."
        ),
    ] = None,
    ddl_trigger: Annotated[
        bool | None,
        typer.Option(
            "--ddl-trigger/--no-ddl-trigger",
            help="Event triggers that tell of changed tables; made where possible.",
        ),
    ] = None,
    failover: Annotated[
        bool | None,
        typer.Option("--failover", help="A slot that follows to a standby, from PostgreSQL 17."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the SQL, and change nothing.")
    ] = False,
) -> int | None:
    """Capture a PostgreSQL database: every committed change of its tables.

    What is there already is read first, while the app goes on. The password comes from the URL,
    PITR_SOURCE_PASSWORD, PGPASSWORD or ~/.pgpass, and is stored nowhere.
    """
    from pitr.domain.pgoutput.attach_request import AttachRequest
    from pitr.domain.pgoutput.attach_url import checked_url

    plain, password = checked_url(url)
    request = AttachRequest(
        url=plain,
        password=password,
        name=name,
        selection=_selection(schema, table, exclude, column),
        without_key=None if without_key is None else without_key.value,
        failover=failover,
        reasons=reasons,
        ddl_trigger=ddl_trigger,
    )
    if dry_run:
        return await _dry_run(run, request)
    async with (
        run.app(create=True) as app,
        app.attacher.preparing(run.log, request) as attaching,
    ):
        await _attach(run, attaching)
    if password is not None:
        run.console.say(
            "the password is not stored: give it to pitr serve and pitr capture as"
            " PITR_SOURCE_PASSWORD or PGPASSWORD, or in ~/.pgpass"
        )
    return None


def _selection(
    schemas: TableNames, tables: TableNames, exclude: TableNames, columns: TableNames
) -> Selection | None:
    """Read which tables are chosen; None if nothing is said of that."""
    from pitr.domain.pgoutput.selection import Selection

    if not (schemas or tables or exclude or columns):
        return None
    chosen: dict[str, tuple[str, ...]] = {}
    for text in columns or ():
        table, _, names = text.rpartition("=")
        listed = tuple(name.strip() for name in names.split(","))
        if not table or not all(listed) or table in chosen:
            raise InvalidRequest(
                "the columns of a table cannot be read",
                hint="write --column public.users=id,name, once for a table",
                given=text,
            )
        chosen[table] = listed
    return Selection(
        schemas=tuple(schemas or ()),
        tables=tuple(tables or ()),
        exclude=tuple(exclude or ()),
        columns=chosen,
    )


async def _dry_run(run: Run, request: AttachRequest) -> int | None:
    from pitr.app import attacher_to_look
    from pitr.faces.documents import attach_plan_document

    async with AsyncExitStack() as stack:
        if run.has_data:
            attacher = (await stack.enter_async_context(run.app())).attacher
        else:
            attacher = attacher_to_look(run.settings())
        attaching = await stack.enter_async_context(attacher.preparing(run.log, request))
        prepared = attaching.prepared
    _say_findings(run, prepared)
    plan = prepared.plan
    run.console.result(
        lambda: attach_plan_document(run.log, prepared) | {"dry_run": True},
        lambda: plan.script.rstrip("\n"),
    )
    try:
        plan.check()
    except PitrError as error:
        run.console.say("nothing was changed; what is refused has to be seen to first")
        return exit_code(error)
    run.console.say("nothing was changed" if plan.missing else "there is nothing to make")
    return None


def _say_findings(run: Run, prepared: Prepared) -> None:
    from pitr.faces import render

    if text := render.findings_text(prepared.plan.findings):
        run.console.say(text)


async def _attach(run: Run, attaching: Attaching) -> None:
    from pitr.faces import render
    from pitr.faces.documents import attach_plan_document, attached_document, findings_document

    await attaching.check()
    prepared = attaching.prepared
    _say_findings(run, prepared)
    if prepared.plan.refused:
        try:
            prepared.plan.check()
        except PitrError as error:
            # They were shown in full; a script gets them with the error.
            hint = "see to what is refused above, then attach again"
            error.hint = error.hint if run.console.json else hint
            if run.console.json:
                error.facts["findings"] = findings_document(prepared.plan.refused)
            raise
    attached = await attaching.apply()
    run.console.result(
        lambda: (
            attach_plan_document(run.log, prepared)
            | attached_document(attached)
            | {"dry_run": False}
        ),
        lambda: render.attached_text(prepared, attached),
    )
    run.console.say(
        "pitr serve or pitr capture follows it from here on, and reads the rows that are there"
        " first; one that runs takes it up within seconds"
    )


@command
async def detach(
    run: Run,
    name: Annotated[str, typer.Argument(metavar="NAME", help="As pitr sources shows it.")],
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also when the database cannot be reached, or the slot is in use."
        ),
    ] = False,
) -> None:
    """Capture a database no longer, and take away what attaching made there.

    What was captured stays in the log.
    """
    from pitr.faces import render
    from pitr.faces.documents import detach_document

    async with run.app() as app:
        await app.catalog.log(run.log)
        report = await app.detacher.detach(run.log, name, force=force)
    run.console.result(
        lambda: detach_document(run.log, report), lambda: render.detached_text(report)
    )
    if report.left:
        run.console.say(render.left_text(report))
    run.console.say(f"what was captured of {name} stays in log {run.log}")


@command
async def sources(
    run: Run,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until all rows that were there before are read.")
    ] = False,
    wait_timeout: Annotated[
        str,
        typer.Option("--wait-timeout", envvar="PITR_WAIT_TIMEOUT", help="How long, like 10m."),
    ] = "10m",
) -> None:
    """List the databases that are attached to the log, and how far each is captured."""
    from pitr.domain.times import duration_us
    from pitr.faces import render
    from pitr.faces.documents import source_document
    from pitr.faces.reading import lanes_of

    patience_us = duration_us(wait_timeout) if wait else 0
    async with run.app() as app:
        await app.catalog.log(run.log)
        if wait:
            await _until_read(run, app, patience_us=patience_us)
        pairs = await lanes_of(app, run.log)
        now_us = app.clock.now_us()
    run.console.result(
        lambda: {"log": run.log, "sources": [source_document(*pair) for pair in pairs]},
        lambda: render.sources_table(pairs, now_us=now_us),
    )
    if not pairs:
        run.console.say(f"no database is attached to log {run.log}; pitr attach URL does it")


async def _until_read(run: Run, app: App, *, patience_us: int) -> None:
    """Wait until all tables are read; say how far that is.

    Raises:
        Unavailable: It takes longer than ``patience_us``.
    """
    from pitr.domain.pgoutput.progress import progress_of
    from pitr.faces import render
    from pitr.faces.reading import LOOK_EVERY_S, lanes_of

    until_us, said = app.clock.now_us() + patience_us, None
    with run.console.reading() as show:
        while True:
            pairs = await lanes_of(app, run.log)
            copies = {source.name: progress_of(lane) for source, lane in pairs}
            if show is not None:
                show(copies)
            left = {name: copy for name, copy in copies.items() if not copy.complete}
            if not left:
                return
            told = "; ".join(f"{name}: {render.progress_text(copy)}" for name, copy in left.items())
            if app.clock.now_us() >= until_us:
                raise Unavailable(
                    "tables are still being read",
                    hint="wait longer with --wait-timeout; pitr serve or pitr capture reads them",
                    left=told,
                )
            done = {name: copy.tables_done for name, copy in left.items()}
            if show is None and done != said:
                run.console.say(f"waiting: {told}")
                said = done
            await asyncio.sleep(LOOK_EVERY_S)
