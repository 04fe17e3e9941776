"""Sinks by the place that a user names: a database, a topic, files, or the standard output."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from pitr.adapters.kafka import KafkaConfig
from pitr.adapters.sinks.files import SUFFIXES, FileFormat, FileSink, StdoutSink
from pitr.adapters.sinks.kafka import KafkaSink
from pitr.adapters.sinks.kafka_place import parse_place
from pitr.adapters.sinks.postgres import PostgresSink
from pitr.adapters.sinks.postgres.swap import PostgresSwap
from pitr.domain.errors import InvalidRequest
from pitr.domain.ports import Sink
from pitr.domain.restore_plan import Mode, place_kind

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*)://")


def sink_for(
    into: str,
    *,
    mode: Mode = "fresh",
    swap_id: str = "",
    force: bool = False,
    format: FileFormat | None = None,
    rows_only: bool = False,
    drop_unknown: bool = False,
    stream: IO[bytes] | None = None,
    kafka: Callable[[str | None], KafkaConfig] | None = None,
) -> Sink:
    """Choose the sink for ``into``: a database, a topic, a path or ``file://…``, or ``-``.

    ``stream`` is what ``-`` means; ``kafka`` says how to reach the named brokers, or the usual
    ones. ``mode`` and ``drop_unknown`` are for databases, ``rows_only`` for NDJSON; what a swap
    leaves is named by ``swap_id``.

    Raises:
        InvalidRequest: It is no such place, or cannot be written in that mode or format.
    """
    if mode != "fresh" and place_kind(into) != "postgres":
        raise InvalidRequest(
            "only tables of a PostgreSQL database can be exchanged or rewound",
            hint="leave out --mode, or give postgresql://…",
            mode=mode,
        )
    if into == "-":
        return _stream_sink(stream, format, rows_only)
    scheme = _SCHEME.match(into)
    if scheme and scheme[1] in ("postgres", "postgresql"):
        if mode == "swap":
            return PostgresSwap(into, swap_id=swap_id, drop_unknown=drop_unknown)
        return PostgresSink(into, force=force, drop_unknown=drop_unknown)
    if scheme and scheme[1] == "kafka":
        return _kafka_sink(into, kafka, force=force)
    if not into or (scheme and scheme[1] != "file"):
        hint = "give postgresql://…, kafka://…, a path, or - for the standard output"
        raise InvalidRequest("that is no place to restore into", hint=hint, into=into)
    path = Path(unquote(urlsplit(into).path)) if scheme else Path(into)
    if format is not None and path.suffix in SUFFIXES and path.suffix != f".{format}":
        raise InvalidRequest("the path says another format", path=path, format=format)
    return FileSink(path, format or "ndjson", force=force, rows_only=rows_only)


def _kafka_sink(
    into: str, config_of: Callable[[str | None], KafkaConfig] | None, *, force: bool
) -> KafkaSink:
    place = parse_place(into)
    if config_of is None:
        raise InvalidRequest("there is no Kafka here", hint="give postgresql://… or a path")
    return KafkaSink(config_of(place.bootstrap), place, force=force)


def _stream_sink(stream: IO[bytes] | None, form: FileFormat | None, rows_only: bool) -> StdoutSink:
    if form not in (None, "ndjson"):
        raise InvalidRequest("the standard output takes ndjson only", format=form)
    if stream is None:
        raise InvalidRequest("there is no standard output here", hint="give a path")
    return StdoutSink(stream, rows_only=rows_only)
