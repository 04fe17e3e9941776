"""What a running service says: events on stderr, JSON for programs or lines for people."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog

from pitr.domain.errors import InvalidRequest


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what stderr is at the moment: a progress bar takes it, and puts lines above."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """Where events go."""
        return sys.stderr


def configure_logging(level: str) -> None:
    """Log to stderr: JSON, or lines for people if that is a terminal.

    Raises:
        InvalidRequest: There is no such level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise InvalidRequest(
            "this is no log level", hint="use debug, info, warning or error", log_level=level
        )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    people = sys.stderr.isatty()
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if people else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = _Stderr()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=number, force=True)
    for noisy in ("uvicorn", "apscheduler", "asyncio"):
        logging.getLogger(noisy).setLevel(max(number, logging.WARNING))
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # "skipped" is how coalescing talks
