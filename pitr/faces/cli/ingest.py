"""``pitr ingest``: changes from a file or a pipe."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

import typer

from pitr.faces.cli.command import Run, command


class InputFormat(StrEnum):
    """What lines may be written in."""

    AUTO = "auto"
    NATIVE = "native"
    DEBEZIUM = "debezium"


def key_columns(text: str | None) -> tuple[str, ...] | None:
    """Read ``a,b``.

    Raises:
        InvalidRequest: A name is empty or there twice.
    """
    from pitr.domain.errors import InvalidRequest

    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise InvalidRequest(
            "the key columns cannot be read", hint="write --key-columns tenant,id", given=text
        )
    return names


@command
async def ingest(
    run: Run,
    file: Annotated[
        str, typer.Argument(help="A file of JSON lines, plain, gzip or zstd; - is stdin.")
    ],
    format: Annotated[
        InputFormat,
        typer.Option("--format", envvar="PITR_INGEST_FORMAT", help="How the lines are written."),
    ] = InputFormat.AUTO,
    columns: Annotated[
        str | None,
        typer.Option(
            "--key-columns",
            envvar="PITR_KEY_COLUMNS",
            metavar="A,B",
            help="Columns of the key, for Debezium records that come without one.",
        ),
    ] = None,
) -> None:
    """Store the changes of a file, once.

    The same content is known again, also under another name and after it grew: run the command
    again at any time. Lines that cannot be read go to quarantine and do not stop the rest.
    """
    from pitr.adapters.inputs import open_input
    from pitr.faces import render
    from pitr.faces.documents import ingest_document

    names = key_columns(columns)
    reader = open_input(file)
    try:
        async with run.app(create=True) as app:
            appender = await app.appender(run.log)
            # The rate is told, not stored: no log time comes from this clock.
            started = time.perf_counter()
            with run.console.progress("ingest", total=reader.size_bytes) as progress:
                report = await app.file_ingest.ingest(
                    reader,
                    log=run.log,
                    appender=appender,
                    format=format.value,
                    key_columns=names,
                    progress=progress,
                )
            elapsed_s = time.perf_counter() - started
            await app.maintenance.seal()  # no service may run that would bound the tail
    finally:
        reader.close()
    run.console.result(
        lambda: ingest_document(run.log, report) | {"elapsed_us": round(elapsed_s * 1e6)},
        lambda: render.ingest_text(report, elapsed_s=elapsed_s),
    )
    if report.quarantined:
        run.console.say(render.quarantine_warning(report))
        run.console.say("hint: pitr quarantine list shows them with their reasons")
