"""``pitr capture``: changes from Kafka."""

from __future__ import annotations

import asyncio
import signal
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from pitr.faces.cli.command import Run, command
from pitr.faces.cli.console import Console
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
    """Capture topics of Kafka into the log until told to stop, each record once.

    Where capture stands is in the catalog: start and kill it as you like. Credentials, formats of
    single topics and keys come from PITR_KAFKA_ variables.
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
    await _capture(run.console, settings, workers=workers, worker=worker)


async def _capture(console: Console, settings: Settings, *, workers: int, worker: bool) -> None:
    from pitr.faces.capture import capture as run_capture
    from pitr.faces.capture import work
    from pitr.kafka_settings import kafka_config, kafka_topics

    kafka_config(settings).client()
    kafka_topics(settings)
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)  # capture ends in order
    if worker:
        await work(settings)
        return
    topics = settings.kafka_pattern or settings.kafka_topics
    ready = partial(console.say, f"pitr captures {topics}")
    await run_capture(settings, workers=workers, ready=ready)
