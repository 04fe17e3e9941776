"""``pitr capture``: changes from attached databases and from Kafka."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from pitr.faces.cli.command import Run, command
from pitr.faces.cli.ingest import InputFormat

if TYPE_CHECKING:
    from pitr.settings import Settings


class Begin(StrEnum):
    """Where a partition begins that the log does not know."""

    BEGINNING = "beginning"
    END = "end"


@command
async def capture(
    run: Run,
    bootstrap: Annotated[
        str | None,
        typer.Option("--bootstrap", help="Brokers, host:port,… (PITR_KAFKA_BOOTSTRAP)"),
    ] = None,
    topics: Annotated[
        str | None, typer.Option("--topics", help="Topics, a,b,… (PITR_KAFKA_TOPICS)")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", help="All topics that match. (PITR_KAFKA_PATTERN)"),
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", help="Consumer group. (PITR_KAFKA_GROUP)")
    ] = None,
    format: Annotated[
        InputFormat | None,
        typer.Option("--format", help="How records are written. (PITR_KAFKA_FORMAT)"),
    ] = None,
    begin: Annotated[
        Begin | None,
        typer.Option("--from", help="Where new partitions begin. (PITR_KAFKA_FROM)"),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=1,
            max=64,
            envvar="PITR_KAFKA_WORKERS",
            help="Processes that share the partitions.",
        ),
    ] = 1,
    worker: Annotated[bool, typer.Option("--worker", hidden=True)] = False,
) -> None:
    """Capture attached databases and topics of Kafka until told to stop, each change once.

    Where capture stands is in the catalog: start and kill it as you like. pitr attach says which
    databases; credentials, formats of single topics and keys come from PITR_ variables.
    """
    settings = run.settings(
        log=run.given.log,
        kafka_bootstrap=bootstrap,
        kafka_topics=topics,
        kafka_pattern=pattern,
        kafka_group=group,
        kafka_format=None if format is None else format.value,
        kafka_from=None if begin is None else begin.value,
    )
    await _capture(run, settings, workers=workers, worker=worker)


async def _capture(run: Run, settings: Settings, *, workers: int, worker: bool) -> None:
    from pitr.faces.capture import capture as run_capture
    from pitr.faces.capture import nothing_to_capture, work
    from pitr.kafka_settings import kafka_config, kafka_topics

    topics = settings.kafka_pattern or settings.kafka_topics
    kafka = bool(settings.kafka_bootstrap or topics)
    if kafka:
        kafka_config(settings).client()
        kafka_topics(settings)
    elif not run.has_data:
        raise nothing_to_capture()  # and nothing is started for that
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)  # capture ends in order
    if worker:
        await work(settings)
        return

    def ready(databases: Sequence[str]) -> None:
        whole = [*(f"database {name}" for name in databases), *([topics] if topics else [])]
        run.console.say(f"pitr captures {', '.join(whole)}")

    with run.console.reading() as show:
        await run_capture(settings, kafka=kafka, workers=workers, ready=ready, show=show)
