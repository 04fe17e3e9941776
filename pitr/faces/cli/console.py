"""What the command line says and where: results on stdout, everything else on stderr."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pitr.domain.errors import (
    Conflict,
    DataLoss,
    InvalidRequest,
    NotFound,
    PitrError,
    Unavailable,
)

if TYPE_CHECKING:
    from pitr.domain.pgoutput.progress import CopyProgress

EXIT_DONE = 0
EXIT_BUG = 1
EXIT_DATA_LOSS = 6
EXIT_INCONCLUSIVE = 7
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141
EXIT_TERMINATED = 143

EXIT_CODES: tuple[tuple[type[PitrError], int], ...] = (
    (InvalidRequest, 2),
    (NotFound, 3),
    (Conflict, 4),
    (Unavailable, 5),
    (DataLoss, EXIT_DATA_LOSS),
)
"""The one table of error families and exit codes."""

Progress = Callable[[int], None]


def exit_code(error: PitrError) -> int:
    """The exit code of an error, by its family."""
    return next((code for family, code in EXIT_CODES if isinstance(error, family)), EXIT_BUG)


@dataclass(frozen=True, slots=True)
class Console:
    """Writes for one command; with ``json`` stdout gets one object and nothing else."""

    json: bool = False

    def result(self, document: Callable[[], object], text: Callable[[], str]) -> None:
        """Print the result: ``document`` as one JSON object, or ``text``."""
        if self.json:
            self.document(document())
        elif shown := text():
            self.text(shown)

    def document(self, document: object) -> None:
        """Print one JSON object, on a line of its own."""
        from pitr.faces.documents import dumps

        self.line(dumps(document))

    def line(self, line: bytes) -> None:
        """Print bytes and a line feed, as they are.

        Raises:
            BrokenPipeError: The reader went away.
            Unavailable: The output cannot be written.
        """
        with _writing():
            sys.stdout.buffer.write(line + b"\n")

    def text(self, text: str) -> None:
        """Print text and a line feed."""
        self.line(text.encode("utf-8", "replace"))

    def say(self, text: str) -> None:
        """Talk on stderr."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def error(self, error: PitrError) -> None:
        """Report an error on stderr, and with ``json`` on stdout too, for the script."""
        self.say(f"pitr: {error.code}: {_one_line(str(error))}")
        if error.hint:
            # Statements that help are on lines of their own, to be copied.
            first, *more = error.hint.splitlines()
            self.say(f"hint: {_one_line(first)}")
            for line in more:
                self.say(_one_line(line))
        if self.json:
            from pitr.faces.documents import error_document

            self.document({"error": error_document(error)})

    def bug(self, error: BaseException, *, debug: bool) -> None:
        """Report an exception that nobody expected."""
        what = f"{type(error).__name__}: {error}"
        if debug:
            import traceback

            self.say("".join(traceback.format_exception(error)).rstrip())
        self.say(f"pitr: bug: {_one_line(what)}")
        hint = "this is a mistake in pitr; please report it"
        hint += "." if debug else " with what PITR_DEBUG=1 and the same command print"
        self.say(f"hint: {hint}")
        if self.json:
            facts: dict[str, Any] = {}
            told = {"code": "bug", "message": _one_line(what), "hint": hint, "facts": facts}
            self.document({"error": told})

    @property
    def can_ask(self) -> bool:
        """Whether somebody sits at a terminal and can answer."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    async def ask(self, question: str) -> bool:
        """Ask on the terminal; only a yes is one. Others go on meanwhile."""
        sys.stderr.write(f"{question} [y/N] ")
        sys.stderr.flush()
        loop = asyncio.get_running_loop()
        answered, descriptor = asyncio.Event(), sys.stdin.fileno()
        loop.add_reader(descriptor, answered.set)
        try:
            await answered.wait()
        finally:
            loop.remove_reader(descriptor)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    @contextmanager
    def progress(
        self, label: str, *, total: int | None = None, unit: str = "bytes"
    ) -> Iterator[Progress]:
        """Show a bar on stderr while the block runs, if that is a terminal.

        Args:
            label: What is being done.
            total: How much there is to do, None if that is not known.
            unit: ``bytes``, or what else is counted.
        """
        if not sys.stderr.isatty():
            yield _silent
            return
        from pitr.faces.cli.progress import bar

        with bar(label, total=total, unit=unit) as progress:
            yield progress

    @contextmanager
    def reading(self) -> Iterator[Callable[[Mapping[str, CopyProgress]], None] | None]:
        """Show bars on stderr for databases whose tables are read; None if that is no terminal."""
        if not sys.stderr.isatty():
            yield None
            return
        from pitr.faces.cli.progress import ReadingBars

        bars = ReadingBars()
        try:
            yield bars.show
        finally:
            bars.close()


def _silent(_: int) -> None:
    return None


def _one_line(text: str) -> str:
    """Keep a message on its line, and the terminal safe from control characters in facts."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return clean.encode("utf-8", "backslashreplace").decode()


def flush_stdout() -> None:
    """Bring all that was printed to the reader.

    Raises:
        BrokenPipeError: The reader went away.
        Unavailable: The output cannot be written.
    """
    with _writing():
        sys.stdout.flush()


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        forget_stdout()
        raise Unavailable("the output cannot be written", reason=error.strerror) from error


def forget_stdout() -> None:
    """Send what is left for stdout nowhere, so that the interpreter's last flush does not fail."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):  # not a real stdout: there is nothing to flush either
        return


def is_broken_pipe(error: BaseException | None) -> bool:
    """Tell whether an error comes from a reader of stdout that went away."""
    while error is not None:
        if isinstance(error, BrokenPipeError):
            return True
        error = error.__cause__
    return False
